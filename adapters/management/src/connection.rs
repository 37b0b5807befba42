//! Connections: so many at a time, none that idles for ever, encrypted where that is set.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, Sleep};
use tokio_rustls::Accept;
use tokio_rustls::server::TlsStream;

use crate::settings::ManagementSettings;

/// Accepts a connection once there is a place for it.
#[derive(Debug)]
pub(crate) struct Bounded {
    listener: TcpListener,
    places: Arc<Semaphore>,
    idle_timeout: Duration,
    /// Asked for each connection, so that a new certificate holds from the next one on.
    settings: watch::Receiver<Arc<ManagementSettings>>,
}

impl Bounded {
    pub(crate) fn new(
        listener: TcpListener,
        connections: usize,
        idle_timeout: Duration,
        settings: watch::Receiver<Arc<ManagementSettings>>,
    ) -> Self {
        Self {
            listener,
            places: Arc::new(Semaphore::new(connections)),
            idle_timeout,
            settings,
        }
    }
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        let (stream, caller) = Listener::accept(&mut self.listener).await;
        let tls = self.settings.borrow().tls.clone();
        let connection = Connection {
            wire: match tls {
                Some(tls) => Wire::Opening(Box::new(tls.acceptor().accept(stream))),
                None => Wire::Plain(stream),
            },
            idle_timeout: self.idle_timeout,
            idle: Box::pin(tokio::time::sleep(self.idle_timeout)),
            _place: place,
        };
        (connection, caller)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Whose connection it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller(pub(crate) SocketAddr);

impl Connected<IncomingStream<'_, Bounded>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Bounded>) -> Self {
        Self(*stream.remote_addr())
    }
}

/// What carries a connection's bytes.
enum Wire {
    Plain(TcpStream),
    /// The handshake is under way; whoever reads or writes first drives it.
    Opening(Box<Accept<TcpStream>>),
    Encrypted(Box<TlsStream<TcpStream>>),
    /// The handshake failed.
    Broken,
}

impl Wire {
    /// Lets the handshake go on, if there is one.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self::Opening(opening) = self else {
            return Poll::Ready(Ok(()));
        };
        match Pin::new(opening.as_mut()).poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(stream)) => {
                *self = Self::Encrypted(Box::new(stream));
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => {
                *self = Self::Broken;
                Poll::Ready(Err(error))
            }
        }
    }

    /// What is read from and written to once the connection is open.
    fn stream(&mut self) -> io::Result<Pin<&mut dyn Duplex>> {
        match self {
            Self::Plain(stream) => Ok(Pin::new(stream)),
            Self::Encrypted(stream) => Ok(Pin::new(stream.as_mut())),
            Self::Opening(_) | Self::Broken => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn poll_stream(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Pin<&mut dyn Duplex>>> {
        std::task::ready!(self.poll_open(cx))?;
        Poll::Ready(self.stream())
    }
}

trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain",
            Self::Opening(_) => "Opening",
            Self::Encrypted(_) => "Encrypted",
            Self::Broken => "Broken",
        })
    }
}

/// A connection that fails when nothing comes or goes for too long.
#[derive(Debug)]
pub(crate) struct Connection {
    wire: Wire,
    idle_timeout: Duration,
    idle: Pin<Box<Sleep>>,
    /// Given back when the connection is dropped.
    _place: Option<OwnedSemaphorePermit>,
}

impl Connection {
    /// Passes on what moved; what did not may wait until the timer is out.
    fn bound<T>(
        &mut self,
        cx: &mut Context<'_>,
        moved: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if moved.is_ready() {
            let deadline = Instant::now() + self.idle_timeout;
            self.idle.as_mut().reset(deadline);
            return moved;
        }
        match self.idle.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let moved = match self.wire.poll_stream(cx) {
            Poll::Ready(Ok(stream)) => stream.poll_read(cx, buf),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        };
        self.bound(cx, moved)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let moved = match self.wire.poll_stream(cx) {
            Poll::Ready(Ok(stream)) => stream.poll_write(cx, buf),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        };
        self.bound(cx, moved)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.wire.stream() {
            Ok(stream) => stream.poll_flush(cx),
            // Nothing was written yet.
            Err(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.wire.stream() {
            Ok(stream) => stream.poll_shutdown(cx),
            // Whoever has not shaken hands misses no farewell.
            Err(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let moved = match self.wire.poll_stream(cx) {
            Poll::Ready(Ok(stream)) => stream.poll_write_vectored(cx, bufs),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        };
        self.bound(cx, moved)
    }

    fn is_write_vectored(&self) -> bool {
        matches!(self.wire, Wire::Plain(_))
    }
}
