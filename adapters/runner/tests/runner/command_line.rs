//! Flags, exit codes, and early checks.

use crate::support::{Server, Vm};

const UUID: &str = "zzzzz-dz642-000000000000000";

#[test]
fn help_and_version_succeed() {
    let vm = Vm::new();
    let help = vm.run(&["-help"], "");
    assert_eq!(help.code, Some(0));
    assert!(help.stderr.contains("-stdin-prices"), "{help:?}");
    let version = vm.run(&["-version"], "");
    assert_eq!(version.code, Some(0));
    assert!(version.stdout.starts_with("longshore-runner "));
}

#[test]
fn invalid_command_line_exits_2() {
    let vm = Vm::new();
    for words in [
        ["--frobnicate", UUID].as_slice(),
        &["--kill"],
        &["--kill=x", UUID],
        &[],
        &["--kill", "15"],
    ] {
        let ran = vm.run(words, "");
        assert_eq!(ran.code, Some(2), "{words:?}: {ran:?}");
        assert!(!ran.stderr.is_empty());
    }
}

#[test]
fn flags_of_dispatchers_are_accepted() {
    let server = Server::script("exit 0");
    let vm = Vm::new();
    let flags = [
        "-container-enable-networking=default",
        "--container-network-mode",
        "host",
        "-enable-memory-limit=true",
        "-cgroup-parent-subsystem=",
        "-crunchstat-interval=10s",
        "-memprofile=",
        "-sleep=1ms",
        "-cgroup-root=/sys/fs/cgroup",
        "-cgroup-parent",
        "docker",
        "-check-containerd=0",
        "-broken-node-hook=",
        "-ca-certs=",
    ];
    let ran = vm.run_here(&server, &flags);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(server.world().state(), "Complete");
}

#[test]
fn unavailable_engines_are_refused_first() {
    let server = Server::script("exit 0");
    let vm = Vm::new();
    for engine in ["docker", "singularity", "podman"] {
        let ran = vm.start(&server, &["--runtime-engine", engine]);
        assert_eq!(ran.code, Some(1));
        assert!(ran.stderr.contains("not built yet"), "{ran:?}");
    }
    let ran = vm.start(&server, &["--runtime-engine", "magic"]);
    assert!(ran.stderr.contains("unknown"), "{ran:?}");
    assert_eq!(server.world().requests, 0);
    assert!(!vm.lockfile(&server.uuid).exists());
}

#[test]
fn invalid_uuid_is_refused() {
    let vm = Vm::new();
    for word in [
        "short",
        "../../../etc/passwd",
        "zzzzz-dz642-00000000000000/",
    ] {
        let ran = vm.run(
            &[
                "--detach",
                "--stdin-config",
                "--runtime-engine=process",
                word,
            ],
            "{}",
        );
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.stderr.contains("is not a container uuid"), "{ran:?}");
    }
}
