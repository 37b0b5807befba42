//! Choice and order of the subnets for a create.
//!
//! The subnet of the last success is first. A subnet with a recent shortage is skipped while
//! another subnet is left: capacity shortages are recorded per type, lifecycle (spot or on demand)
//! and zone, shortages of addresses per subnet. The zone of a subnet is learned from the instances
//! in the subnet; until then the subnet counts as a zone of its own.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use longshore_core::ids::IntentId;

/// Time a subnet with a shortage is skipped while another subnet is left.
const SHORTAGE_MEMORY: Duration = Duration::from_secs(180);

/// Maximum number of recorded intents. A repeated create goes to the recorded subnet, because the
/// token is valid only there.
const INTENTS_MAX: usize = 4096;

/// Subject of a capacity shortage.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Offering {
    /// EC2's name of the instance type.
    pub(crate) provider_type: String,
    /// True for spot, false for on demand.
    pub(crate) spot: bool,
}

/// Kind of a shortage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shortage {
    /// The zone has no capacity for this offering.
    Offering,
    /// The subnet cannot take any instance.
    Subnet,
}

/// Recorded successes and shortages. `subnets` are in configured order; without configured subnets
/// there is a single unnamed subnet with index 0.
#[derive(Debug)]
pub(crate) struct SubnetChoice {
    subnets: Vec<String>,
    preferred: usize,
    zones: BTreeMap<usize, String>,
    /// Time of the latest shortage.
    shortages: BTreeMap<ShortageKey, Instant>,
    intents: BTreeMap<IntentId, usize>,
    intent_order: VecDeque<IntentId>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ShortageKey {
    ZoneOffering(Offering, String),
    SubnetOffering(Offering, usize),
    Subnet(usize),
}

impl SubnetChoice {
    pub(crate) fn new(subnets: Vec<String>) -> Self {
        Self {
            subnets,
            preferred: 0,
            zones: BTreeMap::new(),
            shortages: BTreeMap::new(),
            intents: BTreeMap::new(),
            intent_order: VecDeque::new(),
        }
    }

    /// Subnet at an index; `None` if EC2 chooses the subnet.
    pub(crate) fn subnet(&self, index: usize) -> Option<&str> {
        self.subnets.get(index).map(String::as_str)
    }

    /// Indices of the subnets to try, in order; at least one index, without repetition. `fixed` is
    /// the only allowed index, if any.
    pub(crate) fn candidates(
        &mut self,
        intent: IntentId,
        offering: &Offering,
        fixed: Option<usize>,
        now: Instant,
    ) -> Vec<usize> {
        if let Some(index) = fixed {
            return vec![index];
        }
        // An earlier request may have created the instance in the recorded subnet, so the recorded
        // subnet is tried first.
        let before = self.intents.get(&intent).copied();
        self.shortages
            .retain(|_, at| now.saturating_duration_since(*at) < SHORTAGE_MEMORY);
        let count = self.subnets.len().max(1);
        let mut all: Vec<usize> = (0..count).map(|n| (self.preferred + n) % count).collect();
        let shortage = |index: &usize| self.shortage_since(*index, offering);
        if all.iter().any(|index| shortage(index).is_none()) {
            all.retain(|index| shortage(index).is_none());
        } else {
            // All subnets have shortages: only the subnet with the oldest shortage is tried.
            all.sort_by_key(shortage);
            all.truncate(1);
        }
        if let Some(before) = before {
            all.retain(|index| *index != before);
            all.insert(0, before);
        }
        all
    }

    /// True if a shortage of the offering is recorded for the subnet.
    pub(crate) fn has_shortage(&self, index: usize, offering: &Offering) -> bool {
        self.shortage_since(index, offering).is_some()
    }

    fn shortage_since(&self, index: usize, offering: &Offering) -> Option<Instant> {
        let of_offering = self.shortages.get(&self.key(index, offering));
        let of_subnet = self.shortages.get(&ShortageKey::Subnet(index));
        of_offering.max(of_subnet).copied()
    }

