//! Start, stop, restart, load and races.

use std::sync::Arc;

use longshore_queue::{Database, QueueConfig, QueueError, QueueServer, Role, Tokens};
use longshore_secret::Secret;
use reqwest::Method;
use serde_json::json;

use crate::support::{Answer, CLUSTER, World, any_port, file_config, plain};

#[tokio::test]
async fn restart_keeps_all_records() {
    let mut world = World::new().await;
    let mut uuids = Vec::new();
    for state in ["Queued", "Locked", "Running", "Complete", "Cancelled"] {
        uuids.push(world.create_in(state, &world.dispatcher).await);
    }
    let (running, own) = uuids[2].clone();
    let own = own.unwrap();
    let log = format!("containers/{running}/log");
    let append = |world: &World, text: &'static str| {
        Answer::of(
            world
                .request(&own, Method::POST, &log)
                .query(&[("stream", "stdout")])
                .body(text),
        )
    };
    append(&world, "first ").await.ok();
    let mut before = Vec::new();
    for (uuid, _) in &uuids {
        before.push(world.record(uuid).await);
    }
    world.client = reqwest::Client::new();
    let addr = world.server.local_addr();
    world.server.shutdown().await.unwrap();
    world.server = QueueServer::bind(addr, file_config(world.dir.path()))
        .await
        .unwrap();
    for ((uuid, _), record) in uuids.iter().zip(&before) {
        assert_eq!(world.record(uuid).await, *record);
    }
    append(&world, "second").await.ok();
    let request = world.request(&world.alice, Method::GET, &log);
    assert_eq!(
        request.send().await.unwrap().text().await.unwrap(),
        "first second"
    );
    world
        .put(&world.dispatcher, &running, &json!({ "state": "Complete" }))
        .await
        .ok();
}

