//! One command on one channel: what goes in, what comes out, and what silence means.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use longshore_core::input::VmError;
use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::time::{Instant, sleep_until, timeout_at};

/// At most so much of each output stream is kept; a command that says more is cut off.
pub(crate) const OUTPUT_MAX: usize = 1 << 20;
/// After its exit, a command whose output does not matter is waited for no longer than this.
const LINGER: Duration = Duration::from_secs(1);
/// Extended data of this kind is standard error.
const STDERR: u32 = 1;

/// A command for the shell of a VM.
#[derive(Clone)]
pub struct Exec {
    /// The words for the shell.
    pub command: String,
    /// Its whole standard input; end of file follows.
    pub stdin: Bytes,
    /// Whether the exit status alone tells the outcome. Otherwise the output must have arrived whole,
    /// and a descendant that keeps a stream open keeps the command from ending.
    pub status_is_enough: bool,
}

impl Exec {
    /// A command without input, whose output matters.
    #[must_use]
    pub fn new(command: impl Into<String>) -> Self {
        Self {
            command: command.into(),
            stdin: Bytes::new(),
            status_is_enough: false,
        }
    }
}

/// Shows the command and how long its input is: the input may be secret.
impl fmt::Debug for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exec")
            .field("command", &self.command)
            .field("stdin_bytes", &self.stdin.len())
            .field("status_is_enough", &self.status_is_enough)
            .finish()
    }
}

/// What a command left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub exit: Exit,
    /// What it wrote to standard output, at most 1 MiB.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error, at most 1 MiB.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Whether it exited with status 0.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.exit == Exit::Status(0)
    }

    /// How it ended and the end of its standard error, for a message.
    #[must_use]
    pub fn complaint(&self) -> String {
        match excerpt(&self.stderr) {
            words if words.is_empty() => self.exit.to_string(),
            words => format!("{}: {words}", self.exit),
        }
    }
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this status.
    Status(u32),
    /// By a signal of this name, without `SIG`.
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

/// Why a command has no [`Output`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExecError {
    /// It was not sent: nothing was done.
    #[error("{0}")]
    NotSent(VmError),
    /// The connection ended while it ran: it may have been done. Look whether the VM still exists.
    #[error("{0}")]
    Lost(String),
    /// It had not ended at the deadline: it was left alone, and may have been done.
    #[error("it had not ended at its deadline")]
    Deadline {
        /// What had arrived by then.
        stdout: Vec<u8>,
        /// The same.
        stderr: Vec<u8>,
    },
    /// It said more than we keep: it was left alone, and may have been done.
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

/// The end of a command's words, as one line without control characters.
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

/// Why a command could not be put on its channel.
pub(crate) enum Refused {
    /// The connection had ended before: another one may do.
    Gone,
    /// This is the answer.
    Final(ExecError),
}

/// What is left of a channel on which a command has been.
pub(crate) struct Leftover {
    read: ChannelReadHalf,
    pub(crate) write: ChannelWriteHalf<Msg>,
    /// Whether the peer has closed it.
    pub(crate) closed: bool,
}

/// Runs a command on a fresh channel. The channel must be cleaned up afterwards, whatever came out.
pub(crate) async fn talk(
    channel: Channel<Msg>,
    exec: &Exec,
    deadline: Instant,
) -> (Result<Output, Refused>, Leftover) {
    let (read, write) = channel.split();
    let mut left = Leftover {
        read,
        write,
        closed: false,
    };
    match timeout_at(deadline, left.write.exec(true, exec.command.as_str())).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) => return (Err(Refused::Gone), left),
        Err(_) => {
            let why = "the connection took no command until the deadline";
            return (Err(Refused::Final(unreachable(why))), left);
        }
    }
    let mut heard = Heard::default();
    let end = listen(&mut left, &mut heard, exec, deadline).await;
    left.closed = matches!(end, End::Closed | End::Cut);
    (heard.outcome(end, exec).map_err(Refused::Final), left)
}

