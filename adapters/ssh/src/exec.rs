//! Execution of one command on one SSH channel: input, output, and the meaning of a missing result.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use longshore_core::input::VmError;
use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::time::{Instant, sleep_until, timeout_at};

/// Maximum number of bytes kept of each output stream. A command with more output is abandoned.
pub(crate) const OUTPUT_MAX: usize = 1 << 20;
/// Maximum wait after the exit of a command whose output does not matter.
const LINGER: Duration = Duration::from_secs(1);
/// Type code of extended data for standard error.
const STDERR: u32 = 1;

/// Command for the shell of a VM.
#[derive(Clone)]
pub struct Exec {
    /// Command line for the shell.
    pub command: String,
    /// Complete standard input, followed by end of file.
    pub stdin: Bytes,
    /// True if the exit status alone determines the result. Otherwise the output must be complete,
    /// and a descendant that keeps a stream open keeps the command from ending.
    pub status_is_enough: bool,
}

impl Exec {
    /// Returns a command without input and with complete output required.
    #[must_use]
    pub fn new(command: impl Into<String>) -> Self {
        Self {
            command: command.into(),
            stdin: Bytes::new(),
            status_is_enough: false,
        }
    }
}

/// Shows the command line and the length of the input, since the input may be secret.
impl fmt::Debug for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exec")
            .field("command", &self.command)
            .field("stdin_bytes", &self.stdin.len())
            .field("status_is_enough", &self.status_is_enough)
            .finish()
    }
}

/// Result of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Exit status or signal.
    pub exit: Exit,
    /// Standard output, at most 1 MiB.
    pub stdout: Vec<u8>,
    /// Standard error, at most 1 MiB.
    pub stderr: Vec<u8>,
}

impl Output {
    /// True if the exit status is 0.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.exit == Exit::Status(0)
    }

    /// Exit status and the end of standard error, for an error message.
    #[must_use]
    pub fn failure_text(&self) -> String {
        match excerpt(&self.stderr) {
            text if text.is_empty() => self.exit.to_string(),
            text => format!("{}: {text}", self.exit),
        }
    }
}

/// Exit status or signal of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Exited with a status.
    Status(u32),
    /// Ended by a signal, named without `SIG`.
    Signal(String),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "exit status {status}"),
            Self::Signal(name) => write!(f, "ended by signal {name}"),
        }
    }
}

/// Reason for the missing [`Output`] of a command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExecError {
    /// The command was not sent: nothing was done.
    #[error("{0}")]
    NotSent(VmError),
    /// The connection ended during the command: the command may have been done. Check if the VM
    /// still exists.
    #[error("{0}")]
    Lost(String),
    /// The command did not end by its deadline and was abandoned: the command may have been done.
    #[error("the command did not end by its deadline")]
    Deadline {
        /// Standard output received before the deadline.
        stdout: Vec<u8>,
        /// Standard error received before the deadline.
        stderr: Vec<u8>,
    },
    /// The output exceeds 1 MiB and the command was abandoned: the command may have been done.
    #[error("output too large: more than 1 MiB of {0}")]
    TooLarge(&'static str),
}

impl From<ExecError> for VmError {
    fn from(error: ExecError) -> Self {
        match error {
            ExecError::NotSent(why) => why,
            ExecError::Lost(_) | ExecError::Deadline { .. } => Self::Lost(error.to_string()),
            ExecError::TooLarge(_) => Self::Failed(error.to_string()),
        }
    }
}

pub(crate) fn unreachable(why: impl Into<String>) -> ExecError {
    ExecError::NotSent(VmError::Unreachable(why.into()))
}

/// Returns the end of an output as one line without control characters.
pub(crate) fn excerpt(bytes: &[u8]) -> String {
    const CHARS_MAX: usize = 500;
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim();
    let skipped = text.chars().count().saturating_sub(CHARS_MAX);
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let end: String = text.chars().skip(skipped).map(clean).collect();
    if skipped > 0 {
        format!("…{end}")
    } else {
        end
    }
}

/// Reason for a command not running on a channel.
pub(crate) enum ChannelError {
    /// The connection had ended before: retry on another connection.
    ConnectionClosed,
    /// Final result, not to be retried.
    Final(ExecError),
}

/// Channel after a command.
pub(crate) struct UsedChannel {
    read: ChannelReadHalf,
    pub(crate) write: ChannelWriteHalf<Msg>,
    /// True if the peer has closed the channel.
    pub(crate) closed: bool,
}

/// Runs a command on a fresh channel. The caller must clean up the channel afterwards in any case.
pub(crate) async fn execute(
    channel: Channel<Msg>,
    exec: &Exec,
    deadline: Instant,
) -> (Result<Output, ChannelError>, UsedChannel) {
    let (read, write) = channel.split();
    let mut used = UsedChannel {
        read,
        write,
        closed: false,
    };
    match timeout_at(deadline, used.write.exec(true, exec.command.as_str())).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) => return (Err(ChannelError::ConnectionClosed), used),
        Err(_) => {
            let why = "the connection accepted no command until the deadline";
            return (Err(ChannelError::Final(unreachable(why))), used);
        }
    }
    let mut received = Received::default();
    let end = collect_output(&mut used, &mut received, exec, deadline).await;
    used.closed = matches!(end, End::Closed | End::Disconnected);
    (
        received.outcome(end, exec).map_err(ChannelError::Final),
        used,
    )
}