    fn key(&self, index: usize, offering: &Offering) -> ShortageKey {
        match self.zones.get(&index) {
            Some(zone) => ShortageKey::ZoneOffering(offering.clone(), zone.clone()),
            None => ShortageKey::SubnetOffering(offering.clone(), index),
        }
    }

    /// Records a created instance.
    pub(crate) fn record_success(
        &mut self,
        intent: IntentId,
        offering: &Offering,
        index: usize,
        zone: Option<&str>,
    ) {
        self.preferred = index;
        self.shortages.remove(&self.key(index, offering));
        self.shortages.remove(&ShortageKey::Subnet(index));
        if let Some(zone) = zone {
            self.set_zone(index, zone);
            self.shortages.remove(&self.key(index, offering));
        }
        self.record_intent(intent, index);
    }

    /// Learns the zone of a subnet from a listed instance.
    pub(crate) fn learn_zone_of(&mut self, subnet: &str, zone: &str) {
        if let Some(index) = self.subnets.iter().position(|known| known == subnet) {
            self.set_zone(index, zone);
        }
    }

    /// Sets the zone of a subnet. Shortages of the subnet become shortages of the zone.
    fn set_zone(&mut self, index: usize, zone: &str) {
        let before = self.zones.insert(index, zone.to_owned());
        if before.as_deref() == Some(zone) {
            return;
        }
        let of_subnet =
            |key: &ShortageKey| matches!(key, ShortageKey::SubnetOffering(_, p) if *p == index);
        let keys: Vec<ShortageKey> = self
            .shortages
            .keys()
            .filter(|k| of_subnet(k))
            .cloned()
            .collect();
        for key in keys {
            if let (Some(at), ShortageKey::SubnetOffering(offering, _)) =
                (self.shortages.remove(&key), key)
            {
                let of_zone = self
                    .shortages
                    .entry(ShortageKey::ZoneOffering(offering, zone.to_owned()));
                let latest = of_zone.or_insert(at);
                *latest = at.max(*latest);
            }
        }
    }

    /// Records a shortage.
    pub(crate) fn record_shortage(
        &mut self,
        offering: &Offering,
        index: usize,
        shortage: Shortage,
        now: Instant,
    ) {
        let key = match shortage {
            Shortage::Offering => self.key(index, offering),
            Shortage::Subnet => ShortageKey::Subnet(index),
        };
        self.shortages.insert(key, now);
    }

    /// Prefers the next subnet after a permanent failure, so that every unusable subnet is
    /// reported.
    pub(crate) fn prefer_next(&mut self, index: usize) {
        self.preferred = (index + 1) % self.subnets.len().max(1);
    }

