//! Operator commands, over HTTP and by the command line.

use longshore_tests::{Container, Setup, TestCluster, until};
use serde_json::Value;

const DISPATCH: &str = "/arvados/v1/dispatch";

/// Cluster with a short idle timeout.
fn short_idle_cluster() -> TestCluster {
    let cluster = TestCluster::start_with(Setup::default().set("TimeoutIdle", "1s"));
    cluster.open_gate();
    cluster
}

fn behavior(cluster: &TestCluster, id: &str) -> Option<String> {
    let instance = cluster.instance(id)?;
    instance["idle_behavior"].as_str().map(str::to_owned)
}

fn tag(cluster: &TestCluster, id: &str) -> Value {
    let text = std::fs::read_to_string(cluster.vm_dir(id).join("tags.json")).unwrap();
    let tags: Value = serde_json::from_str(&text).unwrap();
    tags["ArvadosIdleBehavior"].clone()
}

#[test]
fn instance_list_has_peer_columns_and_json() {
    let cluster = TestCluster::start();
    let uuid = cluster.api().submit(&cluster.gated("x"));
    let id = cluster.until_runs(&uuid);
    let output = cluster
        .longshore(&["instances", "list", "--header"])
        .succeeded();
    let lines: Vec<Vec<&str>> = output
        .stdout
        .lines()
        .map(|l| l.split('\t').collect())
        .collect();
    assert_eq!(
        lines[0],
        [
            "instance",
            "address",
            "state",
            "idle-behavior",
            "config-type",
            "provider-type",
            "price",
            "running-containers",
            "broken"
        ]
    );
    assert_eq!(lines.len(), 2, "{}", output.stdout);
    let instance = cluster.instance(&id).unwrap();
    let address = instance["address"].as_str().unwrap();
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    let expected = [
        &id, address, "running", "run", "small", "small", "0.050000", &uuid, "-",
    ];
    assert_eq!(lines[1], expected);

    let bare = cluster.longshore(&["instances", "list"]).succeeded();
    assert_eq!(bare.stdout.lines().count(), 1);
    let json = cluster
        .longshore(&["instances", "list", "--json"])
        .succeeded();
    let item: Value = serde_json::from_str(json.text()).unwrap();
    assert_eq!(item["instance"], *id);
    assert_eq!(item["running_container_uuids"], serde_json::json!([uuid]));
    cluster.open_gate();
    let _ = cluster.api().exit_code(&uuid);
}

#[test]
fn held_instance_stays_idle_across_restart() {
    let mut cluster = short_idle_cluster();
    let uuid = cluster.api().submit(&cluster.gated("first"));
    let held = cluster.until_instance("a VM", |i| !i["instance"].as_str().unwrap_or("").is_empty());
    let output = cluster.longshore(&["instances", "hold", &held]).succeeded();
    assert!(output.stderr.contains(&held), "{}", output.stderr);
    until("the instance is held", || {
        behavior(&cluster, &held).as_deref() == Some("hold")
    });
    until("the tag is set", || tag(&cluster, &held) == "hold");
    // Held before the boot finished, the instance gets no container: another instance is created.
    assert_eq!(cluster.api().exit_code(&uuid), Some(0));
    let second = cluster.api().submit(&cluster.gated("second"));
    assert_eq!(cluster.api().exit_code(&second), Some(0));
    until("all other instances are terminated", || {
        cluster.instance_ids() == [held.clone()]
    });
    assert_eq!(cluster.instance(&held).unwrap()["last_container_uuid"], "");

    cluster.kill_dispatcher();
    cluster.start_dispatcher();
    until("the instance is still held", || {
        behavior(&cluster, &held).as_deref() == Some("hold")
    });
    cluster.until_idle(&held);
    let third = cluster.api().submit(&cluster.gated("third"));
    assert_eq!(cluster.api().exit_code(&third), Some(0));
    until("the other instance is terminated", || {
        cluster.instance_ids() == [held.clone()]
    });

    let form = format!("instance_id={held}");
    let _ = cluster
        .management()
        .form(&format!("{DISPATCH}/instances/run"), &form)
        .ok();
    cluster.until_gone(&held);
}

