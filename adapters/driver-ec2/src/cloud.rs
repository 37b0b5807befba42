//! The driver: [`Cloud`] over EC2's API.

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

use crate::batch::{Gate, all_of};
use crate::client::{self, Timeouts};
use crate::errors::{Call, Failure, classify};
use crate::failure::failure;
use crate::params::Ec2Params;
use crate::places::Places;
use crate::prices::{Prices, Quote, parse_price};
use crate::request::sdk_tags;
use crate::seen::{self, Market, Spot};

mod create;
mod key;

/// As many as EC2 puts on a page.
const PAGE: i32 = 1000;

/// An instance younger than this may be unknown to some of EC2's servers.
const YOUNG: Duration = Duration::from_secs(300);

/// The price history's name for what we run.
const PRODUCT: &str = "Linux/UNIX";

/// EC2, seen by one instance set. It keeps nothing that a restart may not lose: what it remembers of
/// shortages, prices and its latest instances only saves calls.
///
/// Its methods must be called within a tokio runtime.
#[derive(Clone)]
pub struct Ec2Cloud {
    inner: Arc<Inner>,
    /// The one place that instances may be created in, where it is fixed.
    only: Option<usize>,
}

struct Inner {
    settings: CloudSettings,
    params: Ec2Params,
    timeouts: Timeouts,
    client: OnceCell<Client>,
    key: tokio::sync::Mutex<key::Memory>,
    ends: Gate<InstanceId, Result<(), CloudError>>,
    memory: Mutex<Memory>,
}

struct Memory {
    places: Places,
    /// When they were made.
    young: BTreeMap<InstanceId, Instant>,
    /// What the prices of the set's spot instances depend on.
    spots: BTreeMap<InstanceId, Spot>,
    prices: Prices,
}

impl fmt::Debug for Ec2Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ec2Cloud")
            .field("instance_set_id", &self.inner.settings.instance_set_id)
            .field("params", &self.inner.params)
            .field("only", &self.only)
            .finish_non_exhaustive()
    }
}

impl Ec2Cloud {
    /// A driver; the first call looks for credentials where none are set.
    #[must_use]
    pub fn new(settings: CloudSettings, params: Ec2Params) -> Self {
        Self::with_timeouts(settings, params, Timeouts::default())
    }

    /// A driver that waits for so long.
    #[must_use]
    pub fn with_timeouts(settings: CloudSettings, params: Ec2Params, timeouts: Timeouts) -> Self {
        let memory = Memory {
            places: Places::new(params.subnets.clone()),
            young: BTreeMap::new(),
            spots: BTreeMap::new(),
            prices: Prices::default(),
        };
        let inner = Inner {
            settings,
            params,
            timeouts,
            client: OnceCell::new(),
            key: tokio::sync::Mutex::default(),
            ends: Gate::default(),
            memory: Mutex::new(memory),
        };
        Self {
            inner: Arc::new(inner),
            only: None,
        }
    }
}

#[async_trait]
impl Cloud for Ec2Cloud {
    async fn create(&self, spec: CreateSpec) -> Result<Instance, CloudError> {
        self.inner.create(&spec, self.only).await
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
        let together = |all: Vec<InstanceId>| async move { inner.destroy(&all).await };
        let answer = inner.ends.pass(instance.clone(), together).await;
        answer.unwrap_or_else(|| {
            let message = "the call that it went with was given up".to_owned();
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
            only: Some(index),
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
        let mut pages = call.max_results(PAGE).into_paginator().send();
        let (mut instances, mut spots) = (Vec::new(), BTreeMap::new());
        let mut zones = BTreeMap::new();
        while let Some(page) = pages.next().await {
            let page =
                page.map_err(|error| classify(Call::Look, "DescribeInstances", &failure(&error)))?;
            for shown in page.reservations().iter().flat_map(|r| r.instances()) {
                let Some(instance) = seen::instance(&self.settings, shown) else {
                    continue;
                };
                if let Some(spot) = seen::spot(&self.settings, shown) {
                    spots.insert(instance.id.clone(), spot);
                }
                if let (Some(subnet), Some(zone)) = (shown.subnet_id(), seen::zone(shown)) {
                    zones.insert(subnet.to_owned(), zone.to_owned());
                }
                instances.push(instance);
            }
        }
        let mut memory = self.memory();
        memory.forget_old(Instant::now());
        for (subnet, zone) in &zones {
            memory.places.is_in(subnet, zone);
        }
        let young = std::mem::take(&mut memory.spots);
        let young = young
            .into_iter()
            .filter(|(id, _)| memory.young.contains_key(id));
        spots.extend(young.collect::<Vec<_>>());
        memory.spots = spots;
        Ok(instances)
    }

    async fn set_tags(
        &self,
        instance: &InstanceId,
        tags: BTreeMap<String, String>,
    ) -> Result<(), CloudError> {
        if tags.contains_key(tag::SECRET) {
            let message = format!("{} cannot be set like another tag", tag::SECRET);
            return Err(CloudError::Permanent { message });
        }
        let call = self.client().await.create_tags();
        let tags = sdk_tags(&self.settings.prefixed(tags));
        let answer = call.resources(instance.as_str()).set_tags(Some(tags));
        match answer.send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.not_seen_yet(
                instance,
                classify(Call::Change, "CreateTags", &failure(&error)),
            )),
        }
    }

