//! Stands in for libudev, which hwloc calls for the names of block devices and which has no static
//! archive on Debian.
//!
//! *Invariants*: every call answers "nothing there", which hwloc handles.
//!
//! *Not here*: any use of udev; Engram asks hwloc for no devices.

use std::ffi::{c_char, c_void};
use std::ptr::null_mut;

// SAFETY: the executable is static, so that no other object defines this symbol.
#[unsafe(no_mangle)]
extern "C" fn udev_new() -> *mut c_void {
    null_mut()
}

// SAFETY: as for `udev_new`.
#[unsafe(no_mangle)]
extern "C" fn udev_unref(_udev: *mut c_void) -> *mut c_void {
    null_mut()
}

// SAFETY: as for `udev_new`.
#[unsafe(no_mangle)]
extern "C" fn udev_device_new_from_subsystem_sysname(
    _udev: *mut c_void,
    _subsystem: *const c_char,
    _name: *const c_char,
) -> *mut c_void {
    null_mut()
}

// SAFETY: as for `udev_new`.
#[unsafe(no_mangle)]
extern "C" fn udev_device_unref(_device: *mut c_void) -> *mut c_void {
    null_mut()
}

// SAFETY: as for `udev_new`.
#[unsafe(no_mangle)]
extern "C" fn udev_device_get_property_value(
    _device: *mut c_void,
    _key: *const c_char,
) -> *const c_char {
    null_mut()
}
