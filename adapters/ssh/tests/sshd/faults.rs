//! Failing networks and servers.

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
async fn killed_connection_is_lost_and_redialed() {
    let vm = Vm::start().await;
    let pool = vm.pool();
    let target = vm.target();
    let pid = session_pid(&pool, &target).await;
    let exec = Exec::new("touch $LONGSHORE_VM_DIR/marker; sleep 20");
    let (result, ()) = tokio::join!(pool.run(&target, &exec, soon()), async {
        until("the command runs", || vm.path("marker").exists()).await;
        kill("-KILL", &pid);
    });
    assert!(matches!(result, Err(ExecError::Lost(_))), "{result:?}");
    assert!(run(&pool, &target, "true").await.is_success());
    assert_eq!(vm.connections(), 2);
}

#[tokio::test]
async fn frozen_peer_is_lost_after_keepalives() {
    let vm = Vm::start().await;
    let pool = vm.pool();
    let target = vm.target();
    let pid = session_pid(&pool, &target).await;
    let exec = Exec::new("touch $LONGSHORE_VM_DIR/marker; sleep 20");
    let deadline = Instant::now() + Duration::from_secs(60);
    let (result, frozen_at) = tokio::join!(pool.run(&target, &exec, deadline), async {
        until("the command runs", || vm.path("marker").exists()).await;
        kill("-STOP", &pid);
        Instant::now()
    });
    assert!(matches!(result, Err(ExecError::Lost(_))), "{result:?}");
    let took = frozen_at.elapsed();
    assert!(took < Duration::from_secs(14), "{took:?}");
    assert!(run(&pool, &target, "true").await.is_success());
    kill("-KILL", &pid);
}

/// Starts a proxy in front of a server. After a message on the returned channel the proxy keeps all
/// connections open but forwards nothing.
async fn start_proxy(server: String) -> (Target, oneshot::Sender<()>) {
    let socket = TcpSocket::new_v4().unwrap();
    // A small buffer, so that the sender is blocked soon.
    socket.set_recv_buffer_size(16 << 10).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(8).unwrap();
    let target = target(&listener.local_addr().unwrap().to_string());
    let (stop, stopped) = oneshot::channel();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect(server).await.unwrap();
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
            _ = stopped => std::future::pending().await,
        }
    });
    (target, stop)
}

#[tokio::test]
async fn stopped_network_ends_uploads() {
    let vm = Vm::start().await;
    let pool = Arc::new(vm.pool());
    let (target, stop) = start_proxy(vm.address()).await;
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
    stop.send(()).unwrap();
    let stopped_at = Instant::now();
    while let Some(result) = uploads.join_next().await {
        let result = result.unwrap();
        assert!(matches!(result, Err(ExecError::Lost(_))), "{result:?}");
    }
    let took = stopped_at.elapsed();
    assert!(took < Duration::from_secs(25), "{took:?}");
}

#[tokio::test]
async fn silent_server_ends_at_deadline() {
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
async fn non_ssh_server_is_reported() {
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
async fn refused_connection_is_backed_off() {
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
    // A booting VM is reached soon after the start of its server.
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
async fn new_address_resets_backoff() {
    let mut vm = Vm::start().await;
    vm.stop();
    let pool = vm.pool();
    assert_unreachable(&pool, &vm.target(), soon()).await;
    vm.move_to_another_port().await;
    assert!(run(&pool, &vm.target(), "true").await.is_success());
}

#[tokio::test]
async fn rejected_key_error_names_user() {
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
async fn invalid_address_is_reported() {
    let vm = Vm::start().await;
    let why = assert_unreachable(&vm.pool(), &target("vm:ssh"), soon()).await;
    assert!(why.contains("expected host"), "{why}");
}

#[tokio::test]
async fn bare_host_uses_default_port() {
    let vm = Vm::start().await;
    assert!(
        run(&vm.pool(), &target("127.0.0.1"), "true")
            .await
            .is_success()
    );
}

#[tokio::test]
async fn short_deadlines_share_one_attempt() {
    let vm = Vm::start().await;
    let pool = vm.pool();
    // No single deadline suffices for a connection: the attempt must outlive the callers.
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
async fn connection_full_of_hung_commands_is_replaced() {
    let vm = Vm::start_with("MaxSessions 2").await;
    let pool = vm.pool();
    let target = vm.target();
    run(&pool, &target, "true").await;
    // A process in its own session gets no signal from the server and keeps the streams open.
    let exec = Exec::new("setsid sleep 20 & echo $! >>$LONGSHORE_VM_DIR/pids; wait");
    let deadline = Instant::now() + Duration::from_secs(2);
    let (a, b) = tokio::join!(
        pool.run(&target, &exec, deadline),
        pool.run(&target, &exec, deadline)
    );
    for result in [a, b] {
        assert!(
            matches!(result, Err(ExecError::Deadline { .. })),
            "{result:?}"
        );
    }
    assert!(run(&pool, &target, "true").await.is_success());
    assert_eq!(vm.connections(), 2);
    for pid in vm.read("pids").lines() {
        kill("-KILL", pid);
    }
}

#[tokio::test]
async fn key_exchanges_are_bounded() {
    let vm = Vm::start().await;
    let mut settings = vm.settings();
    settings.connects_max = 1;
    let pool = Pool::new(settings).unwrap();
    let brief = || Instant::now() + Duration::from_secs(1);

    // A silent server does not occupy the only permit.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut first = target(&silent.local_addr().unwrap().to_string());
    first.instance = InstanceId::new("i-silent");
    assert_unreachable(&pool, &first, brief()).await;
    assert!(run(&pool, &vm.target(), "true").await.is_success());
    pool.forget(&vm.target().key());

    // A stalled key exchange occupies the only permit until its timeout.
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
