//! Nothing is said to a VM that has not proved who it is.

use longshore_core::input::VmError;
use longshore_secret::Secret;
use longshore_ssh::{Exec, ExecError, Pool, Target};

use crate::support::{Vm, keygen, run, session_pid, soon, until};

/// Fails unless the VM is taken for an impostor; returns why.
async fn assert_impostor(pool: &Pool, target: &Target) -> String {
    let exec = Exec::new("touch $LONGSHORE_VM_DIR/marker");
    match pool.run(target, &exec, soon()).await {
        Err(ExecError::NotSent(VmError::IdentityMismatch(why))) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_wrong_secret_stops_everything_else() {
    for shown in [
        "",
        "another",
        "0123456789abcdef0123456789abcdef01234567\n",
        "\u{fffd}",
    ] {
        let vm = Vm::start().await;
        vm.write("secret", shown);
        let pool = vm.pool();
        let why = assert_impostor(&pool, &vm.target()).await;
        assert!(!why.contains(crate::support::SECRET), "{why}");
        assert_eq!(vm.sessions(), 1, "only the secret was asked for");
        assert!(!vm.path("marker").exists());
    }
}

#[tokio::test]
async fn a_missing_secret_stops_everything_else_until_it_is_there() {
    let vm = Vm::start().await;
    std::fs::remove_file(vm.path("secret")).unwrap();
    let pool = vm.pool();
    let why = assert_impostor(&pool, &vm.target()).await;
    assert!(why.contains("No such file"), "{why}");
    assert!(!vm.path("marker").exists());
    vm.write("secret", crate::support::SECRET);
    // The next attempts come by themselves after the back-off.
    let deadline = soon();
    let key = vm.target().key();
    while pool
        .run(&vm.target(), &Exec::new("true"), soon())
        .await
        .is_err()
    {
        assert_eq!(pool.host_key(&key), None, "not before it is proved");
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let shown = pool.host_key(&key);
    assert!(shown.is_some_and(|key| key.starts_with("ssh-ed25519 ")));
}

#[tokio::test]
async fn an_instance_without_secret_is_never_trusted() {
    let vm = Vm::start().await;
    vm.write("secret", "");
    let mut target = vm.target();
    target.secret = Secret::default();
    let why = assert_impostor(&vm.pool(), &target).await;
    assert!(why.contains("no secret"), "{why}");
    assert_eq!(vm.connections(), 0);
}

#[tokio::test]
async fn a_changed_host_key_stops_everything_even_with_the_right_secret() {
    let mut vm = Vm::start().await;
    let pool = vm.pool();
    let target = vm.target();
    let pid = session_pid(&pool, &target).await;
    let sessions = vm.sessions();
    vm.change_host_key().await;
    crate::support::kill("-KILL", &pid);
    let deadline = soon();
    let why = loop {
        // Until the old connection is known to be dead, it may take the command and lose it.
        let exec = Exec::new("touch $LONGSHORE_VM_DIR/marker");
        match pool.run(&target, &exec, soon()).await {
            Err(ExecError::NotSent(VmError::IdentityMismatch(why))) => break why,
            Err(ExecError::Lost(_)) if tokio::time::Instant::now() < deadline => {}
            other => panic!("{other:?}"),
        }
    };
    assert!(why.contains("host key changed"), "{why}");
    assert_eq!(vm.connections(), 1, "the new server was not logged in to");
    assert_eq!(vm.sessions(), sessions);
    assert!(!vm.path("marker").exists());
    // The next call does not hammer.
    assert!(
        assert_impostor(&pool, &target)
            .await
            .contains("not tried again")
    );
    // Only when the instance is known to be gone, its name may stand for another one.
    pool.forget(&target.key());
    assert!(run(&pool, &target, "true").await.is_success());
}

#[tokio::test]
async fn the_proof_is_asked_for_once_and_the_key_remembered() {
    let vm = Vm::start().await;
    let pool = vm.pool();
    let target = vm.target();
    let pid = session_pid(&pool, &target).await;
    assert_eq!(vm.sessions(), 2);
    crate::support::kill("-KILL", &pid);
    // The connection comes back by the pinned key alone.
    vm.write("secret", "something else");
    let begin = soon();
    while pool.run(&target, &Exec::new("true"), soon()).await.is_err() {
        assert!(tokio::time::Instant::now() < begin);
    }
    assert_eq!(vm.connections(), 2);
}

#[tokio::test]
async fn a_new_address_is_followed_with_the_old_key() {
    let mut vm = Vm::start().await;
    let pool = vm.pool();
    run(&pool, &vm.target(), "true").await;
    let sessions = vm.sessions();
    vm.move_to_another_port().await;
    assert!(run(&pool, &vm.target(), "true").await.is_success());
    assert_eq!(vm.connections(), 2);
    assert_eq!(
        vm.sessions(),
        sessions + 1,
        "the secret is not asked for again"
    );

    // Somebody else at a new address is found out by the key.
    let other = Vm::start().await;
    let why = assert_impostor(&pool, &other.target()).await;
    assert!(why.contains("host key changed"), "{why}");
    assert_eq!(other.connections(), 0);
}

#[tokio::test]
async fn the_old_connection_ends_when_the_address_changes_and_when_forgotten() {
    let mut vm = Vm::start().await;
    let pool = vm.pool();
    let old = session_pid(&pool, &vm.target()).await;
    vm.move_to_another_port().await;
    let new = session_pid(&pool, &vm.target()).await;
    until("the old connection is closed", || !is_alive(&old)).await;
    assert!(is_alive(&new));
    pool.forget(&vm.target().key());
    until("the forgotten connection is closed", || !is_alive(&new)).await;
}

#[tokio::test]
async fn a_server_that_gets_a_second_host_key_is_still_known_by_the_first() {
    let mut vm = Vm::start().await;
    std::fs::remove_file(vm.path("host")).unwrap();
    keygen(&vm.path("host"), "rsa");
    vm.stop();
    vm.launch().await;
    let pool = vm.pool();
    let pid = session_pid(&pool, &vm.target()).await;
    keygen(&vm.path("another"), "ed25519");
    let config = vm.read("config");
    vm.write(
        "config",
        &format!("HostKey {}\n{config}", vm.path("another").display()),
    );
    vm.stop();
    vm.launch().await;
    crate::support::kill("-KILL", &pid);
    let deadline = soon();
    loop {
        match pool.run(&vm.target(), &Exec::new("true"), soon()).await {
            Ok(output) => break assert!(output.is_success()),
            Err(ExecError::Lost(_)) if tokio::time::Instant::now() < deadline => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(vm.connections(), 2);
}

fn is_alive(pid: &str) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}
