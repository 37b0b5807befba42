//! SSH connection to one VM: dialing, shared use by commands, and closing.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use longshore_core::input::VmError;
use longshore_secret::Secret;
use russh::client::{self, AuthResult, Handle, Msg};
use russh::keys::{Algorithm, HashAlg, PrivateKeyWithHashAlg, PublicKey};
use russh::{Channel, Disconnect, Error, Preferred};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use crate::address::Address;
use crate::exec::{ChannelError, Exec, ExecError, Output, UsedChannel, execute, unreachable};
use crate::host_key_check::{HostKeyCheck, fingerprint};
use crate::script;
use crate::settings::SshSettings;

/// Maximum number of open channels per connection: half of the default of OpenSSH, because the
/// server frees channels late.
pub(crate) const CHANNELS_MAX: usize = 5;
/// Number of abandoned commands after which a connection is retired: each abandoned command
/// occupies a session of the server.
const ABANDONED_MAX: u32 = 4;
const TCP_MAX: Duration = Duration::from_secs(10);
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
const LOGIN_MAX: Duration = Duration::from_secs(10);
const IDENTITY_MAX: Duration = Duration::from_secs(20);
const CHANNEL_MAX: Duration = Duration::from_secs(10);
/// Attempts to open a channel, over about 10 s.
const CHANNEL_TRIES_MAX: u32 = 24;
/// Attempts to open a channel while no other command runs on the connection, over about 2 s: no
/// command can end and free a channel.
const CHANNEL_TRIES_ALONE_MAX: u32 = 8;
const CHANNEL_RETRY_MIN: Duration = Duration::from_millis(20);
const CHANNEL_RETRY_MAX: Duration = Duration::from_millis(500);
/// Keepalive interval. The connection is closed after four intervals without an answer.
const KEEPALIVE: Duration = Duration::from_millis(2_500);
/// Inactivity timeout for the phases without keepalive: before the login, and while the peer
/// accepts no data.
const STALLED_MAX: Duration = Duration::from_secs(15);
/// Timeout of the disconnect message.
const DISCONNECT_MAX: Duration = Duration::from_secs(1);

/// Connection to a VM. Used for the identity check and, after a successful check, for commands.
pub(crate) struct Connection {
    handle: Handle<HostKeyCheck>,
    channels: Arc<Semaphore>,
    abandoned: AtomicU32,
    retired: AtomicBool,
}

/// Settings and limits for new connections.
pub(crate) struct Dialer {
    pub(crate) settings: SshSettings,
    /// Limit for concurrent key exchanges.
    pub(crate) connects: Semaphore,
}

impl Dialer {
    /// Connects and verifies the identity of the VM, by the pinned host key or else by the instance
    /// secret, before any other command. Returns the host key to pin.
    pub(crate) async fn dial(
        &self,
        address: &Address,
        pinned: Option<&PublicKey>,
        secret: &Secret,
    ) -> Result<(Arc<Connection>, PublicKey), VmError> {
        let failed =
            |step: &str, why: String| VmError::Unreachable(format!("{step} {address}: {why}"));
        let tcp = TcpStream::connect((address.host.as_str(), address.port));
        let tcp = step(TCP_MAX, tcp)
            .await
            .map_err(|e| failed("connecting to", e))?;
        // The packets are small and latency matters.
        tcp.set_nodelay(true)
            .map_err(|e| failed("connecting to", e.to_string()))?;
        // The server sends first. A silent server must not occupy a permit.
        let mut first = [0];
        step(HANDSHAKE_MAX, tcp.peek(&mut first))
            .await
            .map_err(|e| failed("SSH key exchange with", e))?;

        let _permit = self.connects.acquire().await;
        let (handler, observed) = HostKeyCheck::new(pinned.cloned());
        let config = Arc::new(config(pinned));
        let handle = step(HANDSHAKE_MAX, client::connect_stream(config, tcp, handler)).await;
        let mut handle = match (handle, observed.refused()) {
            (Ok(handle), _) => handle,
            (Err(_), Some(other)) => return Err(changed_key(address, pinned, &other)),
            (Err(why), None) => return Err(failed("SSH key exchange with", why)),
        };
        let accepted = step(LOGIN_MAX, self.log_in(&mut handle))
            .await
            .map_err(|e| failed("SSH login at", e))?;
        if !accepted {
            let user = &self.settings.user;
            let why = format!("the key is not accepted for user {user}");
            return Err(failed("SSH login at", why));
        }
        let connection = Arc::new(Connection::new(handle));
        if pinned.is_none()
            && let Err(error) = self.check_identity(&connection, secret).await
        {
            connection.close();
            return Err(error);
        }
        observed
            .accepted()
            .map(|key| (connection, key))
            .ok_or_else(|| {
                failed(
                    "SSH key exchange with",
                    "the server sent no host key".into(),
                )
            })
    }

