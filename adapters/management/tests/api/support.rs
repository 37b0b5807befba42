//! Server in the test process, with a loop for its requests.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use longshore_core::input::Input;
use longshore_management::{
    Health, LoopRequest, Management, ManagementSettings, ServeError, ServeLimits, Server,
};
use longshore_secret::Secret;
use reqwest::{Method, Response};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::world::{START, World, config};

pub(crate) const TOKEN: &str = "management-token";
/// Deadline above any duration in these tests.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) type SharedWorld = Arc<Mutex<World>>;

pub(crate) struct Api {
    pub(crate) addr: SocketAddr,
    pub(crate) world: SharedWorld,
    pub(crate) settings: watch::Sender<Arc<ManagementSettings>>,
    pub(crate) health: watch::Sender<Health>,
    /// Requests without an answer, for a server without a loop.
    pub(crate) unanswered: Option<mpsc::Receiver<LoopRequest>>,
    client: reqwest::Client,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<Result<(), ServeError>>,
}

impl Api {
    /// Server with an answering loop.
    pub(crate) async fn new(world: World) -> Self {
        Self::with_limits(world, ServeLimits::default()).await
    }

    /// Server with an answering loop and limits.
    pub(crate) async fn with_limits(world: World, limits: ServeLimits) -> Self {
        let mut api = Self::without_loop(world, limits).await;
        let questions = api.unanswered.take().expect("they wait for a loop");
        let health = api.health.subscribe();
        tokio::spawn(answer(Arc::clone(&api.world), questions, health));
        api
    }

    /// Server with a stuck loop.
    pub(crate) async fn without_loop(world: World, limits: ServeLimits) -> Self {
        let (ask, asked) = longshore_management::loop_requests();
        let (settings, current) = watch::channel(Arc::new(settings(TOKEN)));
        let (stop, stopped) = oneshot::channel();
        let free = "127.0.0.1:0".parse().expect("an address");
        let server = Server::bind(&[free]).await.expect("a free port");
        let addr = server.local_addrs()[0];
        let management = Management {
            settings: current,
            loop_requests: ask,
            metrics: Arc::clone(&world.metrics),
            limits,
        };
        let served = tokio::spawn(server.serve(management, async {
            let _ = stopped.await;
        }));
        Self {
            addr,
            world: Arc::new(Mutex::new(world)),
            settings,
            health: watch::channel(Health::Ok).0,
            unanswered: Some(asked),
            client: reqwest::Client::new(),
            stop: Some(stop),
            served,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, Some(TOKEN), &[]).await
    }

    pub(crate) async fn post(&self, path: &str, form: &[(&str, &str)]) -> Answer {
        self.call(Method::POST, path, Some(TOKEN), form).await
    }

    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        form: &[(&str, &str)],
    ) -> Answer {
        let mut request = self.client.request(method, self.url(path));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if !form.is_empty() {
            request = request.form(form);
        }
        Answer::read(request.send().await.expect("an answer")).await
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    pub(crate) fn client(&self) -> &reqwest::Client {
        &self.client
    }

    /// Stops the server and returns the result.
    pub(crate) async fn shutdown(mut self) -> Result<(), ServeError> {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        let served = tokio::time::timeout(DEADLINE, self.served).await;
        served.expect("it ends in time").expect("no panic")
    }
}

async fn answer(
    world: SharedWorld,
    mut questions: mpsc::Receiver<LoopRequest>,
    health: watch::Receiver<Health>,
) {
    while let Some(question) = questions.recv().await {
        let mut world = world.lock().expect("no panic");
        let health = health.borrow().clone();
        let now = world.now;
        if let Some(wish) = question.answer(now, world.core.view(), &health) {
            world.core.handle_input(now, Input::OperatorRequest(wish));
            world.settle();
        }
    }
}

pub(crate) fn settings(token: &str) -> ManagementSettings {
    ManagementSettings {
        management_token: Secret::new(token),
        tls: None,
        config: Arc::new(config()),
        version: "1.2.3".into(),
        config_sha256: "ab".repeat(32),
        config_changed_at: Some(START - Duration::from_secs(3600)),
        config_loaded_at: START - Duration::from_secs(60),
    }
}

/// Response with its whole body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) allow: Option<String>,
    pub(crate) authenticate: Option<String>,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) async fn read(response: Response) -> Self {
        let header = |name: &str| {
            let value = response.headers().get(name)?;
            Some(value.to_str().expect("text").to_owned())
        };
        Self {
            status: response.status().as_u16(),
            content_type: header("content-type").unwrap_or_default(),
            allow: header("allow"),
            authenticate: header("www-authenticate"),
            text: response.text().await.expect("a body"),
        }
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.content_type, "application/json", "{self:?}");
        serde_json::from_str(&self.text).expect("JSON")
    }

    /// Status and the only error.
    #[track_caller]
    pub(crate) fn error(&self) -> (u16, String) {
        let body = self.json();
        let errors = body["errors"].as_array().expect("a list of errors");
        assert_eq!(errors.len(), 1, "{self:?}");
        (self.status, errors[0].as_str().expect("text").to_owned())
    }

    /// Readable form for a snapshot.
    #[track_caller]
    pub(crate) fn pretty(&self) -> String {
        assert_eq!(self.status, 200, "{self:?}");
        serde_json::to_string_pretty(&self.json()).expect("JSON")
    }
}
