//! Driver: [`Cloud`] on the EC2 API.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::Filter;
use longshore_core::config::InstanceType;
use longshore_core::ids::{InstanceId, QuotaGroup};
use longshore_core::time::Timestamp;
use longshore_driver::{
    Cloud, CloudError, CloudSettings, CreateSpec, Instance, PricePoint, SharedCloud, tag,
};
use tokio::sync::OnceCell;

use crate::batch::{Batcher, call_in_batches};
use crate::client::{self, Timeouts};
use crate::error_codes::{CallFailure, CallKind, classify};
use crate::from_ec2::{self, Market, SpotInstance};
use crate::params::Ec2Params;
use crate::prices::{Prices, Quote, parse_price};
use crate::request::sdk_tags;
use crate::sdk_error::call_failure;
use crate::subnet_choice::SubnetChoice;

mod create;
mod key;

/// Maximum page size of EC2.
const PAGE_SIZE: i32 = 1000;

/// Maximum propagation time of a new instance: a younger instance may be unknown to some of EC2's
/// servers.
const PROPAGATION_TIME: Duration = Duration::from_secs(300);

/// Product description of Linux instances in the price history.
const PRODUCT_DESCRIPTION: &str = "Linux/UNIX";

/// Cloud driver for one instance set on EC2. All memory (shortages, prices, recent instances) only
/// saves calls, and may be lost in a restart.
///
/// Calls need a tokio runtime.
#[derive(Clone)]
pub struct Ec2Cloud {
    inner: Arc<Inner>,
    /// Index of the only allowed subnet, if fixed.
    fixed_subnet: Option<usize>,
}

struct Inner {
    settings: CloudSettings,
    params: Ec2Params,
    timeouts: Timeouts,
    client: OnceCell<Client>,
    key: tokio::sync::Mutex<key::KeyCache>,
    destroys: Batcher<InstanceId, Result<(), CloudError>>,
    memory: Mutex<Memory>,
}

struct Memory {
    subnet_choice: SubnetChoice,
    /// Creation time of recent instances.
    recent: BTreeMap<InstanceId, Instant>,
    /// Market, launch time and volume of the set's spot instances.
    spots: BTreeMap<InstanceId, SpotInstance>,
    prices: Prices,
}

impl fmt::Debug for Ec2Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ec2Cloud")
            .field("instance_set_id", &self.inner.settings.instance_set_id)
            .field("params", &self.inner.params)
            .field("fixed_subnet", &self.fixed_subnet)
            .finish_non_exhaustive()
    }
}

impl Ec2Cloud {
    /// Creates a driver. Without configured credentials, the first call runs the credentials chain.
    #[must_use]
    pub fn new(settings: CloudSettings, params: Ec2Params) -> Self {
        Self::with_timeouts(settings, params, Timeouts::default())
    }

    /// Creates a driver with these timeouts.
    #[must_use]
    pub fn with_timeouts(settings: CloudSettings, params: Ec2Params, timeouts: Timeouts) -> Self {
        let memory = Memory {
            subnet_choice: SubnetChoice::new(params.subnets.clone()),
            recent: BTreeMap::new(),
            spots: BTreeMap::new(),
            prices: Prices::default(),
        };
        let inner = Inner {
            settings,
            params,
            timeouts,
            client: OnceCell::new(),
            key: tokio::sync::Mutex::default(),
            destroys: Batcher::default(),
            memory: Mutex::new(memory),
        };
        Self {
            inner: Arc::new(inner),
            fixed_subnet: None,
        }
    }
}

#[async_trait]
impl Cloud for Ec2Cloud {
    async fn create(&self, spec: CreateSpec) -> Result<Instance, CloudError> {
        self.inner.create(&spec, self.fixed_subnet).await
    }

    async fn list(&self) -> Result<Vec<Instance>, CloudError> {
        self.inner.list().await
    }

    async fn set_tags(
        &self,
        instance: &InstanceId,
        tags: BTreeMap<String, String>,
    ) -> Result<(), CloudError> {
        self.inner.set_tags(instance, tags).await
    }

    async fn destroy(&self, instance: &InstanceId) -> Result<(), CloudError> {
        let inner = &self.inner;
        let destroy_all = |all: Vec<InstanceId>| async move { inner.destroy(&all).await };
        let answer = inner.destroys.run(instance.clone(), destroy_all).await;
        answer.unwrap_or_else(|| {
            let message = "the batched call was cancelled".to_owned();
            Err(CloudError::Ambiguous { message })
        })
    }

    async fn destroy_many(&self, instances: &[InstanceId]) -> Vec<Result<(), CloudError>> {
        self.inner.destroy(instances).await
    }

