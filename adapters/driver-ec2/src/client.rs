//! SDK client: credentials, region and endpoint, without retries of the SDK.

use std::time::Duration;

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::retry::RetryConfig;
use aws_sdk_ec2::config::timeout::TimeoutConfig;
use aws_sdk_ec2::config::{BehaviorVersion, Builder, Credentials, Region};

use crate::params::Ec2Params;

/// Timeouts of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Timeout of a connect.
    pub connect: Duration,
    /// Timeout of a call, including the reading of credentials.
    pub call: Duration,
}

impl Default for Timeouts {
    /// Shorter than the core's call timeout of two minutes, so that the core receives the error
    /// text.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            call: Duration::from_secs(90),
        }
    }
}

/// Creates a client. The default credentials chain reads files and the environment.
pub(crate) async fn connect(params: &Ec2Params, timeouts: Timeouts) -> Client {
    let region = Region::new(params.region.clone());
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(timeouts.connect)
        .operation_timeout(timeouts.call)
        .build();
    let mut config = Builder::new()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(region.clone())
        // The SDK would repeat calls rejected for lack of capacity or by rate limits; retries
        // belong to the core.
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts);
    config = match &params.access_key {
        Some(key) => {
            let secret = key.secret.expose();
            let source = "DriverParameters";
            config.credentials_provider(Credentials::new(&key.id, secret, None, None, source))
        }
        None => {
            let chain = DefaultCredentialsChain::builder().region(region);
            config.credentials_provider(chain.build().await)
        }
    };
    config.set_endpoint_url(params.endpoint.clone());
    Client::from_conf(config.build())
}
