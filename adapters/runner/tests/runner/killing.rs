//! `--kill`: TERM stops the container, KILL ends all processes.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Server, Vm, eventually, groups_of, processes_of};

/// Process tree that ignores TERM, INT and HUP, with own sessions, double forks, and closed
/// descriptors.
const DEEP_TREE: &str = r#"
trap '' TERM INT HUP
close() { for fd in 3 4 5 6 7 8 9; do eval "exec $fd>&-"; done; }
setsid sh -c 'trap "" TERM; sleep 1001 & sleep 1002 & wait' &
(setsid sh -c '(setsid sleep 1003 &) ; exec sleep 1004' &)
(close; setsid sh -c '(setsid sleep 1005 >/dev/null 2>&1 &)') >/dev/null 2>&1
echo up
while :; do sleep 1006; done
"#;

fn start_deep_tree(vm: &Vm, flags: &[&str]) -> Server {
    let server = Server::script(DEEP_TREE);
    vm.start_running(&server, flags);
    server.wait_for("output", |world| world.stdout == b"up\n");
    eventually("all processes of the tree", || {
        processes_of(&server.uuid).len() >= 7
    });
    server
}

#[test]
fn kill_ends_deep_process_tree() {
    for flags in [["--no-cgroups=true"], ["--no-cgroups=false"]] {
        let vm = Vm::new();
        let server = start_deep_tree(&vm, &flags);
        let polite = vm.kill(15, &server.uuid);
        assert_eq!(polite.code, Some(1), "{polite:?}");
        assert!(
            polite
                .stderr
                .contains("sent signal 15 (terminated) but process is still alive"),
            "{polite:?}"
        );
        assert!(polite.stdout.is_empty());
        let runner = vm.record(&server.uuid)["PID"].as_i64().unwrap() as i32;
        let killed = vm.kill(9, &server.uuid);
        assert_eq!(killed.code, Some(0), "{flags:?}: {killed:?}");
        assert_eq!(processes_of(&server.uuid), [0; 0], "{flags:?}");
        assert!(
            !fs::exists(format!("/proc/{runner}/exe")).unwrap(),
            "the supervisor is alive"
        );
        assert!(!vm.lockfile(&server.uuid).exists());
        assert_eq!(fs::read_dir(vm.path("scratch")).unwrap().count(), 0);
        assert_eq!(groups_of(&server.uuid), [""; 0]);
        assert_eq!(vm.list().stdout, "");
        // A killed container is reported by the dispatcher, not by the runner.
        assert_eq!(server.world().state(), "Running");
    }
}

#[test]
fn kill_finds_lock_holders_without_supervisor() {
    let vm = Vm::new();
    let server = Server::script(
        "trap '' TERM; setsid sh -c 'sleep 1001 & wait' & echo up; while :; do sleep 1002; done",
    );
    vm.start_running(&server, &["--no-cgroups"]);
    server.wait_for("output", |world| world.stdout == b"up\n");
    let runner = Pid::from_raw(vm.record(&server.uuid)["PID"].as_i64().unwrap() as i32).unwrap();
    kill_process(runner, Signal::KILL).unwrap();
    eventually("stale", || vm.list().stdout.ends_with(" stale\n"));
    let killed = vm.kill(9, &server.uuid);
    assert_eq!(killed.code, Some(0), "{killed:?}");
    assert_eq!(processes_of(&server.uuid), [0; 0]);
}

#[test]
fn kill_works_with_unreadable_record() {
    let vm = Vm::new();
    let server = Server::script("exec sleep 1000");
    vm.start_running(&server, &["--no-cgroups"]);
    fs::write(vm.lockfile(&server.uuid), "").unwrap();
    let polite = vm.kill(15, &server.uuid);
    assert_eq!(polite.code, Some(1));
    assert!(polite.stderr.contains("starting"), "{polite:?}");
    assert_eq!(vm.kill(9, &server.uuid).code, Some(0));
    assert_eq!(processes_of(&server.uuid), [0; 0]);
}

#[test]
fn kill_during_start_leaves_nothing() {
    let vm = Vm::new();
    for _ in 0..10 {
        let server = Server::script("exec sleep 1000");
        assert_eq!(vm.start(&server, &[]).code, Some(0));
        let killed = vm.kill(9, &server.uuid);
        assert_eq!(killed.code, Some(0), "{killed:?}");
        assert_eq!(processes_of(&server.uuid), [0; 0]);
        assert_eq!(groups_of(&server.uuid), [""; 0]);
        assert_eq!(fs::read_dir(vm.path("scratch")).unwrap().count(), 0);
    }
}

#[test]
fn kill_of_unknown_container_succeeds() {
    let vm = Vm::new();
    for signal in [0, 9, 15] {
        let killed = vm.kill(signal, "zzzzz-dz642-000000000000000");
        assert_eq!(
            (killed.code, killed.stderr.as_str(), killed.stdout.as_str()),
            (Some(0), "", "")
        );
    }
}

#[test]
fn signal_zero_only_tests() {
    let vm = Vm::new();
    let server = Server::script("exec sleep 1000");
    vm.start_running(&server, &[]);
    assert_eq!(vm.kill(0, &server.uuid).code, Some(1));
    assert_eq!(vm.list().stdout, format!("{}\n", server.uuid));
}

#[test]
fn kill_spares_other_containers() {
    let vm = Vm::new();
    let (one, other) = (
        Server::script("exec sleep 1000"),
        Server::script("exec sleep 1000"),
    );
    vm.start_running(&one, &[]);
    vm.start_running(&other, &[]);
    assert_eq!(vm.kill(9, &one.uuid).code, Some(0));
    assert_eq!(vm.list().stdout, format!("{}\n", other.uuid));
    assert_eq!(processes_of(&other.uuid).len(), 1);
}
