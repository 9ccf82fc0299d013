//! A folder that stands in for `/`, filled from data and removed at the end.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A root folder with the given files.
pub struct Fixture {
    root: PathBuf,
}

impl Fixture {
    /// Makes the files; the path of each is relative to the root.
    pub fn new(files: &[(&str, &str)]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("engram-platform-{}-{number}", std::process::id());
        let fixture = Self { root: std::env::temp_dir().join(name) };
        for (path, content) in files {
            let path = fixture.root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        fixture
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // An empty fixture has made no folder.
        let _ = fs::remove_dir_all(&self.root);
    }
}
