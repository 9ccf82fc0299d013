//! Python with the usual HdrHistogram tool, from PyPI, in an environment of its own.

use std::path::PathBuf;
use std::process::Command;

/// The version that is tested against.
const HDR_HISTOGRAM: &str = "hdrhistogram==0.10.8";

/// The interpreter that has it.
pub fn python() -> PathBuf {
    let folder = std::env::temp_dir().join("engram-hdrhistogram-0.10.8");
    let python = folder.join("bin/python");
    let works = || {
        let asked = Command::new(&python).args(["-c", "import hdrh.log"]).output();
        asked.is_ok_and(|asked| asked.status.success())
    };
    if !works() {
        let made = Command::new("python3").args(["-m", "venv"]).arg(&folder).status();
        let made = made.is_ok_and(|status| status.success());
        assert!(made, "this test needs `python3 -m venv` (package python3-venv)");
        let pip =
            Command::new(&python).args(["-m", "pip", "install", "-q", HDR_HISTOGRAM]).status();
        let installed = pip.is_ok_and(|status| status.success()) && works();
        assert!(installed, "this test needs {HDR_HISTOGRAM} from PyPI, and can't install it");
    }
    python
}
