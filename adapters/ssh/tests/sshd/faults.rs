//! Networks and servers that fail.

use std::sync::Arc;
use std::time::Duration;

use longshore_core::ids::InstanceId;
use longshore_core::input::VmError;
use longshore_ssh::{Exec, ExecError, Pool, Target};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::{Vm, keygen, kill, run, session_pid, soon, target, until};

async fn assert_unreachable(pool: &Pool, target: &Target, deadline: Instant) -> String {
    match pool.run(target, &Exec::new("true"), deadline).await {
        Err(ExecError::NotSent(VmError::Unreachable(why))) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_connection_killed_under_a_command_is_lost_and_made_again() {
    let vm = Vm::start().await;
    let pool = vm.pool();
    let target = vm.target();
    let pid = session_pid(&pool, &target).await;
    let exec = Exec::new("touch $LONGSHORE_VM_DIR/marker; sleep 20");
    let (said, ()) = tokio::join!(pool.run(&target, &exec, soon()), async {
        until("the command runs", || vm.path("marker").exists()).await;
        kill("-KILL", &pid);
    });
    assert!(matches!(said, Err(ExecError::Lost(_))), "{said:?}");
    assert!(run(&pool, &target, "true").await.is_success());
    assert_eq!(vm.connections(), 2);
}

#[tokio::test]
async fn a_frozen_peer_is_given_up_within_a_few_keepalives() {
    let vm = Vm::start().await;
    let pool = vm.pool();
    let target = vm.target();
    let pid = session_pid(&pool, &target).await;
    let exec = Exec::new("touch $LONGSHORE_VM_DIR/marker; sleep 20");
    let deadline = Instant::now() + Duration::from_secs(60);
    let (said, frozen_at) = tokio::join!(pool.run(&target, &exec, deadline), async {
        until("the command runs", || vm.path("marker").exists()).await;
        kill("-STOP", &pid);
        Instant::now()
    });
    assert!(matches!(said, Err(ExecError::Lost(_))), "{said:?}");
    let took = frozen_at.elapsed();
    assert!(took < Duration::from_secs(14), "{took:?}");
    assert!(run(&pool, &target, "true").await.is_success());
    kill("-KILL", &pid);
}

/// A network between us and a server that can be cut: everything stays connected, nothing passes.
async fn cuttable(server: String) -> (Target, oneshot::Sender<()>) {
    let socket = TcpSocket::new_v4().unwrap();
    // So little is under way that a sender notices soon.
    socket.set_recv_buffer_size(16 << 10).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(8).unwrap();
    let target = target(&listener.local_addr().unwrap().to_string());
    let (cut, cuts) = oneshot::channel();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect(server).await.unwrap();
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
            _ = cuts => std::future::pending().await,
        }
    });
    (target, cut)
}

#[tokio::test]
async fn a_network_that_stops_while_data_is_sent_is_given_up_too() {
    let vm = Vm::start().await;
    let pool = Arc::new(vm.pool());
    let (target, cut) = cuttable(vm.address()).await;
    run(&pool, &target, "true").await;
    let mut exec = Exec::new("echo >>$LONGSHORE_VM_DIR/marker; cat >/dev/null");
    exec.stdin = vec![7; 1 << 30].into();
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut uploads = JoinSet::new();
    for _ in 0..5 {
        let (pool, target, exec) = (Arc::clone(&pool), target.clone(), exec.clone());
        uploads.spawn(async move { pool.run(&target, &exec, deadline).await });
    }
    until("all uploads run", || {
        vm.path("marker").exists() && vm.read("marker").lines().count() == 5
    })
    .await;
    cut.send(()).unwrap();
    let cut_at = Instant::now();
    while let Some(said) = uploads.join_next().await {
        let said = said.unwrap();
        assert!(matches!(said, Err(ExecError::Lost(_))), "{said:?}");
    }
    let took = cut_at.elapsed();
    assert!(took < Duration::from_secs(25), "{took:?}");
}

#[tokio::test]
async fn a_server_that_accepts_and_stays_silent_costs_only_the_deadline() {
    let vm = Vm::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = target(&listener.local_addr().unwrap().to_string());
    let begin = Instant::now();
    let why = assert_unreachable(&vm.pool(), &silent, begin + Duration::from_secs(1)).await;
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(why.contains("still connecting"), "{why}");
}

