//! Objects as files below a folder.
//!
//! *Invariants*: a file has its name only once it is whole and on stable storage; a name that
//! exists is never written again; folders are 0700, files 0600.
//!
//! *Not here*: retries and limits (`tier`).

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::error::ColdError;
use crate::tier::{Object, Put};

/// Files of this ending are being written, or were when a process died.
const UNFINISHED: &str = ".unfinished";

/// A folder of objects.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    written: AtomicU64,
}

impl Folder {
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), written: AtomicU64::new(0) }
    }

    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<Put, ColdError> {
        let path = self.path.join(name);
        let folder = path.parent().expect("an object lies in a folder");
        make_folder(folder)?;
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let unfinished = format!("{}.{number}{UNFINISHED}", std::process::id());
        let temporary = folder.join(unfinished);
        let written = write_whole(&temporary, bytes).and_then(|()| give_name(&temporary, &path));
        if !matches!(written, Ok(Put::Created)) {
            // What is left of it is removed with the next listing at the latest.
            let _gone = fs::remove_file(&temporary);
        }
        let put = written?;
        sync_folder(folder)?;
        Ok(put)
    }

    pub fn get(&self, name: &str) -> Result<Vec<u8>, ColdError> {
        let path = self.path.join(name);
        fs::read(&path).map_err(|error| ColdError::io("read", &path, &error))
    }

    pub fn get_range(&self, name: &str, offset: u64, bytes: usize) -> Result<Vec<u8>, ColdError> {
        let path = self.path.join(name);
        let failed = |error: std::io::Error| ColdError::io("read", &path, &error);
        let file = File::open(&path).map_err(failed)?;
        let mut read = vec![0; bytes];
        file.read_exact_at(&mut read, offset).map_err(failed)?;
        Ok(read)
    }

    pub fn list(&self, prefix: &str) -> Result<Vec<Object>, ColdError> {
        let mut objects = Vec::new();
        walk(&self.path, "", prefix, &mut objects)?;
        objects.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(objects)
    }

    pub fn delete(&self, name: &str) -> Result<(), ColdError> {
        let path = self.path.join(name);
        match fs::remove_file(&path) {
            Ok(()) => sync_folder(path.parent().expect("an object lies in a folder")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(ColdError::io("remove", &path, &error)),
        }
    }
}

fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), ColdError> {
    let options = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = options.map_err(|error| ColdError::io("create", path, &error))?;
    file.write_all(bytes).map_err(|error| ColdError::io("write", path, &error))?;
    file.sync_all().map_err(|error| ColdError::io("sync", path, &error))
}

/// Renames without replacing; where the file system can't, a check before has to do.
fn give_name(temporary: &Path, path: &Path) -> Result<Put, ColdError> {
    match renameat_with(CWD, temporary, CWD, path, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(Put::Created),
        Err(Errno::EXIST) => Ok(Put::Exists),
        Err(Errno::INVAL | Errno::NOSYS) if path.exists() => Ok(Put::Exists),
        Err(Errno::INVAL | Errno::NOSYS) => fs::rename(temporary, path)
            .map(|()| Put::Created)
            .map_err(|error| ColdError::io("rename", path, &error)),
        Err(errno) => Err(ColdError::io("rename", path, &errno.into())),
    }
}

fn make_folder(folder: &Path) -> Result<(), ColdError> {
    if folder.is_dir() {
        return Ok(());
    }
    let failed = |error: std::io::Error| ColdError::io("create", folder, &error);
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    folder.parent().map_or(Ok(()), sync_folder)
}

fn sync_folder(folder: &Path) -> Result<(), ColdError> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| ColdError::io("sync", folder, &error))
}

fn walk(folder: &Path, at: &str, prefix: &str, out: &mut Vec<Object>) -> Result<(), ColdError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(ColdError::io("list", folder, &error)),
    };
    for entry in entries {
        let entry = entry.map_err(|error| ColdError::io("list", folder, &error))?;
        let Some(name) = entry.file_name().to_str().map(|name| format!("{at}{name}")) else {
            continue;
        };
        let path = entry.path();
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            let below = format!("{name}/");
            if below.starts_with(prefix) || prefix.starts_with(&below) {
                walk(&path, &below, prefix, out)?;
            }
        } else if name.ends_with(UNFINISHED) {
            remove_if_dead(&path);
        } else if name.starts_with(prefix) {
            out.push(Object { name, bytes: metadata.len() });
        }
    }
    Ok(())
}

/// Removes what a process that died left unfinished.
fn remove_if_dead(path: &Path) {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let writer = name.split('.').next().unwrap_or_default();
    let ours = writer == std::process::id().to_string();
    if !ours && !Path::new("/proc").join(writer).exists() {
        let _gone = fs::remove_file(path);
    }
}