/// Sends the input and collects the output until the command ends. Both run concurrently: a command
/// that writes before reading its input would otherwise stall the complete connection.
async fn collect_output(
    used: &mut UsedChannel,
    received: &mut Received,
    exec: &Exec,
    deadline: Instant,
) -> End {
    let write = &used.write;
    let send_input = async {
        write.data_bytes(exec.stdin.clone()).await?;
        write.eof().await
    };
    tokio::pin!(send_input);
    let mut input_sent = false;
    let mut until = deadline;
    loop {
        tokio::select! {
            // An error here means the end of the connection, which the other branch reports too.
            _ = &mut send_input, if !input_sent => input_sent = true,
            message = used.read.wait() => {
                let Some(message) = message else { return End::Disconnected };
                if let Some(end) = received.take(message) {
                    return end;
                }
                if received.exit.is_some() && exec.status_is_enough {
                    until = until.min(Instant::now() + LINGER);
                }
            }
            () = sleep_until(until) => return End::Deadline,
        }
    }
}

/// Reason for the end of a command's output.
#[derive(Clone, Copy)]
enum End {
    /// The peer closed the channel.
    Closed,
    /// The connection ended.
    Disconnected,
    Deadline,
    TooLarge(&'static str),
    /// The peer does not run commands.
    Rejected,
}

#[derive(Default)]
struct Received {
    exit: Option<Exit>,
    eof: bool,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Received {
    fn take(&mut self, message: ChannelMsg) -> Option<End> {
        match message {
            ChannelMsg::Data { data } => return append(&mut self.stdout, &data, "standard output"),
            ChannelMsg::ExtendedData { data, ext: STDERR } => {
                return append(&mut self.stderr, &data, "standard error");
            }
            ChannelMsg::ExitStatus { exit_status } => self.exit = Some(Exit::Status(exit_status)),
            ChannelMsg::ExitSignal { signal_name, .. } => {
                // `Debug` of a known signal is the name, of other signals `Custom("…")`.
                self.exit = Some(Exit::Signal(format!("{signal_name:?}")));
            }
            ChannelMsg::Eof => self.eof = true,
            ChannelMsg::Close => return Some(End::Closed),
            ChannelMsg::Failure => return Some(End::Rejected),
            _ => {}
        }
        None
    }

    fn outcome(self, end: End, exec: &Exec) -> Result<Output, ExecError> {
        let complete = self.eof || exec.status_is_enough;
        match (end, self.exit) {
            (End::TooLarge(stream), _) => Err(ExecError::TooLarge(stream)),
            (End::Rejected, _) => Err(unreachable("the SSH server refuses to run commands")),
            (End::Closed, Some(exit)) => Ok(Output {
                exit,
                stdout: self.stdout,
                stderr: self.stderr,
            }),
            (End::Disconnected | End::Deadline, Some(exit)) if complete => Ok(Output {
                exit,
                stdout: self.stdout,
                stderr: self.stderr,
            }),
            (End::Deadline, _) => Err(ExecError::Deadline {
                stdout: self.stdout,
                stderr: self.stderr,
            }),
            (End::Disconnected, _) => Err(ExecError::Lost(
                "the connection ended while the command ran".into(),
            )),
            (End::Closed, None) => Err(ExecError::Lost(
                "the SSH server ended the command without an exit status".into(),
            )),
        }
    }
}

fn append(stream: &mut Vec<u8>, data: &[u8], name: &'static str) -> Option<End> {
    if stream.len() + data.len() > OUTPUT_MAX {
        return Some(End::TooLarge(name));
    }
    stream.extend_from_slice(data);
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(messages: Vec<ChannelMsg>) -> Received {
        let mut received = Received::default();
        for message in messages {
            assert!(received.take(message).is_none());
        }
        received
    }

    #[test]
    fn missing_exit_status_is_not_success() {
        for end in [End::Closed, End::Disconnected] {
            let result = received(vec![ChannelMsg::Eof]).outcome(end, &Exec::new("true"));
            assert!(matches!(result, Err(ExecError::Lost(_))), "{result:?}");
        }
    }

    #[test]
    fn truncated_output_is_an_error() {
        let status = || vec![ChannelMsg::ExitStatus { exit_status: 0 }];
        let result = received(status()).outcome(End::Disconnected, &Exec::new("list"));
        assert!(matches!(result, Err(ExecError::Lost(_))), "{result:?}");
        let mut exec = Exec::new("start");
        exec.status_is_enough = true;
        assert!(
            received(status())
                .outcome(End::Disconnected, &exec)
                .unwrap()
                .is_success()
        );
    }

    #[test]
    fn debug_hides_input() {
        let mut exec = Exec::new("runner --stdin-config");
        exec.stdin = Bytes::from_static(b"{\"token\":\"sesame\"}");
        assert!(!format!("{exec:?}").contains("sesame"));
    }

    #[test]
    fn excerpt_keeps_end_without_control_characters() {
        assert_eq!(excerpt(b"a\nb\x1b[0m\n"), "a b [0m");
        let long = excerpt("x".repeat(600).as_bytes());
        assert_eq!(long.chars().count(), 501);
        assert!(long.starts_with('…'));
    }
}