    /// Ends them in as few calls as EC2 allows.
    async fn destroy(&self, instances: &[InstanceId]) -> Vec<Result<(), CloudError>> {
        let client = self.client().await;
        let answers = all_of(instances, |part: Vec<InstanceId>| async move {
            let ids = part.iter().map(|id| id.as_str().to_owned()).collect();
            let call = client.terminate_instances().set_instance_ids(Some(ids));
            call.send().await.map(drop).map_err(|error| failure(&error))
        });
        let judge = |(instance, answer): (&InstanceId, Result<(), Failure>)| {
            let refused = answer.map_err(|f| classify(Call::Change, "TerminateInstances", &f));
            match refused.map_err(|error| self.not_seen_yet(instance, error)) {
                Err(CloudError::NotFound { .. }) => Ok(()),
                other => other,
            }
        };
        instances.iter().zip(answers.await).map(judge).collect()
    }

    /// What is unknown to one of EC2's servers shortly after it was made is not gone.
    fn not_seen_yet(&self, instance: &InstanceId, error: CloudError) -> CloudError {
        let mut memory = self.memory();
        memory.forget_old(Instant::now());
        match error {
            CloudError::NotFound { message } if memory.young.contains_key(instance) => {
                let message = format!("{message}: it was made a moment ago and must be there soon");
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
            let from = memory.prices.from(&due, since, now, interval);
            (due, from)
        };
        if !due.is_empty() {
            let quotes = self.history(&due, from).await?;
            let mut memory = self.memory();
            memory.prices.took(due, from, now, quotes);
            let markets = memory.spots.values().map(|spot| spot.market.clone());
            let markets = markets.collect();
            memory.prices.keep_only(&markets);
        }
        let memory = self.memory();
        let cost = |id: &InstanceId| {
            let spot = memory.spots.get(id)?;
            let points = memory.prices.of(spot, since, self.params.volume_price);
            (!points.is_empty()).then(|| (id.clone(), points))
        };
        Ok(instances.iter().filter_map(cost).collect())
    }

    /// The history of these markets, and maybe of others with their types and zones.
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
            .product_descriptions(PRODUCT)
            .filters(in_zones)
            .start_time(aws_sdk_ec2::primitives::DateTime::from_secs(seconds))
            .max_results(PAGE);
        let mut pages = call.into_paginator().send();
        let mut quotes = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| {
                classify(Call::Look, "DescribeSpotPriceHistory", &failure(&error))
            })?;
            quotes.extend(page.spot_price_history().iter().filter_map(quote));
        }
        Ok(quotes)
    }
}

impl Memory {
    fn forget_old(&mut self, now: Instant) {
        let is_young = |made: &Instant| now.saturating_duration_since(*made) < YOUNG;
        self.young.retain(|_, made| is_young(made));
    }
}

fn quote(shown: &aws_sdk_ec2::types::SpotPrice) -> Option<Quote> {
    Some(Quote {
        market: Market {
            provider_type: shown.instance_type()?.as_str().to_owned(),
            zone: shown.availability_zone()?.to_owned(),
        },
        at: seen::timestamp(shown.timestamp()?)?,
        price: parse_price(shown.spot_price()?)?,
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
    fn spot_instances_have_quotas_of_their_own() {
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
