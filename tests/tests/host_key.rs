//! Whoever is at a VM's address must prove to be that VM.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use longshore_tests::{Setup, Site, Sshd, free_port, until};

/// Somebody else's server that lets the dispatcher in, pretends to be very helpful and writes down
/// what it is asked to run.
fn stranger(site: &Site) -> Sshd {
    let dir = site.path("stranger");
    fs::create_dir(&dir).unwrap();
    let helper = dir.join("helper");
    let script = format!(
        "#!/bin/sh\nprintf '%s\\n' \"$SSH_ORIGINAL_COMMAND\" >>{}\necho wrong-secret\n",
        dir.join("asked").display()
    );
    fs::write(&helper, script).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy(site.path("dispatch_key.pub"), dir.join("authorized")).unwrap();
    let force = format!("ForceCommand {}", helper.display());
    Sshd::start(&dir, free_port(), &force)
}

fn asked(stranger: &Sshd) -> String {
    fs::read_to_string(stranger.dir().join("asked")).unwrap_or_default()
}

fn site() -> Site {
    let setup = Setup::default()
        .set("SyncInterval", "500ms")
        .set("TimeoutProbe", "4s")
        .set("TimeoutBooting", "4s");
    let site = Site::start_with(setup);
    site.open_gate();
    site
}

/// Runs a container, and returns the VM that ran it.
fn used_vm(site: &Site) -> String {
    let uuid = site.api().submit(&site.gated("first"));
    assert_eq!(site.api().exit_code(&uuid), Some(0));
    let ids = site.instance_ids();
    assert_eq!(ids.len(), 1);
    site.until_idle(&ids[0]);
    ids[0].clone()
}

fn point_to(site: &Site, vm: &str, stranger: &Sshd) {
    // As the driver writes it: beside, then renamed.
    let beside = site.vm_dir(vm).join("address.test");
    fs::write(&beside, stranger.address()).unwrap();
    fs::rename(beside, site.vm_dir(vm).join("address")).unwrap();
}

#[test]
fn a_server_with_another_host_key_is_not_even_logged_in_to() {
    let site = site();
    let vm = used_vm(&site);
    let stranger = stranger(&site);
    point_to(&site, &vm, &stranger);
    until("the dispatcher turns to the stranger", || {
        stranger.log().contains("Connection from")
    });
    let uuid = site.api().submit(&site.gated("second"));
    assert_eq!(site.api().exit_code(&uuid), Some(0));
    site.until_gone(&vm);
    assert_eq!(asked(&stranger), "", "commands were run on the stranger");
    assert!(!stranger.log().contains("Accepted publickey"));
    assert_eq!(site.read("begun"), "first\nsecond\n");
    assert!(
        site.dispatch_log().contains("host key"),
        "the log tells nothing"
    );
}

#[test]
fn without_a_known_host_key_nothing_but_the_proof_of_identity_is_asked_for() {
    let mut site = site();
    let vm = used_vm(&site);
    site.kill_dispatcher();
    let stranger = stranger(&site);
    point_to(&site, &vm, &stranger);
    site.start_dispatcher();
    until("the stranger is asked for its proof", || {
        !asked(&stranger).is_empty()
    });
    let uuid = site.api().submit(&site.gated("second"));
    assert_eq!(site.api().exit_code(&uuid), Some(0));
    site.until_gone(&vm);
    for command in asked(&stranger).lines() {
        assert_eq!(command, "cat \"$LONGSHORE_VM_DIR/instance-secret\"");
    }
    assert_eq!(site.read("begun"), "first\nsecond\n");
    assert!(
        site.dispatch_log().contains("instance secret"),
        "the log tells nothing"
    );
}
