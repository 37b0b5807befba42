//! Command of an SSH channel: streams, exit status, and hang-up after a lost client.

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

/// Maximum size of a read from a command, in bytes.
const CHUNK_BYTES: usize = 32 * 1024;

/// Size of a command's input queue, in bytes. A full queue blocks the whole connection.
const INPUT_QUEUE_BYTES: usize = 8 * 1024 * 1024;

/// Interval for accepting one more message despite a full queue. Needed because the command may be
/// blocked on output, and the blocked connection does not forward output.
const INPUT_RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// Limit of the queued input, in bytes; above the limit the command is hung up.
const INPUT_QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Limit of the time without any read while the queue is full; after the limit the command is hung
/// up, because the command would block every other command of the connection.
const INPUT_STALL_MAX: Duration = Duration::from_secs(10);

/// Delay of the exit status of an exited command while a descendant keeps the output open.
const STATUS_DELAY: Duration = Duration::from_secs(1);

/// SSH data type code of standard error.
const STDERR: u32 = 1;

/// Command with its streams.
pub(super) struct Exec {
    started: Started,
    stdin: ChildStdin,
    stdout: ChildStdout,
    stderr: ChildStderr,
}

impl Exec {
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

    /// Forwards the streams until the command has exited or the client is lost. A lost client hangs
    /// up the process group of the command; processes outside of the group continue.
    pub(super) async fn run(self, vm: &Vm, channel: Channel<Msg>, session: &Handle) {
        let pid = self.started.pid;
        let id = channel.id();
        let (mut from_client, to_client) = channel.split();
        let finished = tokio::select! {
            biased;
            () = send_output(&to_client, session, self.stdout, self.stderr, self.started.ended) => true,
            () = feed_input(&mut from_client, self.stdin) => false,
        };
        if !finished {
            vm.children.signal_group(pid, Signal::HUP);
        }
        // These calls fail only if the connection is lost.
        let _ = session.eof(id).await;
        let _ = session.close(id).await;
    }
}

/// Sends the output and the exit status. Like OpenSSH, waits for the end of the output even if the
/// command has exited.
async fn send_output(
    to_client: &ChannelWriteHalf<Msg>,
    session: &Handle,
    stdout: ChildStdout,
    stderr: ChildStderr,
    mut ended: tokio::sync::oneshot::Receiver<WaitStatus>,
) {
    let mut output = pin!(async {
        tokio::join!(
            forward(stdout, to_client, None),
            forward(stderr, to_client, Some(STDERR)),
        );
    });
    let id = to_client.id();
    tokio::select! {
        () = &mut output => {
            send_status(session, id, ended.await.ok()).await;
            return;
        }
        status = &mut ended => {
            let drained = tokio::time::timeout(STATUS_DELAY, &mut output).await;
            send_status(session, id, status.ok()).await;
            if drained.is_ok() {
                return;
            }
        }
    }
    output.await;
}

/// Forwards a stream to the client, with the flow control of the client's window.
async fn forward(
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

async fn send_status(session: &Handle, id: russh::ChannelId, status: Option<WaitStatus>) {
    let Some(status) = status else {
        return;
    };
    // Both calls fail only if the connection is lost.
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

/// SSH name of a Linux signal.
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

/// Forwards the client's data to the command. Returns if the client is lost or if the command does
/// not read its input; continues after the end of input to detect a lost client.
async fn feed_input(from_client: &mut ChannelReadHalf, stdin: ChildStdin) {
    let mut stdin = Some(stdin);
    let mut queue = VecDeque::new();
    let mut queued = 0;
    let mut complete = false;
    let mut stalled_since = None;
    let mut accept_one = false;
    loop {
        if complete && queue.is_empty() {
            stdin = None;
        }
        let full = queued >= INPUT_QUEUE_BYTES && !accept_one;
        tokio::select! {
            message = from_client.wait(), if !full => match message {
                None | Some(ChannelMsg::Close) => return,
                Some(ChannelMsg::Eof) => complete = true,
                Some(ChannelMsg::Data { data }) if stdin.is_some() => {
                    accept_one = false;
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
                // The command has closed its input; further input is discarded.
                Err(_) => {
                    stdin = None;
                    queue.clear();
                    queued = 0;
                }
            },
            () = tokio::time::sleep(INPUT_RETRY_INTERVAL), if full => {
                let since: Instant = *stalled_since.get_or_insert_with(Instant::now);
                if queued >= INPUT_QUEUE_BYTES_MAX || since.elapsed() >= INPUT_STALL_MAX {
                    tracing::warn!(unread_bytes = queued, "hung up on a command with unread input");
                    return;
                }
                accept_one = true;
            }
        }
    }
}

/// Writes to the command; never returns if there is nothing to write.
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
