//! What operators do, over HTTP and by the command line.

use longshore_tests::{Container, Setup, Site, until};
use serde_json::Value;

const DISPATCH: &str = "/arvados/v1/dispatch";

/// A site whose idle VMs are given back soon.
fn hasty_site() -> Site {
    let site = Site::start_with(Setup::default().set("TimeoutIdle", "1s"));
    site.open_gate();
    site
}

fn behavior(site: &Site, id: &str) -> Option<String> {
    let instance = site.instance(id)?;
    instance["idle_behavior"].as_str().map(str::to_owned)
}

fn tag(site: &Site, id: &str) -> Value {
    let text = std::fs::read_to_string(site.vm_dir(id).join("tags.json")).unwrap();
    let tags: Value = serde_json::from_str(&text).unwrap();
    tags["ArvadosIdleBehavior"].clone()
}

#[test]
fn the_list_has_the_peers_columns_and_a_json_form() {
    let site = Site::start();
    let uuid = site.api().submit(&site.gated("x"));
    let id = site.until_runs(&uuid);
    let ran = site
        .longshore(&["instances", "list", "--header"])
        .succeeded();
    let lines: Vec<Vec<&str>> = ran
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
    assert_eq!(lines.len(), 2, "{}", ran.stdout);
    let instance = site.instance(&id).unwrap();
    let address = instance["address"].as_str().unwrap();
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    let expected = [
        &id, address, "running", "run", "small", "small", "0.050000", &uuid, "-",
    ];
    assert_eq!(lines[1], expected);

    let bare = site.longshore(&["instances", "list"]).succeeded();
    assert_eq!(bare.stdout.lines().count(), 1);
    let json = site.longshore(&["instances", "list", "--json"]).succeeded();
    let item: Value = serde_json::from_str(json.text()).unwrap();
    assert_eq!(item["instance"], *id);
    assert_eq!(item["running_container_uuids"], serde_json::json!([uuid]));
    site.open_gate();
    let _ = site.api().exit_code(&uuid);
}

#[test]
fn a_held_vm_takes_nothing_and_stays_even_over_a_restart_until_it_may_run_again() {
    let mut site = hasty_site();
    let uuid = site.api().submit(&site.gated("first"));
    let held = site.until_instance("a VM", |i| !i["instance"].as_str().unwrap_or("").is_empty());
    let ran = site.longshore(&["instances", "hold", &held]).succeeded();
    assert!(ran.stderr.contains(&held), "{}", ran.stderr);
    until("it is held", || {
        behavior(&site, &held).as_deref() == Some("hold")
    });
    until("the tag says so", || tag(&site, &held) == "hold");
    // Held before it was ready, it gets nothing: another one is made.
    assert_eq!(site.api().exit_code(&uuid), Some(0));
    let second = site.api().submit(&site.gated("second"));
    assert_eq!(site.api().exit_code(&second), Some(0));
    until("all others are given back", || {
        site.instance_ids() == [held.clone()]
    });
    assert_eq!(site.instance(&held).unwrap()["last_container_uuid"], "");

    site.kill_dispatcher();
    site.start_dispatcher();
    until("it is still held", || {
        behavior(&site, &held).as_deref() == Some("hold")
    });
    site.until_idle(&held);
    let third = site.api().submit(&site.gated("third"));
    assert_eq!(site.api().exit_code(&third), Some(0));
    until("the other one is given back", || {
        site.instance_ids() == [held.clone()]
    });

    let form = format!("instance_id={held}");
    let _ = site
        .management()
        .form(&format!("{DISPATCH}/instances/run"), &form)
        .ok();
    site.until_gone(&held);
}

#[test]
fn a_drained_vm_ends_when_its_container_has_ended() {
    let site = Site::start_with(Setup::default().replace("VCPUs: 1\n", "VCPUs: 2\n"));
    let api = site.api();
    let first = api.submit(&site.gated("first"));
    let drained = site.until_runs(&first);
    let form = format!("instance_id={drained}");
    let _ = site
        .management()
        .form(&format!("{DISPATCH}/instances/drain"), &form)
        .ok();
    until("it is drained", || {
        behavior(&site, &drained).as_deref() == Some("drain")
    });
    // There would be room on it.
    let second = api.submit(&site.gated("second"));
    assert_ne!(site.until_runs(&second), drained);
    assert_eq!(api.state(&first), "Running");
    assert!(site.instance(&drained).is_some());
    site.open_gate();
    assert_eq!(api.exit_code(&first), Some(0));
    site.until_gone(&drained);
    assert_eq!(api.exit_code(&second), Some(0));
}

#[test]
fn a_killed_instance_is_gone_and_its_container_is_told_why() {
    let site = Site::start();
    let api = site.api();
    let uuid = api.submit(&site.gated("x"));
    let id = site.until_runs(&uuid);
    let args = ["instances", "kill", "--reason", "disk errors", &id];
    let _ = site.longshore(&args).succeeded();
    let record = api.until_state(&uuid, "Cancelled");
    let why = record["runtime_status"]["error"].as_str().unwrap_or("");
    assert!(why.contains(&id), "{why:?} should name {id}");
    site.until_gone(&id);
    assert!(site.dispatch_log().contains("disk errors"));
    assert!(!site.path("ended").exists());
}

