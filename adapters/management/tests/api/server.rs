//! Robustness of the server: stuck loop, long bodies, idle callers, shutdown.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use longshore_core::Dispatcher;
use longshore_core::input::{ContainerState, Input, OperatorRequest};
use longshore_management::{Health, LoopRequest, Outcome, ServeError, ServeLimits, Server};
use reqwest::RequestBuilder;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::support::{Answer, Api, DEADLINE, TOKEN};
use crate::world::{BOOTING, START, World, config, demand, record};

const CONTAINERS: &str = "/arvados/v1/dispatch/containers";
const HOLD: &str = "/arvados/v1/dispatch/instances/hold?instance_id=i-0001";

fn impatient() -> ServeLimits {
    ServeLimits {
        answer_timeout: Duration::from_millis(200),
        ..ServeLimits::default()
    }
}

fn get(api: &Api, path: &str) -> RequestBuilder {
    api.client().get(api.url(path)).bearer_auth(TOKEN)
}

fn send(request: RequestBuilder) -> JoinHandle<Answer> {
    tokio::spawn(async { Answer::read(request.send().await.expect("an answer")).await })
}

async fn question(api: &mut Api) -> LoopRequest {
    let unanswered = api.unanswered.as_mut().expect("no loop");
    let question = timeout(DEADLINE, unanswered.recv()).await;
    question.expect("in time").expect("the server is there")
}

