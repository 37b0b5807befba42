//! One command of one channel: its streams, its end, and what happens when the client goes away.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::pin::pin;
use std::process::{Command, Stdio};
use std::time::Duration;

use russh::server::{Handle, Msg};
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Sig};
use rustix::process::{Signal, WaitStatus};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio::time::Instant;

use super::Vm;
use super::children::Started;

/// Read from a command at a time, in bytes.
const CHUNK_BYTES: usize = 32 * 1024;

/// Input that may wait for a command that reads it, in bytes; then the connection waits, whatever
/// else is on it.
const INPUT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A command may read nothing because the connection, which waits, does not take its output. So a
/// command that reads nothing for so long gets one message more.
const INPUT_PAUSE: Duration = Duration::from_millis(10);

/// A command that leaves so much unread, in bytes, is given up …
const INPUT_BYTES_LIMIT: usize = 64 * 1024 * 1024;

/// … and so is one that is sent too much and reads none of it for so long: it would hold up every
/// other command of the connection.
const INPUT_STALL_MAX: Duration = Duration::from_secs(10);

/// When a command has ended but something it left behind still holds its output open, its exit
/// status is sent after this.
const STATUS_DELAY: Duration = Duration::from_secs(1);

/// SSH's number for standard error.
const STDERR: u32 = 1;

/// A command with its streams.
pub(super) struct Exec {
    started: Started,
    stdin: ChildStdin,
    stdout: ChildStdout,
    stderr: ChildStderr,
}

impl Exec {
    /// Starts `sh -c <command>`.
    pub(super) fn start(vm: &Vm, command: &[u8]) -> io::Result<Self> {
        let mut shell = Command::new("/bin/sh");
        shell
            .arg("-c")
            .arg(OsStr::from_bytes(command))
            .current_dir(vm.environment.home())
            .env_clear()
            .envs(vm.environment.variables())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut started = vm.children.spawn(&mut shell)?;
        let missing = || io::Error::other("a pipe is missing");
        let child = &mut started.child;
        let stdin = child.stdin.take().ok_or_else(missing)?;
        let stdout = child.stdout.take().ok_or_else(missing)?;
        let stderr = child.stderr.take().ok_or_else(missing)?;
        Ok(Self {
            stdin: ChildStdin::from_std(stdin)?,
            stdout: ChildStdout::from_std(stdout)?,
            stderr: ChildStderr::from_std(stderr)?,
            started,
        })
    }

    /// Carries the streams until the command has ended or the client has gone; then the command gets
    /// a hang-up, and what has left its process group lives on.
    pub(super) async fn run(self, vm: &Vm, channel: Channel<Msg>, session: &Handle) {
        let pid = self.started.pid;
        let id = channel.id();
        let (mut from_client, to_client) = channel.split();
        let finished = tokio::select! {
            biased;
            () = answer(&to_client, session, self.stdout, self.stderr, self.started.ended) => true,
            () = feed(&mut from_client, self.stdin) => false,
        };
        if !finished {
            vm.children.signal_group(pid, Signal::HUP);
        }
        // All of these fail only if the connection is gone.
        let _ = session.eof(id).await;
        let _ = session.close(id).await;
    }
}

/// Sends the output and the exit status. Like OpenSSH, it waits for the output's end even if the
/// command has ended before.
async fn answer(
    to_client: &ChannelWriteHalf<Msg>,
    session: &Handle,
    stdout: ChildStdout,
    stderr: ChildStderr,
    mut ended: tokio::sync::oneshot::Receiver<WaitStatus>,
) {
    let mut output = pin!(async {
        tokio::join!(
            carry(stdout, to_client, None),
            carry(stderr, to_client, Some(STDERR)),
        );
    });
    let id = to_client.id();
    tokio::select! {
        () = &mut output => {
            report(session, id, ended.await.ok()).await;
            return;
        }
        status = &mut ended => {
            let in_time = tokio::time::timeout(STATUS_DELAY, &mut output).await;
            report(session, id, status.ok()).await;
            if in_time.is_ok() {
                return;
            }
        }
    }
    output.await;
}

