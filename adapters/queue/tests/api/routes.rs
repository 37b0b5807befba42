//! Paths and methods, byte for byte.

use reqwest::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{Answer, World};

/// Sends a request line as it is, without the normalization of a client; returns status line and the
/// whole response.
async fn raw(world: &World, line: &str, token: Option<&str>) -> String {
    let authorization = token.map_or_else(String::new, |token| {
        format!("Authorization: Bearer {token}\r\n")
    });
    let head = format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{authorization}\r\n");
    let mut socket = tokio::net::TcpStream::connect(world.server.local_addr())
        .await
        .unwrap();
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn trailing_slashes_are_ignored() {
    let world = World::new().await;
    let uuid = world.create(1).await;
    for path in [
        "containers/".to_owned(),
        "containers//".to_owned(),
        format!("containers/{uuid}/"),
        format!("containers/{uuid}///?select=%5B%22uuid%22%5D"),
    ] {
        let line = format!("GET /arvados/v1/{path}");
        let answer = raw(&world, &line, Some(&world.alice)).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{line}: {answer}");
        assert!(answer.contains(&uuid), "{line}: {answer}");
    }
}

#[tokio::test]
async fn wrong_method_names_sent_path() {
    let world = World::new().await;
    for (line, text) in [
        (
            "DELETE /arvados/v1/containers/",
            "/arvados/v1/containers/: expected GET or POST, got DELETE",
        ),
        (
            "PUT /arvados/v1/containers/events",
            "/arvados/v1/containers/events: expected GET, got PUT",
        ),
        (
            "GET /arvados/v1/containers/x/lock",
            "/arvados/v1/containers/x/lock: expected POST, got GET",
        ),
        (
            "POST /arvados/v1/api_client_authorizations/current",
            "current: expected GET, got POST",
        ),
    ] {
        let answer = raw(&world, line, Some(&world.alice)).await;
        assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
        assert!(answer.contains(text), "{answer}");
        assert!(!answer.to_lowercase().contains("\r\nallow:"), "{answer}");
    }
}

#[tokio::test]
async fn head_is_refused() {
    let world = World::new().await;
    let line = "HEAD /arvados/v1/containers";
    let answer = raw(&world, line, Some(&world.alice)).await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "no body: {answer}");
}

#[tokio::test]
async fn unknown_path_needs_token_first() {
    let world = World::new().await;
    for path in [
        "/",
        "/arvados/v1",
        "/arvados/v1/containers/a/b/c",
        "/arvados/v1//containers",
    ] {
        let line = format!("GET {path}");
        let stranger = raw(&world, &line, None).await;
        assert!(stranger.starts_with("HTTP/1.1 401 "), "{stranger}");
        let answer = raw(&world, &line, Some(&world.alice)).await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
        let text = format!("path {path} not found: the API begins at /arvados/v1/containers");
        assert!(answer.contains(&text), "{answer}");
    }
}

#[tokio::test]
async fn escaped_uuid_is_unknown() {
    let world = World::new().await;
    let uuid = world.create(1).await.replace('-', "%2D");
    let line = format!("GET /arvados/v1/containers/{uuid}");
    let answer = raw(&world, &line, Some(&world.alice)).await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    let text = format!("container {uuid} not found");
    assert!(answer.contains(&text), "{answer}");
}

#[tokio::test]
async fn method_override_applies_to_post_only() {
    let world = World::new().await;
    let send = async |method: Method, overriding: &str| {
        let request = world.request(&world.alice, method, "containers");
        Answer::of(request.header("X-Http-Method-Override", overriding)).await
    };
    let list = send(Method::POST, "GET").await.ok();
    assert_eq!(list["items_available"], 0);
    let deleted = send(Method::POST, "DELETE").await;
    deleted.fails(405, "expected GET or POST, got DELETE");
    let unknown = send(Method::POST, "HEAD").await;
    unknown.fails(
        400,
        "X-Http-Method-Override: expected GET, PUT, PATCH or DELETE",
    );
    send(Method::GET, "DELETE").await.ok();
}
