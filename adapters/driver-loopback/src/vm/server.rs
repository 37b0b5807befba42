//! The SSH server: who may log in, and what may be asked.

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

/// Connections at a time; more are closed at once.
const CONNECTIONS_MAX: usize = 64;

/// Channels at a time on one connection.
const CHANNELS_MAX: usize = 64;

/// After so many channels a connection is ended as soon as it has none: the library keeps a few
/// kilobytes of each until then.
const CHANNELS_IN_ALL_MAX: u32 = 10_000;

/// A connection must have logged in after this.
const LOGIN_GRACE: Duration = Duration::from_secs(20);

/// Login attempts on one connection.
const LOGIN_ATTEMPTS_MAX: usize = 6;

/// Each refused login takes this long.
const REFUSAL_TIME: Duration = Duration::from_millis(300);

/// Asks a silent client for a sign of life; one that owes three is dropped.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// A client that takes nothing from its connection for so long is dropped.
const SILENCE_MAX: Duration = Duration::from_secs(90);

/// After the system had no more room for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Opens the port, tells the address, serves for ever.
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
        .map_err(system("open a port"))?;
    let address = listener.local_addr().map_err(system("open a port"))?;
    dir.write_address(&address.to_string())?;
    tracing::info!(%address, "serving");

    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&connections).try_acquire_owned() else {
            tracing::warn!("connection refused: {CONNECTIONS_MAX} are open");
            continue;
        };
        let (vm, config) = (Arc::clone(&vm), Arc::clone(&config));
        tokio::spawn(async move {
            if let Err(error) = connection(vm, config, stream).await {
                tracing::debug!(%error, "connection lost");
            }
            drop(place);
        });
    }
}

fn config() -> Result<Config, VmRunError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| VmRunError::System {
        what: "draw a host key",
        source: std::io::Error::other(error.to_string()),
    })?;
    Ok(Config {
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        auth_rejection_time: REFUSAL_TIME,
        // Clients ask so what they may try; it is no attempt.
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: vec![PrivateKey::from(Ed25519Keypair::from_seed(&seed))],
        max_auth_attempts: LOGIN_ATTEMPTS_MAX,
        inactivity_timeout: Some(SILENCE_MAX),
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
    // A client that stalls the handshake is out of the session's reach, not out of the socket's.
    let stream = stream.into_std()?;
    let socket = stream.try_clone()?;
    let stream = TcpStream::from_std(stream)?;
    let (tell, logged_in) = oneshot::channel();
    let login = Login {
        vm,
        logged_in: Some(tell),
        places: Arc::new(Semaphore::new(CHANNELS_MAX)),
        channels: 0,
        open: HashMap::new(),
    };
    let starting = russh::server::run_stream(config, stream, login);
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

/// One connection.
struct Login {
    vm: Arc<Vm>,
    logged_in: Option<oneshot::Sender<()>>,
    places: Arc<Semaphore>,
    /// Opened so far.
    channels: u32,
    /// Channels that have not been told yet what to run.
    open: HashMap<ChannelId, (Channel<Msg>, OwnedSemaphorePermit)>,
}

impl Login {
    fn judge(&self, user: &str, key: &PublicKey) -> Auth {
        if self.vm.admits(user, key) {
            Auth::Accept
        } else {
            Auth::reject()
        }
    }
}

/// Everything that is not mentioned here (passwords, forwarding, …) is refused by default.
impl Handler for Login {
    type Error = russh::Error;

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        Ok(self.judge(user, offer.public_key))
    }

    async fn auth_publickey(
        &mut self,
        user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        Ok(self.judge(user, key.public_key))
    }

    async fn auth_succeeded(&mut self, _session: &mut Session) -> Result<(), Self::Error> {
        if let Some(tell) = self.logged_in.take() {
            // Nobody listens any longer if the time for it is just over.
            let _ = tell.send(());
        }
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => {
                self.channels = self.channels.saturating_add(1);
                self.open.insert(channel.id(), (channel, place));
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
        let Some((channel, place)) = self.open.remove(&id) else {
            return session.channel_failure(id);
        };
        match Exec::start(&self.vm, command) {
            Ok(exec) => {
                session.channel_success(id)?;
                let (vm, handle) = (Arc::clone(&self.vm), session.handle());
                let places = Arc::clone(&self.places);
                let worn_out = self.channels >= CHANNELS_IN_ALL_MAX;
                tokio::spawn(async move {
                    exec.run(&vm, channel, &handle).await;
                    drop(place);
                    if worn_out && places.available_permits() == CHANNELS_MAX {
                        let why = "connect again".to_owned();
                        // Fails only if the connection is gone.
                        let _ = handle
                            .disconnect(Disconnect::ByApplication, why, String::new())
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