#[tokio::test]
async fn what_is_no_ssh_server_is_named() {
    let vm = Vm::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = target(&listener.local_addr().unwrap().to_string());
    tokio::spawn(async move {
        while let Ok((mut peer, _)) = listener.accept().await {
            let _ = peer.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let why = assert_unreachable(&vm.pool(), &other, soon()).await;
    assert!(why.contains("SSH key exchange with 127.0.0.1"), "{why}");
}

#[tokio::test]
async fn a_refused_connection_is_not_tried_again_at_once() {
    let mut vm = Vm::start().await;
    vm.stop();
    let pool = vm.pool();
    let why = assert_unreachable(&pool, &vm.target(), soon()).await;
    assert!(
        why.contains("refused") && why.contains(&vm.address()),
        "{why}"
    );
    let again = assert_unreachable(&pool, &vm.target(), soon()).await;
    assert!(again.contains("not tried again for 0."), "{again}");
    // A VM that boots is reached soon after its server is up.
    vm.launch().await;
    let up = Instant::now();
    while pool
        .run(&vm.target(), &Exec::new("true"), soon())
        .await
        .is_err()
    {
        assert!(up.elapsed() < Duration::from_secs(8));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_new_address_is_tried_at_once() {
    let mut vm = Vm::start().await;
    vm.stop();
    let pool = vm.pool();
    assert_unreachable(&pool, &vm.target(), soon()).await;
    vm.move_to_another_port().await;
    assert!(run(&pool, &vm.target(), "true").await.is_success());
}

#[tokio::test]
async fn a_key_that_is_not_accepted_is_said_with_the_user() {
    let vm = Vm::start().await;
    keygen(&vm.path("stranger"), "ed25519");
    let settings = vm.settings_with_key("stranger");
    let user = settings.user.clone();
    let pool = Pool::new(settings).unwrap();
    let why = assert_unreachable(&pool, &vm.target(), soon()).await;
    assert!(
        why.contains(&format!("not accepted for user {user}")),
        "{why}"
    );
}

#[tokio::test]
async fn an_address_that_is_none_is_said() {
    let vm = Vm::start().await;
    let why = assert_unreachable(&vm.pool(), &target("vm:ssh"), soon()).await;
    assert!(why.contains("expected host"), "{why}");
}

#[tokio::test]
async fn the_default_port_counts_for_a_bare_host() {
    let vm = Vm::start().await;
    assert!(
        run(&vm.pool(), &target("127.0.0.1"), "true")
            .await
            .is_success()
    );
}

#[tokio::test]
async fn callers_with_short_deadlines_get_there_together() {
    let vm = Vm::start().await;
    let pool = vm.pool();
    // No single deadline is long enough for a connection; the attempt outlives them all.
    let deadline = soon();
    loop {
        let brief = Instant::now() + Duration::from_millis(5);
        match pool.run(&vm.target(), &Exec::new("true"), brief).await {
            Err(ExecError::NotSent(VmError::Unreachable(why))) if why.contains("still conn") => {}
            _ => break,
        }
        assert!(Instant::now() < deadline);
    }
    assert!(run(&pool, &vm.target(), "true").await.is_success());
    assert_eq!(vm.connections(), 1);
}

#[tokio::test]
async fn a_connection_full_of_unkillable_commands_is_replaced() {
    let vm = Vm::start_with("MaxSessions 2").await;
    let pool = vm.pool();
    let target = vm.target();
    run(&pool, &target, "true").await;
    // In a session of its own it gets no signal of the server, and holds its streams.
    let exec = Exec::new("setsid sleep 20 & echo $! >>$LONGSHORE_VM_DIR/pids; wait");
    let deadline = Instant::now() + Duration::from_secs(2);
    let (a, b) = tokio::join!(
        pool.run(&target, &exec, deadline),
        pool.run(&target, &exec, deadline)
    );
    for said in [a, b] {
        assert!(matches!(said, Err(ExecError::Deadline { .. })), "{said:?}");
    }
    assert!(run(&pool, &target, "true").await.is_success());
    assert_eq!(vm.connections(), 2);
    for pid in vm.read("pids").lines() {
        kill("-KILL", pid);
    }
}

#[tokio::test]
async fn key_exchanges_at_a_time_are_bounded_and_silent_peers_do_not_count() {
    let vm = Vm::start().await;
    let mut settings = vm.settings();
    settings.connects_max = 1;
    let pool = Pool::new(settings).unwrap();
    let brief = || Instant::now() + Duration::from_secs(1);

    // Who says nothing at all keeps nobody waiting.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut first = target(&silent.local_addr().unwrap().to_string());
    first.instance = InstanceId::new("i-silent");
    assert_unreachable(&pool, &first, brief()).await;
    assert!(run(&pool, &vm.target(), "true").await.is_success());
    pool.forget(&vm.target().key());

    // Who begins a key exchange has the only turn until it is given up.
    let stalled = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut second = target(&stalled.local_addr().unwrap().to_string());
    second.instance = InstanceId::new("i-stalled");
    let greeting = tokio::spawn(async move {
        let (mut peer, _) = stalled.accept().await.unwrap();
        peer.write_all(b"SSH-2.0-stalled\r\n").await.unwrap();
        (peer, stalled)
    });
    assert_unreachable(&pool, &second, brief()).await;
    let _held = greeting.await.unwrap();
    let why = assert_unreachable(&pool, &vm.target(), brief()).await;
    assert!(why.contains("still connecting"), "{why}");
    pool.forget(&second.key());
    assert!(run(&pool, &vm.target(), "true").await.is_success());
}