#[tokio::test]
async fn memory_database_loses_records_at_shutdown() {
    let config = QueueConfig::new(CLUSTER, Database::Memory);
    for _ in 0..2 {
        let world = World::with(|c| *c = config.clone()).await;
        assert_eq!(
            world.get(&world.admin, "containers", &[]).await.ok()["items_available"],
            0
        );
        world.create(1).await;
        assert_eq!(
            world.get(&world.alice, "containers", &[]).await.ok()["items_available"],
            1
        );
        assert_eq!(std::fs::read_dir(world.dir.path()).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn foreign_database_is_refused_and_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let config = file_config(dir.path());
    let Database::File(path) = config.database.clone() else {
        unreachable!()
    };
    let refused = async |config: QueueConfig| {
        let before = std::fs::read(&path).unwrap_or_default();
        let error = QueueServer::bind(any_port(), config).await.unwrap_err();
        assert!(
            before == std::fs::read(&path).unwrap_or_default(),
            "changed: {error}"
        );
        error
    };
    QueueServer::bind(any_port(), config.clone())
        .await
        .unwrap()
        .shutdown()
        .await
        .unwrap();

    let other = QueueConfig::new("xxxxx", config.database.clone());
    let error = refused(other).await;
    assert!(
        error
            .to_string()
            .contains("it belongs to cluster zzzzz, not xxxxx"),
        "{error}"
    );

    rusqlite::Connection::open(&path)
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    let error = refused(config.clone()).await;
    assert!(
        matches!(error, QueueError::NewerSchema { found: 99, .. }),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains("its schema is version 99, this program knows up to"),
        "{error}"
    );

    std::fs::remove_file(&path).unwrap();
    rusqlite::Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TABLE mine (x)")
        .unwrap();
    let error = refused(config.clone()).await;
    assert!(
        error.to_string().contains("it was made by another program"),
        "{error}"
    );

    std::fs::write(
        &path,
        "this is a text, and long enough to be looked at as a database file".repeat(20),
    )
    .unwrap();
    let error = refused(config.clone()).await;
    assert!(matches!(error, QueueError::Database { .. }), "{error}");

    let nowhere = QueueConfig::new(
        CLUSTER,
        Database::File(dir.path().join("no/such/folder/q.sqlite")),
    );
    let error = QueueServer::bind(any_port(), nowhere).await.unwrap_err();
    assert!(error.to_string().contains("Check the path"), "{error}");
}

#[tokio::test]
async fn port_in_use_gives_clear_error() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let addr = world.server.local_addr();
    let error = QueueServer::bind(addr, file_config(dir.path()))
        .await
        .unwrap_err();
    assert!(matches!(error, QueueError::Bind { .. }));
    assert!(
        error
            .to_string()
            .starts_with(&format!("cannot listen on {addr}")),
        "{error}"
    );
    assert!(error.to_string().contains("choose another port"), "{error}");
}

#[tokio::test]
async fn tokens_can_be_managed_beside_running_server() {
    let world = World::new().await;
    let beside = Tokens::open(&file_config(world.dir.path())).await.unwrap();
    let (info, secret) = beside.create(Role::User, "carol").await.unwrap();
    assert_eq!(world.token_uuid(secret.expose()).await, info.uuid);
    beside.revoke(&info.uuid).await.unwrap();
    world
        .get(secret.expose(), "containers", &[])
        .await
        .fails(401, "Not logged in");
    assert!(matches!(
        beside.add(Role::User, "", &Secret::new("t")).await,
        Err(QueueError::Token(_))
    ));
}

#[cfg(unix)]
#[tokio::test]
async fn database_file_is_private_to_owner() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new().await;
    world.create(1).await;
    for entry in std::fs::read_dir(world.dir.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} is {mode:o}", entry.path().display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_32_lockers_one_wins() {
    let world = Arc::new(World::new().await);
    let mut tokens = Vec::new();
    for n in 0..32 {
        let (_, secret) = world
            .server
            .tokens()
            .create(Role::Dispatcher, &format!("d{n}"))
            .await
            .unwrap();
        tokens.push(secret.expose().to_owned());
    }
    for _ in 0..5 {
        let uuid = world.create(1).await;
        let barrier = Arc::new(tokio::sync::Barrier::new(tokens.len()));
        let tasks: Vec<_> = tokens
            .iter()
            .map(|token| {
                let (world, barrier) = (Arc::clone(&world), Arc::clone(&barrier));
                let (token, uuid) = (token.clone(), uuid.clone());
                tokio::spawn(async move {
                    barrier.wait().await;
                    (world.lock(&token, &uuid).await, token)
                })
            })
            .collect();
        let mut winners = Vec::new();
        for task in tasks {
            let (answer, token) = task.await.unwrap();
            if answer.status == 200 {
                winners.push(token);
            } else {
                answer.fails(422, "cannot lock when Locked");
            }
        }
        assert_eq!(winners.len(), 1);
        let record = world.record(&uuid).await;
        assert_eq!(
            record["locked_by_uuid"],
            world.token_uuid(&winners[0]).await
        );
        assert_eq!(record["lock_count"], 1);
    }
}

/// Requests with endless bodies, which occupy request slots until dropped.
struct Burden {
    open: Vec<tokio::net::TcpStream>,
}