    async fn log_in(&self, handle: &mut Handle<HostKeyCheck>) -> Result<bool, Error> {
        let key = &self.settings.key.private;
        // Servers without the signature algorithm extension usually accept SHA-256.
        let hash = if key.algorithm().is_rsa() {
            handle
                .best_supported_rsa_hash()
                .await?
                .unwrap_or(Some(HashAlg::Sha256))
        } else {
            None
        };
        let key = PrivateKeyWithHashAlg::new(Arc::clone(key), hash);
        let answer = handle
            .authenticate_publickey(self.settings.user.as_str(), key)
            .await?;
        match answer {
            AuthResult::Success => Ok(true),
            // The library reports a broken connection as a failed authentication.
            AuthResult::Failure { .. } if handle.is_closed() => Err(Error::Disconnect),
            AuthResult::Failure { .. } => Ok(false),
        }
    }

    /// Reads the instance secret from the VM and compares. Must be the first command on the
    /// connection, and the last command if the comparison fails.
    async fn check_identity(
        &self,
        connection: &Arc<Connection>,
        secret: &Secret,
    ) -> Result<(), VmError> {
        let exec = Exec::new(script::read_secret(
            self.settings.sudo,
            &self.settings.secret_path,
        ));
        let output = match connection.run(&exec, Instant::now() + IDENTITY_MAX).await {
            Ok(output) => output,
            Err(ChannelError::ConnectionClosed) => {
                return Err(VmError::Unreachable(
                    "the connection ended before the VM's identity was checked".into(),
                ));
            }
            Err(ChannelError::Final(ExecError::NotSent(why))) => return Err(why),
            // Unlimited output counts as a wrong secret.
            Err(ChannelError::Final(ExecError::TooLarge(_))) => return Err(wrong_secret()),
            Err(ChannelError::Final(why)) => {
                return Err(VmError::Unreachable(format!(
                    "checking the VM's identity: {why}"
                )));
            }
        };
        if !output.is_success() {
            return Err(VmError::IdentityMismatch(format!(
                "the instance secret could not be read: {}",
                output.failure_text()
            )));
        }
        // `Secret` wipes the text on drop and compares in constant time.
        match String::from_utf8(output.stdout).map(Secret::new) {
            Ok(actual) if !secret.is_empty() && actual == *secret => Ok(()),
            _ => Err(wrong_secret()),
        }
    }
}

fn wrong_secret() -> VmError {
    VmError::IdentityMismatch("the secret on the VM is not the instance secret".into())
}

fn changed_key(address: &Address, pinned: Option<&PublicKey>, other: &PublicKey) -> VmError {
    let before = pinned.map_or_else(|| "another key".to_owned(), fingerprint);
    VmError::IdentityMismatch(format!(
        "host key changed: {address} now has {}, before {before}",
        fingerprint(other)
    ))
}

