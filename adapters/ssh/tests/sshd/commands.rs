//! Commands: input, output, exit status, deadlines, and shared connections.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use longshore_ssh::{Exec, ExecError, Exit, Pool};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::{Vm, keygen, run, soon};

#[tokio::test]
async fn streams_and_exit_status_are_returned() {
    let vm = Vm::start().await;
    let pool = vm.pool();
    for status in [0, 1, 2, 255] {
        let mut exec = Exec::new(format!("cat; echo oops >&2; exit {status}"));
        exec.stdin = Bytes::from_static(b"some\0input");
        let output = pool.run(&vm.target(), &exec, soon()).await.unwrap();
        assert_eq!(output.exit, Exit::Status(status));
        assert_eq!(output.stdout, b"some\0input");
        assert_eq!(output.stderr, b"oops\n");
    }
    let output = run(&pool, &vm.target(), "kill -SEGV $$").await;
    assert_eq!(output.exit, Exit::Signal("SEGV".into()));
    assert_eq!(vm.connections(), 1);
}

#[tokio::test]
async fn large_input_arrives_complete() {
    let vm = Vm::start().await;
    let mut exec = Exec::new("wc -c; echo done >&2");
    exec.stdin = Bytes::from(vec![7; 20 << 20]);
    let output = vm.pool().run(&vm.target(), &exec, soon()).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "20971520");
    assert_eq!(output.stderr, b"done\n");
}

#[tokio::test]
async fn command_may_write_before_reading() {
    let vm = Vm::start().await;
    let pool = vm.pool();
    // More data in both directions than any channel window holds.
    let mut exec = Exec::new("head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2; wc -c >&2");
    exec.stdin = Bytes::from(vec![7; 5 << 20]);
    let output = pool.run(&vm.target(), &exec, soon()).await.unwrap();
    assert_eq!(output.stdout.len(), 1_000_000);
    assert!(output.stderr.ends_with(b"5242880\n"));
    exec.command = "exit 3".into();
    let output = pool.run(&vm.target(), &exec, soon()).await.unwrap();
    assert_eq!(output.exit, Exit::Status(3));
    assert_eq!(vm.connections(), 1);
}

#[tokio::test]
async fn endless_output_keeps_connection_usable() {
    let vm = Vm::start().await;
    let pool = vm.pool();
    for (command, stream) in [("yes", "standard output"), ("yes >&2", "standard error")] {
        let result = pool.run(&vm.target(), &Exec::new(command), soon()).await;
        assert_eq!(result, Err(ExecError::TooLarge(stream)));
    }
    assert!(run(&pool, &vm.target(), "true").await.is_success());
    assert_eq!(vm.connections(), 1);
}

#[tokio::test]
async fn commands_share_connection_and_five_channels() {
    let vm = Vm::start().await;
    let pool = Arc::new(vm.pool());
    assert_all_succeed(&pool, &vm, 20).await;
    assert_eq!(vm.connections(), 1);
    // One more session for the identity check.
    assert_eq!(vm.sessions(), 21);
    let most = vm.sessions_at_once();
    assert!((2..=5).contains(&most), "{most} at once");
}

#[tokio::test]
async fn server_without_free_session_is_retried() {
    let vm = Vm::start_with("MaxSessions 2").await;
    let pool = Arc::new(vm.pool());
    assert_all_succeed(&pool, &vm, 20).await;
    assert_eq!(vm.connections(), 1);
    assert_eq!(vm.sessions(), 21);
}

async fn assert_all_succeed(pool: &Arc<Pool>, vm: &Vm, commands: usize) {
    let mut tasks = JoinSet::new();
    for i in 0..commands {
        let (pool, target) = (Arc::clone(pool), vm.target());
        tasks.spawn(async move {
            let output = run(&pool, &target, &format!("sleep 0.05; echo {i}")).await;
            assert_eq!(output.stdout, format!("{i}\n").into_bytes());
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn hung_command_ends_at_deadline() {
    let vm = Vm::start().await;
    let pool = vm.pool();
    let target = vm.target();
    let hung = Exec::new("sleep 10");
    let begin = Instant::now();
    let hangs = async {
        let deadline = begin + Duration::from_secs(2);
        let result = pool.run(&target, &hung, deadline).await;
        (result, begin.elapsed())
    };
    let ((result, took), ()) = tokio::join!(hangs, async {
        for _ in 0..3 {
            assert!(run(&pool, &target, "true").await.is_success());
        }
    });
    assert!(
        matches!(result, Err(ExecError::Deadline { .. })),
        "{result:?}"
    );
    assert!((2..5).contains(&took.as_secs()), "{took:?}");
    assert!(run(&pool, &target, "true").await.is_success());
    assert_eq!(vm.connections(), 1);
}

#[tokio::test]
async fn output_before_deadline_is_kept() {
    let vm = Vm::start().await;
    let exec = Exec::new("echo early; sleep 10");
    let deadline = Instant::now() + Duration::from_secs(3);
    let result = vm.pool().run(&vm.target(), &exec, deadline).await;
    let Err(ExecError::Deadline { stdout, .. }) = result else {
        panic!("{result:?}");
    };
    assert_eq!(stdout, b"early\n");
}

#[tokio::test]
async fn background_process_keeps_exit_status_visible() {
    let vm = Vm::start().await;
    let pool = vm.pool();
    let mut exec = Exec::new("sleep 30 & echo $! >$LONGSHORE_VM_DIR/pid; exit 0");
    exec.status_is_enough = true;
    let begin = Instant::now();
    let output = pool.run(&vm.target(), &exec, soon()).await.unwrap();
    assert!(output.is_success());
    assert!(begin.elapsed() < Duration::from_secs(5));
    // The background process is still running.
    crate::support::kill("-KILL", vm.read("pid").trim());
}

#[tokio::test]
async fn dropped_call_frees_channel() {
    let vm = Vm::start().await;
    let pool = vm.pool();
    let target = vm.target();
    run(&pool, &target, "true").await;
    for _ in 0..8 {
        let exec = Exec::new("sleep 5");
        let deadline = Instant::now() + Duration::from_millis(500);
        let call = pool.run(&target, &exec, deadline);
        let _ = tokio::time::timeout(Duration::from_millis(100), call).await;
    }
    assert!(run(&pool, &target, "true").await.is_success());
    // Hanging commands must not use up all sessions.
    assert!(vm.connections() <= 3);
}

#[tokio::test]
async fn rsa_key_logs_in() {
    let vm = Vm::start().await;
    keygen(&vm.path("rsa"), "rsa");
    vm.write("authorized", &vm.read("rsa.pub"));
    let settings = vm.settings_with_key("rsa");
    let line = settings.key.public_line().to_owned();
    assert!(vm.read("rsa.pub").starts_with(&line), "{line}");
    let pool = Pool::new(settings).unwrap();
    assert!(run(&pool, &vm.target(), "true").await.is_success());
}
