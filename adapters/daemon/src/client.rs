//! A user's calls to the queue and an operator's to the management API.

use std::time::Duration;

use longshore_cluster_config::{ClusterConfig, load_file};
use longshore_secret::Secret;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;

use crate::cli::ClientArgs;
use crate::exit::{Context as _, Failure, Outcome};

const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);
const ERROR_SHOWN_MAX: usize = 2000;

/// Calls one API with one token.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    token: Secret,
}

impl Client {
    /// For the queue: the URL and token of the environment (`LONGSHORE_API_URL`,
    /// `ARVADOS_API_TOKEN`), or else of the configuration.
    pub(crate) fn for_queue(args: &ClientArgs) -> Outcome<Self> {
        let token = std::env::var("ARVADOS_API_TOKEN").ok().map(Secret::new);
        match (&args.url, token) {
            (Some(url), Some(token)) => Self::new(url, token, false),
            (url, token) => {
                let path = &args.config.config;
                let cluster = load_file(path).usage(path.display())?.cluster;
                let url = url.as_ref().unwrap_or(&cluster.services.controller_url);
                let token = token.unwrap_or(cluster.system_root_token);
                Self::new(url, token, cluster.services.tls_insecure)
            }
        }
    }

    /// For the management API of a running dispatcher.
    pub(crate) fn for_management(cluster: &ClusterConfig) -> Outcome<Self> {
        let Some(first) = cluster.services.dispatch_cloud.first() else {
            return Err(Failure::Usage(
                "Services.DispatchCloud.InternalURLs is empty: expected the dispatcher's URL"
                    .to_owned(),
            ));
        };
        let insecure = cluster.services.tls_insecure;
        Self::new(&first.url, cluster.management_token.clone(), insecure)
    }

    pub(crate) fn new(base: &str, token: Secret, insecure: bool) -> Outcome<Self> {
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_PATIENCE)
            .tls_danger_accept_invalid_certs(insecure)
            .build()
            .failed("the HTTP client")?;
        let base = base.trim_end_matches('/').to_owned();
        Ok(Self { http, base, token })
    }

    /// A request with the token; `path` begins with a slash.
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}{path}", self.base);
        self.http
            .request(method, url)
            .bearer_auth(self.token.expose())
    }

    pub(crate) async fn get(&self, path: &str, params: &[(&str, String)]) -> Outcome<Value> {
        let request = self.request(Method::GET, path).query(params);
        json(self.send(request.timeout(ANSWER_PATIENCE)).await?).await
    }

    /// The same, where a thing that is not there is no failure.
    pub(crate) async fn find(
        &self,
        path: &str,
        params: &[(&str, String)],
    ) -> Outcome<Option<Value>> {
        let request = self.request(Method::GET, path).query(params);
        let response = self.answer(request.timeout(ANSWER_PATIENCE)).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        json(self.successful(response).await?).await.map(Some)
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Outcome<Value> {
        let request = self.request(Method::POST, path).json(body);
        json(self.send(request.timeout(ANSWER_PATIENCE)).await?).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Outcome<Value> {
        let request = self.request(Method::PUT, path).json(body);
        json(self.send(request.timeout(ANSWER_PATIENCE)).await?).await
    }

    /// A form without an interesting answer; its status line.
    pub(crate) async fn post_form(&self, path: &str, form: &[(&str, &str)]) -> Outcome<StatusCode> {
        let request = self.request(Method::POST, path).form(form);
        let response = self.send(request.timeout(ANSWER_PATIENCE)).await?;
        Ok(response.status())
    }

    /// A stream of bytes, however long it takes.
    pub(crate) async fn stream(&self, path: &str, params: &[(&str, String)]) -> Outcome<Response> {
        self.send(self.request(Method::GET, path).query(params))
            .await
    }

    pub(crate) fn host(&self) -> &str {
        let rest = self.base.split_once("://").map_or(&*self.base, |(_, r)| r);
        rest.split('/').next().unwrap_or(rest)
    }

    /// Sends it; an answer other than success becomes an error with the server's words.
    async fn send(&self, request: RequestBuilder) -> Outcome<Response> {
        let response = self.answer(request).await?;
        self.successful(response).await
    }

    async fn answer(&self, request: RequestBuilder) -> Outcome<Response> {
        request.send().await.map_err(|error| {
            let cause = root_cause(&error);
            Failure::Failed(format!("{} does not answer: {cause}", self.base))
        })
    }

    async fn successful(&self, response: Response) -> Outcome<Response> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = response.text().await.unwrap_or_default();
        let words = error_words(&text);
        Err(Failure::Failed(format!("{}: {status}: {words}", self.base)))
    }
}

async fn json(response: Response) -> Outcome<Value> {
    response.json().await.failed("the answer is not JSON")
}

/// The server's `errors`, or else the body as it is, cut.
fn error_words(text: &str) -> String {
    let parsed: Option<Value> = serde_json::from_str(text).ok();
    let errors = parsed.as_ref().and_then(|body| body["errors"].as_array());
    let words = match errors {
        Some(errors) => {
            let words = errors.iter().filter_map(Value::as_str);
            words.collect::<Vec<_>>().join("; ")
        }
        None => text.trim().to_owned(),
    };
    words.chars().take(ERROR_SHOWN_MAX).collect()
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
