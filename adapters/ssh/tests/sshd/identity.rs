//! Identity check: no command runs on a VM with an unverified identity.

use longshore_core::input::VmError;
use longshore_secret::Secret;
use longshore_ssh::{Exec, ExecError, Pool, Target};

use crate::support::{Vm, keygen, run, session_pid, soon, until};

/// Fails unless the identity check of the VM fails. Returns the error text.
async fn assert_identity_mismatch(pool: &Pool, target: &Target) -> String {
    let exec = Exec::new("touch $LONGSHORE_VM_DIR/marker");
    match pool.run(target, &exec, soon()).await {
        Err(ExecError::NotSent(VmError::IdentityMismatch(why))) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn wrong_secret_blocks_commands() {
    for shown in [
        "",
        "another",
        "0123456789abcdef0123456789abcdef01234567\n",
        "\u{fffd}",
    ] {
        let vm = Vm::start().await;
        vm.write("secret", shown);
        let pool = vm.pool();
        let why = assert_identity_mismatch(&pool, &vm.target()).await;
        assert!(!why.contains(crate::support::SECRET), "{why}");
        assert_eq!(
            vm.sessions(),
            1,
            "another command than the identity check was sent"
        );
        assert!(!vm.path("marker").exists());
    }
}

#[tokio::test]
async fn missing_secret_blocks_commands_until_present() {
    let vm = Vm::start().await;
    std::fs::remove_file(vm.path("secret")).unwrap();
    let pool = vm.pool();
    let why = assert_identity_mismatch(&pool, &vm.target()).await;
    assert!(why.contains("No such file"), "{why}");
    assert!(!vm.path("marker").exists());
    vm.write("secret", crate::support::SECRET);
    // Later calls dial again after the back-off.
    let deadline = soon();
    let key = vm.target().key();
    while pool
        .run(&vm.target(), &Exec::new("true"), soon())
        .await
        .is_err()
    {
        assert_eq!(
            pool.host_key(&key),
            None,
            "pinned before the identity check"
        );
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let shown = pool.host_key(&key);
    assert!(shown.is_some_and(|key| key.starts_with("ssh-ed25519 ")));
}

#[tokio::test]
async fn instance_without_secret_is_not_trusted() {
    let vm = Vm::start().await;
    vm.write("secret", "");
    let mut target = vm.target();
    target.secret = Secret::default();
    let why = assert_identity_mismatch(&vm.pool(), &target).await;
    assert!(why.contains("no secret"), "{why}");
    assert_eq!(vm.connections(), 0);
}

#[tokio::test]
async fn changed_host_key_blocks_commands() {
    let mut vm = Vm::start().await;
    let pool = vm.pool();
    let target = vm.target();
    let pid = session_pid(&pool, &target).await;
    let sessions = vm.sessions();
    vm.change_host_key().await;
    crate::support::kill("-KILL", &pid);
    let deadline = soon();
    let why = loop {
        // The old connection may accept the command and lose the result, until found dead.
        let exec = Exec::new("touch $LONGSHORE_VM_DIR/marker");
        match pool.run(&target, &exec, soon()).await {
            Err(ExecError::NotSent(VmError::IdentityMismatch(why))) => break why,
            Err(ExecError::Lost(_)) if tokio::time::Instant::now() < deadline => {}
            other => panic!("{other:?}"),
        }
    };
    assert!(why.contains("host key changed"), "{why}");
    assert_eq!(vm.connections(), 1, "logged in to the new server");
    assert_eq!(vm.sessions(), sessions);
    assert!(!vm.path("marker").exists());
    // The next call is backed off.
    assert!(
        assert_identity_mismatch(&pool, &target)
            .await
            .contains("not tried again")
    );
    // After `forget` the instance counts as new.
    pool.forget(&target.key());
    assert!(run(&pool, &target, "true").await.is_success());
}

#[tokio::test]
async fn secret_is_checked_once_per_key() {
    let vm = Vm::start().await;
    let pool = vm.pool();
    let target = vm.target();
    let pid = session_pid(&pool, &target).await;
    assert_eq!(vm.sessions(), 2);
    crate::support::kill("-KILL", &pid);
    // The pinned key suffices for a new connection.
    vm.write("secret", "something else");
    let begin = soon();
    while pool.run(&target, &Exec::new("true"), soon()).await.is_err() {
        assert!(tokio::time::Instant::now() < begin);
    }
    assert_eq!(vm.connections(), 2);
}

#[tokio::test]
async fn new_address_needs_pinned_key() {
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
        "the identity was checked again"
    );

    // Another server at a new address is detected by its key.
    let other = Vm::start().await;
    let why = assert_identity_mismatch(&pool, &other.target()).await;
    assert!(why.contains("host key changed"), "{why}");
    assert_eq!(other.connections(), 0);
}

#[tokio::test]
async fn changed_address_and_forget_close_connection() {
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
async fn second_host_key_keeps_pinned_key_valid() {
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