    /// Records that an instance may have been created for this intent in this subnet.
    pub(crate) fn record_intent(&mut self, intent: IntentId, index: usize) {
        if self.intents.insert(intent, index).is_none() {
            self.intent_order.push_back(intent);
        }
        if self.intent_order.len() > INTENTS_MAX
            && let Some(oldest) = self.intent_order.pop_front()
        {
            self.intents.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IntentId = IntentId::new(1);
    const B: IntentId = IntentId::new(2);

    fn offering(provider_type: &str, spot: bool) -> Offering {
        Offering {
            provider_type: provider_type.to_owned(),
            spot,
        }
    }

    fn three() -> SubnetChoice {
        SubnetChoice::new(["s0", "s1", "s2"].map(str::to_owned).to_vec())
    }

    #[test]
    fn no_subnets_gives_one_unnamed_candidate() {
        let mut choice = SubnetChoice::new(Vec::new());
        let m5 = offering("m5", false);
        let now = Instant::now();
        assert_eq!(choice.candidates(A, &m5, None, now), [0]);
        choice.record_shortage(&m5, 0, Shortage::Offering, now);
        choice.prefer_next(0);
        assert_eq!(choice.candidates(A, &m5, None, now), [0]);
        assert_eq!(choice.subnet(0), None);
    }

    #[test]
    fn last_successful_subnet_is_first() {
        let mut choice = three();
        let m5 = offering("m5", false);
        let now = Instant::now();
        assert_eq!(choice.candidates(A, &m5, None, now), [0, 1, 2]);
        choice.record_success(A, &m5, 1, None);
        assert_eq!(choice.candidates(B, &m5, None, now), [1, 2, 0]);
        choice.prefer_next(1);
        assert_eq!(choice.candidates(B, &m5, None, now), [2, 0, 1]);
        assert_eq!(choice.candidates(B, &m5, Some(1), now), [1]);
    }

    #[test]
    fn shortage_expires_and_is_per_offering() {
        let mut choice = three();
        let (m5, spot, c5) = (
            offering("m5", false),
            offering("m5", true),
            offering("c5", false),
        );
        let now = Instant::now();
        choice.record_shortage(&m5, 0, Shortage::Offering, now);
        assert_eq!(choice.candidates(A, &m5, None, now), [1, 2]);
        assert_eq!(choice.candidates(A, &spot, None, now), [0, 1, 2]);
        assert_eq!(choice.candidates(A, &c5, None, now), [0, 1, 2]);
        assert_eq!(
            choice.candidates(A, &m5, None, now + SHORTAGE_MEMORY),
            [0, 1, 2]
        );
    }

    #[test]
    fn subnets_in_zone_share_shortages() {
        let mut choice = three();
        let m5 = offering("m5", false);
        let now = Instant::now();
        choice.record_success(A, &m5, 2, Some("z1"));
        choice.record_success(A, &m5, 1, Some("z1"));
        choice.record_success(A, &m5, 0, Some("z0"));
        choice.record_shortage(&m5, 1, Shortage::Offering, now);
        assert_eq!(choice.candidates(B, &m5, None, now), [0]);
        choice.record_success(A, &m5, 2, Some("z1"));
        assert_eq!(choice.candidates(B, &m5, None, now), [2, 0, 1]);
    }

    #[test]
    fn shortage_moves_to_learned_zone() {
        let mut choice = three();
        let (m5, c5) = (offering("m5", false), offering("c5", false));
        let now = Instant::now();
        choice.record_shortage(&m5, 1, Shortage::Offering, now);
        choice.learn_zone_of("s1", "z1");
        choice.learn_zone_of("s2", "z1");
        choice.learn_zone_of("unknown", "z0");
        assert_eq!(choice.candidates(A, &m5, None, now), [0]);
        assert_eq!(choice.candidates(A, &c5, None, now), [0, 1, 2]);
        assert!(choice.has_shortage(2, &m5) && !choice.has_shortage(0, &m5));
    }

    #[test]
    fn full_subnet_is_avoided_by_all_types() {
        let mut choice = three();
        let now = Instant::now();
        choice.record_shortage(&offering("m5", false), 0, Shortage::Subnet, now);
        assert_eq!(
            choice.candidates(A, &offering("c5", true), None, now),
            [1, 2]
        );
    }

    #[test]
    fn all_short_tries_oldest_shortage_only() {
        let mut choice = three();
        let m5 = offering("m5", false);
        let now = Instant::now();
        let later = |seconds| now + Duration::from_secs(seconds);
        choice.record_shortage(&m5, 1, Shortage::Offering, now);
        choice.record_shortage(&m5, 0, Shortage::Offering, later(1));
        choice.record_shortage(&m5, 2, Shortage::Subnet, later(2));
        assert_eq!(choice.candidates(A, &m5, None, later(3)), [1]);
        choice.record_shortage(&m5, 1, Shortage::Offering, later(3));
        assert_eq!(choice.candidates(A, &m5, None, later(4)), [0]);
    }

    #[test]
    fn repeated_intent_tries_recorded_subnet_first() {
        let mut choice = three();
        let m5 = offering("m5", false);
        let now = Instant::now();
        choice.record_intent(A, 2);
        choice.record_shortage(&m5, 2, Shortage::Offering, now);
        assert_eq!(choice.candidates(A, &m5, None, now), [2, 0, 1]);
        for n in 0..INTENTS_MAX {
            choice.record_intent(IntentId::new(100 + n as u128), 0);
        }
        assert_eq!(choice.candidates(A, &m5, None, now), [0, 1]);
        assert_eq!(choice.intents.len(), INTENTS_MAX);
    }
}
