//! Commands over SSH on a VM.

use std::time::Duration;

use crate::support::{
    Host, TIMEOUT, UnauthorizedClient, alive, booted, key, log_in, spec, until, vm,
};
use longshore_driver::Cloud as _;
use russh::ChannelMsg;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test(flavor = "multi_thread")]
async fn command_streams_and_exit_status() {
    let host = Host::new();
    let cloud = host.cloud();
    let (_, client) = vm(&cloud, 1).await;

    let hello = client.run("echo hello; echo oops >&2").await;
    assert_eq!(
        (hello.text(), &hello.stderr[..]),
        ("hello\n", &b"oops\n"[..])
    );
    assert_eq!((hello.status, hello.signal), (Some(0), None));
    assert_eq!(client.run("exit 42").await.status, Some(42));
    assert_eq!(
        client.run("kill -KILL $$").await.signal.as_deref(),
        Some("KILL")
    );
    assert_eq!(
        client.run("kill -TERM $$").await.signal.as_deref(),
        Some("TERM")
    );
    assert_eq!(client.run("no-such-command").await.status, Some(127));
    let echoed = client.run_with("cat", b"from stdin".to_vec()).await;
    assert_eq!(echoed.text(), "from stdin");
    cloud.destroy_all().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn command_environment_contains_only_vm_variables() {
    let host = Host::new();
    let cloud = host.cloud();
    let (created, client) = vm(&cloud, 1).await;
    let dir = host.vm(&created.id).display().to_string();
    let seen = client.run("env; pwd; for d in \"$LONGSHORE_LOCK_DIR\" \"$LONGSHORE_SCRATCH_DIR\" \"$LONGSHORE_LOG_DIR\"; do test -d \"$d\" && test -w \"$d\" || exit 9; done").await;
    assert_eq!(seen.status, Some(0));
    for line in [
        format!("LONGSHORE_VM_DIR={dir}"),
        format!("LONGSHORE_LOCK_DIR={dir}/lock"),
        format!("LONGSHORE_SCRATCH_DIR={dir}/scratch"),
        format!("LONGSHORE_LOG_DIR={dir}/log"),
        format!("HOME={dir}/home"),
        format!("USER={}", cloud.remote_user()),
        format!("{dir}/home"),
    ] {
        assert!(
            seen.text().lines().any(|seen| seen == line),
            "{line} in {}",
            seen.text()
        );
    }
    assert!(!seen.text().contains("CARGO"), "{}", seen.text());
    cloud.destroy_all().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn large_data_transfers_unchanged() {
    let host = Host::new();
    let cloud = host.cloud();
    let (_, client) = vm(&cloud, 1).await;
    let data: Vec<u8> = (0..40_000_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let back = client.run_with("cat", data.clone()).await;
    assert_eq!(back.status, Some(0));
    assert!(back.stdout == data, "{} bytes came back", back.stdout.len());
    let errors = client.run("head -c 5000000 /dev/zero >&2; exit 3").await;
    assert_eq!((errors.stderr.len(), errors.status), (5_000_000, Some(3)));
    // Unread input is discarded, and the exit status is still sent.
    let ignored = client.run_with("exit 5", data).await;
    assert_eq!(ignored.status, Some(5));
    cloud.destroy_all().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn login_requires_key_and_user() {
    let host = Host::new();
    let cloud = host.cloud();
    let right = key();
    let created = cloud.create(spec(1, &right)).await.unwrap();
    let address = booted(&cloud, &created.id).await;
    assert!(
        log_in(&address, cloud.remote_user(), &key())
            .await
            .is_none()
    );
    assert!(log_in(&address, "somebody-else", &right).await.is_none());
    let client = log_in(&address, cloud.remote_user(), &right).await.unwrap();

    // Shells, subsystems and terminals are rejected.
    let mut shell = client.open().await;
    shell.request_shell(true).await.unwrap();
    assert!(matches!(shell.wait().await, Some(ChannelMsg::Failure)));
    let mut sftp = client.open().await;
    sftp.request_subsystem(true, "sftp").await.unwrap();
    assert!(matches!(sftp.wait().await, Some(ChannelMsg::Failure)));
    let mut terminal = client.open().await;
    terminal
        .request_pty(true, "xterm", 80, 24, 0, 0, &[])
        .await
        .unwrap();
    assert!(matches!(terminal.wait().await, Some(ChannelMsg::Failure)));
    cloud.destroy_all().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn secret_readable_at_driver_path() {
    let host = Host::new();
    let cloud = host.cloud();
    let (created, client) = vm(&cloud, 7).await;
    let shown = client
        .run(&format!("cat \"{}\"", cloud.secret_path()))
        .await;
    assert_eq!(
        (shown.text(), shown.status),
        (created.secret.expose(), Some(0))
    );
    assert_eq!(shown.text(), "secret-7");
    cloud.destroy_all().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn host_keys_differ_between_vms() {
    let host = Host::new();
    let cloud = host.cloud();
    let (_, one) = vm(&cloud, 1).await;
    let (_, two) = vm(&cloud, 2).await;
    assert!(one.host_key.contains("Ed25519"), "{}", one.host_key);
    assert_ne!(one.host_key, two.host_key);
    assert_eq!(cloud.destroy_all().await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn init_script_runs_once_before_login() {
    let host = Host::new();
    let cloud = host.cloud();
    let key = key();
    let mut spec = spec(1, &key);
    spec.init_script = longshore_secret::Secret::new("echo ran >> \"$HOME/count\"\nexit 1\n");
    let created = cloud.create(spec.clone()).await.unwrap();
    let address = booted(&cloud, &created.id).await;
    cloud.create(spec).await.unwrap();
    let client = log_in(&address, cloud.remote_user(), &key).await.unwrap();
    assert_eq!(client.run("cat count").await.text(), "ran\n");
    let dir = host.vm(&created.id);
    assert!(!dir.join("init-script").exists() && !dir.join("init-script.running").exists());
    // A second boot fails.
    let again = std::process::Command::new(env!("CARGO_BIN_EXE_longshore-loopback-vm"))
        .arg(&dir)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert!(!again.status.success());
    assert!(
        String::from_utf8_lossy(&again.stderr)
            .contains("is not a VM just created by the loopback driver")
    );
    cloud.destroy_all().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_channel_keeps_detached_process() {
    let host = Host::new();
    let cloud = host.cloud();
    let (_, client) = vm(&cloud, 1).await;
    let command = "setsid sh -c 'echo $$ > detached; exec sleep 1000' < /dev/null > /dev/null 2>&1 & \
                   echo $$ > foreground; while test ! -s detached; do sleep 0.01; done; echo ready; sleep 1000";
    let mut channel = client.start(command).await;
    loop {
        match channel.wait().await {
            Some(ChannelMsg::Data { data }) if &data[..] == b"ready\n" => break,
            Some(_) => {}
            None => panic!("the channel closed"),
        }
    }
    let pids = client.run("cat detached foreground").await;
    let pids: Vec<i32> = pids
        .text()
        .lines()
        .map(|pid| pid.parse().unwrap())
        .collect();
    assert!(alive(pids[0]) && alive(pids[1]));
    channel.close().await.unwrap();
    until("the command's end", || async {
        (!alive(pids[1])).then_some(())
    })
    .await;
    assert!(alive(pids[0]));

    // The detached process also survives the end of the connection.
    drop(client);
    assert!(alive(pids[0]));
    cloud.destroy_all().await.unwrap();
    assert!(!alive(pids[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_connection_hangs_up_commands() {
    let host = Host::new();
    let cloud = host.cloud();
    let (_, client) = vm(&cloud, 1).await;
    let mut channel = client.start("echo $$; sleep 1000").await;
    let pid: i32 = loop {
        match channel.wait().await {
            Some(ChannelMsg::Data { data }) => {
                break std::str::from_utf8(&data).unwrap().trim().parse().unwrap();
            }
            Some(_) => {}
            None => panic!("the channel closed"),
        }
    };
    assert!(alive(pid));
    drop(channel);
    drop(client);
    until("the command's end", || async {
        (!alive(pid)).then_some(())
    })
    .await;
    cloud.destroy_all().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_status_sent_while_output_open() {
    let host = Host::new();
    let cloud = host.cloud();
    let (_, client) = vm(&cloud, 1).await;
    let mut channel = client.start("sleep 1000 & exit 4").await;
    let status = async {
        loop {
            if let Some(ChannelMsg::ExitStatus { exit_status }) = channel.wait().await {
                return exit_status;
            }
        }
    };
    assert_eq!(tokio::time::timeout(TIMEOUT, status).await.unwrap(), 4);
    cloud.destroy_all().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_client_does_not_block_others() {
    let host = Host::new();
    let cloud = host.cloud();
    let key = key();
    let created = cloud.create(spec(1, &key)).await.unwrap();
    let address = booted(&cloud, &created.id).await;
    // Clients without any data, without reads, and without an end of input.
    let mut mute = tokio::net::TcpStream::connect(&address).await.unwrap();
    let stuck = log_in(&address, cloud.remote_user(), &key).await.unwrap();
    let flood = stuck.start("cat /dev/zero").await;
    let starved = stuck.start("cat").await;

    let client = log_in(&address, cloud.remote_user(), &key).await.unwrap();
    for n in 0..20 {
        let output = tokio::time::timeout(Duration::from_secs(10), client.run("echo on")).await;
        assert_eq!(
            output.unwrap_or_else(|_| panic!("round {n} hangs")).text(),
            "on\n"
        );
    }
    let mut greeting = [0; 4];
    mute.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"SSH-");
    drop((flood, starved));
    cloud.destroy_all().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn command_with_unread_input_is_hung_up() {
    let host = Host::new();
    let cloud = host.cloud();
    let (_, client) = vm(&cloud, 1).await;
    let (mut from, to) = client.start("exec sleep 1000").await.split();
    let sender = tokio::spawn(async move { to.data_bytes(vec![0; 64_000_000]).await.map(|()| to) });
    let end = async { while from.wait().await.is_some() {} };
    tokio::time::timeout(TIMEOUT, end)
        .await
        .expect("the command is hung up");
    assert_eq!(client.run("echo on").await.text(), "on\n");
    sender.abort();
    cloud.destroy_all().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_runs_fifty_commands() {
    let host = Host::new();
    let cloud = host.cloud();
    let (_, client) = vm(&cloud, 1).await;
    let client = std::sync::Arc::new(client);
    // Every command waits for all other commands, so all commands must run concurrently.
    let command = |n: u32| {
        format!(
            "touch here.{n}; while test $(ls here.* | wc -l) -lt 50; do sleep 0.05; done; echo {n}"
        )
    };
    let tasks: Vec<_> = (0..50)
        .map(|n| {
            let client = std::sync::Arc::clone(&client);
            tokio::spawn(async move { client.run(&command(n)).await })
        })
        .collect();
    for (n, task) in tasks.into_iter().enumerate() {
        let output = task.await.unwrap();
        assert_eq!(
            (output.text(), output.status),
            (format!("{n}\n").as_str(), Some(0))
        );
    }
    cloud.destroy_all().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_without_login_is_closed() {
    let host = Host::new();
    let cloud = host.cloud();
    let created = cloud.create(spec(1, &key())).await.unwrap();
    let address = booted(&cloud, &created.id).await;
    // Clients without any data, with a partial handshake, and with repeated unauthorized keys.
    let mut mute = tokio::net::TcpStream::connect(&address).await.unwrap();
    let mut lame = tokio::net::TcpStream::connect(&address).await.unwrap();
    lame.write_all(b"SSH-2.0-lame\r\n").await.unwrap();
    let guesses = async {
        let mut guesser = UnauthorizedClient::new(&address).await;
        let mut guesses = 0;
        while guesser.try_login(cloud.remote_user()).await {
            guesses += 1;
        }
        guesses
    };
    let end = async |stream: &mut tokio::net::TcpStream| {
        let mut rest = Vec::new();
        // A connection reset also counts as closed.
        let _ = stream.read_to_end(&mut rest).await;
    };
    let all = async { tokio::join!(end(&mut mute), end(&mut lame), guesses).2 };
    let guesses = tokio::time::timeout(TIMEOUT, all)
        .await
        .expect("the connections are closed");
    assert_eq!(guesses, 6);
    cloud.destroy_all().await.unwrap();
}
