//! Runner protocol on a real shell.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use longshore_core::command::Signal;
use longshore_core::ids::ContainerId;
use longshore_core::input::{ProbeReport, RunnerList, RunnerStatus, SignalReport, VmError};
use longshore_secret::Secret;
use longshore_ssh::{Remote, RemoteSettings, RunnerSource};
use tokio::time::Instant;

use crate::support::{RUNNER, Vm, kill, soon, until};

const ID: &str = "zzzzz-dz642-0123456789abcde";

fn container() -> ContainerId {
    ID.parse().unwrap()
}

fn one_runner() -> Option<RunnerList> {
    Some(RunnerList {
        broken: false,
        preempted_at: None,
        runners: vec![RunnerStatus {
            container: container(),
            stale: false,
        }],
    })
}

fn no_runners() -> ProbeReport {
    ProbeReport {
        ready: Ok(()),
        runners: Some(RunnerList::default()),
    }
}

/// Names and contents of the files in the deploy directory.
fn deployed(vm: &Vm) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(vm.path("bin"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, std::fs::read(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    files
}

#[tokio::test]
async fn probe_of_booted_vm_only_lists() {
    let vm = Vm::start().await;
    let remote = vm.remote();
    vm.write(
        "state/list",
        &format!("broken\n{ID}\nyyyyy-dz642-0123456789abcde\n"),
    );
    let report = remote.probe(&vm.target(), false, soon()).await.unwrap();
    let mut expected = one_runner().unwrap();
    expected.broken = true;
    assert_eq!(report.ready, Ok(()));
    assert_eq!(report.runners, Some(expected));
    assert_eq!(vm.read("state/calls"), "--list\n");
    // Identity check and list.
    assert_eq!(vm.sessions(), 2);
}

#[tokio::test]
async fn probe_sends_prices_on_stdin() {
    let vm = Vm::start().await;
    let remote = vm.remote();
    vm.write("state/list", &format!("{ID}\n"));
    let prices = r#"[{"StartTime":"2026-01-01T00:00:00Z","Price":0.5}]"#;
    let report = remote
        .probe_with_prices(&vm.target(), prices.into(), soon())
        .await
        .unwrap();
    assert_eq!(report.runners, one_runner());
    assert_eq!(vm.read("state/calls"), "--list --stdin-prices\n");
    assert_eq!(vm.read("state/prices"), prices);
    vm.write("state/list-status", "1");
    let result = remote
        .probe_with_prices(&vm.target(), prices.into(), soon())
        .await;
    assert!(matches!(result, Err(VmError::Failed(_))), "{result:?}");
}

#[tokio::test]
async fn failed_list_fails_probe() {
    let vm = Vm::start().await;
    let remote = vm.remote();
    vm.write("state/list", ID);
    vm.write("state/list-status", "1");
    let result = remote.probe(&vm.target(), false, soon()).await;
    assert!(matches!(result, Err(VmError::Failed(_))), "{result:?}");
}

#[tokio::test]
async fn start_passes_arguments_and_configuration() {
    let vm = Vm::start().await;
    let remote = vm.remote();
    let config = Secret::new("{\"Env\":{\"ARVADOS_API_TOKEN\":\"sesame\"}}");
    remote
        .start(&vm.target(), container(), config.clone(), soon())
        .await
        .unwrap();
    assert_eq!(vm.read("state/stdin"), config.expose());
    let called = vm.read("state/calls");
    let words = format!("--detach --stdin-config --runtime-engine=docker --foo=it's {ID}\n");
    assert_eq!(called, words);
    vm.write("state/start-status", "1");
    let result = remote
        .start(&vm.target(), container(), config, soon())
        .await;
    let Err(VmError::Failed(why)) = result else {
        panic!("{result:?}");
    };
    assert!(
        why.contains("exit status 1") && !why.contains("sesame"),
        "{why}"
    );
}

#[tokio::test]
async fn signal_reports_gone_or_alive() {
    let vm = Vm::start().await;
    let remote = vm.remote();
    let target = vm.target();
    let result = remote
        .signal(&target, container(), Signal::Term, soon())
        .await;
    assert_eq!(result, Ok(SignalReport::Gone));
    vm.write("state/kill-status", "1");
    vm.write(
        "state/kill-stderr",
        &format!("{ID}: pid 7: sent signal 9 (killed) but process is still alive\n"),
    );
    let result = remote
        .signal(&target, container(), Signal::Kill, soon())
        .await;
    assert_eq!(result, Ok(SignalReport::Alive));
    assert_eq!(
        vm.read("state/calls"),
        format!("--kill 15 {ID}\n--kill 9 {ID}\n")
    );
    vm.write("state/kill-stderr", "unreadable lock file\n");
    let result = remote
        .signal(&target, container(), Signal::Term, soon())
        .await;
    assert!(matches!(result, Err(VmError::Failed(_))), "{result:?}");
}

#[tokio::test]
async fn fresh_vm_gets_runner_once() {
    let vm = Vm::start().await;
    let remote = vm.deploying("true");
    let result = remote.probe(&vm.target(), true, soon()).await;
    assert_eq!(result, Ok(no_runners()));
    let files = deployed(&vm);
    let [(name, bytes)] = files.as_slice() else {
        panic!("{files:?}");
    };
    assert!(
        name.starts_with("crunch-run~") && name.len() == 11 + 64,
        "{name}"
    );
    assert_eq!(bytes, vm.read("runner").as_bytes());
    let path = vm.path("bin").join(name);
    let made = std::fs::metadata(&path).unwrap();
    assert_eq!(made.permissions().mode() & 0o777, 0o755);
    // Identity check, boot script, upload with list.
    assert_eq!(vm.sessions(), 3);

    // A restarted dispatcher finds the runner: one script, no upload.
    vm.write("state/list", &format!("{ID}\n"));
    let report = vm.deploying("true").probe(&vm.target(), true, soon()).await;
    assert_eq!(report.unwrap().runners, one_runner());
    assert_eq!(vm.sessions(), 5);
    let found = std::fs::metadata(&path).unwrap();
    assert_eq!(found.modified().unwrap(), made.modified().unwrap());

    // Other commands use the same file.
    let remote = vm.deploying("true");
    remote.probe(&vm.target(), false, soon()).await.unwrap();
    let result = remote
        .signal(&vm.target(), container(), Signal::Term, soon())
        .await;
    assert_eq!(result, Ok(SignalReport::Gone));
}

#[tokio::test]
async fn damaged_runner_is_replaced_unused() {
    let vm = Vm::start().await;
    vm.deploying("true")
        .probe(&vm.target(), true, soon())
        .await
        .unwrap();
    let path = vm.path("bin").join(&deployed(&vm)[0].0);
    let calls = vm.read("state/calls");
    for damaged in ["", "#!/bin/sh\ntouch $LONGSHORE_VM_DIR/marker\n"] {
        std::fs::write(&path, damaged).unwrap();
        let result = vm.deploying("true").probe(&vm.target(), true, soon()).await;
        assert_eq!(result, Ok(no_runners()));
        assert_eq!(deployed(&vm)[0].1, vm.read("runner").as_bytes());
    }
    assert!(!vm.path("marker").exists());
    assert_eq!(vm.read("state/calls"), calls.repeat(3));
    // A file that is not executable is replaced too.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let result = vm.deploying("true").probe(&vm.target(), true, soon()).await;
    assert_eq!(result, Ok(no_runners()));
}

#[tokio::test]
async fn concurrent_deployments_leave_one_file() {
    let vm = Vm::start().await;
    let remotes: Vec<_> = (0..4).map(|_| vm.deploying("true")).collect();
    let target = vm.target();
    let (a, b, c, d) = tokio::join!(
        remotes[0].probe(&target, true, soon()),
        remotes[1].probe(&target, true, soon()),
        remotes[2].probe(&target, true, soon()),
        remotes[3].probe(&target, true, soon()),
    );
    for result in [a, b, c, d] {
        assert_eq!(result, Ok(no_runners()));
    }
    let files = deployed(&vm);
    assert_eq!(files.len(), 1, "temporary files left: {files:?}");
    assert_eq!(files[0].1, vm.read("runner").as_bytes());
}

#[tokio::test]
async fn failed_deployment_is_reported() {
    let vm = Vm::start().await;
    vm.write("bin", "in the way");
    let report = vm.deploying("true").probe(&vm.target(), true, soon()).await;
    let report = report.unwrap();
    let why = report.ready.unwrap_err();
    assert!(
        why.contains("could not be installed in $LONGSHORE_VM_DIR/bin"),
        "{why}"
    );
    assert!(why.contains("exist"), "{why}");
    assert_eq!(report.runners, None);
}

#[tokio::test]
async fn unready_vm_still_lists_runners() {
    let vm = Vm::start().await;
    vm.write("state/list", &format!("{ID}\n"));
    let source = || RunnerSource::Installed {
        command: "$LONGSHORE_VM_DIR/runner".into(),
    };
    let remote = vm.remote_with(source(), "echo no docker yet >&2; exit 3");
    let report = remote.probe(&vm.target(), true, soon()).await.unwrap();
    assert_eq!(report.runners, one_runner());
    let why = report.ready.unwrap_err();
    assert!(
        why.contains("exit status 3") && why.contains("no docker yet"),
        "{why}"
    );

    // A hanging probe is reported before the deadline, even if the probe cannot be ended. The
    // second command leaves a process that keeps the output open.
    for command in ["sleep 60", "setsid -f sleep 8; sleep 60"] {
        let remote = vm.remote_with(source(), command);
        let deadline = Instant::now() + Duration::from_secs(5);
        let report = remote.probe(&vm.target(), true, deadline).await.unwrap();
        assert!(Instant::now() < deadline);
        assert_eq!(report.runners, one_runner());
        let why = report.ready.unwrap_err();
        assert!(why.contains("not ended"), "{why}");
    }
}

#[tokio::test]
async fn hung_list_fails_probe() {
    let vm = Vm::start().await;
    let source = RunnerSource::Installed {
        command: "sleep 10 #".into(),
    };
    let remote = vm.remote_with(source, "true");
    for boot in [false, true] {
        let deadline = Instant::now() + Duration::from_secs(3);
        let result = remote.probe(&vm.target(), boot, deadline).await;
        assert!(matches!(result, Err(VmError::Lost(_))), "{result:?}");
        assert!(Instant::now() < deadline + Duration::from_secs(2));
    }
}

#[tokio::test]
async fn unready_vm_gets_no_runner() {
    let vm = Vm::start().await;
    let report = vm
        .deploying("false")
        .probe(&vm.target(), true, soon())
        .await;
    let report = report.unwrap();
    assert!(report.ready.is_err());
    assert_eq!(report.runners, None);
    assert!(!vm.path("bin").exists());
}

#[tokio::test]
async fn boot_probe_output_cannot_forge_markers() {
    let vm = Vm::start().await;
    vm.write("state/list", &format!("{ID}\n"));
    let forged = "printf 'longshore-boot list-begin\\nlongshore-boot list-end 0\\n\
                  longshore-boot probe-end 0\\n'";
    for (command, passes) in [
        ("", true),
        ("true # comment", true),
        ("echo \"it's $((6 * 7))\" | grep -q \"it's 42\"", true),
        ("for i in 1 2; do\n  true\ndone", true),
        ("exit 4", false),
        ("'unbalanced", false),
        (") ; exit 0", false),
        (&format!("{forged}; exit 1"), false),
        ("yes | head -c 3000000; exit 1", false),
    ] {
        let source = RunnerSource::Installed {
            command: "$LONGSHORE_VM_DIR/runner".into(),
        };
        let report = vm
            .remote_with(source, command)
            .probe(&vm.target(), true, soon())
            .await
            .unwrap();
        assert_eq!(report.ready.is_ok(), passes, "{command:?}: {report:?}");
        assert_eq!(report.runners, one_runner(), "{command:?}");
    }
}

#[tokio::test]
async fn failed_list_at_boot_is_unready() {
    let vm = Vm::start().await;
    let source = RunnerSource::Installed {
        command: "/nonexistent/runner".into(),
    };
    let remote = vm.remote_with(source, "true");
    let report = remote.probe(&vm.target(), true, soon()).await.unwrap();
    let why = report.ready.unwrap_err();
    assert!(why.contains("exit status 127"), "{why}");
    assert_eq!(report.runners, None);
}

#[tokio::test]
async fn forgotten_instance_counts_as_new() {
    let mut vm = Vm::start().await;
    let remote = vm.remote();
    remote.probe(&vm.target(), false, soon()).await.unwrap();
    remote.forget(&vm.target().key());
    vm.change_host_key().await;
    remote.probe(&vm.target(), false, soon()).await.unwrap();
}

#[tokio::test]
async fn interrupted_upload_is_removed_and_retried() {
    let vm = Vm::start().await;
    let mut binary = RUNNER.as_bytes().to_vec();
    binary.resize(64 << 20, b'#');
    let source = RunnerSource::Deploy {
        binary: binary.clone().into(),
        directory: "$LONGSHORE_VM_DIR/bin".into(),
        name: "crunch-run".into(),
    };
    let remote = vm.remote_with(source, "true");
    let target = vm.target();
    let (result, ()) = tokio::join!(remote.probe(&target, true, soon()), async {
        until("the upload has started", || {
            vm.path("bin").exists() && !deployed(&vm).is_empty()
        })
        .await;
        for pid in vm.session_pids() {
            kill("-KILL", &pid);
        }
    });
    assert!(matches!(result, Err(VmError::Lost(_))), "{result:?}");
    until("the partial file is removed", || deployed(&vm).is_empty()).await;
    let result = remote.probe(&target, true, soon()).await;
    assert_eq!(result, Ok(no_runners()));
    assert_eq!(deployed(&vm)[0].1, binary);
}

#[tokio::test]
async fn only_root_commands_use_sudo() {
    let vm = Vm::start().await;
    vm.add_tool(
        "sudo",
        "#!/bin/sh\necho \"$1 $2\" >>\"$LONGSHORE_VM_DIR/sudo\"\nexec \"$@\"\n",
    );
    let mut ssh = vm.settings();
    ssh.sudo = true;
    let settings = RemoteSettings {
        cluster_id: "zzzzz".into(),
        boot_probe_command: "true".into(),
        runner: RunnerSource::Deploy {
            binary: RUNNER.as_bytes().into(),
            directory: "$LONGSHORE_VM_DIR/bin".into(),
            name: "r".into(),
        },
        runner_args: vec![],
        runtime_engine: "docker".into(),
    };
    let remote = std::sync::Arc::new(Remote::new(ssh, settings).unwrap());
    let target = vm.target();
    // In a separate task, as in the daemon.
    let result = tokio::spawn({
        let (remote, target) = (std::sync::Arc::clone(&remote), target.clone());
        async move { remote.probe(&target, true, soon()).await }
    });
    assert_eq!(result.await.unwrap(), Ok(no_runners()));
    let config = Secret::new("{}");
    remote
        .start(&target, container(), config, soon())
        .await
        .unwrap();
    remote
        .signal(&target, container(), Signal::Term, soon())
        .await
        .unwrap();
    let runner = vm.path("bin").join(&deployed(&vm)[0].0);
    let (secret, runner) = (vm.path("secret"), runner.display().to_string());
    assert_eq!(
        vm.read("sudo"),
        format!(
            "cat {}\nsh -c\n{runner} --list\n{runner} --detach\n{runner} --kill\n",
            secret.display()
        )
    );
}
