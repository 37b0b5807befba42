//! `--list` for containers in every state, without harm to the containers.

use std::fs::{self, File};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::support::{Server, Vm, eventually, finish, processes_of};

const UUID: &str = "zzzzz-dz642-000000000000000";

/// Creates a lock file held by this process.
fn hold(vm: &Vm, content: &str) -> File {
    let mut file = File::create(vm.lockfile(UUID)).unwrap();
    file.write_all(content.as_bytes()).unwrap();
    flock(&file, FlockOperation::LockExclusive).unwrap();
    file
}

#[test]
fn running_container_is_listed() {
    let server = Server::script("exec sleep 1000");
    let vm = Vm::new();
    vm.start_running(&server, &[]);
    let listed = vm.list();
    assert_eq!(
        (listed.code, listed.stdout),
        (Some(0), format!("{}\n", server.uuid))
    );
    assert_eq!(vm.record(&server.uuid)["UUID"], json!(server.uuid));
}

#[test]
fn starting_container_is_skipped() {
    let vm = Vm::new();
    let _held = hold(&vm, "");
    let listed = vm.list();
    assert_eq!(
        (listed.code, listed.stdout.as_str(), listed.stderr.as_str()),
        (Some(0), "", "")
    );
    assert!(vm.lockfile(UUID).exists());
}

#[test]
fn free_lock_file_is_removed_silently() {
    let vm = Vm::new();
    drop(hold(&vm, &json!({"UUID": UUID, "PID": 1}).to_string()));
    let listed = vm.list();
    assert_eq!((listed.code, listed.stdout.as_str()), (Some(0), ""));
    assert!(!vm.lockfile(UUID).exists());
}

#[test]
fn container_without_runner_is_stale() {
    let server = Server::script("echo up; exec sleep 1000");
    let vm = Vm::new();
    vm.start_running(&server, &[]);
    server.wait_for("output", |world| !world.stdout.is_empty());
    let runner = Pid::from_raw(vm.record(&server.uuid)["PID"].as_i64().unwrap() as i32).unwrap();
    kill_process(runner, Signal::KILL).unwrap();
    let stale = format!("{} stale\n", server.uuid);
    eventually("stale", || vm.list().stdout == stale);
    assert!(!processes_of(&server.uuid).is_empty());
    assert_eq!(
        vm.kill(15, &server.uuid).code,
        Some(0),
        "the runner is still alive"
    );
    let killed = vm.kill(9, &server.uuid);
    assert_eq!(killed.code, Some(0), "{killed:?}");
    assert!(processes_of(&server.uuid).is_empty());
    assert_eq!(vm.list().stdout, "");
}

#[test]
fn reused_pid_is_not_signalled() {
    let vm = Vm::new();
    // The signal would end this test process.
    let mine = std::process::id();
    let _held = hold(
        &vm,
        &json!({"UUID": UUID, "PID": mine, "Start": 1}).to_string(),
    );
    assert_eq!(vm.list().stdout, format!("{UUID} stale\n"));
    assert_eq!(vm.kill(15, UUID).code, Some(0));
}

#[test]
fn lock_file_of_other_tool_is_listed() {
    let vm = Vm::new();
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "trap '' USR2; echo ready; exec sleep 1000"])
        .stdout(Stdio::piped());
    let mut child = shell.spawn().unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
    let _held = hold(
        &vm,
        &(json!({"UUID": UUID, "PID": child.id()}).to_string() + "\n"),
    );
    let listed = vm.list();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(listed.stdout, format!("{UUID}\n"));
}

#[test]
fn broken_node_and_invalid_record_are_reported() {
    let vm = Vm::new();
    fs::write(vm.path("lock").join("crunch-run-broken"), "").unwrap();
    let _held = hold(&vm, "{nonsense");
    let listed = vm.list();
    assert_eq!((listed.code, listed.stdout.as_str()), (Some(0), "broken\n"));
    assert!(listed.stderr.contains(UUID), "{listed:?}");
}

