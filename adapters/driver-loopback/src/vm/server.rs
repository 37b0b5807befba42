//! SSH server: login and allowed requests.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Shutdown};
use std::sync::Arc;
use std::time::Duration;

use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::{PrivateKey, PublicKey};
use russh::server::{
    Auth, ChannelOpenHandle, Config, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey,
};
use russh::{Channel, ChannelId, ChannelOpenFailure, Disconnect, MethodKind, MethodSet, Pty};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

use super::children::Children;
use super::exec::Exec;
use super::{Environment, Vm, VmRunError, system};
use crate::store::{VmDir, VmRecord};

/// Maximum number of connections; further connections are closed immediately.
const CONNECTIONS_MAX: usize = 64;

/// Maximum number of open channels of a connection.
const CHANNELS_MAX: usize = 64;

/// Maximum number of channels over the lifetime of a connection. Above the maximum, the connection
/// is closed as soon as no channel is open, because the SSH library keeps a few kilobytes per
/// channel until then.
const CHANNELS_TOTAL_MAX: u32 = 10_000;

/// Time limit for the login.
const LOGIN_GRACE: Duration = Duration::from_secs(20);

/// ClientConnection attempts on one connection.
const LOGIN_ATTEMPTS_MAX: usize = 6;

/// Delay of a rejected login.
const REJECTION_DELAY: Duration = Duration::from_millis(300);

/// Interval of keepalive requests; after three unanswered requests the connection is dropped.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Time limit for a client without any traffic.
const INACTIVITY_TIMEOUT: Duration = Duration::from_secs(90);

/// Delay before the next accept after a failed accept.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Opens the port, writes the address, serves connections forever.
pub(super) async fn serve(
    dir: &VmDir,
    record: &VmRecord,
    children: Arc<Children>,
    environment: Environment,
) -> Result<(), VmRunError> {
    let vm = Arc::new(Vm::new(record, children, environment)?);
    let config = Arc::new(config()?);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .map_err(system("open the SSH port"))?;
    let address = listener.local_addr().map_err(system("open the SSH port"))?;
    dir.write_address(&address.to_string())?;
    tracing::info!(%address, "serving");

    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&connections).try_acquire_owned() else {
            tracing::warn!("connection rejected: {CONNECTIONS_MAX} connections are open");
            continue;
        };
        let (vm, config) = (Arc::clone(&vm), Arc::clone(&config));
        tokio::spawn(async move {
            if let Err(error) = connection(vm, config, stream).await {
                tracing::debug!(%error, "connection lost");
            }
            drop(slot);
        });
    }
}

fn config() -> Result<Config, VmRunError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| VmRunError::System {
        what: "generate a host key",
        source: std::io::Error::other(error.to_string()),
    })?;
    Ok(Config {
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        auth_rejection_time: REJECTION_DELAY,
        // This request queries the login methods; the query is not a login attempt.
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: vec![PrivateKey::from(Ed25519Keypair::from_seed(&seed))],
        max_auth_attempts: LOGIN_ATTEMPTS_MAX,
        inactivity_timeout: Some(INACTIVITY_TIMEOUT),
        keepalive_interval: Some(KEEPALIVE_INTERVAL),
        keepalive_max: 3,
        nodelay: true,
        ..Config::default()
    })
}

async fn connection(
    vm: Arc<Vm>,
    config: Arc<Config>,
    stream: TcpStream,
) -> Result<(), russh::Error> {
    let deadline = Instant::now() + LOGIN_GRACE;
    stream.set_nodelay(true)?;
    // The deadline of the session does not cover a stalled handshake, but a socket shutdown does.
    let stream = stream.into_std()?;
    let socket = stream.try_clone()?;
    let stream = TcpStream::from_std(stream)?;
    let (sender, logged_in) = oneshot::channel();
    let connection = ClientConnection {
        vm,
        logged_in: Some(sender),
        slots: Arc::new(Semaphore::new(CHANNELS_MAX)),
        channels: 0,
        open: HashMap::new(),
    };
    let starting = russh::server::run_stream(config, stream, connection);
    let mut session = tokio::time::timeout_at(deadline, starting)
        .await
        .map_err(|_| russh::Error::ConnectionTimeout)??;
    tokio::select! {
        ended = &mut session => return ended,
        in_time = tokio::time::timeout_at(deadline, logged_in) => {
            if !matches!(in_time, Ok(Ok(()))) {
                socket.shutdown(Shutdown::Both)?;
            }
        }
    }
    drop(socket);
    session.await
}

/// Connection of a client.
struct ClientConnection {
    vm: Arc<Vm>,
    logged_in: Option<oneshot::Sender<()>>,
    slots: Arc<Semaphore>,
    /// Number of channels opened so far.
    channels: u32,
    /// Open channels before the exec request.
    open: HashMap<ChannelId, (Channel<Msg>, OwnedSemaphorePermit)>,
}

impl ClientConnection {
    fn authenticate(&self, user: &str, key: &PublicKey) -> Auth {
        if self.vm.is_authorized(user, key) {
            Auth::Accept
        } else {
            Auth::reject()
        }
    }
}

/// All other requests (passwords, forwarding, …) are rejected by the default methods.
impl Handler for ClientConnection {
    type Error = russh::Error;

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        Ok(self.authenticate(user, offer.public_key))
    }

    async fn auth_publickey(
        &mut self,
        user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        Ok(self.authenticate(user, key.public_key))
    }

    async fn auth_succeeded(&mut self, _session: &mut Session) -> Result<(), Self::Error> {
        if let Some(sender) = self.logged_in.take() {
            // The receiver is dropped if the time limit for the login has just passed.
            let _ = sender.send(());
        }
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        match Arc::clone(&self.slots).try_acquire_owned() {
            Ok(slot) => {
                self.channels = self.channels.saturating_add(1);
                self.open.insert(channel.id(), (channel, slot));
                reply.accept().await;
            }
            Err(_) => reply.reject(ChannelOpenFailure::ResourceShortage).await,
        }
        Ok(())
    }

    async fn channel_close(
        &mut self,
        channel: ChannelId,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.open.remove(&channel);
        Ok(())
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let Some((channel, slot)) = self.open.remove(&id) else {
            return session.channel_failure(id);
        };
        match Exec::start(&self.vm, command) {
            Ok(exec) => {
                session.channel_success(id)?;
                let (vm, handle) = (Arc::clone(&self.vm), session.handle());
                let slots = Arc::clone(&self.slots);
                let channel_limit_reached = self.channels >= CHANNELS_TOTAL_MAX;
                tokio::spawn(async move {
                    exec.run(&vm, channel, &handle).await;
                    drop(slot);
                    if channel_limit_reached && slots.available_permits() == CHANNELS_MAX {
                        let message = "channel limit reached, please reconnect".to_owned();
                        // Fails only if the connection is lost.
                        let _ = handle
                            .disconnect(Disconnect::ByApplication, message, String::new())
                            .await;
                    }
                });
                Ok(())
            }
            Err(error) => {
                tracing::warn!(%error, "cannot start a command");
                session.channel_failure(id)?;
                session.close(id)
            }
        }
    }

    async fn shell_request(
        &mut self,
        channel: ChannelId,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        _name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        _name: &str,
        _value: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        _term: &str,
        _col_width: u32,
        _row_height: u32,
        _pix_width: u32,
        _pix_height: u32,
        _modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _single_connection: bool,
        _protocol: &str,
        _cookie: &str,
        _screen: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }
}
