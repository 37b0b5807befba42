//! Server for one test, its tokens, and a client with short requests.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use longshore_queue::{Database, QueueConfig, QueueServer, Role};
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;

pub(crate) const CLUSTER: &str = "zzzzz";
/// Deadline above any duration here, short enough to fail a hung test.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

pub(crate) fn file_config(dir: &Path) -> QueueConfig {
    QueueConfig::new(CLUSTER, Database::File(dir.join("queue.sqlite")))
}

/// Server, the folder of its database file, and one token of each kind.
pub(crate) struct World {
    pub(crate) server: QueueServer,
    pub(crate) client: Client,
    pub(crate) admin: String,
    pub(crate) dispatcher: String,
    pub(crate) alice: String,
    pub(crate) bob: String,
    pub(crate) dir: tempfile::TempDir,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut QueueConfig)) -> Self {
        let listener = TcpListener::bind(any_port()).await.unwrap();
        Self::on(listener, change).await
    }

    pub(crate) async fn on(listener: TcpListener, change: impl FnOnce(&mut QueueConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = file_config(dir.path());
        change(&mut config);
        let server = QueueServer::serve(listener, config).await.unwrap();
        let token = async |role, owner| {
            let (_, secret) = server.tokens().create(role, owner).await.unwrap();
            secret.expose().to_owned()
        };
        let admin = token(Role::Admin, "root").await;
        let dispatcher = token(Role::Dispatcher, "dispatcher").await;
        let alice = token(Role::User, "alice").await;
        let bob = token(Role::User, "bob").await;
        let client = Client::builder().timeout(DEADLINE).build().unwrap();
        Self {
            server,
            client,
            admin,
            dispatcher,
            alice,
            bob,
            dir,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}/arvados/v1/{path}", self.server.local_addr())
    }

    pub(crate) fn request(&self, token: &str, method: Method, path: &str) -> RequestBuilder {
        self.client
            .request(method, self.url(path))
            .bearer_auth(token)
    }

    pub(crate) async fn get(&self, token: &str, path: &str, query: &[(&str, &str)]) -> Answer {
        Answer::of(self.request(token, Method::GET, path).query(query)).await
    }

    pub(crate) async fn post(&self, token: &str, path: &str, form: &[(&str, &str)]) -> Answer {
        Answer::of(self.request(token, Method::POST, path).form(form)).await
    }

    pub(crate) async fn put(&self, token: &str, uuid: &str, attributes: &Value) -> Answer {
        let form = [("container", attributes.to_string())];
        Answer::of(
            self.request(token, Method::PUT, &format!("containers/{uuid}"))
                .form(&form),
        )
        .await
    }

    pub(crate) async fn lock(&self, token: &str, uuid: &str) -> Answer {
        self.post(token, &format!("containers/{uuid}/lock"), &[])
            .await
    }

    pub(crate) async fn unlock(&self, token: &str, uuid: &str) -> Answer {
        self.post(token, &format!("containers/{uuid}/unlock"), &[])
            .await
    }

    pub(crate) async fn record(&self, uuid: &str) -> Value {
        self.get(&self.admin, &format!("containers/{uuid}"), &[])
            .await
            .ok()
    }

    pub(crate) async fn create_as(&self, token: &str, attributes: &Value) -> Answer {
        let request = self.request(token, Method::POST, "containers");
        Answer::of(request.json(&json!({ "container": attributes }))).await
    }

    /// Creates a container of alice; returns its uuid.
    pub(crate) async fn create(&self, priority: i64) -> String {
        let mut attributes = plain();
        attributes["priority"] = json!(priority);
        let record = self.create_as(&self.alice, &attributes).await.ok();
        record["uuid"].as_str().unwrap().to_owned()
    }

    /// Creates a container of alice in a state reached by `holder`; returns its own token too, if
    /// any.
    pub(crate) async fn create_in(&self, state: &str, holder: &str) -> (String, Option<String>) {
        let uuid = self.create(1).await;
        if state == "Queued" {
            return (uuid, None);
        }
        self.lock(holder, &uuid).await.ok();
        let own = self.own_token(holder, &uuid).await;
        if matches!(state, "Running" | "Complete") {
            self.put(holder, &uuid, &json!({ "state": "Running" }))
                .await
                .ok();
        }
        if matches!(state, "Complete" | "Cancelled") {
            self.put(holder, &uuid, &json!({ "state": state }))
                .await
                .ok();
        }
        assert_eq!(self.record(&uuid).await["state"], state);
        (uuid, Some(own))
    }

    /// Container's own token.
    pub(crate) async fn own_token(&self, holder: &str, uuid: &str) -> String {
        let auth = self
            .get(holder, &format!("containers/{uuid}/auth"), &[])
            .await
            .ok();
        let (token, secret) = (
            auth["uuid"].as_str().unwrap(),
            auth["api_token"].as_str().unwrap(),
        );
        assert!(secret.len() >= 40);
        format!("v2/{token}/{secret}")
    }

    pub(crate) async fn token_uuid(&self, token: &str) -> String {
        let current = self
            .get(token, "api_client_authorizations/current", &[])
            .await
            .ok();
        current["uuid"].as_str().unwrap().to_owned()
    }
}

/// Minimal container.
pub(crate) fn plain() -> Value {
    json!({
        "command": ["echo", "hello"],
        "runtime_constraints": { "vcpus": 1, "ram": 1_000_000 },
    })
}

/// Status and JSON of a response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) async fn of(request: RequestBuilder) -> Self {
        Self::read(request.send().await.unwrap()).await
    }

    /// Parses a response: JSON always, and the API's shape for errors.
    pub(crate) async fn read(response: Response) -> Self {
        let status = response.status().as_u16();
        assert!(response.headers().contains_key("x-request-id"));
        let text = response.text().await.unwrap();
        let body: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        let answer = Self { status, body };
        if status != 200 {
            let error = answer.error();
            assert!(error.starts_with("#<") && error.contains(">"), "{error}");
            let token = answer.body["error_token"].as_str().unwrap();
            let (epoch, suffix) = token.split_once('+').unwrap();
            assert!(epoch.parse::<u64>().unwrap() > 1_700_000_000, "{token}");
            assert!(
                suffix.len() == 8 && u32::from_str_radix(suffix, 16).is_ok(),
                "{token}"
            );
        }
        answer
    }

    /// Body of a success.
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        self.body
    }

    /// Text of an error.
    #[track_caller]
    pub(crate) fn error(&self) -> &str {
        self.body["errors"][0].as_str().unwrap()
    }

    /// Checks the status and a part of the error's text.
    #[track_caller]
    pub(crate) fn fails(&self, status: u16, part: &str) {
        assert_eq!(self.status, status, "{}", self.body);
        assert!(
            self.error().contains(part),
            "{:?} lacks {part:?}",
            self.error()
        );
    }
}