async fn step<T, E: std::fmt::Display>(
    max: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, String> {
    match timeout(max, work).await {
        Ok(done) => done.map_err(|e| e.to_string()),
        Err(_) => Err(format!("no answer within {} s", max.as_secs())),
    }
}

fn config(pinned: Option<&PublicKey>) -> client::Config {
    let mut preferred = Preferred::DEFAULT;
    if let Some(pinned) = pinned {
        // Prefer the pinned key if the server has several host keys.
        let mut algorithms = preferred.key.to_vec();
        algorithms.sort_by_key(|a| !is_same_kind(a, &pinned.algorithm()));
        preferred.key = Cow::Owned(algorithms);
    }
    client::Config {
        preferred,
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: 3,
        inactivity_timeout: Some(STALLED_MAX),
        ..client::Config::default()
    }
}

fn is_same_kind(a: &Algorithm, b: &Algorithm) -> bool {
    let is_rsa = |algorithm: &Algorithm| matches!(algorithm, Algorithm::Rsa { .. });
    a == b || (is_rsa(a) && is_rsa(b))
}

impl Connection {
    fn new(handle: Handle<HostKeyCheck>) -> Self {
        Self {
            handle,
            channels: Arc::new(Semaphore::new(CHANNELS_MAX)),
            abandoned: AtomicU32::new(0),
            retired: AtomicBool::new(false),
        }
    }

    /// True if new commands may use the connection.
    pub(crate) fn is_usable(&self) -> bool {
        !self.handle.is_closed() && !self.retired.load(Ordering::Relaxed)
    }

    /// Closes the connection and aborts all commands.
    pub(crate) fn close(self: &Arc<Self>) {
        self.retired.store(true, Ordering::Relaxed);
        let connection = Arc::clone(self);
        tokio::spawn(async move {
            let disconnect = connection
                .handle
                .disconnect(Disconnect::ByApplication, "", "en");
            // The inactivity timeout ends a stalled connection.
            let _ = timeout(DISCONNECT_MAX, disconnect).await;
        });
    }

    /// Refuses new commands. The connection closes after the last running command.
    fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Runs a command until its end or deadline and then cleans up the channel, even if the
    /// returned future is dropped.
    pub(crate) async fn run(
        self: &Arc<Self>,
        exec: &Exec,
        deadline: Instant,
    ) -> Result<Output, ChannelError> {
        let (answer, answered) = oneshot::channel();
        let (connection, exec) = (Arc::clone(self), exec.clone());
        tokio::spawn(async move { connection.drive(exec, deadline, answer).await });
        answered.await.unwrap_or_else(|_| {
            let why = "the task running the command failed";
            Err(ChannelError::Final(ExecError::Lost(why.into())))
        })
    }

    async fn drive(
        self: Arc<Self>,
        exec: Exec,
        deadline: Instant,
        answer: oneshot::Sender<Result<Output, ChannelError>>,
    ) {
        let permit = timeout_at(deadline, Arc::clone(&self.channels).acquire_owned()).await;
        let Ok(Ok(permit)) = permit else {
            let why = format!("all {CHANNELS_MAX} channels were busy until the deadline");
            let _ = answer.send(Err(ChannelError::Final(unreachable(why))));
            return;
        };
        let channel = match self.open(deadline).await {
            Opened::Channel(channel) => channel,
            Opened::Refused(refused) => {
                let _ = answer.send(Err(refused));
                return;
            }
            Opened::Late(late) => {
                let why = "no channel was opened until the deadline";
                let _ = answer.send(Err(ChannelError::Final(unreachable(why))));
                // A channel opened late must be closed, or the server keeps the session.
                match timeout(CHANNEL_MAX, late).await {
                    Ok(Ok(channel)) => {
                        let _ = channel.close().await;
                        self.abandon();
                    }
                    Ok(Err(_)) => {}
                    // The connection is open but opens no channel: no command can succeed.
                    Err(_) => self.close(),
                }
                return;
            }
        };
        let (outcome, used) = execute(channel, &exec, deadline).await;
        let _ = answer.send(outcome);
        self.clean_up(used).await;
        drop(permit);
    }

    /// Opens a channel. Retries while the server reports that no channel is free, because servers
    /// free channels late.
    async fn open(self: &Arc<Self>, deadline: Instant) -> Opened {
        let until = deadline.min(Instant::now() + CHANNEL_MAX);
        let mut pause = CHANNEL_RETRY_MIN;
        for tries in 1..=CHANNEL_TRIES_MAX {
            let connection = Arc::clone(self);
            // A separate task: cancelling the call would leave an open channel without an owner.
            let mut opening =
                tokio::spawn(async move { connection.handle.channel_open_session().await });
            let opened = tokio::select! {
                opened = &mut opening => opened,
                () = sleep_until(until) => {
                    return Opened::Late(Box::pin(async move {
                        opening.await.unwrap_or(Err(Error::Disconnect))
                    }));
                }
            };
            match opened {
                Ok(Ok(channel)) => return Opened::Channel(channel),
                Ok(Err(Error::ChannelOpenFailure(_))) => {
                    if Instant::now() + pause >= deadline {
                        let why = "the SSH server opened no channel until the deadline";
                        return Opened::Refused(ChannelError::Final(unreachable(why)));
                    }
                    let alone = self.channels.available_permits() + 1 >= CHANNELS_MAX;
                    if alone && tries >= CHANNEL_TRIES_ALONE_MAX {
                        break;
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(CHANNEL_RETRY_MAX);
                }
                Ok(Err(_)) | Err(_) => return Opened::Refused(ChannelError::ConnectionClosed),
            }
        }
        // All sessions are occupied by commands that cannot be ended. A new connection has new
        // sessions.
        self.retire();
        Opened::Refused(ChannelError::ConnectionClosed)
    }

    /// Cleans up a channel. A command still running cannot be ended remotely (OpenSSH does not
    /// deliver signals to processes of root): the command loses its streams, and the server may
    /// keep a session.
    async fn clean_up(&self, used: UsedChannel) {
        if !used.closed {
            let _ = used.write.close().await;
            self.abandon();
        }
    }

    fn abandon(&self) {
        if self.abandoned.fetch_add(1, Ordering::Relaxed) + 1 >= ABANDONED_MAX {
            self.retire();
        }
    }
}

enum Opened {
    Channel(Channel<Msg>),
    Refused(ChannelError),
    Late(std::pin::Pin<Box<dyn Future<Output = Result<Channel<Msg>, Error>> + Send>>),
}
