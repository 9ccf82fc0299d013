//! A whole session: workload, data set, result.
//!
//! *Invariants*: every workload that is shipped can be read and encoded.
//!
//! *Not here*: what the real server answers.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use engram_bench::dataset::{Dataset, VectorForm};
use engram_bench::hdr;
use engram_bench::result::SessionResult;
use engram_bench::session::{Recorded, Session, recall_at_10};
use engram_bench::workload::{DatasetSpec, Workload};

use crate::fake::{Said, Seen, serve};
use crate::python::python;

fn workloads() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn memory_file() -> PathBuf {
    let path = std::env::temp_dir().join(format!("engram-bench-{}.ndjson", std::process::id()));
    let lines = (0..30).map(|i| format!("{{\"id\":\"w{i}\",\"content\":\"dog number {i}\"}}\n"));
    std::fs::write(&path, lines.collect::<String>()).unwrap();
    path
}

fn small(path: &Path) -> (Workload, Dataset) {
    let mut workload = Workload::read(path).unwrap();
    workload.dataset = workload.dataset.with_memories(300);
    let file = memory_file();
    let set = workload.dataset.open(Some(&file)).unwrap();
    (workload, set)
}

fn session(address: std::net::SocketAddr) -> Session {
    Session {
        address,
        threads: 2,
        cpus: Vec::new(),
        spin: false,
        seed: 3,
        duration_s: Some(0.1),
        timeout_s: 5.0,
        server_pid: Some(std::process::id()),
    }
}

