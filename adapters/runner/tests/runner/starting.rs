//! Protection against a second run: the start report before user code, and the reactions to the
//! response.

use std::fs;
use std::io::{ErrorKind, Read as _};
use std::net::TcpStream;

use serde_json::json;

use crate::support::{SOON, Server, Vm, eventually};

/// Container that appends a line to a file at each run.
fn counting(vm: &Vm) -> Server {
    Server::script(&format!("echo ran >> {}", vm.path("runs").display()))
}

fn runs(vm: &Vm) -> String {
    fs::read_to_string(vm.path("runs")).unwrap_or_default()
}

#[test]
fn refused_start_report_runs_nothing() {
    for status in [403, 422] {
        let vm = Vm::new();
        let server = counting(&vm);
        server.world().running_status = Some(status);
        let ran = vm.run_here(&server, &[]);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.stderr.contains("update refused"), "{ran:?}");
        assert!(runs(&vm).is_empty() && server.world().updates.is_empty());
        // The same container runs if the API accepts the update.
        server.world().running_status = None;
        assert_eq!(vm.run_here(&server, &[]).code, Some(0));
        assert_eq!(runs(&vm), "ran\n");
    }
}

#[test]
fn lost_start_response_is_no_failure() {
    // An API that accepts repeated reports, and an API that refuses all repeated reports.
    for refuses_repeats in [false, true] {
        let vm = Vm::new();
        let server = counting(&vm);
        {
            let mut world = server.world();
            world.lost_answers = vec!["PUT"];
            world.refuses_repeats = refuses_repeats;
        }
        let ran = vm.run_here(&server, &[]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert_eq!(runs(&vm), "ran\n");
        let world = server.world();
        assert_eq!(
            (world.state(), world.get("exit_code")),
            ("Complete", json!(0))
        );
        let [first, second] = world.start_reports.as_slice() else {
            panic!(
                "expected one report and one repetition: {:?}",
                world.start_reports
            );
        };
        assert_eq!(first, second);
        assert!(first.as_str().unwrap().starts_with("127.0.0.1:"), "{first}");
    }
}

#[test]
fn start_of_rival_runs_nothing() {
    const RIVAL: &str = "127.0.0.1:1";
    // At the first attempt, and after an attempt with an unknown result.
    for unclear in [false, true] {
        let vm = Vm::new();
        let server = counting(&vm);
        if unclear {
            server.world().running_status = Some(503);
        } else {
            server.world().rival = Some(RIVAL);
        }
        assert_eq!(vm.start(&server, &[]).code, Some(0));
        if unclear {
            server.wait_for("an attempt", |world| !world.start_reports.is_empty());
            let mut world = server.world();
            (world.running_status, world.rival) = (None, Some(RIVAL));
        }
        eventually("the runner ends", || vm.list().stdout.is_empty());
        assert_eq!(runs(&vm), "");
        let log = vm.local_log(&server.uuid);
        assert!(
            log.contains("cannot change from Running to Running"),
            "{log}"
        );
        let world = server.world();
        assert!(world.updates.is_empty(), "{:?}", world.updates);
        assert_eq!(world.get("gateway_address"), RIVAL);
    }
}

#[test]
fn stop_before_start_runs_nothing() {
    let vm = Vm::new();
    let server = counting(&vm);
    // The update to Running is retried while the signal arrives.
    server.world().running_status = Some(503);
    assert_eq!(vm.start(&server, &[]).code, Some(0));
    server.wait_for("an attempt to start", |world| {
        !world.start_reports.is_empty()
    });
    assert_eq!(vm.kill(15, &server.uuid).code, Some(1));
    server.world().running_status = None;
    server.wait_for_state("Cancelled");
    assert_eq!(runs(&vm), "");
}

#[test]
fn gateway_listens_while_runner_lives() {
    let vm = Vm::new();
    let server = Server::script("exec sleep 1000");
    let mut config = server.config();
    config["Env"]["GatewayAddress"] = json!("127.82.1.1:0");
    let ran = vm.start_with(&server, &[], &config);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    server.wait_for_state("Running");
    let address = server.world().get("gateway_address");
    let address = address.as_str().unwrap();
    assert!(address.starts_with("127.82.1.1:"), "{address}");
    for _ in 0..3 {
        let mut caller = TcpStream::connect(address).unwrap();
        caller.set_read_timeout(Some(SOON)).unwrap();
        assert_eq!(
            caller.read(&mut [0]).unwrap(),
            0,
            "the connection stays open"
        );
    }
    assert_eq!(vm.kill(15, &server.uuid).code, Some(0));
    let refused = TcpStream::connect(address).map_err(|error| error.kind());
    assert_eq!(refused.err(), Some(ErrorKind::ConnectionRefused));
}

#[test]
fn gateway_without_host_uses_loopback() {
    let vm = Vm::new();
    let server = Server::script("exit 0");
    let mut config = server.config();
    config["Env"]["GatewayAddress"] = json!("");
    assert_eq!(vm.start_with(&server, &[], &config).code, Some(0));
    server.wait_for_state("Complete");
    let address = server.world().get("gateway_address");
    let port = address.as_str().unwrap().strip_prefix("127.0.0.1:");
    assert!(port.unwrap().parse::<u16>().unwrap() > 0, "{address}");
}

#[test]
fn user_process_inherits_no_socket() {
    let server = Server::script("ls -l /proc/self/fd");
    let vm = Vm::new();
    // The detached runner inherits the lock, so inherited descriptors are visible.
    assert_eq!(vm.start(&server, &[]).code, Some(0));
    server.wait_for_state("Complete");
    let listed = String::from_utf8(server.world().stdout.clone()).unwrap();
    assert!(listed.contains(".lock"), "{listed}");
    assert!(!listed.contains("socket:"), "{listed}");
}
