//! Data directories of earlier formats open for ever.

use std::path::Path;

use serde_json::{Value, json};

use crate::server::{Folder, Server};

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder can be made");
    for entry in std::fs::read_dir(from).expect("the fixture is there").flatten() {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).expect("a file can be copied");
        }
    }
}

fn verify(server: &Server, case: &str) {
    assert_eq!(server.count(), 11, "{case}");
    let memory = server.ask("GET", "/api/v1/memories/m3", &Value::Null);
    assert_eq!(memory["content"], json!("Memory number 3 of the first format"), "{case}");
    assert_eq!(memory["metadata"]["title"], json!("Title 3"), "{case}");
    let replaced = server.ask("GET", "/api/v1/memories/m5", &Value::Null);
    assert_eq!(replaced["content"], json!("Replaced before the second format"), "{case}");
    assert_eq!(server.call("GET", "/api/v1/memories/m4", &Value::Null).status, 404, "{case}");
    let other = server.ask("GET", "/api/v1/memories/o1?space=other", &Value::Null);
    assert_eq!(other["content"], json!("in another space"), "{case}");
    let links = server.ask("GET", "/api/v1/memories/m1/links", &Value::Null);
    assert!(links.to_string().contains("\"m2\""), "{case}: {links}");
}

/// Two shards, written by the first version of segments.
#[test]
fn a_directory_of_version_1_opens_is_written_and_opens_again() {
    let folder = Folder::new();
    let data = folder.0.join("data");
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/version-1"), &data);
    let first = Server::start(&data, &["--shards", "2"]);
    verify(&first, "as it was");
    first.ask("PUT", "/api/v1/memories/new", &json!({"content": "written by this version"}));
    first.call("DELETE", "/api/v1/memories/new", &Value::Null);
    first.kill();
    let again = Server::start(&data, &["--shards", "2"]);
    verify(&again, "with a segment of this version behind");
    assert_eq!(again.terminate(), Some(0));
    let image = Server::start(&data, &["--shards", "2"]);
    verify(&image, "from an image");
    assert_eq!(image.terminate(), Some(0));
    let moved = Server::start(&data, &["--shards", "3"]);
    verify(&moved, "moved to another number of shards");
}
