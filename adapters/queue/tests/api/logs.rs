//! Logs: written by runners, read, followed, bounded.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, DEADLINE, World};

async fn append(
    world: &World,
    token: &str,
    uuid: &str,
    query: &[(&str, &str)],
    data: impl Into<Vec<u8>>,
) -> Answer {
    let request = world.request(token, Method::POST, &format!("containers/{uuid}/log"));
    Answer::of(request.query(query).body(data.into())).await
}

struct Part {
    data: Vec<u8>,
    next_offset: u64,
    is_end: bool,
}

async fn read(world: &World, uuid: &str, query: &[(&str, &str)]) -> Part {
    let request = world
        .request(&world.alice, Method::GET, &format!("containers/{uuid}/log"))
        .query(query);
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    let (next, end) = (header("x-log-next-offset"), header("x-log-end"));
    let data = response.bytes().await.unwrap().to_vec();
    Part {
        data,
        next_offset: next.parse().unwrap(),
        is_end: end == "true",
    }
}

async fn complete(world: &World, uuid: &str) {
    world
        .put(
            &world.dispatcher,
            uuid,
            &json!({ "state": "Complete", "exit_code": 0 }),
        )
        .await
        .ok();
}

#[tokio::test]
async fn log_keeps_both_streams_in_order() {
    let world = World::new().await;
    let (uuid, own) = world.create_in("Running", &world.dispatcher).await;
    let own = own.unwrap();
    let empty = read(&world, &uuid, &[]).await;
    assert_eq!(
        (empty.data.len(), empty.next_offset, empty.is_end),
        (0, 0, false)
    );
    append(&world, &own, &uuid, &[("stream", "stdout")], "one\n")
        .await
        .ok();
    append(
        &world,
        &world.dispatcher,
        &uuid,
        &[("stream", "stderr")],
        "two\n",
    )
    .await
    .ok();
    append(&world, &own, &uuid, &[("stream", "stderr")], "three\n")
        .await
        .ok();
    let last = append(
        &world,
        &own,
        &uuid,
        &[("stream", "stdout")],
        vec![0_u8, 255, 10],
    )
    .await
    .ok();
    assert_eq!(
        last,
        json!({ "next_offset": 17, "next_position": 7, "truncated": false })
    );
    assert_eq!(
        read(&world, &uuid, &[]).await.data,
        b"one\ntwo\nthree\n\x00\xff\n"
    );
    assert_eq!(
        read(&world, &uuid, &[("stream", "stdout")]).await.data,
        b"one\n\x00\xff\n"
    );
    let errors = read(&world, &uuid, &[("stream", "stderr")]).await;
    assert_eq!(
        (errors.data.as_slice(), errors.next_offset),
        (&b"two\nthree\n"[..], 17)
    );
    let middle = read(&world, &uuid, &[("offset", "6"), ("limit", "4")]).await;
    assert_eq!(
        (middle.data.as_slice(), middle.next_offset, middle.is_end),
        (&b"o\nth"[..], 10, false)
    );
    complete(&world, &uuid).await;
    let rest = read(&world, &uuid, &[("offset", "14")]).await;
    assert_eq!((rest.data.len(), rest.is_end), (3, true));
}

