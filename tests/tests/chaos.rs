//! The demo in a storm: every container is accounted for.

use std::process::Command;
use std::time::Duration;

use longshore_tests::{longshore, of_vms, run_within};
use serde_json::Value;

/// The demo gives up by itself after ten minutes, and says what it waited for.
const PATIENCE: Duration = Duration::from_secs(660);

#[test]
fn every_container_is_accounted_for_whatever_breaks() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(longshore());
    command
        .args([
            "demo",
            "--chaos",
            "--seed",
            "3",
            "--containers",
            "24",
            "--json",
        ])
        .env("TMPDIR", dir.path())
        .env_remove("RUST_LOG");
    let ran = run_within(&mut command, PATIENCE).succeeded();
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    let chaos = &report["chaos"];
    assert_eq!(chaos["seed"], 3);
    assert_eq!(
        chaos["unaccounted"].as_array().map(Vec::len),
        Some(0),
        "{chaos:#}"
    );
    let count = |key: &str| chaos[key].as_u64().unwrap();
    assert_eq!(
        count("as_expected") + count("lost_with_their_vm"),
        24,
        "{chaos:#}"
    );
    let faults = chaos["faults"].as_object().unwrap();
    assert_eq!(faults.len(), 12);
    // So many VMs are needed, and so much is asked of the queue, that each of these is dealt, and what
    // met nothing is dealt again.
    for fault in [
        "VM never ready",
        "VM vanishes",
        "VM freezes",
        "VM reports itself broken",
        "queue: 503",
        "queue: answer lost",
        "queue: slow",
        "cloud: create refused",
        "cloud: over quota",
        "cloud: create, answer lost",
    ] {
        assert!(faults[fault].as_u64().unwrap() > 0, "{fault}: {chaos:#}");
    }
    // How often the cloud is asked for these in a run this short is up to the host.
    let others = ["cloud: list failed", "cloud: destroy refused"];
    for fault in others {
        assert!(faults[fault].is_u64(), "{fault}: {chaos:#}");
    }
    assert_eq!(of_vms(dir.path()), []);
}

#[test]
fn a_seed_without_chaos_is_refused() {
    let mut command = Command::new(longshore());
    let ran = run_within(command.args(["demo", "--seed", "3"]), PATIENCE);
    assert_eq!(ran.code(), Some(2));
    assert!(ran.stderr.contains("--chaos"), "{}", ran.stderr);
}