#[tokio::test]
async fn stuck_loop_is_reported_in_time() {
    let api = Api::without_loop(World::busy(), impatient()).await;
    let text = "the dispatcher did not answer within 0.2 s: it is overloaded or stuck, see its log";
    let container = format!("/arvados/v1/dispatch/container?container_uuid={BOOTING}");
    let started = Instant::now();
    for path in [
        CONTAINERS,
        &container,
        "/arvados/v1/dispatch/instances",
        "/metrics",
        "/metrics.json",
    ] {
        assert_eq!(
            api.get(path).await.error(),
            (503, text.to_owned()),
            "{path}"
        );
    }
    assert_eq!(api.post(HOLD, &[]).await.error(), (503, text.to_owned()));
    let ping = api.get("/_health/ping").await;
    assert_eq!(ping.status, 503);
    assert_eq!(ping.json()["health"], "ERROR");
    assert_eq!(ping.json()["error"], text);
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn concurrent_list_requests_share_one_answer() {
    let api = Api::without_loop(World::busy(), impatient()).await;
    let started = Instant::now();
    let all: Vec<_> = (0..20).map(|_| send(get(&api, CONTAINERS))).collect();
    for answer in all {
        assert_eq!(answer.await.expect("no panic").status, 503);
    }
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn abandoned_operator_request_is_dropped() {
    let mut api = Api::without_loop(World::busy(), impatient()).await;
    assert_eq!(api.post(HOLD, &[]).await.status, 503);
    let late = question(&mut api).await;
    assert!(matches!(
        late,
        LoopRequest::Operate(OperatorRequest::SetIdleBehavior { .. }, _)
    ));
    assert!(late.is_abandoned());
    let world = api.world.lock().expect("no panic");
    assert_eq!(late.answer(world.now, world.core.view(), &Health::Ok), None);
}

#[test]
fn operator_request_before_sync_is_accepted() {
    let wish = || OperatorRequest::KillInstance {
        instance: "i-9999".into(),
        reason: "test".into(),
    };
    let told = |core: &Dispatcher| {
        let (reply, mut answer) = tokio::sync::oneshot::channel();
        let taken = LoopRequest::Operate(wish(), reply).answer(START, core.view(), &Health::Ok);
        assert_eq!(taken, None);
        answer.try_recv().expect("an answer")
    };
    let mut core = Dispatcher::new(config(), [7; 32], START);
    assert_eq!(told(&core), Outcome::NotReady, "another may be in charge");
    core.handle_input(START, Input::Leadership { held: true });
    assert_eq!(told(&core), Outcome::NotReady, "nothing is known yet");
    let mut world = World::new(config());
    world.lead();
    assert_eq!(told(&world.core), Outcome::Missing);
}

#[tokio::test]
async fn ended_loop_is_reported_at_once() {
    let mut api = Api::without_loop(World::busy(), ServeLimits::default()).await;
    api.unanswered = None;
    let text = "the dispatcher is stopping".to_owned();
    assert_eq!(api.get(CONTAINERS).await.error(), (503, text.clone()));
    assert_eq!(api.post(HOLD, &[]).await.error(), (503, text));
}

#[tokio::test]
async fn health_check_reports_the_problem() {
    let api = Api::new(World::busy()).await;
    let ping = api.get("/_health/ping").await;
    assert_eq!(
        (ping.status, ping.text.as_str()),
        (200, r#"{"health":"OK"}"#)
    );
    let why = "cannot read /usr/bin/runner".to_owned();
    api.health.send_replace(Health::Failing(why));
    let ping = api.get("/_health/ping").await;
    let text = r#"{"error":"cannot read /usr/bin/runner","health":"ERROR"}"#;
    assert_eq!((ping.status, ping.text.as_str()), (200, text));
}

#[tokio::test]
async fn health_check_lists_boot_backoffs() {
    let mut rarely_patient = config();
    rarely_patient.limits.boot_failures = Some(2);
    let mut world = World::new(rarely_patient);
    let waits = record(BOOTING, ContainerState::Queued, 50, demand(2, 1024));
    world.queue = vec![waits];
    world.lead();
    // A small instance never gets an address here.
    let boots = 2 * world.core.config().timeouts.booting;
    world.run_for(boots + Duration::from_secs(60));
    let api = Api::new(world).await;
    let ping = api.get("/_health/ping").await;
    let told = ping.json();
    assert_eq!((ping.status, &told["health"]), (200, &json!("OK")));
    assert_eq!(told["error"], json!(null), "all other types are there");
    let pauses = told["boot_backoffs"].as_array().expect("a list");
    assert_eq!(pauses.len(), 1, "{told:#}");
    let pause = &pauses[0];
    assert_eq!(
        (&pause["instance_type"], &pause["image"], &pause["failures"]),
        (&json!("small"), &json!("image-1"), &json!(2))
    );
    let until: jiff::Timestamp = pause["until"]
        .as_str()
        .expect("text")
        .parse()
        .expect("RFC 3339");
    let now = api.world.lock().expect("no panic").now;
    assert!(
        until.as_nanosecond() > i128::from(now.as_nanos()),
        "{told:#}"
    );
    assert!(!pause["message"].as_str().expect("text").is_empty());
    // Same content as beside the list of instances, and also present in an error.
    let list = api.get("/arvados/v1/dispatch/instances").await.json();
    assert_eq!(list["boot_backoffs"], told["boot_backoffs"]);
    api.health.send_replace(Health::Failing("x".to_owned()));
    let failing = api.get("/_health/ping").await.json();
    assert_eq!(failing["boot_backoffs"], told["boot_backoffs"]);
    assert_eq!(
        (&failing["health"], &failing["error"]),
        (&json!("ERROR"), &json!("x"))
    );
}

#[tokio::test]
async fn body_size_is_bounded() {
    let api = Api::new(World::busy()).await;
    let fits = "x".repeat((64 << 10) - "instance_id=i-0001&reason=&x=".len());
    let form = [("instance_id", "i-0001"), ("reason", ""), ("x", &fits)];
    let path = "/arvados/v1/dispatch/instances/hold";
    assert_eq!(api.post(path, &form).await.status, 200);
    let longer = format!("{fits}x");
    let form = [("instance_id", "i-0001"), ("reason", ""), ("x", &longer)];
    let text = "the body is too long: expected at most 65536 bytes".to_owned();
    assert_eq!(api.post(path, &form).await.error(), (413, text));
}

#[tokio::test]
async fn body_must_arrive_in_time() {
    let limits = ServeLimits {
        body_timeout: Duration::from_millis(100),
        ..ServeLimits::default()
    };
    let api = Api::without_loop(World::busy(), limits).await;
    let mut stream = TcpStream::connect(api.addr).await.expect("a connection");
    let head = format!(
        "POST {HOLD} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 9\r\n\r\nabc"
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = [0; 12];
    let read = timeout(DEADLINE, stream.read_exact(&mut answer)).await;
    read.expect("in time").expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 408");
}

#[tokio::test]
async fn idle_connection_is_closed() {
    let limits = ServeLimits {
        idle_timeout: Duration::from_millis(100),
        ..ServeLimits::default()
    };
    let api = Api::without_loop(World::busy(), limits).await;
    for sent in ["", "GET /metrics HTTP/1.1\r\nHost:"] {
        let mut stream = TcpStream::connect(api.addr).await.expect("a connection");
        stream.write_all(sent.as_bytes()).await.expect("sent");
        let mut rest = Vec::new();
        let ended = timeout(DEADLINE, stream.read_to_end(&mut rest)).await;
        // Closed or reset: both are an end.
        let _ = ended.expect("the server closes it");
    }
}

#[tokio::test]
async fn connections_are_bounded() {
    let limits = ServeLimits {
        connections: 1,
        ..ServeLimits::default()
    };
    let api = Api::without_loop(World::busy(), limits).await;
    let first = TcpStream::connect(api.addr).await.expect("a connection");
    let mut second = send(get(&api, "/_inspect/requests"));
    let early = timeout(Duration::from_millis(200), &mut second).await;
    assert!(early.is_err(), "the first one has the only place");
    drop(first);
    let answer = timeout(DEADLINE, second).await.expect("in time");
    assert_eq!(answer.expect("no panic").status, 200);
}

#[tokio::test]
async fn requests_in_flight_are_shown_and_bounded() {
    let limits = ServeLimits {
        requests: 2,
        ..ServeLimits::default()
    };
    let mut api = Api::without_loop(World::busy(), limits).await;
    let _first = send(get(&api, &format!("{CONTAINERS}?api_token=secret")));
    let _asked = question(&mut api).await;
    let shown = api.get("/_inspect/requests").await;
    assert!(!shown.text.contains("secret"));
    let shown = shown.json();
    assert_eq!(shown[0]["method"], "GET");
    assert_eq!(shown[0]["path"], CONTAINERS);
    assert!(shown[0]["elapsed_seconds"].as_f64() > Some(0.0));
    let caller = shown[0]["remote_addr"].as_str().expect("text");
    assert!(caller.starts_with("127.0.0.1:"), "{caller}");
    assert_eq!(shown[1]["path"], "/_inspect/requests");

    let _second = send(get(&api, "/arvados/v1/dispatch/instances"));
    let _asked = question(&mut api).await;
    let (status, error) = api.get("/_inspect/requests").await.error();
    assert_eq!(status, 503);
    assert!(error.starts_with("too many requests"), "{error}");
}

#[tokio::test]
async fn shutdown_finishes_requests_in_flight() {
    let mut api = Api::without_loop(World::busy(), ServeLimits::default()).await;
    let begun = send(get(&api, "/arvados/v1/dispatch/instances"));
    let asked = question(&mut api).await;
    let (addr, world) = (api.addr, api.world.clone());
    let stopping = tokio::spawn(api.shutdown());
    refuses(addr).await;
    {
        let world = world.lock().expect("no panic");
        assert_eq!(
            asked.answer(world.now, world.core.view(), &Health::Ok),
            None
        );
    }
    assert_eq!(begun.await.expect("no panic").status, 200);
    stopping
        .await
        .expect("no panic")
        .expect("nothing was given up");
}

#[tokio::test]
async fn shutdown_has_a_deadline() {
    let limits = ServeLimits {
        shutdown_grace: Duration::from_millis(100),
        ..ServeLimits::default()
    };
    let mut api = Api::without_loop(World::busy(), limits.clone()).await;
    let _begun = send(get(&api, "/arvados/v1/dispatch/instances"));
    let _asked = question(&mut api).await;
    let error = api.shutdown().await.expect_err("one was given up");
    assert!(
        matches!(error, ServeError::Unfinished { requests: 1, .. }),
        "{error:?}"
    );

    let idle = Api::without_loop(World::busy(), limits).await;
    let _stream = TcpStream::connect(idle.addr).await.expect("a connection");
    idle.shutdown().await.expect("nobody misses an answer");
}

async fn refuses(addr: SocketAddr) {
    let started = Instant::now();
    while TcpStream::connect(addr).await.is_ok() {
        assert!(started.elapsed() < DEADLINE, "it still listens");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn port_in_use_error_names_the_remedy() {
    let first = Server::bind(&["127.0.0.1:0".parse().expect("an address")]).await;
    let addr = first.as_ref().expect("a free port").local_addrs()[0];
    let error = Server::bind(&[addr]).await.expect_err("the port is in use");
    assert!(matches!(error, ServeError::InUse { .. }));
    assert_eq!(
        error.to_string(),
        format!(
            "management API: {addr} is in use by another process. Stop that process, or choose another port under Services.DispatchCloud.InternalURLs"
        )
    );
}

#[tokio::test]
async fn foreign_address_cannot_be_bound() {
    let other = "192.0.2.1:0".parse().expect("an address");
    let error = Server::bind(&[other]).await.expect_err("not ours");
    assert!(matches!(error, ServeError::Bind { .. }), "{error:?}");
    let error = Server::bind(&[]).await.expect_err("none at all");
    assert!(matches!(error, ServeError::NoAddress), "{error:?}");
}

#[tokio::test]
async fn every_address_is_served() {
    let free = "127.0.0.1:0".parse().expect("an address");
    let server = Server::bind(&[free, free]).await.expect("free ports");
    let addrs = server.local_addrs().to_vec();
    assert_ne!(addrs[0], addrs[1]);
    let world = World::busy();
    let (questions, _unanswered) = longshore_management::loop_requests();
    let settings = std::sync::Arc::new(crate::support::settings(TOKEN));
    let (_change, settings) = tokio::sync::watch::channel(settings);
    let management = longshore_management::Management {
        settings,
        loop_requests: questions,
        metrics: world.metrics.clone(),
        limits: ServeLimits::default(),
    };
    tokio::spawn(server.serve(management, std::future::pending()));
    for addr in addrs {
        let request = reqwest::Client::new().get(format!("http://{addr}/_inspect/requests"));
        let answer = send(request.bearer_auth(TOKEN)).await.expect("no panic");
        assert_eq!(answer.status, 200);
    }
}
