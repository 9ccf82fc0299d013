//! The reference is true: its examples are run in order against the real server, and its lists are
//! complete.

use std::path::Path;
use std::process::Command;

use engram_net::error::Reason;
use serde_json::Value;

use crate::server::{Folder, Server, run};

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A command, the status that it names, and what its answer holds.
struct Example {
    command: String,
    status: String,
    answer: Option<Value>,
}

/// Blocks of `sh` that call curl, each with the block of `json` right behind it.
fn examples(page: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let blocks: Vec<&str> = page.split("```").collect();
    for (at, block) in blocks.iter().enumerate().skip(1).step_by(2) {
        if let Some(command) = block.strip_prefix("sh\n").filter(|text| text.contains("curl")) {
            let (status, command) = command.split_once('\n').expect("an example names its status");
            let status = status.trim_start_matches("# ").to_owned();
            examples.push(Example { command: command.to_owned(), status, answer: None });
        } else if let Some(answer) = block.strip_prefix("json\n")
            && blocks[at - 1].trim().is_empty()
        {
            let answer = serde_json::from_str(answer).unwrap_or_else(|e| panic!("{e}: {answer}"));
            examples.last_mut().expect("an answer follows a command").answer = Some(answer);
        }
    }
    examples
}

/// Everything in `expected` is in `found`; `…` is anything.
fn holds(found: &Value, expected: &Value) -> bool {
    match (found, expected) {
        (_, Value::String(text)) if text == "…" => !found.is_null(),
        (Value::Object(found), Value::Object(expected)) => expected
            .iter()
            .all(|(key, value)| found.get(key).is_some_and(|found| holds(found, value))),
        (Value::Array(found), Value::Array(expected)) => {
            found.len() >= expected.len() && found.iter().zip(expected).all(|(f, e)| holds(f, e))
        }
        (Value::Number(found), Value::Number(expected)) => found
            .as_f64()
            .zip(expected.as_f64())
            .is_some_and(|(found, expected)| (found - expected).abs() < 1e-6),
        _ => found == expected,
    }
}

#[test]
fn every_example_of_the_reference_answers_as_it_says() {
    let folder = Folder::new();
    let server = Server::start(&folder.0.join("data"), &[]);
    let examples = examples(&page("api.md"));
    assert!(examples.len() > 20, "the reference has its examples: {}", examples.len());
    for Example { command, status, answer } in examples {
        let wrapped = format!(
            "curl() {{ command curl --silent --show-error --write-out '\\n%{{http_code}}' \"$@\"; }}\n{}",
            command.replace("http://localhost:8080", &server.url())
        );
        let output = Command::new("bash").args(["-euc", &wrapped]).output();
        let output = output.expect("bash and curl are installed");
        let text = String::from_utf8_lossy(&output.stdout);
        let (body, code) = text.rsplit_once('\n').unwrap_or(("", &text));
        assert_eq!(code, status, "{command}\n{body}");
        if let Some(expected) = answer {
            let first = serde_json::Deserializer::from_str(body).into_iter::<Value>().next();
            let found = first.and_then(Result::ok).unwrap_or_default();
            assert!(holds(&found, &expected), "{command}\nexpected {expected}\nfound {body}");
        }
    }
}

#[test]
fn every_code_of_an_error_is_in_the_reference() {
    let page = page("api.md");
    for reason in Reason::all() {
        let row = page
            .lines()
            .filter(|line| line.starts_with("| "))
            .find(|line| line.contains(&format!("`{}`", reason.name())));
        let row = row.unwrap_or_else(|| panic!("{} is not in the reference", reason.name()));
        let statuses = row.split('|').nth(1).unwrap_or_default();
        let status = reason.status().as_u16().to_string();
        assert!(statuses.contains(&status), "{}: {row}", reason.name());
    }
}

#[test]
fn every_setting_is_in_the_page_of_settings() {
    let page = page("configuration.md");
    let settings = run(&["config", "--json"]);
    let settings: Value = serde_json::from_slice(&settings.stdout).expect("settings are JSON");
    for (flag, setting) in settings.as_object().expect("settings are an object") {
        let variable = setting["variable"].as_str().unwrap_or_default();
        let row = page.lines().find(|line| line.starts_with(&format!("| `{variable}` |")));
        let row = row.unwrap_or_else(|| panic!("{variable} is not in the page"));
        assert!(row.contains(&format!("`--{flag}`")), "{row}");
    }
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut pages = vec![root.join("README.md")];
    for entry in std::fs::read_dir(root.join("docs")).expect("there are documents").flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "md") {
            pages.push(entry.path());
        }
    }
    for page in pages {
        let text = std::fs::read_to_string(&page).expect("a page is text");
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") {
                continue;
            }
            let beside = page.parent().expect("a page is in a folder").join(path);
            assert!(beside.exists(), "{}: {target}", page.display());
        }
    }
}
