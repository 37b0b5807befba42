//! Complete runs of a container, from the record to the result.

use std::fs;

use serde_json::json;

use crate::support::{Server, Vm, eventually, groups_of, processes_of};

#[test]
fn successful_container_leaves_nothing() {
    let server = Server::script("pwd; touch here; echo done >&2");
    let vm = Vm::new();
    let ran = vm.start(&server, &[]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    server.wait_for_state("Complete");
    {
        let world = server.world();
        assert_eq!(world.get("exit_code"), json!(0));
        assert!(world.get("cost").as_f64().unwrap() > 0.0);
        assert!(String::from_utf8_lossy(&world.stdout).contains("/scratch/"));
        assert_eq!(world.stderr, b"done\n");
        assert_eq!(world.updates[0].len(), 2, "{:?}", world.updates[0]);
        assert_eq!(world.updates[0]["state"], "Running");
    }
    eventually("the lock is free", || vm.list().stdout.is_empty());
    assert!(!vm.lockfile(&server.uuid).exists());
    assert_eq!(fs::read_dir(vm.path("scratch")).unwrap().count(), 0);
    assert_eq!(groups_of(&server.uuid), [""; 0]);
}

#[test]
fn exit_status_is_reported() {
    for (script, code) in [("exit 3", 3), ("kill -SEGV $$", 139)] {
        let server = Server::script(script);
        let ran = Vm::new().run_here(&server, &[]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let world = server.world();
        assert_eq!(
            (world.state(), world.get("exit_code")),
            ("Complete", json!(code))
        );
    }
}

#[test]
fn term_cancels_container() {
    let server = Server::script("echo up; exec sleep 1000");
    let vm = Vm::new();
    vm.start_running(&server, &[]);
    server.wait_for("output", |world| world.stdout == b"up\n");
    let killed = vm.kill(15, &server.uuid);
    assert_eq!(killed.code, Some(0), "{killed:?}");
    assert!(
        killed.stdout.is_empty() && killed.stderr.contains("no such process"),
        "{killed:?}"
    );
    assert_eq!(server.world().state(), "Cancelled");
    assert!(processes_of(&server.uuid).is_empty());
}

#[test]
fn leftover_processes_end_with_program() {
    let server = Server::script(
        "setsid sleep 1000 & setsid sh -c 'trap \"\" TERM HUP; sleep 1001 & wait' & exit 4",
    );
    let vm = Vm::new();
    let ran = vm.run_here(&server, &["--no-cgroups"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(server.world().get("exit_code"), json!(4));
    assert!(processes_of(&server.uuid).is_empty());
}

#[test]
fn unlocked_container_is_not_run() {
    for state in ["Queued", "Running", "Complete", "Cancelled"] {
        let server = Server::with(json!({"command": ["true"], "state": state}));
        let ran = Vm::new().run_here(&server, &[]);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.stderr.contains(&format!("state is {state}")), "{ran:?}");
        assert!(server.world().updates.is_empty());
    }
}

#[test]
fn time_limit_kills_container_ignoring_term() {
    let server = Server::with(json!({
        "command": ["sh", "-c", "trap '' TERM; while :; do sleep 1000; done"],
        "scheduling_parameters": {"max_run_time": 1},
    }));
    server
        .world()
        .record
        .insert("runtime_status".into(), json!({"activity": "x"}));
    let ran = Vm::new().run_here(&server, &["--term-grace=100ms"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let world = server.world();
    assert_eq!(world.state(), "Cancelled");
    let status = world.get("runtime_status");
    assert!(
        status["error"]
            .as_str()
            .unwrap()
            .contains("time limit of 1 s"),
        "{status}"
    );
    assert_eq!(status["activity"], "x");
}

#[test]
fn memory_limit_is_enforced() {
    let hungry = "dd if=/dev/zero of=/dev/null bs=400M count=1";
    for (ram, flags, succeeds) in [
        (
            64 << 20,
            ["--no-cgroups", "--enable-memory-limit=true"],
            false,
        ),
        (
            64 << 20,
            ["--no-cgroups", "--enable-memory-limit=false"],
            true,
        ),
        (
            64 << 20,
            ["--no-cgroups=false", "--enable-memory-limit=true"],
            false,
        ),
        (
            2_i64 << 30,
            ["--no-cgroups", "--enable-memory-limit=true"],
            true,
        ),
    ] {
        let server = Server::with(
            json!({"command": ["sh", "-c", hungry], "runtime_constraints": {"ram": ram}}),
        );
        let ran = Vm::new().run_here(&server, &flags);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let world = server.world();
        assert_eq!(
            world.get("exit_code") == json!(0),
            succeeds,
            "{flags:?}: {:?}",
            world.record
        );
    }
}

#[test]
fn container_gets_only_its_own_token() {
    for api in [false, true] {
        let server = Server::with(json!({"command": ["env"], "runtime_constraints": {"API": api}}));
        let vm = Vm::new();
        let mut command = vm.command(&[
            "--detach",
            "--stdin-config",
            "--runtime-engine=process",
            &server.uuid,
        ]);
        command
            .env("ARVADOS_API_TOKEN", "inherited")
            .env("GatewayAuthSecret", "inherited");
        let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
        serde_json::to_writer(child.stdin.take().unwrap(), &server.config()).unwrap();
        assert_eq!(crate::support::finish(child).code, Some(0));
        server.wait_for_state("Complete");
        let environment = String::from_utf8(server.world().stdout.clone()).unwrap();
        for hidden in [
            "opensesame",
            "gatewaysecret",
            "inherited",
            "GatewayAuthSecret",
            "InstanceType",
        ] {
            assert!(!environment.contains(hidden), "{hidden} in {environment}");
        }
        let own = "ARVADOS_API_TOKEN=v2/zzzzz-gj3su-999999999999999/own\n";
        assert_eq!(environment.contains(own), api, "{environment}");
        assert_eq!(environment.contains("ARVADOS_API_HOST=api.example\n"), api);
        assert!(!vm.local_log(&server.uuid).contains("opensesame"));
    }
}

#[test]
fn working_directory_is_created_or_used() {
    let vm = Vm::new();
    for (cwd, expected) in [
        ("deep/er", "/work/deep/er\n"),
        (".", "/work\n"),
        ("/usr", "/usr\n"),
    ] {
        let server = Server::with(json!({"command": ["pwd"], "cwd": cwd}));
        assert_eq!(vm.run_here(&server, &[]).code, Some(0));
        let stdout = String::from_utf8(server.world().stdout.clone()).unwrap();
        assert!(stdout.ends_with(expected), "{stdout}");
    }
}

#[test]
fn price_history_updates_running_cost() {
    let server = Server::script("exec sleep 1000");
    let vm = Vm::new();
    vm.start_running(&server, &[]);
    let listed = vm.run(
        &["--list", "--stdin-prices"],
        r#"[{"StartTime":"2020-01-01T00:00:00Z","Price":3600000000}]"#,
    );
    assert_eq!(listed.stdout.trim_end(), server.uuid, "{listed:?}");
    assert!(vm.path("lock").join("crunch-run-prices.json").exists());
    server.wait_for("a cost at the new price", |world| {
        world.get("cost").as_f64().is_some_and(|cost| cost > 1000.0)
    });
    assert_eq!(server.world().state(), "Running");
}

#[test]
fn spot_notice_is_reported_once() {
    let server = Server::script("exec sleep 1000");
    server.world().spot_notice =
        Some(json!({"action": "terminate", "time": "2026-08-07T12:00:00Z"}));
    let vm = Vm::new();
    let mut config = server.config();
    config["EC2SpotCheck"] = json!(true);
    let mut command = vm.command(&["--stdin-config", "--runtime-engine=process", &server.uuid]);
    command
        .env("LONGSHORE_IMDS_URL", &server.url)
        .stdin(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    serde_json::to_writer(child.stdin.take().unwrap(), &config).unwrap();
    server.wait_for("a warning", |world| {
        world.get("runtime_status")["warning"] == "preemption notice"
    });
    let status = server.world().get("runtime_status");
    assert!(
        status["preemptionNotice"]
            .as_str()
            .unwrap()
            .contains("terminate at 2026-08-07T12:00:00Z")
    );
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(crate::support::finish(child).code, Some(0));
    assert_eq!(server.world().get("runtime_status"), status);
}
