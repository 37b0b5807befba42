//! Authentication, and answers to wrong paths and methods.

use std::sync::Arc;

use reqwest::Method;

use crate::support::{Api, TOKEN, settings};
use crate::world::World;

const GETS: [&str; 7] = [
    "/arvados/v1/dispatch/containers",
    "/arvados/v1/dispatch/container",
    "/arvados/v1/dispatch/instances",
    "/_health/ping",
    "/metrics",
    "/metrics.json",
    "/_inspect/requests",
];
const POSTS: [&str; 5] = [
    "/arvados/v1/dispatch/containers/kill",
    "/arvados/v1/dispatch/instances/hold",
    "/arvados/v1/dispatch/instances/drain",
    "/arvados/v1/dispatch/instances/run",
    "/arvados/v1/dispatch/instances/kill",
];

fn routes() -> impl Iterator<Item = (Method, &'static str)> {
    let gets = GETS.into_iter().map(|path| (Method::GET, path));
    gets.chain(POSTS.into_iter().map(|path| (Method::POST, path)))
}

#[tokio::test]
async fn every_route_requires_management_token() {
    let api = Api::new(World::busy()).await;
    for (method, path) in routes() {
        let none = api.call(method.clone(), path, None, &[]).await;
        assert_eq!(none.status, 401, "{path}");
        assert_eq!(none.authenticate.as_deref(), Some("Bearer"), "{path}");
        assert!(none.content_type.starts_with("text/plain"), "{path}");
        let wrong = api.call(method.clone(), path, Some("wrong"), &[]).await;
        assert_eq!(wrong.status, 403, "{path}");
        assert!(wrong.content_type.starts_with("text/plain"), "{path}");
        let right = api.call(method, path, Some(TOKEN), &[]).await;
        assert!(![401, 403, 404, 405].contains(&right.status), "{path}");
    }
}

#[tokio::test]
async fn requests_without_configured_token_are_refused() {
    let api = Api::new(World::busy()).await;
    api.settings.send_replace(Arc::new(settings("")));
    for (method, path) in routes() {
        for token in [None, Some(""), Some(TOKEN)] {
            let answer = api.call(method.clone(), path, token, &[]).await;
            if path == "/_health/ping" {
                assert_eq!(answer.status, 404);
            } else {
                let text = "Management API authentication is not configured\n";
                assert_eq!((answer.status, answer.text.as_str()), (403, text), "{path}");
            }
        }
    }
}

#[tokio::test]
async fn new_token_applies_from_next_request() {
    let api = Api::new(World::busy()).await;
    assert_eq!(api.get("/_health/ping").await.status, 200);
    api.settings.send_replace(Arc::new(settings("another")));
    assert_eq!(api.get("/_health/ping").await.status, 403);
    let another = api.call(Method::GET, "/_health/ping", Some("another"), &[]);
    assert_eq!(another.await.status, 200);
}

#[tokio::test]
async fn wrong_method_is_answered_with_allowed_method() {
    let api = Api::new(World::busy()).await;
    for path in GETS {
        let answer = api.post(path, &[("instance_id", "i-0001")]).await;
        assert_eq!(answer.allow.as_deref(), Some("GET, HEAD"), "{path}");
        let expected = "wrong method: expected GET, HEAD".to_owned();
        assert_eq!(answer.error(), (405, expected));
    }
    for path in POSTS {
        let answer = api.get(path).await;
        assert_eq!(answer.allow.as_deref(), Some("POST"), "{path}");
        assert_eq!(
            answer.error(),
            (405, "wrong method: expected POST".to_owned())
        );
    }
}

#[tokio::test]
async fn unknown_path_gets_json_error() {
    let api = Api::new(World::busy()).await;
    for path in ["/", "/metrics/", "/arvados/v1/dispatch", "/_health/x"] {
        let error = (404, "there is nothing at this path".to_owned());
        assert_eq!(api.get(path).await.error(), error, "{path}");
        let stranger = api.call(Method::GET, path, None, &[]).await;
        assert_eq!(stranger.status, 401, "{path}");
    }
}

#[tokio::test]
async fn head_request_gets_no_body() {
    let api = Api::new(World::busy()).await;
    let answer = api.call(Method::HEAD, "/metrics", Some(TOKEN), &[]).await;
    assert_eq!((answer.status, answer.text.as_str()), (200, ""));
}
