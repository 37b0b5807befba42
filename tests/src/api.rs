//! Client of the queue or of the management API.

use std::time::Duration;

use serde_json::{Value, json};
use ureq::http::{Request, Response};
use ureq::{Agent, Body};

use crate::container::Container;
use crate::wait::until_some;

const CONTAINERS: &str = "/arvados/v1/containers";

/// Client of one API with one token.
#[derive(Clone, Debug)]
pub struct Api {
    agent: Agent,
    base: String,
    token: String,
}

/// Response to a request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Body.
    pub text: String,
}

impl Answer {
    /// Body as JSON; null if the body is not JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    /// Returns the answer if the status is 200.
    ///
    /// # Panics
    ///
    /// With any other status.
    #[must_use]
    pub fn ok(self) -> Self {
        assert_eq!(self.status, 200, "{}", self.text);
        self
    }
}

impl Api {
    /// Client of a port of this host; an empty token is not sent.
    #[must_use]
    pub fn new(port: u16, token: impl Into<String>) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(30)))
            .build()
            .new_agent();
        Self {
            agent,
            base: format!("http://127.0.0.1:{port}"),
            token: token.into(),
        }
    }

    /// Same API with another token.
    #[must_use]
    pub fn with_token(&self, token: impl Into<String>) -> Self {
        Self {
            token: token.into(),
            ..self.clone()
        }
    }

    /// Sends a request; an error means that the server is unreachable.
    ///
    /// # Errors
    ///
    /// The reason as text.
    pub fn send(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: impl Into<Vec<u8>>,
    ) -> Result<Answer, String> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base));
        if !self.token.is_empty() {
            request = request.header("Authorization", format!("Bearer {}", self.token));
        }
        if !content_type.is_empty() {
            request = request.header("Content-Type", content_type);
        }
        let request = request.body(body.into()).map_err(|e| e.to_string())?;
        let answered = self.agent.run(request);
        let mut response: Response<Body> = answered.map_err(|e| e.to_string())?;
        let bytes = response
            .body_mut()
            .with_config()
            .limit(64 << 20)
            .read_to_vec();
        Ok(Answer {
            status: response.status().as_u16(),
            text: String::from_utf8_lossy(&bytes.map_err(|e| e.to_string())?).into_owned(),
        })
    }

    /// Sends a GET request.
    ///
    /// # Panics
    ///
    /// If the server is unreachable.
    #[must_use]
    pub fn get(&self, path: &str) -> Answer {
        let answer = self.send("GET", path, "", "");
        answer.unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// Sends JSON.
    ///
    /// # Panics
    ///
    /// If the server is unreachable.
    #[must_use]
    pub fn json(&self, method: &str, path: &str, body: &Value) -> Answer {
        let answer = self.send(method, path, "application/json", body.to_string());
        answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Posts a URL-encoded form.
    ///
    /// # Panics
    ///
    /// If the server is unreachable.
    #[must_use]
    pub fn form(&self, path: &str, form: &str) -> Answer {
        let answer = self.send("POST", path, "application/x-www-form-urlencoded", form);
        answer.unwrap_or_else(|error| panic!("POST {path}: {error}"))
    }

    /// Submits a container and returns the uuid.
    ///
    /// # Panics
    ///
    /// If the queue refuses the container.
    #[must_use]
    pub fn submit(&self, container: &Container) -> String {
        let answer = self.json("POST", CONTAINERS, &container.body()).ok();
        let uuid = answer.json()["uuid"].as_str().map(str::to_owned);
        uuid.expect("a new container has a uuid")
    }

    /// Record of a container.
    ///
    /// # Panics
    ///
    /// If there is no such container.
    #[must_use]
    pub fn record(&self, uuid: &str) -> Value {
        self.get(&format!("{CONTAINERS}/{uuid}")).ok().json()
    }

    /// State of a container.
    #[must_use]
    pub fn state(&self, uuid: &str) -> String {
        self.record(uuid)["state"].as_str().unwrap_or("").to_owned()
    }

    /// Changes the priority of a container; 0 cancels the container.
    pub fn set_priority(&self, uuid: &str, priority: i64) {
        let body = json!({ "container": { "priority": priority } });
        let path = format!("{CONTAINERS}/{uuid}");
        let _ = self.json("PUT", &path, &body).ok();
    }

    /// Output of a container so far.
    #[must_use]
    pub fn log(&self, uuid: &str) -> String {
        self.get(&format!("{CONTAINERS}/{uuid}/log")).ok().text
    }

    /// Waits until a container is in a state, and returns the record.
    ///
    /// # Panics
    ///
    /// After a timeout, or if the container ends in another state.
    pub fn until_state(&self, uuid: &str, state: &str) -> Value {
        until_some(&format!("{uuid} is {state}"), || {
            let record = self.record(uuid);
            let now = record["state"].as_str().unwrap_or_default();
            let over = matches!(now, "Complete" | "Cancelled");
            assert!(
                now == state || !over,
                "{uuid} should be {state}: {record:#}"
            );
            (now == state).then_some(record)
        })
    }

    /// Waits until a container has completed, and returns the exit code.
    ///
    /// # Panics
    ///
    /// After a timeout.
    #[must_use]
    pub fn exit_code(&self, uuid: &str) -> Option<i64> {
        self.until_state(uuid, "Complete")["exit_code"].as_i64()
    }
}