#[test]
fn a_killed_container_is_cancelled_and_its_vm_goes_on() {
    let site = Site::start();
    let api = site.api();
    let uuid = api.submit(&site.gated("x"));
    let id = site.until_runs(&uuid);
    let path = format!("{DISPATCH}/containers/kill");
    let form = format!("container_uuid={uuid}&reason=wrong+input");
    let _ = site.management().form(&path, &form).ok();
    let record = api.until_state(&uuid, "Cancelled");
    assert!(record["exit_code"].is_null(), "{record:#}");
    assert!(site.dispatch_log().contains("wrong input"));
    let next = api.submit(&Container::sh("echo next"));
    assert_eq!(api.exit_code(&next), Some(0));
    assert_eq!(site.instance_ids(), [id]);
    // It is on no VM any more.
    assert_eq!(site.management().form(&path, &form).status, 404);
}

#[test]
fn what_does_not_exist_is_told_so() {
    let site = Site::start();
    for what in ["hold", "drain", "run", "kill"] {
        let ran = site.longshore(&["instances", what, "lo-nobody", "lo-none"]);
        assert_eq!(ran.code(), Some(1), "{what}: {ran:?}");
        for part in ["lo-nobody: ", "lo-none: ", "404", "2 of 2 failed"] {
            assert!(ran.stderr.contains(part), "{what}: {part}: {}", ran.stderr);
        }
        let path = format!("{DISPATCH}/instances/{what}");
        let answer = site.management().form(&path, "instance_id=lo-nobody");
        assert_eq!(answer.status, 404, "{what}: {}", answer.text);
        let answer = site.management().form(&path, "");
        assert_eq!(answer.status, 400, "{what}: {}", answer.text);
        assert!(answer.text.contains("instance_id"), "{}", answer.text);
        assert_eq!(site.management().get(&path).status, 405, "{what}");
    }
    let uuid = "tests-dz642-000000000000000";
    let path = format!("{DISPATCH}/containers/kill");
    let answer = site
        .management()
        .form(&path, &format!("container_uuid={uuid}"));
    assert_eq!(answer.status, 404, "{}", answer.text);
    let answer = site.management().form(&path, "container_uuid=nonsense");
    assert_eq!(answer.status, 400, "{}", answer.text);
    let path = format!("{DISPATCH}/container?container_uuid={uuid}");
    assert_eq!(site.management().get(&path).status, 404);
}

#[test]
fn health_tells_what_does_not_boot_and_a_dispatcher_that_is_not_there_is_not_healthy() {
    let setup = Setup::default()
        .set("BootProbeCommand", "\"echo no docker >&2; exit 7\"")
        .replace(
            "TimeoutBooting: 20s",
            "TimeoutBooting: 2s\n        BootFailuresBeforePause: 1",
        );
    let mut site = Site::start_with(setup);
    let ran = site.longshore(&["health"]).succeeded();
    assert_eq!(ran.text(), "OK");
    let uuid = site.api().submit(&site.gated("x"));
    let health = || site.longshore(&["health"]).succeeded().stdout;
    until("its type rests", || health().lines().count() > 1);
    let told = health();
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!((lines[0], lines.len()), ("OK", 2), "{told}");
    for part in [
        "small with image this-host: no more until ",
        "since its last 1 boots failed: ",
        "no docker",
    ] {
        assert!(lines[1].contains(part), "{part} in {told}");
    }
    let ran = site.longshore(&["health", "--json"]).succeeded();
    let json: Value = serde_json::from_str(ran.text()).unwrap();
    assert_eq!(json["health"], "OK");
    assert_eq!(json["boot_pauses"][0]["instance_type"], "small");
    assert_eq!(json["boot_pauses"][0]["failures"], 1);
    site.api().set_priority(&uuid, 0);
    site.kill_dispatcher();
    let ran = site.longshore(&["health", "--json"]);
    assert_eq!(ran.code(), Some(1), "{ran:?}");
    assert!(ran.stderr.contains("does not answer"), "{}", ran.stderr);
}

#[test]
fn a_container_that_waits_shows_its_place_and_what_would_help() {
    let site = Site::start_with(Setup::default().set("MaxInstances", "1"));
    let api = site.api();
    let running = api.submit(&site.gated("running"));
    let _ = site.until_runs(&running);
    let waiting = [600, 500].map(|priority| {
        let container = site.gated(&format!("p{priority}"));
        api.submit(&container.with("priority", priority))
    });
    let entry = |uuid: &str| {
        let path = format!("{DISPATCH}/container?container_uuid={uuid}");
        let answer = site.management().get(&path);
        (answer.status == 200).then(|| answer.json())
    };
    until("the dispatcher knows both", || {
        waiting.iter().all(|uuid| entry(uuid).is_some())
    });
    for (uuid, place) in waiting.iter().zip(1..) {
        until("it has its place", || {
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
    let list = site
        .management()
        .get(&format!("{DISPATCH}/containers"))
        .ok()
        .json();
    assert_eq!(list["items"].as_array().map(Vec::len), Some(3), "{list:#}");
    site.open_gate();
    for uuid in waiting.iter().chain([&running]) {
        assert_eq!(api.exit_code(uuid), Some(0));
    }
}
