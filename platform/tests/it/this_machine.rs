//! The machine on which the tests run.

use std::path::Path;
use std::process::Command;

use engram_platform::{
    Machine, Placement, PlacementOptions, Preflight, Signal, Signals, TopologyReport, current_cpu,
    diagnose, node_of_byte, pin_current_thread, resident_bytes_by_node,
};

fn preflight() -> Preflight {
    Preflight { shards: 2, ring_entries: 128, data_dir: None, fast_dir: None }
}

#[test]
fn the_machine_is_read_and_placed() {
    let machine = Machine::read().unwrap();
    let placement = Placement::compute(&machine, &PlacementOptions::default()).unwrap();
    assert!(!machine.cpus.is_empty());
    assert!(machine.memory.limit_bytes <= machine.memory.total_bytes);
    assert!(machine.memory.available_bytes <= machine.memory.limit_bytes);
    assert!(placement.shards.iter().all(|shard| machine.allowed().contains(shard.cpu)));
}

#[test]
fn the_report_says_the_same_to_people_and_programs() {
    let machine = Machine::read().unwrap();
    let placement = Placement::compute(&machine, &PlacementOptions::default()).unwrap();
    let findings = diagnose(Path::new("/"), &machine, &placement);
    let report = TopologyReport { machine, placement, findings };
    let json = serde_json::to_value(&report).unwrap();
    let text = report.to_string();
    for shard in &report.placement.shards {
        assert!(text.contains(&format!("shard {}", shard.shard)), "{text}");
    }
    assert_eq!(
        json["placement"]["shards"].as_array().unwrap().len(),
        report.placement.shards.len()
    );
    for finding in &report.findings {
        assert!(!finding.fatal && text.contains(finding.code), "{text}");
    }
}

#[test]
fn io_uring_works_here_or_the_reason_is_said() {
    let findings = preflight().run(&Machine::read().unwrap());
    let fatal: Vec<String> =
        findings.iter().filter(|finding| finding.fatal).map(ToString::to_string).collect();
    assert!(fatal.is_empty(), "{}", fatal.join("\n"));
}

#[test]
fn a_folder_that_can_not_be_written_is_named() {
    let check = Preflight { data_dir: Some("/proc/engram".into()), ..preflight() };
    let findings = check.run(&Machine::read().unwrap());
    let finding = findings.iter().find(|finding| finding.code == "data_dir_unwritable").unwrap();
    assert!(finding.fatal && finding.to_string().contains("/proc/engram"), "{finding}");
}

#[test]
fn a_fast_folder_that_can_not_be_written_is_not_fatal() {
    let check = Preflight { fast_dir: Some("/proc/engram".into()), ..preflight() };
    let findings = check.run(&Machine::read().unwrap());
    let finding = findings.iter().find(|finding| finding.code == "fast_dir_unwritable").unwrap();
    assert!(!finding.fatal, "{finding}");
}

#[test]
fn a_folder_is_probed_and_left_empty() {
    let folder = std::env::temp_dir().join(format!("engram-probe-test-{}", std::process::id()));
    let check = Preflight { data_dir: Some(folder.clone()), ..preflight() };
    let findings = check.run(&Machine::read().unwrap());
    assert!(findings.iter().all(|finding| finding.code != "data_dir_unwritable"), "{findings:?}");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    std::fs::remove_dir(&folder).unwrap();
}

#[test]
fn a_pinned_thread_runs_where_it_was_pinned() {
    let machine = Machine::read().unwrap();
    for cpu in machine.allowed().numbers().iter().copied() {
        let seen = std::thread::spawn(move || {
            pin_current_thread(cpu).unwrap();
            current_cpu()
        });
        assert_eq!(seen.join().unwrap(), Some(cpu));
    }
    let outside = std::thread::spawn(|| pin_current_thread(60_000));
    assert!(outside.join().unwrap().is_err());
}

/// Containers forbid the question; then the totals by node, which they allow, must hold.
#[test]
fn memory_that_was_touched_is_on_a_node_of_this_machine() {
    let machine = Machine::read().unwrap();
    let nodes: Vec<u32> = machine.nodes.iter().map(|node| node.number).collect();
    let block = vec![1_u8; 1 << 20];
    match node_of_byte(&block[block.len() / 2]) {
        Ok(node) => assert!(nodes.contains(&node), "node {node} is none of {nodes:?}"),
        Err(_) => assert!(resident_bytes_by_node().values().sum::<u64>() >= 1 << 20),
    }
}

#[test]
fn a_signal_is_taken_as_a_value() {
    let cases = [
        (libc::SIGTERM, Signal::Terminate),
        (libc::SIGINT, Signal::Interrupt),
        (libc::SIGHUP, Signal::Hangup),
    ];
    for (number, expected) in cases {
        let thread = std::thread::spawn(move || {
            let signals = Signals::install().unwrap();
            // SAFETY: the signal is blocked in this thread, to which it is sent.
            assert_eq!(unsafe { libc::raise(number) }, 0);
            signals.wait()
        });
        assert_eq!(thread.join().unwrap(), expected);
    }
}

#[test]
fn a_static_build_needs_no_library_at_run_time() {
    if cfg!(not(target_feature = "crt-static")) {
        return;
    }
    let executable = std::env::current_exe().unwrap();
    let output = Command::new("readelf").arg("-d").arg(executable).output();
    let Ok(output) = output else { return };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.contains("(NEEDED)"), "{text}");
}
