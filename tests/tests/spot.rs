//! VMs that are taken back as clouds do with their spot instances, and images of the operator's choice.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use longshore_tests::{Container, Setup, Site, until_some};
use serde_json::json;

/// A site whose types may be taken back at any time.
fn preemptible_site() -> Site {
    Site::start_with(
        Setup::default().replace("Price: 0.40", "Price: 0.40\n        Preemptible: true"),
    )
}

fn preemptible(container: Container) -> Container {
    container.with("scheduling_parameters", json!({"preemptible": true}))
}

/// Has a VM taken back so many seconds from now.
fn take_back(site: &Site, instance: &str, seconds: u64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let file = site.vm_dir(instance).join("take-back");
    fs::write(file, format!("{}\n", now.as_secs() + seconds)).unwrap();
}

#[test]
fn an_interrupted_container_runs_again_on_another_vm() {
    let site = preemptible_site();
    let api = site.api();
    let uuid = api.submit(&preemptible(site.gated("word")));
    let first = site.until_runs(&uuid);
    take_back(&site, &first, 6);
    let second = until_some("it runs on another VM", || {
        let instances = site.instances();
        let runs_on = |i: &&serde_json::Value| i["running_container_uuids"][0] == uuid.as_str();
        let host = instances.iter().find(runs_on)?;
        let host = host["instance"].as_str()?.to_owned();
        (host != first && api.state(&uuid) == "Running").then_some(host)
    });
    assert_ne!(first, second);
    let log = site.dispatch_log();
    for word in [
        "is taken back by the cloud at",
        "was interrupted",
        "now Drain",
    ] {
        assert!(log.contains(word), "{word:?} is not in the log");
    }
    site.open_gate();
    assert_eq!(api.exit_code(&uuid), Some(0));
    let record = api.record(&uuid);
    assert_eq!(record["lock_count"], 2);
    assert_eq!(record["runtime_status"]["error"], json!(null));
    assert_eq!(site.read("begun"), "word\nword\n");
    assert_eq!(site.read("ended"), "word\n");
}

#[test]
fn an_image_of_ones_own_choice_boots_a_vm_that_only_such_containers_use() {
    let mut site = Site::start_with(Setup::default().set("TimeoutIdle", "600s"));
    let image = |container: Container, image: &str| {
        container.with(
            "runtime_constraints",
            json!({"vcpus": 1, "ram": 1 << 20, "instance_image_id": image}),
        )
    };
    let image_of = |site: &Site, vm: &str| {
        let record = fs::read(site.vm_dir(vm).join("instance.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        record["image"].as_str().unwrap().to_owned()
    };
    let api = site.api();
    let plain = api.submit(&site.gated("plain"));
    let special = api.submit(&image(site.gated("special"), "other-image"));
    let (usual, other) = (site.until_runs(&plain), site.until_runs(&special));
    assert_ne!(usual, other);
    assert_eq!(image_of(&site, &usual), "this-host");
    assert_eq!(image_of(&site, &other), "other-image");
    site.open_gate();
    for uuid in [&plain, &special] {
        assert_eq!(api.exit_code(uuid), Some(0));
    }
    // After a restart with another configured image each VM is still known for what it booted from.
    fs::remove_file(site.path("gate")).unwrap();
    site.kill_dispatcher();
    let setup = Setup::default()
        .set("TimeoutIdle", "600s")
        .set("ImageID", "other-image");
    site.configure(setup);
    site.start_dispatcher();
    let next = api.submit(&site.gated("next"));
    assert_eq!(site.until_runs(&next), other);
    let old = api.submit(&image(site.gated("old"), "this-host"));
    assert_eq!(site.until_runs(&old), usual);
    site.open_gate();
    for uuid in [&next, &old] {
        assert_eq!(api.exit_code(uuid), Some(0));
    }
}