    async fn prices(
        &self,
        instances: &[InstanceId],
        since: Timestamp,
    ) -> Result<BTreeMap<InstanceId, Vec<PricePoint>>, CloudError> {
        self.inner.prices(instances, since).await
    }

    fn remote_user(&self) -> &str {
        &self.inner.params.admin_user
    }

    fn quota_group(&self, instance_type: &InstanceType) -> QuotaGroup {
        let group = self.inner.params.quota_group(&instance_type.provider_type);
        QuotaGroup::new(match instance_type.preemptible {
            true => format!("{group}.spot"),
            false => group,
        })
    }

    fn subnets(&self) -> Vec<String> {
        self.inner.params.subnets.clone()
    }

    fn for_subnet(&self, index: usize) -> Option<SharedCloud> {
        self.inner.params.subnets.get(index)?;
        Some(Arc::new(Self {
            inner: Arc::clone(&self.inner),
            fixed_subnet: Some(index),
        }))
    }
}

impl Inner {
    async fn client(&self) -> &Client {
        let connect = || client::connect(&self.params, self.timeouts);
        self.client.get_or_init(connect).await
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn list(&self) -> Result<Vec<Instance>, CloudError> {
        let own = Filter::builder()
            .name(format!("tag:{}", self.settings.key(tag::SET)))
            .values(&self.settings.instance_set_id)
            .build();
        let call = self.client().await.describe_instances().filters(own);
        let mut pages = call.max_results(PAGE_SIZE).into_paginator().send();
        let (mut instances, mut spots) = (Vec::new(), BTreeMap::new());
        let mut zones = BTreeMap::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| {
                classify(CallKind::Read, "DescribeInstances", &call_failure(&error))
            })?;
            for ec2_instance in page.reservations().iter().flat_map(|r| r.instances()) {
                let Some(instance) = from_ec2::instance(&self.settings, ec2_instance) else {
                    continue;
                };
                if let Some(spot) = from_ec2::spot(&self.settings, ec2_instance) {
                    spots.insert(instance.id.clone(), spot);
                }
                if let (Some(subnet), Some(zone)) =
                    (ec2_instance.subnet_id(), from_ec2::zone(ec2_instance))
                {
                    zones.insert(subnet.to_owned(), zone.to_owned());
                }
                instances.push(instance);
            }
        }
        let mut memory = self.memory();
        memory.forget_expired(Instant::now());
        for (subnet, zone) in &zones {
            memory.subnet_choice.learn_zone_of(subnet, zone);
        }
        let recent = std::mem::take(&mut memory.spots);
        let recent = recent
            .into_iter()
            .filter(|(id, _)| memory.recent.contains_key(id));
        spots.extend(recent.collect::<Vec<_>>());
        memory.spots = spots;
        Ok(instances)
    }

    async fn set_tags(
        &self,
        instance: &InstanceId,
        tags: BTreeMap<String, String>,
    ) -> Result<(), CloudError> {
        if tags.contains_key(tag::SECRET) {
            let message = format!("{} cannot be set as an ordinary tag", tag::SECRET);
            return Err(CloudError::Permanent { message });
        }
        let call = self.client().await.create_tags();
        let tags = sdk_tags(&self.settings.prefixed(tags));
        let answer = call.resources(instance.as_str()).set_tags(Some(tags));
        match answer.send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.transient_if_recent(
                instance,
                classify(CallKind::Write, "CreateTags", &call_failure(&error)),
            )),
        }
    }

    /// Destroys the instances in as few calls as EC2 allows.
    async fn destroy(&self, instances: &[InstanceId]) -> Vec<Result<(), CloudError>> {
        let client = self.client().await;
        let answers = call_in_batches(instances, |part: Vec<InstanceId>| async move {
            let ids = part.iter().map(|id| id.as_str().to_owned()).collect();
            let call = client.terminate_instances().set_instance_ids(Some(ids));
            call.send()
                .await
                .map(drop)
                .map_err(|error| call_failure(&error))
        });
        let to_result = |(instance, answer): (&InstanceId, Result<(), CallFailure>)| {
            let result = answer.map_err(|f| classify(CallKind::Write, "TerminateInstances", &f));
            match result.map_err(|error| self.transient_if_recent(instance, error)) {
                Err(CloudError::NotFound { .. }) => Ok(()),
                other => other,
            }
        };
        instances.iter().zip(answers.await).map(to_result).collect()
    }

    /// Converts `NotFound` for a recent instance to `Transient`, because a new instance may be
    /// unknown to some of EC2's servers.
    fn transient_if_recent(&self, instance: &InstanceId, error: CloudError) -> CloudError {
        let mut memory = self.memory();
        memory.forget_expired(Instant::now());
        match error {
            CloudError::NotFound { message } if memory.recent.contains_key(instance) => {
                let message = format!(
                    "{message}: the instance was just created and should become visible soon"
                );
                CloudError::Transient { message }
            }
            other => other,
        }
    }

    async fn prices(
        &self,
        instances: &[InstanceId],
        since: Timestamp,
    ) -> Result<BTreeMap<InstanceId, Vec<PricePoint>>, CloudError> {
        let Some(interval) = self.params.spot_price_interval else {
            return Ok(BTreeMap::new());
        };
        let now = now();
        let (due, from) = {
            let memory = self.memory();
            let spots = instances.iter().filter_map(|id| memory.spots.get(id));
            let markets = spots.map(|spot| spot.market.clone()).collect();
            let due = memory.prices.due(markets, since, now, interval);
            let from = memory.prices.query_start(&due, since, now, interval);
            (due, from)
        };
        if !due.is_empty() {
            let quotes = self.history(&due, from).await?;
            let mut memory = self.memory();
            memory.prices.record(due, from, now, quotes);
            let markets = memory.spots.values().map(|spot| spot.market.clone());
            let markets = markets.collect();
            memory.prices.retain(&markets);
        }
        let memory = self.memory();
        let cost = |id: &InstanceId| {
            let spot = memory.spots.get(id)?;
            let points = memory
                .prices
                .price_points(spot, since, self.params.volume_price);
            (!points.is_empty()).then(|| (id.clone(), points))
        };
        Ok(instances.iter().filter_map(cost).collect())
    }

    /// Price history of these markets; may include other combinations of the types and zones.
    async fn history(
        &self,
        markets: &BTreeSet<Market>,
        from: Timestamp,
    ) -> Result<Vec<Quote>, CloudError> {
        let types: BTreeSet<&str> = markets.iter().map(|m| m.provider_type.as_str()).collect();
        let zones: BTreeSet<String> = markets.iter().map(|m| m.zone.clone()).collect();
        let in_zones = Filter::builder()
            .name("availability-zone")
            .set_values(Some(zones.into_iter().collect()))
            .build();
        let start = Duration::from_nanos(from.as_nanos());
        let seconds = i64::try_from(start.as_secs()).unwrap_or(i64::MAX);
        let call = self.client().await.describe_spot_price_history();
        let call = call
            .set_instance_types(Some(types.into_iter().map(Into::into).collect()))
            .product_descriptions(PRODUCT_DESCRIPTION)
            .filters(in_zones)
            .start_time(aws_sdk_ec2::primitives::DateTime::from_secs(seconds))
            .max_results(PAGE_SIZE);
        let mut pages = call.into_paginator().send();
        let mut quotes = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| {
                classify(
                    CallKind::Read,
                    "DescribeSpotPriceHistory",
                    &call_failure(&error),
                )
            })?;
            quotes.extend(page.spot_price_history().iter().filter_map(quote));
        }
        Ok(quotes)
    }
}