/// Answers as a server would that knows every memory and finds the first ten.
fn answer(seen: &Seen) -> Said {
    if seen.target.contains("/batch") {
        let lines = seen.body.split(|b| *b == b'\n').filter(|line| !line.is_empty()).count();
        return Said::status(200, &"{\"status\":201}\n".repeat(lines));
    }
    if seen.target.ends_with("/recall") {
        let memories: Vec<_> =
            (0..10).map(|i| serde_json::json!({"id": format!("m{i:08}")})).collect();
        return Said::status(200, &serde_json::json!({"memories": memories}).to_string());
    }
    Said::status(200, r#"{"index_backlog":0,"association_backlog":0}"#)
}

#[test]
fn every_workload_can_be_encoded_and_names_its_steps() {
    assert!(workloads().len() > 10);
    for path in workloads() {
        let (workload, set) = small(&path);
        assert_eq!(path.file_stem().unwrap().to_str().unwrap(), workload.name);
        let operations = workload.operations(&set, "localhost", 1);
        assert_eq!(operations.len(), workload.operations.len(), "{}", workload.name);
        for operation in operations.iter() {
            assert!(!operation.requests.is_empty());
            let fresh = ["store", "batch"].contains(&operation.name.as_str());
            let has_ids = operation.requests.iter().all(|r| !r.ids_at.is_empty());
            assert_eq!(fresh, has_ids, "{} {}", workload.name, operation.name);
        }
        assert!(workload.steps.iter().all(|step| !step.load.loads().is_empty()));
    }
}

#[test]
fn a_data_set_is_stored_whole_and_refused_lines_are_shown() {
    let seen = std::sync::Arc::new(Mutex::new(Vec::new()));
    let kept = seen.clone();
    let address = serve(move |request| {
        let said = answer(&request);
        let text = String::from_utf8(request.body).unwrap();
        kept.lock().unwrap().extend(text.lines().map(str::to_owned));
        if text.contains("m00000007") && request.target.contains("/batch") {
            let lines = text.lines().count() - 1;
            let verdicts = "{\"status\":201}\n".repeat(lines);
            return Said::status(200, &(verdicts + "{\"status\":400,\"code\":\"too_bad\"}\n"));
        }
        said
    });
    let path = workloads().into_iter().find(|p| p.ends_with("store.json")).unwrap();
    let (_, set) = small(&path);
    let loaded = session(address).load(&set, 3, VectorForm::Json, &|_| {}).unwrap();
    assert_eq!((loaded.stored, loaded.refused), (299, 1));
    assert!(loaded.refusals[0].contains("too_bad"));
    let mut lines = seen.lock().unwrap().clone();
    lines.sort();
    let mut expected: Vec<String> = (0..300)
        .map(|i| {
            let mut line = String::new();
            set.push_line(i, VectorForm::Json, &mut line);
            line.trim_end().to_owned()
        })
        .collect();
    expected.sort();
    assert_eq!(lines, expected);
}

#[test]
fn a_session_gives_a_result_that_can_be_kept() {
    let address = serve(|seen| answer(&seen));
    let path = workloads().into_iter().find(|p| p.ends_with("mixed.json")).unwrap();
    let (workload, set) = small(&path);
    let steps = session(address).steps(&workload, &set, &mut |_| {}).unwrap();
    assert_eq!(steps.len(), workload.steps.len());
    assert!(steps.iter().all(|step| step.result.is_clean()));
    let results = steps.iter().map(|step| step.result.clone()).collect();
    let result = session(address).result(&workload, &set, "fake", results);
    let read: SessionResult = serde_json::from_str(&result.to_text()).unwrap();
    assert_eq!(read.steps, result.steps);
    assert_eq!(read.steps[0].operations.len(), 2);
    assert!(read.steps[0].server_cpu_us.unwrap() > 0.0, "the fake runs in this process");
}

#[test]
fn recall_at_10_compares_with_the_truth() {
    let address = serve(|seen| answer(&seen));
    let shape =
        engram_bench::dataset::Shape { memories: 20, dimensions: 16, out_degree: 2, seed: 1 };
    let Dataset::Synthetic(set) = DatasetSpec::Synthetic(shape).open(None).unwrap() else {
        panic!("a synthetic set is synthetic");
    };
    let recall = recall_at_10(address, &set, 50).unwrap();
    assert!((0.3..0.7).contains(&recall), "ten of twenty by chance: {recall}");
}

/// Adds up a log and looks every line of the percentiles' file up in the sum: how many values, the
/// median, the lines, and the largest difference of a value.
const READS: &str = "
import sys
from hdrh.log import HistogramLogReader
from hdrh.histogram import HdrHistogram
total = HdrHistogram(1, 600000000000, 3)
reader = HistogramLogReader(sys.argv[1], total)
while True:
    part = reader.get_next_interval_histogram()
    if part is None:
        break
    total.add(part)
lines = [line.split() for line in open(sys.argv[2]) if line.strip() and line.lstrip()[0].isdigit()]
count = total.get_total_count()
value_at = lambda rank: total.get_value_at_percentile(100 * int(rank) / count)
worst = max(abs(float(value) * 1000 / value_at(rank) - 1) for value, _, rank, *_ in lines)
print(count, total.get_value_at_percentile(50.0), len(lines), worst)
";

#[test]
fn files_are_read_by_another_implementation_of_hdr_histogram() {
    let address = serve(|seen| answer(&seen));
    let path = workloads().into_iter().find(|p| p.ends_with("empty.json")).unwrap();
    let (workload, set) = small(&path);
    let steps: Vec<Recorded> = session(address).steps(&workload, &set, &mut |_| {}).unwrap();
    let step = &steps[0];
    let log = hdr::hlog(&step.outcome, step.began, "a comment").unwrap();
    assert!(log.starts_with(b"#[Histogram log format version") || log.starts_with(b"#a comment"));
    let file = std::env::temp_dir().join(format!("engram-bench-{}", std::process::id()));
    let (hlog, hgrm) = (file.with_extension("hlog"), file.with_extension("hgrm"));
    std::fs::write(&hlog, &log).unwrap();
    std::fs::write(&hgrm, hdr::hgrm(&step.outcome.latency())).unwrap();
    let read = Command::new(python()).args(["-c", READS]).args([&hlog, &hgrm]).output().unwrap();
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    let text = String::from_utf8(read.stdout).unwrap();
    let numbers: Vec<f64> = text.split_whitespace().map(|word| word.parse().unwrap()).collect();
    let [count, p50, lines, worst] = numbers[..] else { panic!("four numbers: {text}") };
    assert_eq!(count, step.outcome.ok() as f64);
    let ours = step.outcome.latency().value_at_quantile(0.5) as f64;
    assert!((p50 / ours - 1.0).abs() < 0.002, "{p50} {ours}");
    assert!(lines > 10.0 && worst < 0.002, "{text}");
}
