//! Proxy in front of the demo's queue; delays, refuses and loses responses.
//!
//! Handles one request per connection: the proxy adds the header `connection: close` to each
//! request, so that each request can have a separate fault.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::{Fault, FaultInjector, Target};

const HEAD_BYTES_MAX: usize = 64 << 10;
/// Time limit for reading a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Bounds of the delay of a slow response.
const DELAY_RANGE: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(2)];
const BUSY: &str = r#"{"errors":["chaos: the queue is overloaded"]}"#;

/// Running proxy; stops when dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port of this host for clients of `upstream`.
    pub(crate) async fn start(upstream: SocketAddr, injector: FaultInjector) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let task = tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                };
                let injector = injector.clone();
                tokio::spawn(async move {
                    if let Err(error) = forward(client, upstream, &injector).await {
                        tracing::debug!(%error, "chaos: connection to the queue failed");
                    }
                });
            }
        });
        Ok(Self { addr, task })
    }

    pub(crate) fn port(&self) -> u16 {
        self.addr.port()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Forwards one request and the response, with the fault drawn for the request.
async fn forward(
    mut client: TcpStream,
    upstream: SocketAddr,
    injector: &FaultInjector,
) -> io::Result<()> {
    let reading = tokio::time::timeout(REQUEST_TIMEOUT, Request::read(&mut client));
    let Some(request) = reading.await?? else {
        return Ok(());
    };
    let (fault, chance) = match request.is_stream {
        true => (None, 0),
        false => injector.draw(Target::Queue),
    };
    if let Some(fault) = fault {
        injector.count(fault);
    }
    match fault {
        Some(Fault::QueueBusy) => {
            let head = format!(
                "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n\
                 content-length: {}\r\nconnection: close\r\n\r\n",
                BUSY.len()
            );
            client.write_all((head + BUSY).as_bytes()).await?;
            return client.shutdown().await;
        }
        Some(Fault::QueueSlow) => {
            let part = u32::try_from(chance).unwrap_or(0);
            let [least, most] = DELAY_RANGE;
            tokio::time::sleep(least + (most - least) * part / 1000).await;
        }
        _ => {}
    }
    let mut queue = TcpStream::connect(upstream).await?;
    queue.write_all(&request.bytes).await?;
    if fault == Some(Fault::QueueAnswerLost) {
        // The queue has executed the request; only the response is lost.
        tokio::io::copy(&mut queue, &mut tokio::io::sink()).await?;
        return Ok(());
    }
    if request.open_end {
        tokio::io::copy_bidirectional(&mut client, &mut queue).await?;
        return Ok(());
    }
    tokio::io::copy(&mut queue, &mut client).await?;
    client.shutdown().await
}

/// Request to forward.
struct Request {
    bytes: Vec<u8>,
    /// Response is an endless event stream.
    is_stream: bool,
    /// Body without a length: further bytes are forwarded on arrival.
    open_end: bool,
}

impl Request {
    /// Reads a request; `None` if the client closed the connection first.
    async fn read(client: &mut TcpStream) -> io::Result<Option<Self>> {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(at) = bytes.windows(4).position(|end| end == b"\r\n\r\n") {
                break at + 4;
            }
            if bytes.len() > HEAD_BYTES_MAX {
                return Err(io::Error::other("the head of a request is too long"));
            }
            if client.read_buf(&mut bytes).await? == 0 {
                return Ok(None);
            }
        };
        let mut body = bytes.split_off(end);
        let head = String::from_utf8(bytes).map_err(io::Error::other)?;
        let value = |name: &str| {
            head.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim())
            })
        };
        let open_end = value("transfer-encoding").is_some();
        let length = value("content-length").and_then(|text| text.parse().ok());
        let length: usize = length.unwrap_or(0);
        while !open_end && body.len() < length {
            if client.read_buf(&mut body).await? == 0 {
                return Ok(None);
            }
        }
        let is_stream = value("accept").is_some_and(|kind| kind.contains("event-stream"));
        let mut bytes = with_connection_close(&head).into_bytes();
        bytes.extend(body);
        Ok(Some(Self {
            bytes,
            is_stream,
            open_end,
        }))
    }
}

/// Same head with `connection: close`.
fn with_connection_close(head: &str) -> String {
    let lines = head.trim_end().lines();
    let kept = lines.filter(|line| {
        let name = line.split(':').next().unwrap_or_default();
        !name.eq_ignore_ascii_case("connection")
    });
    let mut closing: String = kept.flat_map(|line| [line, "\r\n"]).collect();
    closing.push_str("connection: close\r\n\r\n");
    closing
}

#[cfg(test)]
mod tests {
    use super::with_connection_close;

    #[test]
    fn forwarded_request_closes_its_connection() {
        let head = "GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n";
        let expected = "GET / HTTP/1.1\r\nHost: x\r\nconnection: close\r\n\r\n";
        assert_eq!(with_connection_close(head), expected);
    }
}
