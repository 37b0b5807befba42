//! Output of a container, in the API and in the local file.

use std::fs;

use crate::support::{ApiState, Server, Vm};

#[test]
fn both_streams_arrive_in_order() {
    let server = Server::script(
        "i=0; while [ $i -lt 2000 ]; do echo $i; i=$((i+1)); done; echo bad >&2; exec sleep 1000",
    );
    let vm = Vm::new();
    vm.start_running(&server, &[]);
    let expected: String = (0..2000).map(|number| format!("{number}\n")).collect();
    server.wait_for("all output", |world| {
        world.stdout.len() == expected.len() && world.stderr == b"bad\n"
    });
    let world = server.world();
    assert_eq!(String::from_utf8_lossy(&world.stdout), expected);
    assert_eq!(world.state(), "Running");
    assert!(
        world.log_requests < 100,
        "{} requests for 2000 lines",
        world.log_requests
    );
    assert!(vm.local_log(&server.uuid).contains("\n1999\n"));
}

#[test]
fn api_without_logs_gets_one_request() {
    let server = Server::script("for i in 1 2 3 4; do echo $i; sleep 0.6; done");
    server.world().log_status = Some(404);
    let vm = Vm::new();
    let ran = vm.run_here(&server, &[]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let world = server.world();
    assert_eq!((world.state(), world.log_requests), ("Complete", 1));
    assert_eq!(ran.stderr.matches("takes no logs").count(), 1, "{ran:?}");
    assert_eq!(vm.local_log(&server.uuid), "1\n2\n3\n4\n");
}

#[test]
fn slow_api_blocks_container_output() {
    let vm = Vm::new();
    let marker = vm.path("marker");
    let bytes = 4 << 20;
    let server = Server::script(&format!(
        "head -c {bytes} /dev/zero; touch {}",
        marker.display()
    ));
    server.world().log_status = Some(503);
    assert_eq!(vm.start(&server, &[]).code, Some(0));
    server.wait_for("several attempts", |world| world.log_requests >= 4);
    assert!(
        !marker.exists(),
        "the container wrote more than the buffer size"
    );
    server.world().log_status = None;
    server.wait_for_state("Complete");
    assert_eq!(server.world().stdout.len(), bytes);
    assert!(marker.exists());
}

#[test]
fn lost_response_duplicates_no_log_bytes() {
    for redirect in ["", ">&2"] {
        let vm = Vm::new();
        let gate = vm.path("gate");
        let server = Server::script(&format!(
            "(echo one; until [ -e {} ]; do sleep 0.01; done; echo two) {redirect}",
            gate.display()
        ));
        let text = |world: &ApiState| String::from_utf8([&*world.stdout, &world.stderr].concat());
        server.world().lost_answers = vec!["POST", "POST"];
        assert_eq!(vm.start(&server, &[]).code, Some(0));
        server.wait_for("the third attempt", |world| world.log_requests == 3);
        {
            let mut world = server.world();
            assert_eq!(text(&world).unwrap(), "one\n");
            world.lost_answers = vec!["POST"];
        }
        fs::write(&gate, "").unwrap();
        server.wait_for_state("Complete");
        let world = server.world();
        assert_eq!(text(&world).unwrap(), "one\ntwo\n");
        assert_eq!(world.log_requests, 5, "{:?}", world.lost_answers);
    }
}
