//! The SDK's client: who we are, where EC2 is, and no retries of its own.

use std::time::Duration;

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::retry::RetryConfig;
use aws_sdk_ec2::config::timeout::TimeoutConfig;
use aws_sdk_ec2::config::{BehaviorVersion, Builder, Credentials, Region};

use crate::params::Ec2Params;

/// How long EC2 is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A connection must come about within this.
    pub connect: Duration,
    /// A call must be over within this, reading of credentials included.
    pub call: Duration,
}

impl Default for Timeouts {
    /// The core waits two minutes for a call, so that our words reach it before it gives up.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            call: Duration::from_secs(90),
        }
    }
}

/// Makes a client. With the default chain of credentials, this reads files and the environment.
pub(crate) async fn connect(params: &Ec2Params, timeouts: Timeouts) -> Client {
    let region = Region::new(params.region.clone());
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(timeouts.connect)
        .operation_timeout(timeouts.call)
        .build();
    let mut config = Builder::new()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(region.clone())
        // It would send what was refused for want of capacity again, and what was refused for
        // coming too often; when to try again is for the core to say.
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
