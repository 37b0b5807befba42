//! A connection to one VM: how it is made, how commands share it, how it is left.

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
use crate::exec::{Exec, ExecError, Leftover, Output, Refused, talk, unreachable};
use crate::gate::{Gate, fingerprint};
use crate::script;
use crate::settings::SshSettings;

/// Channels at once on one connection: half of what OpenSSH allows by default, because it frees
/// them late.
pub(crate) const CHANNELS_MAX: usize = 5;
/// A connection on which so many commands could not be ended is given up: each holds one of the
/// server's sessions.
const ABANDONED_MAX: u32 = 4;
const TCP_MAX: Duration = Duration::from_secs(10);
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
const LOGIN_MAX: Duration = Duration::from_secs(10);
const IDENTITY_MAX: Duration = Duration::from_secs(20);
const CHANNEL_MAX: Duration = Duration::from_secs(10);
/// In about 10 s.
const CHANNEL_TRIES_MAX: u32 = 24;
/// The same where no command of ours is there whose end could free a channel: in about 2 s.
const CHANNEL_TRIES_ALONE_MAX: u32 = 8;
const CHANNEL_RETRY_MIN: Duration = Duration::from_millis(20);
const CHANNEL_RETRY_MAX: Duration = Duration::from_millis(500);
/// A silent peer is given up after this and three more.
const KEEPALIVE: Duration = Duration::from_millis(2_500);
/// Where keepalive cannot look: before the login, and while the peer takes no data.
const STALLED_MAX: Duration = Duration::from_secs(15);
/// How long saying goodbye may take.
const GOODBYE_MAX: Duration = Duration::from_secs(1);

/// A connection to a VM whose identity is proved, or about to be.
pub(crate) struct Connection {
    handle: Handle<Gate>,
    channels: Arc<Semaphore>,
    abandoned: AtomicU32,
    retired: AtomicBool,
}

/// What making a connection takes, apart from the address.
pub(crate) struct Dialer {
    pub(crate) settings: SshSettings,
    /// Key exchanges at a time.
    pub(crate) connects: Semaphore,
}

impl Dialer {
    /// Connects, and makes sure that it is the right VM before anything else is said: by its pinned
    /// key, or by the secret. Returns the key to pin.
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
        // Small packets, and somebody waits for each.
        tcp.set_nodelay(true)
            .map_err(|e| failed("connecting to", e.to_string()))?;
        // The server speaks first. One that does not shall not keep others from their turn.
        let mut first = [0];
        step(HANDSHAKE_MAX, tcp.peek(&mut first))
            .await
            .map_err(|e| failed("SSH key exchange with", e))?;

        let _permit = self.connects.acquire().await;
        let (gate, seen) = Gate::new(pinned.cloned());
        let config = Arc::new(config(pinned));
        let handle = step(HANDSHAKE_MAX, client::connect_stream(config, tcp, gate)).await;
        let mut handle = match (handle, seen.refused()) {
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
        seen.accepted()
            .map(|key| (connection, key))
            .ok_or_else(|| failed("SSH key exchange with", "no host key was shown".into()))
    }

    async fn log_in(&self, handle: &mut Handle<Gate>) -> Result<bool, Error> {
        let key = &self.settings.key.private;
        // Servers that do not say what they take still take this one.
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
            // The library reports a broken connection as a refusal.
            AuthResult::Failure { .. } if handle.is_closed() => Err(Error::Disconnect),
            AuthResult::Failure { .. } => Ok(false),
        }
    }

    /// Asks for the secret: the first command, and the last one if the answer is wrong.
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
            Err(Refused::Gone) => {
                return Err(VmError::Unreachable(
                    "the connection ended before the VM's identity was checked".into(),
                ));
            }
            Err(Refused::Final(ExecError::NotSent(why))) => return Err(why),
            // That it talks without end is an answer too, and a wrong one.
            Err(Refused::Final(ExecError::TooLarge(_))) => return Err(wrong_secret()),
            Err(Refused::Final(why)) => {
                return Err(VmError::Unreachable(format!(
                    "checking the VM's identity: {why}"
                )));
            }
        };
        if !output.is_success() {
            return Err(VmError::IdentityMismatch(format!(
                "the instance secret could not be read: {}",
                output.complaint()
            )));
        }
        // Taken over, so that it is wiped; compared in constant time.
        match String::from_utf8(output.stdout).map(Secret::new) {
            Ok(shown) if !secret.is_empty() && shown == *secret => Ok(()),
            _ => Err(wrong_secret()),
        }
    }
}

fn wrong_secret() -> VmError {
    VmError::IdentityMismatch(
        "the VM shows another instance secret than the one it was given".into(),
    )
}