impl Memory {
    fn forget_expired(&mut self, now: Instant) {
        let is_recent =
            |created: &Instant| now.saturating_duration_since(*created) < PROPAGATION_TIME;
        self.recent.retain(|_, created| is_recent(created));
    }
}

fn quote(ec2_instance: &aws_sdk_ec2::types::SpotPrice) -> Option<Quote> {
    Some(Quote {
        market: Market {
            provider_type: ec2_instance.instance_type()?.as_str().to_owned(),
            zone: ec2_instance.availability_zone()?.to_owned(),
        },
        at: from_ec2::timestamp(ec2_instance.timestamp()?)?,
        price: parse_price(ec2_instance.spot_price()?)?,
    })
}

fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    Timestamp::EPOCH + since_epoch.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use longshore_core::ids::CloudId;
    use longshore_core::resources::{MicroDollars, Resources};

    use super::*;

    #[test]
    fn spot_quota_groups_are_separate() {
        let settings = CloudSettings {
            instance_set_id: "set".to_owned(),
            tag_key_prefix: "Arvados".to_owned(),
            resource_tags: BTreeMap::new(),
        };
        let cloud = Ec2Cloud::new(settings, Ec2Params::default());
        let group = |provider_type: &str, preemptible| {
            let offer = InstanceType {
                cloud: CloudId(0),
                provider_type: provider_type.to_owned(),
                resources: Resources::default(),
                added_scratch: 0,
                gpus: None,
                price: MicroDollars(1),
                preemptible,
                quota_group: QuotaGroup::from("unknown"),
            };
            cloud.quota_group(&offer).as_str().to_owned()
        };
        assert_eq!(group("m5.large", false), "standard");
        assert_eq!(group("c6i.large", true), "standard.spot");
        assert_eq!(group("p5.48xlarge", true), "p5.spot");
        assert_eq!(group("trn1.2xlarge", false), "trn");
    }
}