/// Sends all of one stream; the client's window holds it back.
async fn carry(
    mut stream: impl AsyncRead + Unpin,
    to_client: &ChannelWriteHalf<Msg>,
    extended: Option<u32>,
) {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let data = match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(length) => chunk.get(..length).unwrap_or_default().to_vec(),
        };
        let sent = match extended {
            None => to_client.data_bytes(data).await,
            Some(kind) => to_client.extended_data_bytes(kind, data).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

async fn report(session: &Handle, id: russh::ChannelId, status: Option<WaitStatus>) {
    let Some(status) = status else {
        return;
    };
    // Both fail only if the connection is gone.
    if let Some(signal) = status.terminating_signal() {
        let name = signal_name(signal);
        let _ = session
            .exit_signal_request(id, name, false, String::new(), String::new())
            .await;
    } else if let Some(code) = status.exit_status() {
        let code = u32::try_from(code).unwrap_or(255);
        let _ = session.exit_status_request(id, code).await;
    }
}

/// SSH's name for a signal of Linux.
fn signal_name(number: i32) -> Sig {
    match number {
        n if n == Signal::ABORT.as_raw() => Sig::ABRT,
        n if n == Signal::ALARM.as_raw() => Sig::ALRM,
        n if n == Signal::FPE.as_raw() => Sig::FPE,
        n if n == Signal::HUP.as_raw() => Sig::HUP,
        n if n == Signal::ILL.as_raw() => Sig::ILL,
        n if n == Signal::INT.as_raw() => Sig::INT,
        n if n == Signal::KILL.as_raw() => Sig::KILL,
        n if n == Signal::PIPE.as_raw() => Sig::PIPE,
        n if n == Signal::QUIT.as_raw() => Sig::QUIT,
        n if n == Signal::SEGV.as_raw() => Sig::SEGV,
        n if n == Signal::TERM.as_raw() => Sig::TERM,
        n if n == Signal::USR1.as_raw() => Sig::USR1,
        n => Sig::Custom(format!("SIG{n}@longshore")),
    }
}

/// Hands the client's data to the command. Returns when the client has gone, or when the command
/// does not take what it was sent; goes on when there is no more input, so as to notice that.
async fn feed(from_client: &mut ChannelReadHalf, stdin: ChildStdin) {
    let mut stdin = Some(stdin);
    let mut queue = VecDeque::new();
    let mut queued = 0;
    let mut complete = false;
    let mut stalled_since = None;
    let mut one_more = false;
    loop {
        if complete && queue.is_empty() {
            stdin = None;
        }
        let full = queued >= INPUT_BYTES_MAX && !one_more;
        tokio::select! {
            message = from_client.wait(), if !full => match message {
                None | Some(ChannelMsg::Close) => return,
                Some(ChannelMsg::Eof) => complete = true,
                Some(ChannelMsg::Data { data }) if stdin.is_some() => {
                    one_more = false;
                    queued += data.len();
                    queue.push_back(data);
                }
                Some(_) => {}
            },
            written = write_some(stdin.as_mut(), queue.front()) => match written {
                Ok(length) => {
                    stalled_since = None;
                    queued -= length;
                    if let Some(mut front) = queue.pop_front()
                        && length < front.len()
                    {
                        queue.push_front(front.split_off(length));
                    }
                }
                // It reads no more; what is still to come is of no use.
                Err(_) => {
                    stdin = None;
                    queue.clear();
                    queued = 0;
                }
            },
            () = tokio::time::sleep(INPUT_PAUSE), if full => {
                let since: Instant = *stalled_since.get_or_insert_with(Instant::now);
                if queued >= INPUT_BYTES_LIMIT || since.elapsed() >= INPUT_STALL_MAX {
                    tracing::warn!(unread_bytes = queued, "a command that does not read its input is given up");
                    return;
                }
                one_more = true;
            }
        }
    }
}

/// Waits for ever if there is nothing to write.
async fn write_some(
    stdin: Option<&mut ChildStdin>,
    front: Option<&impl AsRef<[u8]>>,
) -> io::Result<usize> {
    match (stdin, front) {
        (Some(stdin), Some(front)) if !front.as_ref().is_empty() => {
            stdin.write(front.as_ref()).await
        }
        (Some(_), Some(_)) => Ok(0),
        _ => std::future::pending().await,
    }
}