#[tokio::test]
async fn log_read_at_any_offset_is_consistent() {
    let world = World::new().await;
    let (uuid, own) = world.create_in("Running", &world.dispatcher).await;
    let own = own.unwrap();
    // Sizes around the bounds of the stored pieces.
    let (mut whole, mut out) = (Vec::new(), Vec::new());
    for (n, size) in [
        1_usize, 8191, 8193, 65_535, 65_536, 65_537, 200_000, 3, 70_000,
    ]
    .into_iter()
    .enumerate()
    {
        let data: Vec<u8> = (0..size).map(|i| (i * 7 + n) as u8).collect();
        let stream = if n % 3 == 2 { "stderr" } else { "stdout" };
        append(&world, &own, &uuid, &[("stream", stream)], data.clone())
            .await
            .ok();
        whole.extend_from_slice(&data);
        if stream == "stdout" {
            out.extend_from_slice(&data);
        }
    }
    for limit in ["100000", "65536", "33333"] {
        for (filter, expected) in [(None, &whole), (Some("stdout"), &out)] {
            let (mut offset, mut all) = (0_u64, Vec::new());
            while offset < whole.len() as u64 {
                let text = offset.to_string();
                let mut query = vec![("offset", text.as_str()), ("limit", limit)];
                query.extend(filter.map(|name| ("stream", name)));
                let part = read(&world, &uuid, &query).await;
                assert!(part.next_offset > offset && part.data.len() <= limit.parse().unwrap());
                offset = part.next_offset;
                all.extend(part.data);
            }
            assert!(all == *expected, "limit {limit}, stream {filter:?}");
        }
    }
    for offset in [
        0,
        1,
        8191,
        16_385,
        65_536,
        147_456,
        whole.len() - 1,
        whole.len(),
    ] {
        let part = read(&world, &uuid, &[("offset", &offset.to_string())]).await;
        assert!(part.data == whole[offset..], "offset {offset}");
    }
    let beyond = read(&world, &uuid, &[("offset", "99999999999")]).await;
    assert_eq!((beyond.data.len(), beyond.next_offset), (0, 99_999_999_999));
}

#[tokio::test]
async fn log_append_repeated_with_position_adds_nothing() {
    let world = World::new().await;
    let (uuid, own) = world.create_in("Running", &world.dispatcher).await;
    let own = own.unwrap();
    let at = |position: &'static str| [("stream", "stdout"), ("position", position)];
    append(&world, &own, &uuid, &at("0"), "hello ").await.ok();
    append(&world, &own, &uuid, &at("0"), "hello ").await.ok();
    append(&world, &own, &uuid, &at("0"), "hello world")
        .await
        .ok();
    append(
        &world,
        &own,
        &uuid,
        &[("stream", "stderr"), ("position", "0")],
        "!",
    )
    .await
    .ok();
    let gap = append(&world, &own, &uuid, &at("12"), "lost").await;
    gap.fails(
        422,
        "position: expected at most 11, the bytes of stdout received so far, got 12",
    );
    assert_eq!(read(&world, &uuid, &[]).await.data, b"hello world!");
}

#[tokio::test]
async fn log_above_limit_ends_with_one_note() {
    let world = World::with(|config| config.max_log_bytes = 100).await;
    let (uuid, own) = world.create_in("Running", &world.dispatcher).await;
    let own = own.unwrap();
    for _ in 0..7 {
        append(&world, &own, &uuid, &[("stream", "stdout")], "x".repeat(30))
            .await
            .ok();
    }
    let answer = append(&world, &own, &uuid, &[("stream", "stderr")], "more")
        .await
        .ok();
    assert_eq!(
        (&answer["truncated"], &answer["next_position"]),
        (&json!(true), &json!(4))
    );
    let text = String::from_utf8(read(&world, &uuid, &[]).await.data).unwrap();
    let note = "\n[log truncated: only its first 100 bytes are kept]\n";
    assert_eq!(text, "x".repeat(100) + note);
    let repeated = [("stream", "stdout"), ("position", "180")];
    let answer = append(&world, &own, &uuid, &repeated, "x".repeat(30))
        .await
        .ok();
    assert_eq!(
        answer["next_position"], 210,
        "positions go on counting what was dropped"
    );
}

#[tokio::test]
async fn log_write_requires_runner_of_held_container() {
    let world = World::with(|config| config.max_body_bytes = 4096).await;
    let out = [("stream", "stdout")];
    let (uuid, own) = world.create_in("Running", &world.dispatcher).await;
    for token in [&world.admin, &world.alice] {
        append(&world, token, &uuid, &out, "x")
            .await
            .fails(403, "may write its log");
    }
    append(&world, &world.bob, &uuid, &out, "x")
        .await
        .fails(404, "not found");
    append(&world, &own.clone().unwrap(), &uuid, &[], "x")
        .await
        .fails(422, "stream: is required");
    append(&world, &own.clone().unwrap(), &uuid, &out, "x".repeat(4097))
        .await
        .fails(413, "larger than 4096");
    let other = world.create(1).await;
    append(&world, &own.clone().unwrap(), &other, &out, "x")
        .await
        .fails(404, "not found");
    append(&world, &world.dispatcher, &other, &out, "x")
        .await
        .fails(422, "cannot write the log when Queued");
    complete(&world, &uuid).await;
    append(&world, &own.unwrap(), &uuid, &out, "x")
        .await
        .fails(401, "Not logged in");
    append(&world, &world.dispatcher, &uuid, &out, "x")
        .await
        .fails(422, "cannot write the log when Complete");
    assert_eq!(read(&world, &uuid, &[]).await.data, b"");
}

