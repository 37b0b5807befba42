//! HTTP client of users (containers API of the queue) and of operators (management API).

use std::time::Duration;

use longshore_cluster_config::{ClusterConfig, load_file};
use longshore_secret::Secret;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;

use crate::cli::ClientArgs;
use crate::error::{CliError, CliResult, Context as _};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
const ERROR_CHARS_MAX: usize = 2000;

/// Client of one API with one token.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    token: Secret,
}

impl Client {
    /// Client of the queue. URL and token come from the environment (`LONGSHORE_API_URL`,
    /// `ARVADOS_API_TOKEN`), or else from the configuration.
    pub(crate) fn for_queue(args: &ClientArgs) -> CliResult<Self> {
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

    /// Client of the management API of a running dispatcher.
    pub(crate) fn for_management(cluster: &ClusterConfig) -> CliResult<Self> {
        let Some(first) = cluster.services.dispatch_cloud.first() else {
            return Err(CliError::usage(
                "Services.DispatchCloud.InternalURLs is empty: expected the dispatcher's URL"
                    .to_owned(),
            ));
        };
        let insecure = cluster.services.tls_insecure;
        Self::new(&first.url, cluster.management_token.clone(), insecure)
    }

    pub(crate) fn new(base: &str, token: Secret, insecure: bool) -> CliResult<Self> {
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .tls_danger_accept_invalid_certs(insecure)
            .build()
            .failed("the HTTP client")?;
        let base = base.trim_end_matches('/').to_owned();
        Ok(Self { http, base, token })
    }

    /// Request with the token; `path` begins with a slash.
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}{path}", self.base);
        self.http
            .request(method, url)
            .bearer_auth(self.token.expose())
    }

    pub(crate) async fn get(&self, path: &str, params: &[(&str, String)]) -> CliResult<Value> {
        let request = self.request(Method::GET, path).query(params);
        json(self.send(request.timeout(RESPONSE_TIMEOUT)).await?).await
    }

    /// GET; `None` if the response is 404.
    pub(crate) async fn find(
        &self,
        path: &str,
        params: &[(&str, String)],
    ) -> CliResult<Option<Value>> {
        let request = self.request(Method::GET, path).query(params);
        let response = self.response(request.timeout(RESPONSE_TIMEOUT)).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        json(self.successful(response).await?).await.map(Some)
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> CliResult<Value> {
        let request = self.request(Method::POST, path).json(body);
        json(self.send(request.timeout(RESPONSE_TIMEOUT)).await?).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> CliResult<Value> {
        let request = self.request(Method::PUT, path).json(body);
        json(self.send(request.timeout(RESPONSE_TIMEOUT)).await?).await
    }

    /// Posts a form; returns the status line.
    pub(crate) async fn post_form(
        &self,
        path: &str,
        form: &[(&str, &str)],
    ) -> CliResult<StatusCode> {
        let request = self.request(Method::POST, path).form(form);
        let response = self.send(request.timeout(RESPONSE_TIMEOUT)).await?;
        Ok(response.status())
    }

    /// Response as a stream of bytes, without a timeout.
    pub(crate) async fn stream(
        &self,
        path: &str,
        params: &[(&str, String)],
    ) -> CliResult<Response> {
        self.send(self.request(Method::GET, path).query(params))
            .await
    }

    pub(crate) fn host(&self) -> &str {
        let rest = self.base.split_once("://").map_or(&*self.base, |(_, r)| r);
        rest.split('/').next().unwrap_or(rest)
    }

    /// Sends a request; a status other than success is an error with the message of the server.
    async fn send(&self, request: RequestBuilder) -> CliResult<Response> {
        let response = self.response(request).await?;
        self.successful(response).await
    }

    async fn response(&self, request: RequestBuilder) -> CliResult<Response> {
        request.send().await.map_err(|error| {
            let cause = root_cause(&error);
            let message = format!("{} does not answer: {cause}", self.base);
            CliError::failed(message).because(error)
        })
    }

    async fn successful(&self, response: Response) -> CliResult<Response> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = response.text().await.unwrap_or_default();
        let message = error_message(&text);
        Err(CliError::failed(format!(
            "{}: {status}: {message}",
            self.base
        )))
    }
}

async fn json(response: Response) -> CliResult<Value> {
    response.json().await.failed("the answer is not JSON")
}

/// Elements of `errors` in the response, or else the body as text, truncated.
fn error_message(text: &str) -> String {
    let parsed: Option<Value> = serde_json::from_str(text).ok();
    let errors = parsed.as_ref().and_then(|body| body["errors"].as_array());
    let message = match errors {
        Some(errors) => {
            let messages = errors.iter().filter_map(Value::as_str);
            messages.collect::<Vec<_>>().join("; ")
        }
        None => text.trim().to_owned(),
    };
    message.chars().take(ERROR_CHARS_MAX).collect()
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