#[test]
fn drained_instance_ends_after_last_container() {
    let cluster = TestCluster::start_with(Setup::default().replace("VCPUs: 1\n", "VCPUs: 2\n"));
    let api = cluster.api();
    let first = api.submit(&cluster.gated("first"));
    let drained = cluster.until_runs(&first);
    let form = format!("instance_id={drained}");
    let _ = cluster
        .management()
        .form(&format!("{DISPATCH}/instances/drain"), &form)
        .ok();
    until("the instance is draining", || {
        behavior(&cluster, &drained).as_deref() == Some("drain")
    });
    // The instance has capacity for a second container.
    let second = api.submit(&cluster.gated("second"));
    assert_ne!(cluster.until_runs(&second), drained);
    assert_eq!(api.state(&first), "Running");
    assert!(cluster.instance(&drained).is_some());
    cluster.open_gate();
    assert_eq!(api.exit_code(&first), Some(0));
    cluster.until_gone(&drained);
    assert_eq!(api.exit_code(&second), Some(0));
}

#[test]
fn killed_instance_cancels_container_with_reason() {
    let cluster = TestCluster::start();
    let api = cluster.api();
    let uuid = api.submit(&cluster.gated("x"));
    let id = cluster.until_runs(&uuid);
    let args = ["instances", "kill", "--reason", "disk errors", &id];
    let _ = cluster.longshore(&args).succeeded();
    let record = api.until_state(&uuid, "Cancelled");
    let why = record["runtime_status"]["error"].as_str().unwrap_or("");
    assert!(why.contains(&id), "{why:?} should name {id}");
    cluster.until_gone(&id);
    assert!(cluster.dispatch_log().contains("disk errors"));
    assert!(!cluster.path("ended").exists());
}

#[test]
fn killed_container_leaves_instance_running() {
    let cluster = TestCluster::start();
    let api = cluster.api();
    let uuid = api.submit(&cluster.gated("x"));
    let id = cluster.until_runs(&uuid);
    let path = format!("{DISPATCH}/containers/kill");
    let form = format!("container_uuid={uuid}&reason=wrong+input");
    let _ = cluster.management().form(&path, &form).ok();
    let record = api.until_state(&uuid, "Cancelled");
    assert!(record["exit_code"].is_null(), "{record:#}");
    assert!(cluster.dispatch_log().contains("wrong input"));
    let next = api.submit(&Container::sh("echo next"));
    assert_eq!(api.exit_code(&next), Some(0));
    assert_eq!(cluster.instance_ids(), [id]);
    // The container is no longer on any VM.
    assert_eq!(cluster.management().form(&path, &form).status, 404);
}

#[test]
fn unknown_ids_get_404() {
    let cluster = TestCluster::start();
    for what in ["hold", "drain", "run", "kill"] {
        let output = cluster.longshore(&["instances", what, "lo-nobody", "lo-none"]);
        assert_eq!(output.code(), Some(1), "{what}: {output:?}");
        for part in ["lo-nobody: ", "lo-none: ", "404", "2 of 2 failed"] {
            assert!(
                output.stderr.contains(part),
                "{what}: {part}: {}",
                output.stderr
            );
        }
        let path = format!("{DISPATCH}/instances/{what}");
        let answer = cluster.management().form(&path, "instance_id=lo-nobody");
        assert_eq!(answer.status, 404, "{what}: {}", answer.text);
        let answer = cluster.management().form(&path, "");
        assert_eq!(answer.status, 400, "{what}: {}", answer.text);
        assert!(answer.text.contains("instance_id"), "{}", answer.text);
        assert_eq!(cluster.management().get(&path).status, 405, "{what}");
    }
    let uuid = "tests-dz642-000000000000000";
    let path = format!("{DISPATCH}/containers/kill");
    let answer = cluster
        .management()
        .form(&path, &format!("container_uuid={uuid}"));
    assert_eq!(answer.status, 404, "{}", answer.text);
    let answer = cluster.management().form(&path, "container_uuid=nonsense");
    assert_eq!(answer.status, 400, "{}", answer.text);
    let path = format!("{DISPATCH}/container?container_uuid={uuid}");
    assert_eq!(cluster.management().get(&path).status, 404);
}

