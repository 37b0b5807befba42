//! Event stream for pollers.

use std::net::SocketAddr;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{Answer, DEADLINE, World};

/// Subscriber on a bare socket, so that a test decides the time of each read.
struct Subscriber {
    lines: tokio::io::Lines<BufReader<TcpStream>>,
}

impl Subscriber {
    async fn new(addr: SocketAddr, token: &str) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(addr).await.unwrap();
        let request = format!(
            "GET /arvados/v1/containers/events HTTP/1.1\r\nHost: queue\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut subscriber = Self {
            lines: BufReader::new(stream).lines(),
        };
        assert_eq!(subscriber.next().await.unwrap().0, "ready");
        subscriber
    }

    /// Next event; `None` at the end of the stream.
    async fn next(&mut self) -> Option<(String, Value)> {
        let mut name = None;
        loop {
            let line = tokio::time::timeout(DEADLINE, self.lines.next_line())
                .await
                .expect("in time");
            let line = line.ok()??;
            if let Some(text) = line.strip_prefix("event: ") {
                name = Some(text.to_owned());
            } else if let Some(text) = line.strip_prefix("data: ") {
                return Some((name.unwrap(), serde_json::from_str(text).unwrap()));
            }
        }
    }
}

#[tokio::test]
async fn change_sends_one_event_to_permitted_subscribers() {
    let world = World::new().await;
    let addr = world.server.local_addr();
    let mut all = Subscriber::new(addr, &world.dispatcher).await;
    let mut alice = Subscriber::new(addr, &world.alice).await;
    let mut bob = Subscriber::new(addr, &world.bob).await;
    let (uuid, _) = world.create_in("Complete", &world.dispatcher).await;
    world
        .lock(&world.dispatcher, &uuid)
        .await
        .fails(422, "cannot lock");
    Answer::of(world.request(&world.admin, Method::DELETE, &format!("containers/{uuid}")))
        .await
        .ok();
    let bobs = world
        .create_as(&world.bob, &crate::support::plain())
        .await
        .ok();
    for subscriber in [&mut all, &mut alice] {
        for state in ["Queued", "Locked", "Running", "Complete"] {
            let expected = json!({ "uuid": uuid, "state": state, "priority": 1 });
            assert_eq!(
                subscriber.next().await.unwrap(),
                ("change".to_owned(), expected)
            );
        }
        assert_eq!(
            subscriber.next().await.unwrap(),
            ("deleted".to_owned(), json!({ "uuid": uuid }))
        );
    }
    let (name, data) = bob.next().await.unwrap();
    assert_eq!(
        (name.as_str(), &data["uuid"]),
        ("change", &bobs["uuid"]),
        "bob sees only the own one"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_subscriber_is_told_number_of_lost_events() {
    const CHANGES: i64 = 2000;
    // Accepted sockets inherit the small buffer.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(4096).unwrap();
    socket.bind(crate::support::any_port()).unwrap();
    let listener = socket.listen(64).unwrap();
    let world = World::on(listener, |config| config.event_buffer = 16).await;
    let mut slow = Subscriber::new(world.server.local_addr(), &world.dispatcher).await;
    let uuid = world.create(1).await;
    // More events than the socket and the server's write buffer hold.
    for priority in 2..=CHANGES {
        world
            .put(&world.admin, &uuid, &json!({ "priority": priority }))
            .await
            .ok();
    }
    let (mut seen, mut missed) = (0_i64, 0_i64);
    loop {
        let (name, data) = slow.next().await.unwrap();
        match name.as_str() {
            "change" => seen += 1,
            "lost" => missed += data["missed"].as_i64().unwrap(),
            other => panic!("unexpected event {other}"),
        }
        if data["priority"] == CHANGES {
            break;
        }
    }
    assert!(missed > 0, "all {seen} events were buffered somewhere");
    assert_eq!(seen + missed, CHANGES, "what is not delivered is counted");
}

#[tokio::test]
async fn server_shutdown_ends_streams() {
    let world = World::new().await;
    let mut subscriber = Subscriber::new(world.server.local_addr(), &world.admin).await;
    let (uuid, _) = world.create_in("Running", &world.dispatcher).await;
    let path = format!("containers/{uuid}/log");
    let request = world
        .request(&world.alice, Method::GET, &path)
        .query(&[("follow", "true")]);
    let mut follower = request.send().await.unwrap();
    let stopped = tokio::time::timeout(DEADLINE, world.server.shutdown())
        .await
        .expect("in time");
    stopped.unwrap();
    while subscriber.next().await.is_some() {}
    assert!(follower.chunk().await.unwrap_or(None).is_none());
}