async fn follow(world: &World, uuid: &str, query: &[(&str, &str)]) -> reqwest::Response {
    let request = world.request(&world.alice, Method::GET, &format!("containers/{uuid}/log"));
    let response = request
        .query(&[("follow", "true")])
        .query(query)
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    response
}

async fn next_bytes(response: &mut reqwest::Response) -> Option<Vec<u8>> {
    let next = tokio::time::timeout(DEADLINE, response.chunk())
        .await
        .expect("in time");
    next.unwrap().map(|bytes| bytes.to_vec())
}

#[tokio::test]
async fn followed_log_ends_with_its_container() {
    let world = World::new().await;
    let (uuid, own) = world.create_in("Running", &world.dispatcher).await;
    let own = own.unwrap();
    append(&world, &own, &uuid, &[("stream", "stdout")], "before ")
        .await
        .ok();
    let mut whole = follow(&world, &uuid, &[]).await;
    let mut errors = follow(&world, &uuid, &[("stream", "stderr")]).await;
    let mut short = follow(&world, &uuid, &[("limit", "3")]).await;
    assert_eq!(next_bytes(&mut whole).await.unwrap(), b"before ");
    append(&world, &own, &uuid, &[("stream", "stdout")], "after ")
        .await
        .ok();
    assert_eq!(next_bytes(&mut whole).await.unwrap(), b"after ");
    append(&world, &own, &uuid, &[("stream", "stderr")], "error")
        .await
        .ok();
    assert_eq!(next_bytes(&mut whole).await.unwrap(), b"error");
    assert_eq!(next_bytes(&mut errors).await.unwrap(), b"error");
    complete(&world, &uuid).await;
    assert_eq!(next_bytes(&mut whole).await, None);
    assert_eq!(next_bytes(&mut errors).await, None);
    assert_eq!(next_bytes(&mut short).await.unwrap(), b"bef");
    assert_eq!(next_bytes(&mut short).await, None);
}

#[tokio::test]
async fn followed_log_of_deleted_container_ends_with_error() {
    let world = World::new().await;
    let (uuid, _) = world.create_in("Running", &world.dispatcher).await;
    let mut response = follow(&world, &uuid, &[]).await;
    Answer::of(world.request(&world.admin, Method::DELETE, &format!("containers/{uuid}")))
        .await
        .ok();
    let end = tokio::time::timeout(DEADLINE, response.chunk())
        .await
        .expect("in time");
    assert!(
        end.is_err(),
        "a log that broke off is not taken for complete"
    );
}

#[tokio::test]
async fn stream_permits_are_counted_and_returned() {
    let world = World::with(|config| config.max_streams = 1).await;
    let (uuid, _) = world.create_in("Running", &world.dispatcher).await;
    let first = follow(&world, &uuid, &[]).await;
    let path = format!("containers/{uuid}/log");
    world
        .get(&world.alice, &path, &[("follow", "true")])
        .await
        .fails(503, "too many event and log streams");
    world
        .get(&world.alice, "containers/events", &[])
        .await
        .fails(503, "too many event and log streams");
    drop(first);
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let request = world
            .request(&world.alice, Method::GET, &path)
            .query(&[("follow", "true")]);
        let response = request.send().await.unwrap();
        if response.status() == 200 {
            break;
        }
        let refused: Value = response.json().await.unwrap();
        assert!(tokio::time::Instant::now() < deadline, "{refused}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