#[test]
fn health_lists_boot_backoffs_and_requires_dispatcher() {
    let setup = Setup::default()
        .set("BootProbeCommand", "\"echo no docker >&2; exit 7\"")
        .replace(
            "TimeoutBooting: 20s",
            "TimeoutBooting: 2s\n        BootFailuresBeforePause: 1",
        );
    let mut cluster = TestCluster::start_with(setup);
    let output = cluster.longshore(&["health"]).succeeded();
    assert_eq!(output.text(), "OK");
    let uuid = cluster.api().submit(&cluster.gated("x"));
    let health = || cluster.longshore(&["health"]).succeeded().stdout;
    until("the type is backed off", || health().lines().count() > 1);
    let text = health();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines[0], lines.len()), ("OK", 2), "{text}");
    for part in [
        "small with image this-host: no more until ",
        "since its last 1 boots failed: ",
        "no docker",
    ] {
        assert!(lines[1].contains(part), "{part} in {text}");
    }
    let output = cluster.longshore(&["health", "--json"]).succeeded();
    let json: Value = serde_json::from_str(output.text()).unwrap();
    assert_eq!(json["health"], "OK");
    assert_eq!(json["boot_backoffs"][0]["instance_type"], "small");
    assert_eq!(json["boot_backoffs"][0]["failures"], 1);
    cluster.api().set_priority(&uuid, 0);
    cluster.kill_dispatcher();
    let output = cluster.longshore(&["health", "--json"]);
    assert_eq!(output.code(), Some(1), "{output:?}");
    assert!(
        output.stderr.contains("does not answer"),
        "{}",
        output.stderr
    );
}

#[test]
fn waiting_container_shows_position_and_remedy() {
    let cluster = TestCluster::start_with(Setup::default().set("MaxInstances", "1"));
    let api = cluster.api();
    let running = api.submit(&cluster.gated("running"));
    let _ = cluster.until_runs(&running);
    let waiting = [600, 500].map(|priority| {
        let container = cluster.gated(&format!("p{priority}"));
        api.submit(&container.with("priority", priority))
    });
    let entry = |uuid: &str| {
        let path = format!("{DISPATCH}/container?container_uuid={uuid}");
        let answer = cluster.management().get(&path);
        (answer.status == 200).then(|| answer.json())
    };
    until("the dispatcher lists both", || {
        waiting.iter().all(|uuid| entry(uuid).is_some())
    });
    for (uuid, place) in waiting.iter().zip(1..) {
        until("the container has the expected position", || {
            entry(uuid).is_some_and(|e| e["position"] == place)
        });
        let entry = entry(uuid).unwrap();
        assert!(
            !entry["scheduling_status"].as_str().unwrap().is_empty(),
            "{entry:#}"
        );
        assert!(
            !entry["unblocked_by"].as_str().unwrap().is_empty(),
            "{entry:#}"
        );
        assert_eq!(entry["container"]["uuid"], **uuid);
    }
    let list = cluster
        .management()
        .get(&format!("{DISPATCH}/containers"))
        .ok()
        .json();
    assert_eq!(list["items"].as_array().map(Vec::len), Some(3), "{list:#}");
    cluster.open_gate();
    for uuid in waiting.iter().chain([&running]) {
        assert_eq!(api.exit_code(uuid), Some(0));
    }
}
