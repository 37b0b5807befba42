//! Preemption of spot instances, and container-specific images.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use longshore_tests::{Container, Setup, TestCluster, until_some};
use serde_json::json;

/// Cluster with preemptible instance types.
fn preemptible_cluster() -> TestCluster {
    TestCluster::start_with(
        Setup::default().replace("Price: 0.40", "Price: 0.40\n        Preemptible: true"),
    )
}

fn preemptible(container: Container) -> Container {
    container.with("scheduling_parameters", json!({"preemptible": true}))
}

/// Makes the loopback driver preempt a VM after a number of seconds.
fn preempt(cluster: &TestCluster, instance: &str, seconds: u64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let file = cluster.vm_dir(instance).join("take-back");
    fs::write(file, format!("{}\n", now.as_secs() + seconds)).unwrap();
}

#[test]
fn preempted_container_runs_again_elsewhere() {
    let cluster = preemptible_cluster();
    let api = cluster.api();
    let uuid = api.submit(&preemptible(cluster.gated("word")));
    let first = cluster.until_runs(&uuid);
    preempt(&cluster, &first, 6);
    let second = until_some("the container runs on another VM", || {
        let instances = cluster.instances();
        let runs_on = |i: &&serde_json::Value| i["running_container_uuids"][0] == uuid.as_str();
        let host = instances.iter().find(runs_on)?;
        let host = host["instance"].as_str()?.to_owned();
        (host != first && api.state(&uuid) == "Running").then_some(host)
    });
    assert_ne!(first, second);
    let log = cluster.dispatch_log();
    for word in [
        "will be preempted by the cloud at",
        "interrupted: the cloud preempted",
        "now Drain",
    ] {
        assert!(log.contains(word), "{word:?} is not in the log");
    }
    cluster.open_gate();
    assert_eq!(api.exit_code(&uuid), Some(0));
    let record = api.record(&uuid);
    assert_eq!(record["lock_count"], 2);
    assert_eq!(record["runtime_status"]["error"], json!(null));
    assert_eq!(cluster.read("begun"), "word\nword\n");
    assert_eq!(cluster.read("ended"), "word\n");
}

#[test]
fn custom_image_gets_separate_instance() {
    let mut cluster = TestCluster::start_with(Setup::default().set("TimeoutIdle", "600s"));
    let image = |container: Container, image: &str| {
        container.with(
            "runtime_constraints",
            json!({"vcpus": 1, "ram": 1 << 20, "instance_image_id": image}),
        )
    };
    let image_of = |cluster: &TestCluster, vm: &str| {
        let record = fs::read(cluster.vm_dir(vm).join("instance.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        record["image"].as_str().unwrap().to_owned()
    };
    let api = cluster.api();
    let plain = api.submit(&cluster.gated("plain"));
    let special = api.submit(&image(cluster.gated("special"), "other-image"));
    let (usual, other) = (cluster.until_runs(&plain), cluster.until_runs(&special));
    assert_ne!(usual, other);
    assert_eq!(image_of(&cluster, &usual), "this-host");
    assert_eq!(image_of(&cluster, &other), "other-image");
    cluster.open_gate();
    for uuid in [&plain, &special] {
        assert_eq!(api.exit_code(uuid), Some(0));
    }
    // After a restart with another configured image, each VM is still known by the booted image.
    fs::remove_file(cluster.path("gate")).unwrap();
    cluster.kill_dispatcher();
    let setup = Setup::default()
        .set("TimeoutIdle", "600s")
        .set("ImageID", "other-image");
    cluster.configure(setup);
    cluster.start_dispatcher();
    let next = api.submit(&cluster.gated("next"));
    assert_eq!(cluster.until_runs(&next), other);
    let old = api.submit(&image(cluster.gated("old"), "this-host"));
    assert_eq!(cluster.until_runs(&old), usual);
    cluster.open_gate();
    for uuid in [&next, &old] {
        assert_eq!(api.exit_code(uuid), Some(0));
    }
}
