//! Identity check of the server at a VM's address.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use longshore_tests::{Setup, Sshd, TestCluster, free_port, until};

/// Foreign server that accepts the dispatcher's login and records requested commands.
fn foreign_server(cluster: &TestCluster) -> Sshd {
    let dir = cluster.path("foreign_server");
    fs::create_dir(&dir).unwrap();
    let helper = dir.join("helper");
    let script = format!(
        "#!/bin/sh\nprintf '%s\\n' \"$SSH_ORIGINAL_COMMAND\" >>{}\necho wrong-secret\n",
        dir.join("received_commands").display()
    );
    fs::write(&helper, script).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy(cluster.path("dispatch_key.pub"), dir.join("authorized")).unwrap();
    let force = format!("ForceCommand {}", helper.display());
    Sshd::start(&dir, free_port(), &force)
}

fn received_commands(foreign_server: &Sshd) -> String {
    fs::read_to_string(foreign_server.dir().join("received_commands")).unwrap_or_default()
}

fn cluster() -> TestCluster {
    let setup = Setup::default()
        .set("SyncInterval", "500ms")
        .set("TimeoutProbe", "4s")
        .set("TimeoutBooting", "4s");
    let cluster = TestCluster::start_with(setup);
    cluster.open_gate();
    cluster
}

/// Runs a container, and returns the VM of the container.
fn used_vm(cluster: &TestCluster) -> String {
    let uuid = cluster.api().submit(&cluster.gated("first"));
    assert_eq!(cluster.api().exit_code(&uuid), Some(0));
    let ids = cluster.instance_ids();
    assert_eq!(ids.len(), 1);
    cluster.until_idle(&ids[0]);
    ids[0].clone()
}

fn redirect(cluster: &TestCluster, vm: &str, foreign_server: &Sshd) {
    // Replaced atomically, as by the driver.
    let beside = cluster.vm_dir(vm).join("address.test");
    fs::write(&beside, foreign_server.address()).unwrap();
    fs::rename(beside, cluster.vm_dir(vm).join("address")).unwrap();
}

#[test]
fn changed_host_key_prevents_login() {
    let cluster = cluster();
    let vm = used_vm(&cluster);
    let foreign_server = foreign_server(&cluster);
    redirect(&cluster, &vm, &foreign_server);
    until("the dispatcher connects to the foreign server", || {
        foreign_server.log().contains("Connection from")
    });
    let uuid = cluster.api().submit(&cluster.gated("second"));
    assert_eq!(cluster.api().exit_code(&uuid), Some(0));
    cluster.until_gone(&vm);
    assert_eq!(
        received_commands(&foreign_server),
        "",
        "commands were sent to the foreign server"
    );
    assert!(!foreign_server.log().contains("Accepted publickey"));
    assert_eq!(cluster.read("begun"), "first\nsecond\n");
    assert!(
        cluster.dispatch_log().contains("host key"),
        "the log does not name the reason"
    );
}

#[test]
fn unknown_host_key_allows_identity_check_only() {
    let mut cluster = cluster();
    let vm = used_vm(&cluster);
    cluster.kill_dispatcher();
    let foreign_server = foreign_server(&cluster);
    redirect(&cluster, &vm, &foreign_server);
    cluster.start_dispatcher();
    until(
        "the foreign server is received_commands for the secret",
        || !received_commands(&foreign_server).is_empty(),
    );
    let uuid = cluster.api().submit(&cluster.gated("second"));
    assert_eq!(cluster.api().exit_code(&uuid), Some(0));
    cluster.until_gone(&vm);
    for command in received_commands(&foreign_server).lines() {
        assert_eq!(command, "cat \"$LONGSHORE_VM_DIR/instance-secret\"");
    }
    assert_eq!(cluster.read("begun"), "first\nsecond\n");
    assert!(
        cluster.dispatch_log().contains("instance secret"),
        "the log does not name the reason"
    );
}
