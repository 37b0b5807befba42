//! What a request asks for.

use axum::http::Method;

/// One thing that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Containers,
    Container,
    KillContainer,
    Instances,
    Hold,
    Drain,
    Run,
    KillInstance,
    Explain,
    Ping,
    Metrics,
    MetricsJson,
    Requests,
}

impl Route {
    /// What a path leads to.
    pub(crate) fn find(path: &str) -> Option<Self> {
        Some(match path {
            "/arvados/v1/dispatch/containers" => Self::Containers,
            "/arvados/v1/dispatch/container" => Self::Container,
            "/arvados/v1/dispatch/containers/kill" => Self::KillContainer,
            "/arvados/v1/dispatch/instances" => Self::Instances,
            "/arvados/v1/dispatch/instances/hold" => Self::Hold,
            "/arvados/v1/dispatch/instances/drain" => Self::Drain,
            "/arvados/v1/dispatch/instances/run" => Self::Run,
            "/arvados/v1/dispatch/instances/kill" => Self::KillInstance,
            "/arvados/v1/dispatch/explain" => Self::Explain,
            "/_health/ping" => Self::Ping,
            "/metrics" => Self::Metrics,
            "/metrics.json" => Self::MetricsJson,
            "/_inspect/requests" => Self::Requests,
            _ => return None,
        })
    }

    /// The method it takes.
    pub(crate) fn method(self) -> Method {
        match self {
            Self::KillContainer | Self::Hold | Self::Drain | Self::Run | Self::KillInstance => {
                Method::POST
            }
            _ => Method::GET,
        }
    }

    /// Its methods for an `Allow` header: what can be read can also be asked for its head.
    pub(crate) fn allow(self) -> &'static str {
        if self.method() == Method::POST {
            "POST"
        } else {
            "GET, HEAD"
        }
    }

    /// Whether a request with this method is meant for it.
    pub(crate) fn takes(self, method: &Method) -> bool {
        self.method() == *method || (self.method() == Method::GET && *method == Method::HEAD)
    }
}