/// Feeds the command and hears it out. Both go on at once: a command that talks before it has read
/// its input would otherwise stop the whole connection.
async fn listen(left: &mut Leftover, heard: &mut Heard, exec: &Exec, deadline: Instant) -> End {
    let write = &left.write;
    let feed = async {
        write.data_bytes(exec.stdin.clone()).await?;
        write.eof().await
    };
    tokio::pin!(feed);
    let mut fed = false;
    let mut patience = deadline;
    loop {
        tokio::select! {
            // An error here is the end of the connection, of which the other branch hears as well.
            _ = &mut feed, if !fed => fed = true,
            message = left.read.wait() => {
                let Some(message) = message else { return End::Cut };
                if let Some(end) = heard.take(message) {
                    return end;
                }
                if heard.exit.is_some() && exec.status_is_enough {
                    patience = patience.min(Instant::now() + LINGER);
                }
            }
            () = sleep_until(patience) => return End::Deadline,
        }
    }
}

/// Why listening ended.
#[derive(Clone, Copy)]
enum End {
    /// The peer closed the channel in order.
    Closed,
    /// The connection ended.
    Cut,
    Deadline,
    TooLarge(&'static str),
    /// The peer does not run commands.
    Rejected,
}

#[derive(Default)]
struct Heard {
    exit: Option<Exit>,
    eof: bool,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Heard {
    fn take(&mut self, message: ChannelMsg) -> Option<End> {
        match message {
            ChannelMsg::Data { data } => return keep(&mut self.stdout, &data, "standard output"),
            ChannelMsg::ExtendedData { data, ext: STDERR } => {
                return keep(&mut self.stderr, &data, "standard error");
            }
            ChannelMsg::ExitStatus { exit_status } => self.exit = Some(Exit::Status(exit_status)),
            ChannelMsg::ExitSignal { signal_name, .. } => {
                // Its `Debug` is the name for the known ones and `Custom("…")` otherwise.
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
        let whole = self.eof || exec.status_is_enough;
        match (end, self.exit) {
            (End::TooLarge(stream), _) => Err(ExecError::TooLarge(stream)),
            (End::Rejected, _) => Err(unreachable("the SSH server refuses to run commands")),
            (End::Closed, Some(exit)) => Ok(Output {
                exit,
                stdout: self.stdout,
                stderr: self.stderr,
            }),
            (End::Cut | End::Deadline, Some(exit)) if whole => Ok(Output {
                exit,
                stdout: self.stdout,
                stderr: self.stderr,
            }),
            (End::Deadline, _) => Err(ExecError::Deadline {
                stdout: self.stdout,
                stderr: self.stderr,
            }),
            (End::Cut, _) => Err(ExecError::Lost(
                "the connection ended while the command ran".into(),
            )),
            (End::Closed, None) => Err(ExecError::Lost(
                "the SSH server ended the command without saying how".into(),
            )),
        }
    }
}

fn keep(stream: &mut Vec<u8>, data: &[u8], name: &'static str) -> Option<End> {
    if stream.len() + data.len() > OUTPUT_MAX {
        return Some(End::TooLarge(name));
    }
    stream.extend_from_slice(data);
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(messages: Vec<ChannelMsg>) -> Heard {
        let mut heard = Heard::default();
        for message in messages {
            assert!(heard.take(message).is_none());
        }
        heard
    }

    #[test]
    fn an_end_without_exit_status_is_never_success() {
        for end in [End::Closed, End::Cut] {
            let said = heard(vec![ChannelMsg::Eof]).outcome(end, &Exec::new("true"));
            assert!(matches!(said, Err(ExecError::Lost(_))), "{said:?}");
        }
    }

    #[test]
    fn output_that_may_be_cut_off_is_not_trusted() {
        let status = || vec![ChannelMsg::ExitStatus { exit_status: 0 }];
        let said = heard(status()).outcome(End::Cut, &Exec::new("list"));
        assert!(matches!(said, Err(ExecError::Lost(_))), "{said:?}");
        let mut exec = Exec::new("start");
        exec.status_is_enough = true;
        assert!(
            heard(status())
                .outcome(End::Cut, &exec)
                .unwrap()
                .is_success()
        );
    }

    #[test]
    fn debug_shows_no_input() {
        let mut exec = Exec::new("runner --stdin-config");
        exec.stdin = Bytes::from_static(b"{\"token\":\"sesame\"}");
        assert!(!format!("{exec:?}").contains("sesame"));
    }

    #[test]
    fn an_excerpt_is_the_end_in_one_clean_line() {
        assert_eq!(excerpt(b"a\nb\x1b[0m\n"), "a b [0m");
        let long = excerpt("x".repeat(600).as_bytes());
        assert_eq!(long.chars().count(), 501);
        assert!(long.starts_with('…'));
    }
}