#[test]
fn list_does_not_read_stdin() {
    let vm = Vm::new();
    let mut child = vm
        .command(&["--list"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let _open = child.stdin.take();
    assert_eq!(finish(child).code, Some(0));
}

#[test]
fn missing_lock_directory_is_an_error() {
    let mut vm = Vm::new();
    vm.flags[0] = format!("--lock-dir={}", vm.path("nowhere").display());
    let listed = vm.list();
    assert_eq!(listed.code, Some(1));
    assert!(listed.stderr.contains("nowhere"), "{listed:?}");
}

#[test]
fn lock_directory_may_be_symbolic_link() {
    let server = Server::script("exec sleep 1000");
    let mut vm = Vm::new();
    std::os::unix::fs::symlink(vm.path("lock"), vm.path("link")).unwrap();
    vm.flags[0] = format!("--lock-dir={}", vm.path("link").display());
    vm.start_running(&server, &[]);
    assert_eq!(vm.list().stdout, format!("{}\n", server.uuid));
    assert!(vm.lockfile(&server.uuid).exists());
    assert_eq!(vm.kill(9, &server.uuid).code, Some(0));
}

#[test]
fn list_during_start_spares_runner() {
    let done = AtomicBool::new(false);
    let vm = Vm::new();
    let program = (vm.flags.clone(), env!("CARGO_BIN_EXE_longshore-runner"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let listed = Command::new(program.1)
                    .args(&program.0)
                    .arg("--list")
                    .output()
                    .unwrap();
                assert_eq!(listed.status.code(), Some(0), "{listed:?}");
            }
        });
        for _ in 0..20 {
            let server = Server::script("exit 0");
            let ran = vm.start(&server, &[]);
            assert_eq!(ran.code, Some(0), "{ran:?}");
            server.wait_for_state("Complete");
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn second_start_of_container_fails() {
    let server = Server::script("exec sleep 1000");
    let vm = Vm::new();
    vm.start_running(&server, &[]);
    let second = vm.start(&server, &[]);
    assert_eq!(second.code, Some(1));
    assert!(
        second.stderr.contains("lock ") && second.stderr.contains("unavailable"),
        "{second:?}"
    );
    assert_eq!(
        vm.list().stdout,
        format!("{}\n", server.uuid),
        "the first runner is not listed"
    );
}

#[test]
fn detached_runner_closes_inherited_streams() {
    let server = Server::script("exec sleep 1000");
    let vm = Vm::new();
    let ran = vm.start(&server, &[]);
    assert_eq!(ran.code, Some(0));
    // The helper waits for the end of both outputs, and the container sleeps for much longer.
    assert!(ran.took < Duration::from_secs(20), "{ran:?}");
    assert!(ran.stdout.contains(&server.uuid), "{ran:?}");
}

/// Writes a preemption notice atomically, as a program receiving the cloud's notices does.
fn announce(vm: &Vm, line: &str) {
    let beside = vm.path("lock").join("beside");
    fs::write(&beside, line).unwrap();
    fs::rename(beside, vm.path("lock").join("crunch-run-preempted")).unwrap();
}

#[test]
fn preemption_notice_is_listed_and_reported() {
    let server = Server::script("exec sleep 1000");
    let vm = Vm::new();
    vm.start_running(&server, &[]);
    // Year 2033.
    announce(&vm, "2000000000 terminate\n");
    let listed = vm.list();
    let expected = format!("{}\npreempted 2000000000\n", server.uuid);
    let mut lines: Vec<&str> = listed.stdout.lines().collect();
    let mut wanted: Vec<&str> = expected.lines().collect();
    lines.sort_unstable();
    wanted.sort_unstable();
    assert_eq!((listed.code, lines), (Some(0), wanted));
    server.wait_for("a warning", |world| {
        world.get("runtime_status")["warning"] == "preemption notice"
    });
    let status = server.world().get("runtime_status");
    let notice = "Cloud provider scheduled instance terminate at 2033-05-18T03:33:20Z";
    assert_eq!(status["preemptionNotice"], notice);
    assert_eq!(server.world().state(), "Running");
    // An obsolete notice is ignored.
    announce(&vm, "1000000000 terminate\n");
    assert_eq!(vm.list().stdout, format!("{}\n", server.uuid));
}

#[test]
fn preemption_notice_during_start_is_reported() {
    let server = Server::script("exec sleep 1000");
    let vm = Vm::new();
    announce(&vm, "2000000000 terminate\n");
    vm.start_running(&server, &[]);
    server.wait_for("a warning", |world| {
        world.get("runtime_status")["warning"] == "preemption notice"
    });
}
