//! Bounds and shutdown of the server, over real connections on 127.0.0.1.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ConnectInfo;
use axum::routing::get;
use futures_util::stream;
use longshore_http::{ServerError, ServerLimits, TlsSource};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longer than any step of these tests.
const DEADLINE: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(200);
const LIMITS: ServerLimits = ServerLimits {
    connections: 8,
    idle_timeout: DEADLINE,
    write_timeout: DEADLINE,
    shutdown_grace: DEADLINE,
};

struct TestServer {
    addr: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ServerError>>,
}

async fn endless() -> Body {
    let chunk = Bytes::from(vec![0; 1 << 16]);
    Body::from_stream(stream::repeat_with(move || {
        Ok::<_, Infallible>(chunk.clone())
    }))
}

async fn slow() -> &'static str {
    tokio::time::sleep(SHORT * 3).await;
    "slow"
}

impl TestServer {
    async fn new(limits: ServerLimits) -> Self {
        let router =
            Router::new()
                .route(
                    "/caller",
                    get(|ConnectInfo(caller): ConnectInfo<SocketAddr>| async move {
                        caller.to_string()
                    }),
                )
                .route("/endless", get(endless))
                .route("/slow", get(slow))
                .route("/stuck", get(std::future::pending::<()>));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async move {
            let _ = stopped.await;
        };
        let served =
            longshore_http::serve(vec![listener], router, limits, TlsSource::plain(), stopped);
        Self {
            addr,
            stop,
            task: tokio::spawn(served),
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.expect("a connection")
    }

    /// Sends a GET for `path` on a new connection.
    async fn get(&self, path: &str) -> TcpStream {
        let mut stream = self.connect().await;
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("sent");
        stream
    }

    async fn shutdown(self) -> Result<(), ServerError> {
        let _ = self.stop.send(());
        let ended = timeout(DEADLINE, self.task).await;
        ended.expect("in time").expect("no panic")
    }
}

/// Reads until the server closes the connection.
async fn read_all(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = timeout(DEADLINE, stream.read_to_end(&mut bytes)).await;
    // A reset is an end too.
    let _ = read.expect("closed by the server");
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn request_has_remote_address() {
    let server = TestServer::new(LIMITS).await;
    let stream = server.get("/caller").await;
    let local = stream.local_addr().expect("an address").to_string();
    let answer = read_all(stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with(&local), "{answer}");
    server.shutdown().await.expect("a clean end");
}

#[tokio::test]
async fn idle_connection_is_closed_but_slow_request_is_not() {
    let server = TestServer::new(ServerLimits {
        idle_timeout: SHORT,
        ..LIMITS
    })
    .await;
    let slow = server.get("/slow").await;
    let mut partial = server.connect().await;
    partial.write_all(b"GET / HT").await.expect("sent");
    for idle in [server.connect().await, partial] {
        assert_eq!(read_all(idle).await, "");
    }
    assert!(read_all(slow).await.ends_with("slow"));
}

#[tokio::test]
async fn connection_of_stalled_reader_is_closed() {
    let server = TestServer::new(ServerLimits {
        write_timeout: SHORT,
        ..LIMITS
    })
    .await;
    let mut stream = server.get("/endless").await;
    tokio::time::sleep(SHORT * 5).await;
    // Only the bytes buffered by the operating system are left.
    let drained = async {
        let mut buffer = vec![0; 1 << 16];
        while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
    };
    timeout(DEADLINE, drained)
        .await
        .expect("closed by the server");
}

#[tokio::test]
async fn connections_beyond_limit_wait() {
    let server = TestServer::new(ServerLimits {
        connections: 1,
        ..LIMITS
    })
    .await;
    let first = server.connect().await;
    // Gives the first connection time to be accepted.
    tokio::time::sleep(SHORT).await;
    let mut second = server.get("/caller").await;
    let mut byte = [0];
    let early = timeout(SHORT, second.read_exact(&mut byte)).await;
    assert!(early.is_err(), "answered beyond the limit");
    drop(first);
    let answer = timeout(DEADLINE, second.read_exact(&mut byte)).await;
    answer.expect("in time").expect("an answer");
}

#[tokio::test]
async fn shutdown_finishes_requests_and_refuses_connections() {
    let server = TestServer::new(LIMITS).await;
    let addr = server.addr;
    let slow = server.get("/slow").await;
    tokio::time::sleep(SHORT).await;
    server.shutdown().await.expect("a clean end");
    assert!(read_all(slow).await.ends_with("slow"));
    TcpStream::connect(addr).await.expect_err("closed");
}

#[tokio::test]
async fn shutdown_cuts_off_stuck_requests_after_grace() {
    let server = TestServer::new(ServerLimits {
        shutdown_grace: SHORT,
        ..LIMITS
    })
    .await;
    let stuck = server.get("/stuck").await;
    tokio::time::sleep(SHORT).await;
    let started = Instant::now();
    let error = server.shutdown().await;
    assert!(
        matches!(error, Err(ServerError::GraceExpired(SHORT))),
        "{error:?}"
    );
    assert!(started.elapsed() >= SHORT);
    assert_eq!(read_all(stuck).await, "");
}
