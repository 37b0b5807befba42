//! Driver on an emulated EC2, and create requests.

pub(crate) mod moto;
pub(crate) mod proxy;
pub(crate) mod vm;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::{BehaviorVersion, Builder, Credentials, Region};
use longshore_core::config::InstanceType;
use longshore_core::ids::{CloudId, ImageId, IntentId, QuotaGroup, TypeName};
use longshore_core::resources::{MicroDollars, Resources};
use longshore_driver::{CloudError, CloudSettings, CreateSpec, tag};
use longshore_driver_ec2::{Ec2Cloud, Ec2Params};
use longshore_secret::Secret;
use russh::keys::PrivateKey;
use russh::keys::ssh_key::private::Ed25519Keypair;
use serde_json::json;

use proxy::Proxy;

/// Region of all tests.
pub(crate) const REGION: &str = "us-east-1";

/// Initial resources of the account.
pub(crate) struct Account {
    pub(crate) image: String,
    /// One subnet in each of three zones.
    pub(crate) subnets: Vec<String>,
    pub(crate) security_group: String,
}

/// Emulated EC2 behind a proxy, with an instance set for one test.
pub(crate) struct Ec2 {
    pub(crate) proxy: Proxy,
    pub(crate) account: Account,
    pub(crate) set: String,
    pub(crate) key: PrivateKey,
}

/// Counter for unique instance sets and intents in this process.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

fn number() -> u64 {
    NUMBERS.fetch_add(1, Ordering::Relaxed)
}

impl Ec2 {
    pub(crate) async fn start() -> Self {
        Self::behind(Proxy::start().await).await
    }

    pub(crate) async fn behind(proxy: Proxy) -> Self {
        let account = account().await;
        Self {
            proxy,
            account,
            set: format!("set-{}", number()),
            key: key(),
        }
    }

    pub(crate) fn settings(&self, set: &str) -> CloudSettings {
        CloudSettings {
            instance_set_id: set.to_owned(),
            tag_key_prefix: "Arvados".to_owned(),
            resource_tags: BTreeMap::from([("Owner".to_owned(), "lab".to_owned())]),
        }
    }

    /// Driver parameters; entries in `more` override the defaults.
    pub(crate) fn params(&self, more: serde_json::Value) -> Ec2Params {
        let mut all = json!({
            "AccessKeyID": "AKIATEST", "SecretAccessKey": "secretsecret", "Region": REGION,
            "SecurityGroupIDs": [self.account.security_group],
            "SubnetID": self.account.subnets[0], "Endpoint": self.proxy.url,
            "AdminUsername": "root",
        });
        let (all_map, more) = (all.as_object_mut().unwrap(), more.as_object().unwrap());
        all_map.extend(more.clone());
        Ec2Params::from_json(&all).unwrap()
    }

    pub(crate) fn cloud(&self) -> Ec2Cloud {
        self.cloud_with(json!({}))
    }

    pub(crate) fn cloud_with(&self, more: serde_json::Value) -> Ec2Cloud {
        Ec2Cloud::new(self.settings(&self.set), self.params(more))
    }

    /// Create request with a unique intent and secret.
    pub(crate) fn spec(&self) -> CreateSpec {
        let number = number();
        let secret = format!("s3cret-{number:032}");
        CreateSpec {
            intent: IntentId::new(u128::from(number) << 64 | u128::from(std::process::id())),
            type_name: TypeName::from("small"),
            instance_type: offer("m5.large"),
            image: ImageId::from(self.account.image.as_str()),
            tags: BTreeMap::from([
                (tag::TYPE.to_owned(), "small".to_owned()),
                (tag::IDLE_BEHAVIOR.to_owned(), "run".to_owned()),
            ]),
            init_script: longshore_ssh::init_script(
                &Secret::new(secret.as_str()),
                "/var/run/arvados-instance-secret",
                "",
            ),
            secret: Secret::new(secret),
            public_key: Some(self.key.public_key().to_openssh().unwrap()),
        }
    }
}

pub(crate) fn offer(provider_type: &str) -> InstanceType {
    InstanceType {
        cloud: CloudId(0),
        provider_type: provider_type.to_owned(),
        resources: Resources::default(),
        added_scratch: 0,
        gpus: None,
        price: MicroDollars(96_000),
        preemptible: false,
        quota_group: QuotaGroup::from("standard"),
    }
}

/// New private key.
pub(crate) fn key() -> PrivateKey {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).unwrap();
    PrivateKey::from(Ed25519Keypair::from_seed(&seed))
}

/// Client connected to the emulator without the proxy, for operations outside the driver.
pub(crate) fn direct(url: &str) -> Client {
    let config = Builder::new()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new(REGION))
        .credentials_provider(Credentials::new("AKIATEST", "secret", None, None, "test"))
        .endpoint_url(url);
    Client::from_conf(config.build())
}

async fn account() -> Account {
    let client = direct(moto::url());
    let images = client.describe_images().send().await.unwrap();
    let image = images.images()[0].image_id().unwrap().to_owned();
    let subnets = client.describe_subnets().send().await.unwrap();
    // Tests may create further subnets.
    let from_the_start = subnets.subnets().iter();
    let mut zoned: Vec<(&str, &str)> = from_the_start
        .filter(|subnet| subnet.default_for_az() == Some(true))
        .filter_map(|s| Some((s.availability_zone()?, s.subnet_id()?)))
        .collect();
    zoned.sort_unstable();
    let subnets = zoned.iter().take(3).map(|(_, id)| (*id).to_owned());
    let subnets = subnets.collect();
    let groups = client.describe_security_groups().send().await.unwrap();
    let security_group = groups.security_groups()[0].group_id().unwrap().to_owned();
    Account {
        image,
        subnets,
        security_group,
    }
}

/// Name of a result's class.
pub(crate) fn kind<T: std::fmt::Debug>(answer: &Result<T, CloudError>) -> &'static str {
    match answer {
        Ok(_) => "ok",
        Err(CloudError::RateLimited { .. }) => "rate",
        Err(CloudError::Quota { .. }) => "quota",
        Err(CloudError::Capacity { .. }) => "capacity",
        Err(CloudError::NotFound { .. }) => "not found",
        Err(CloudError::Ambiguous { .. }) => "ambiguous",
        Err(CloudError::Permanent { .. }) => "permanent",
        Err(CloudError::Transient { .. }) => "transient",
    }
}
