//! A real S3 server: moto from PyPI, in an environment of its own.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The version that is tested against.
const MOTO: &str = "moto[s3,server]==5.2.5";
const PATIENCE: Duration = Duration::from_secs(300);

/// A server that runs until it is dropped.
pub struct Moto {
    child: Child,
    pub endpoint: String,
}

fn python() -> &'static PathBuf {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let folder = std::env::temp_dir().join("engram-moto-5.2.5");
        let python = folder.join("bin/python");
        let works = |python: &PathBuf| {
            let asked = Command::new(python).args(["-c", "import moto.server"]).status();
            asked.is_ok_and(|status| status.success())
        };
        if !works(&python) {
            let made = Command::new("python3").args(["-m", "venv"]).arg(&folder).status();
            let made = made.is_ok_and(|status| status.success());
            assert!(made, "this test needs `python3 -m venv` (package python3-venv)");
            let pip = Command::new(&python).args(["-m", "pip", "install", "-q", MOTO]).status();
            let installed = pip.is_ok_and(|status| status.success()) && works(&python);
            assert!(installed, "this test needs {MOTO} from PyPI, and can't install it");
        }
        python
    })
}

impl Moto {
    /// Starts one.
    pub fn start() -> Self {
        let mut child = Command::new(python())
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", "0"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("moto starts");
        let stderr = BufReader::new(child.stderr.take().expect("its log is piped"));
        let mut lines = stderr.lines().map_while(Result::ok);
        let started = Instant::now();
        let endpoint = loop {
            let line = lines.next().expect("moto says where it listens");
            if let Some((_, rest)) = line.split_once("Running on ") {
                break rest.trim().to_owned();
            }
            assert!(started.elapsed() < PATIENCE, "moto does not start in time");
        };
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, endpoint }
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("moto can be killed");
        self.child.wait().expect("moto ends");
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        // It may have been killed.
        let _ignored = self.child.kill();
        let _ignored = self.child.wait();
    }
}
