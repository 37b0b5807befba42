//! Invalid configuration, invalid records, and an unreachable API.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Server, Vm};

fn config_with(server: &Server, name: &str, value: &str) -> Value {
    let mut config = server.config();
    config["Env"][name] = json!(value);
    config
}

#[test]
fn invalid_start_fails_without_lock() {
    let server = Server::script("exit 0");
    let vm = Vm::new();
    let mut no_host = config_with(&server, "ARVADOS_API_HOST", "");
    no_host["Env"]["LONGSHORE_API_URL"] = json!("");
    for (config, why) in [
        (
            config_with(&server, "ARVADOS_API_TOKEN", ""),
            "ARVADOS_API_TOKEN is empty",
        ),
        (
            config_with(&server, "ARVADOS_API_TOKEN", "two words"),
            "ARVADOS_API_TOKEN is malformed",
        ),
        (
            config_with(&server, "ARVADOS_API_TOKEN", "wrong"),
            "refused the token",
        ),
        (no_host, "ARVADOS_API_HOST is empty"),
        (
            config_with(&server, "LONGSHORE_API_URL", "nonsense"),
            "LONGSHORE_API_URL is malformed",
        ),
        (json!({"Env": {"ARVADOS_API_TOKEN": 7}}), "decode stdin"),
        (json!({}), "ARVADOS_API_TOKEN is empty"),
    ] {
        let detached = vm.start_with(&server, &[], &config);
        assert_eq!(detached.code, Some(1), "{why}: {detached:?}");
        assert!(detached.stderr.contains(why), "{why}: {detached:?}");
        assert!(!vm.lockfile(&server.uuid).exists());
        let here = vm.run(
            &["--stdin-config", "--runtime-engine=process", &server.uuid],
            &config.to_string(),
        );
        assert_eq!(here.code, Some(1), "{why}: {here:?}");
        assert!(here.stderr.contains(why), "{why}: {here:?}");
        assert!(here.took < Duration::from_secs(5) && detached.took < Duration::from_secs(5));
        assert!(!here.stderr.contains("two words"), "{here:?}");
    }
    assert!(server.world().updates.is_empty());
}

#[test]
fn non_json_configuration_fails_start() {
    let server = Server::script("exit 0");
    let vm = Vm::new();
    for text in ["", "{", "7", "Env: {}"] {
        let ran = vm.run(
            &[
                "--detach",
                "--stdin-config",
                "--runtime-engine=process",
                &server.uuid,
            ],
            text,
        );
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.stderr.contains("decode stdin: "), "{ran:?}");
    }
    assert!(!vm.lockfile(&server.uuid).exists());
}

#[test]
fn configuration_needs_no_end_of_file() {
    let server = Server::script("exit 0");
    let vm = Vm::new();
    let mut command = vm.command(&[
        "--detach",
        "--stdin-config",
        "--runtime-engine=process",
        &server.uuid,
    ]);
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    let mut open = child.stdin.take().unwrap();
    serde_json::to_writer(&mut open, &server.config()).unwrap();
    assert_eq!(crate::support::finish(child).code, Some(0));
    server.wait_for_state("Complete");
    drop(open);
}

#[test]
fn missing_program_cancels_with_reason() {
    let server = Server::with(json!({"command": ["/nowhere/program", "x"]}));
    let ran = Vm::new().run_here(&server, &[]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let world = server.world();
    assert_eq!(world.state(), "Cancelled");
    let status = world.get("runtime_status");
    assert!(
        status["error"]
            .as_str()
            .unwrap()
            .contains("cannot run /nowhere/program: No such file"),
        "{status}"
    );
}

#[test]
fn invalid_record_cancels_with_reason() {
    for (record, why) in [
        (json!({"command": []}), "command is empty"),
        (json!({"command": "ls -l"}), "malformed container record"),
        (
            json!({"command": ["true"], "cwd": "../../etc"}),
            "leads out of",
        ),
        (
            json!({"command": ["true"], "cwd": "/nowhere/at/all"}),
            "is no directory",
        ),
    ] {
        let server = Server::with(record);
        let ran = Vm::new().run_here(&server, &[]);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        let world = server.world();
        let status = world.get("runtime_status");
        assert_eq!(world.state(), "Cancelled");
        assert!(status["error"].as_str().unwrap().contains(why), "{status}");
    }
}

#[test]
fn result_is_retried_while_api_down() {
    let server = Server::script("echo last words; exit 5");
    let vm = Vm::new();
    vm.start(&server, &["--sleep=0s"]);
    server.wait_for_state("Running");
    server.world().down = true;
    let before = server.world().requests;
    server.wait_for("several attempts", |world| world.requests >= before + 4);
    assert_eq!(
        vm.list().stdout,
        format!("{}\n", server.uuid),
        "the runner is not listed"
    );
    server.world().down = false;
    server.wait_for_state("Complete");
    let world = server.world();
    assert_eq!(
        (world.get("exit_code"), world.stdout.as_slice()),
        (json!(5), b"last words\n".as_slice())
    );
}

#[test]
fn invalid_scratch_directory_requeues() {
    let server = Server::script("exit 0");
    let mut vm = Vm::new();
    fs::write(vm.path("file"), "").unwrap();
    vm.flags[2] = format!("--scratch-dir={}", vm.path("file").join("below").display());
    let ran = vm.run_here(&server, &[]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("Not a directory"), "{ran:?}");
    assert_eq!(server.world().state(), "Queued");
    assert_eq!(
        vm.list().stdout,
        "",
        "one bad directory marks the node as broken"
    );
}

#[test]
fn retry_after_header_is_obeyed() {
    let server = Server::script("exit 0");
    server.world().busy_s = Some(1);
    let ran = Vm::new().run_here(&server, &[]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.took >= Duration::from_secs(1), "{ran:?}");
}