impl Burden {
    /// Occupies `count` slots, as far as free: a refused request is repeated.
    async fn hold(&mut self, world: &World, count: usize) {
        use tokio::io::AsyncWriteExt as _;
        self.open.retain(|socket| {
            let read = socket.try_read(&mut [0; 16]);
            matches!(read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
        });
        while self.open.len() < count {
            let addr = world.server.local_addr();
            let mut socket = tokio::net::TcpStream::connect(addr).await.unwrap();
            let head = format!(
                "POST /arvados/v1/containers HTTP/1.1\r\nHost: q\r\nAuthorization: Bearer {}\r\nContent-Length: 9\r\n\r\n",
                world.alice
            );
            socket.write_all(head.as_bytes()).await.unwrap();
            self.open.push(socket);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn overload_refuses_locks_before_other_requests() {
    let world = World::with(|config| config.max_requests_in_flight = 4).await;
    let uuid = world.create(1).await;
    world.lock(&world.dispatcher, &uuid).await.ok();
    let mut burden = Burden { open: Vec::new() };
    let until = async |burden: &mut Burden, places: usize, is_lock: bool, status: u16| {
        let deadline = tokio::time::Instant::now() + crate::support::DEADLINE;
        loop {
            burden.hold(&world, places).await;
            let answer = if is_lock {
                world.lock(&world.dispatcher, &uuid).await
            } else {
                world
                    .get(&world.admin, &format!("containers/{uuid}"), &[])
                    .await
            };
            if answer.status == status {
                return answer;
            }
            assert!(tokio::time::Instant::now() < deadline, "{}", answer.body);
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let refused = until(&mut burden, 2, true, 503).await;
    refused.fails(503, "too many requests are in work");
    let path = format!("containers/{uuid}");
    assert_eq!(world.get(&world.admin, &path, &[]).await.status, 200);
    until(&mut burden, 4, false, 503).await;
    let refused = world
        .request(&world.admin, Method::GET, "containers")
        .send()
        .await
        .unwrap();
    assert_eq!(refused.headers()["retry-after"], "1");
    burden.open.clear();
    until(&mut burden, 0, false, 200).await;
    until(&mut burden, 0, true, 422)
        .await
        .fails(422, "cannot lock when Locked");
}

#[tokio::test]
async fn connection_above_bound_waits_for_a_close() {
    let world = World::with(|config| config.max_connections = 1).await;
    let second = reqwest::Client::new();
    let request = || {
        second
            .get(world.url("containers"))
            .bearer_auth(&world.admin)
    };
    // A body read to its end leaves the connection open.
    request().send().await.unwrap().bytes().await.unwrap();
    let mut waiting = std::pin::pin!(world.get(&world.admin, "containers", &[]));
    tokio::select! {
        answer = &mut waiting => panic!("served beside the first connection: {}", answer.body),
        answer = async {
            // The first connection is still served.
            request().send().await.unwrap()
        } => assert_eq!(answer.status(), 200),
    }
    drop(second);
    assert_eq!(waiting.await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn long_queue_poll_uses_the_index() {
    let world = World::new().await;
    for _ in 0..3 {
        world.create_as(&world.alice, &plain()).await.ok();
    }
    let connection = rusqlite::Connection::open(world.dir.path().join("queue.sqlite")).unwrap();
    let plan = |sql: &str| {
        let mut statement = connection
            .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
            .unwrap();
        let values = vec!["0"; statement.parameter_count()];
        let rows = statement
            .query_map(rusqlite::params_from_iter(values), |row| {
                row.get::<_, String>(3)
            })
            .unwrap();
        rows.map(Result::unwrap).collect::<Vec<_>>().join("; ")
    };
    let cases = [
        (
            "SELECT uuid FROM containers WHERE state = ?1 AND priority > ?2 ORDER BY priority DESC, uuid LIMIT 9",
            "containers_turn",
        ),
        (
            "SELECT uuid FROM containers WHERE locked_by_uuid = ?1 AND uuid > ?2 ORDER BY uuid LIMIT 9",
            "containers_locked",
        ),
        (
            "SELECT uuid FROM containers WHERE owner = ?1 ORDER BY created_at DESC, uuid LIMIT 9",
            "containers_owner",
        ),
        (
            "SELECT uuid FROM containers ORDER BY created_at DESC, uuid LIMIT 9",
            "containers_created",
        ),
    ];
    for (sql, index) in cases {
        let plan = plan(sql);
        assert!(
            plan.contains(index) && !plan.contains("TEMP B-TREE"),
            "{sql}: {plan}"
        );
    }
}