fn changed_key(address: &Address, pinned: Option<&PublicKey>, other: &PublicKey) -> VmError {
    let before = pinned.map_or_else(|| "another key".to_owned(), fingerprint);
    VmError::IdentityMismatch(format!(
        "host key changed: {address} now shows {}, after {before}",
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
        // A server with several keys shall show the one we know.
        let mut algorithms = preferred.key.to_vec();
        algorithms.sort_by_key(|a| !same_kind(a, &pinned.algorithm()));
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

fn same_kind(a: &Algorithm, b: &Algorithm) -> bool {
    let is_rsa = |algorithm: &Algorithm| matches!(algorithm, Algorithm::Rsa { .. });
    a == b || (is_rsa(a) && is_rsa(b))
}

impl Connection {
    fn new(handle: Handle<Gate>) -> Self {
        Self {
            handle,
            channels: Arc::new(Semaphore::new(CHANNELS_MAX)),
            abandoned: AtomicU32::new(0),
            retired: AtomicBool::new(false),
        }
    }

    /// Whether new commands may be put on it.
    pub(crate) fn is_usable(&self) -> bool {
        !self.handle.is_closed() && !self.retired.load(Ordering::Relaxed)
    }

    /// Ends it, with what runs on it.
    pub(crate) fn close(self: &Arc<Self>) {
        self.retired.store(true, Ordering::Relaxed);
        let connection = Arc::clone(self);
        tokio::spawn(async move {
            let bye = connection
                .handle
                .disconnect(Disconnect::ByApplication, "", "en");
            // Where it is stalled, the library gives it up by itself.
            let _ = timeout(GOODBYE_MAX, bye).await;
        });
    }

    /// Lets nothing new on it; it ends when what runs on it has ended.
    fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Runs a command. It goes on to its end or deadline, and its channel is cleaned up, even if the
    /// returned future is dropped.
    pub(crate) async fn run(
        self: &Arc<Self>,
        exec: &Exec,
        deadline: Instant,
    ) -> Result<Output, Refused> {
        let (answer, answered) = oneshot::channel();
        let (connection, exec) = (Arc::clone(self), exec.clone());
        tokio::spawn(async move { connection.drive(exec, deadline, answer).await });
        answered.await.unwrap_or_else(|_| {
            let why = "the task that ran the command broke off";
            Err(Refused::Final(ExecError::Lost(why.into())))
        })
    }

    async fn drive(
        self: Arc<Self>,
        exec: Exec,
        deadline: Instant,
        answer: oneshot::Sender<Result<Output, Refused>>,
    ) {
        let permit = timeout_at(deadline, Arc::clone(&self.channels).acquire_owned()).await;
        let Ok(Ok(permit)) = permit else {
            let why = format!("all {CHANNELS_MAX} channels were busy until the deadline");
            let _ = answer.send(Err(Refused::Final(unreachable(why))));
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
                let _ = answer.send(Err(Refused::Final(unreachable(why))));
                // It may still be opened: then it must be closed, or the server keeps it.
                match timeout(CHANNEL_MAX, late).await {
                    Ok(Ok(channel)) => {
                        let _ = channel.close().await;
                        self.abandon();
                    }
                    Ok(Err(_)) => {}
                    // Alive, but deaf: no command will ever get through.
                    Err(_) => self.close(),
                }
                return;
            }
        };
        let (outcome, left) = talk(channel, &exec, deadline).await;
        let _ = answer.send(outcome);
        self.leave(left).await;
        drop(permit);
    }

    /// Opens a channel, however often the server says that it has none left: it frees them late.
    async fn open(self: &Arc<Self>, deadline: Instant) -> Opened {
        let patience = deadline.min(Instant::now() + CHANNEL_MAX);
        let mut pause = CHANNEL_RETRY_MIN;
        for tries in 1..=CHANNEL_TRIES_MAX {
            let connection = Arc::clone(self);
            // Its own task: giving up in the middle would leave an open channel to nobody.
            let mut opening =
                tokio::spawn(async move { connection.handle.channel_open_session().await });
            let opened = tokio::select! {
                opened = &mut opening => opened,
                () = sleep_until(patience) => {
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
                        return Opened::Refused(Refused::Final(unreachable(why)));
                    }
                    let alone = self.channels.available_permits() + 1 >= CHANNELS_MAX;
                    if alone && tries >= CHANNEL_TRIES_ALONE_MAX {
                        break;
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(CHANNEL_RETRY_MAX);
                }
                Ok(Err(_)) | Err(_) => return Opened::Refused(Refused::Gone),
            }
        }
        // Its sessions are all taken by what we cannot end: a fresh connection has fresh ones.
        self.retire();
        Opened::Refused(Refused::Gone)
    }

    /// Leaves a channel. What still runs on it cannot be ended from here (OpenSSH delivers no signals
    /// to what belongs to root): it loses its streams, and the server may keep a session for it.
    async fn leave(&self, left: Leftover) {
        if !left.closed {
            let _ = left.write.close().await;
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
    Refused(Refused),
    Late(std::pin::Pin<Box<dyn Future<Output = Result<Channel<Msg>, Error>> + Send>>),
}
