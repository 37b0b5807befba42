//! Which subnet is tried, and in which order.
//!
//! The one that worked last comes first. One that had no room lately is left out for a while, as
//! long as another is left: capacity is remembered for each type, lifecycle and zone, a lack of
//! addresses for each subnet. Which zone a subnet is in is learned from the instances in it; until
//! then it counts as a zone of its own.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use longshore_core::ids::IntentId;

/// For so long a place without room is avoided while another is left.
const AVOIDED: Duration = Duration::from_secs(180);

/// Intents whose place is remembered, so that a repeated create goes to the same place, where EC2
/// knows its token.
const INTENTS_MAX: usize = 4096;

/// What shortages are about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Offering {
    /// EC2's name for it.
    pub(crate) provider_type: String,
    /// Spot or on demand.
    pub(crate) spot: bool,
}

/// What a refusal means for its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    /// The zone has no more of this offering.
    OfOffering,
    /// The subnet takes nothing.
    OfSubnet,
}

/// The memory. `subnets` are in the operator's order; with none, there is one place without a name.
#[derive(Debug)]
pub(crate) struct Places {
    subnets: Vec<String>,
    favourite: usize,
    zones: BTreeMap<usize, String>,
    /// When it was refused last.
    lacking: BTreeMap<Key, Instant>,
    intents: BTreeMap<IntentId, usize>,
    order: VecDeque<IntentId>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Zone(Offering, String),
    Place(Offering, usize),
    Subnet(usize),
}

impl Places {
    pub(crate) fn new(subnets: Vec<String>) -> Self {
        Self {
            subnets,
            favourite: 0,
            zones: BTreeMap::new(),
            lacking: BTreeMap::new(),
            intents: BTreeMap::new(),
            order: VecDeque::new(),
        }
    }

    /// The subnet of a place; none where EC2 chooses.
    pub(crate) fn subnet(&self, place: usize) -> Option<&str> {
        self.subnets.get(place).map(String::as_str)
    }

    /// The places to try, in this order; at least one, none twice. `only` is the one place that may
    /// be used, where it is fixed.
    pub(crate) fn order(
        &mut self,
        intent: IntentId,
        offering: &Offering,
        only: Option<usize>,
        now: Instant,
    ) -> Vec<usize> {
        if let Some(place) = only {
            return vec![place];
        }
        // Where it may have been made before it must be tried, and nowhere else first.
        let before = self.intents.get(&intent).copied();
        self.lacking
            .retain(|_, at| now.saturating_duration_since(*at) < AVOIDED);
        let count = self.subnets.len().max(1);
        let mut all: Vec<usize> = (0..count).map(|n| (self.favourite + n) % count).collect();
        let refused = |place: &usize| self.refused_at(*place, offering);
        if all.iter().any(|place| refused(place).is_none()) {
            all.retain(|place| refused(place).is_none());
        } else {
            // None is known to have room: the one that had the most time to find some.
            all.sort_by_key(refused);
            all.truncate(1);
        }
        if let Some(before) = before {
            all.retain(|place| *place != before);
            all.insert(0, before);
        }
        all
    }

    /// Whether there is no room for it there, as far as is known.
    pub(crate) fn is_full(&self, place: usize, offering: &Offering) -> bool {
        self.refused_at(place, offering).is_some()
    }

    fn refused_at(&self, place: usize, offering: &Offering) -> Option<Instant> {
        let of_offering = self.lacking.get(&self.key(place, offering));
        let of_subnet = self.lacking.get(&Key::Subnet(place));
        of_offering.max(of_subnet).copied()
    }

    fn key(&self, place: usize, offering: &Offering) -> Key {
        match self.zones.get(&place) {
            Some(zone) => Key::Zone(offering.clone(), zone.clone()),
            None => Key::Place(offering.clone(), place),
        }
    }

    /// An instance was made there.
    pub(crate) fn worked(
        &mut self,
        intent: IntentId,
        offering: &Offering,
        place: usize,
        zone: Option<&str>,
    ) {
        self.favourite = place;
        self.lacking.remove(&self.key(place, offering));
        self.lacking.remove(&Key::Subnet(place));
        if let Some(zone) = zone {
            self.learn(place, zone);
            self.lacking.remove(&self.key(place, offering));
        }
        self.remember(intent, place);
    }

    /// An instance in a subnet shows which zone that is in.
    pub(crate) fn is_in(&mut self, subnet: &str, zone: &str) {
        if let Some(place) = self.subnets.iter().position(|known| known == subnet) {
            self.learn(place, zone);
        }
    }

    /// What was lacking there is lacking in the whole zone.
    fn learn(&mut self, place: usize, zone: &str) {
        let before = self.zones.insert(place, zone.to_owned());
        if before.as_deref() == Some(zone) {
            return;
        }
        let of_place = |key: &Key| matches!(key, Key::Place(_, p) if *p == place);
        let keys: Vec<Key> = self
            .lacking
            .keys()
            .filter(|k| of_place(k))
            .cloned()
            .collect();
        for key in keys {
            if let (Some(at), Key::Place(offering, _)) = (self.lacking.remove(&key), key) {
                let of_zone = self.lacking.entry(Key::Zone(offering, zone.to_owned()));
                let latest = of_zone.or_insert(at);
                *latest = at.max(*latest);
            }
        }
    }

    /// It was refused there.
    pub(crate) fn refused(&mut self, offering: &Offering, place: usize, lack: Lack, now: Instant) {
        let key = match lack {
            Lack::OfOffering => self.key(place, offering),
            Lack::OfSubnet => Key::Subnet(place),
        };
        self.lacking.insert(key, now);
    }

    /// It failed there for a reason that stays: another place is tried next time, so that each that
    /// is wrong is reported.
    pub(crate) fn move_on(&mut self, place: usize) {
        self.favourite = (place + 1) % self.subnets.len().max(1);
    }

    /// An instance may have been made there for this intent.
    pub(crate) fn remember(&mut self, intent: IntentId, place: usize) {
        if self.intents.insert(intent, place).is_none() {
            self.order.push_back(intent);
        }
        if self.order.len() > INTENTS_MAX
            && let Some(oldest) = self.order.pop_front()
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

    fn three() -> Places {
        Places::new(["s0", "s1", "s2"].map(str::to_owned).to_vec())
    }

    #[test]
    fn without_subnets_there_is_one_place_without_a_name() {
        let mut places = Places::new(Vec::new());
        let m5 = offering("m5", false);
        let now = Instant::now();
        assert_eq!(places.order(A, &m5, None, now), [0]);
        places.refused(&m5, 0, Lack::OfOffering, now);
        places.move_on(0);
        assert_eq!(places.order(A, &m5, None, now), [0]);
        assert_eq!(places.subnet(0), None);
    }

    #[test]
    fn the_one_that_worked_comes_first() {
        let mut places = three();
        let m5 = offering("m5", false);
        let now = Instant::now();
        assert_eq!(places.order(A, &m5, None, now), [0, 1, 2]);
        places.worked(A, &m5, 1, None);
        assert_eq!(places.order(B, &m5, None, now), [1, 2, 0]);
        places.move_on(1);
        assert_eq!(places.order(B, &m5, None, now), [2, 0, 1]);
        assert_eq!(places.order(B, &m5, Some(1), now), [1]);
    }

    #[test]
    fn a_shortage_is_remembered_by_type_lifecycle_and_place_for_a_while() {
        let mut places = three();
        let (m5, spot, c5) = (
            offering("m5", false),
            offering("m5", true),
            offering("c5", false),
        );
        let now = Instant::now();
        places.refused(&m5, 0, Lack::OfOffering, now);
        assert_eq!(places.order(A, &m5, None, now), [1, 2]);
        assert_eq!(places.order(A, &spot, None, now), [0, 1, 2]);
        assert_eq!(places.order(A, &c5, None, now), [0, 1, 2]);
        assert_eq!(places.order(A, &m5, None, now + AVOIDED), [0, 1, 2]);
    }

    #[test]
    fn subnets_of_one_zone_share_their_shortages() {
        let mut places = three();
        let m5 = offering("m5", false);
        let now = Instant::now();
        places.worked(A, &m5, 2, Some("z1"));
        places.worked(A, &m5, 1, Some("z1"));
        places.worked(A, &m5, 0, Some("z0"));
        places.refused(&m5, 1, Lack::OfOffering, now);
        assert_eq!(places.order(B, &m5, None, now), [0]);
        places.worked(A, &m5, 2, Some("z1"));
        assert_eq!(places.order(B, &m5, None, now), [2, 0, 1]);
    }

    #[test]
    fn a_shortage_of_a_place_becomes_one_of_its_zone_once_that_is_known() {
        let mut places = three();
        let (m5, c5) = (offering("m5", false), offering("c5", false));
        let now = Instant::now();
        places.refused(&m5, 1, Lack::OfOffering, now);
        places.is_in("s1", "z1");
        places.is_in("s2", "z1");
        places.is_in("unheard of", "z0");
        assert_eq!(places.order(A, &m5, None, now), [0]);
        assert_eq!(places.order(A, &c5, None, now), [0, 1, 2]);
        assert!(places.is_full(2, &m5) && !places.is_full(0, &m5));
    }

    #[test]
    fn a_full_subnet_is_avoided_by_every_type() {
        let mut places = three();
        let now = Instant::now();
        places.refused(&offering("m5", false), 0, Lack::OfSubnet, now);
        assert_eq!(places.order(A, &offering("c5", true), None, now), [1, 2]);
    }

    #[test]
    fn where_none_has_room_the_one_refused_first_is_tried_alone() {
        let mut places = three();
        let m5 = offering("m5", false);
        let now = Instant::now();
        let later = |seconds| now + Duration::from_secs(seconds);
        places.refused(&m5, 1, Lack::OfOffering, now);
        places.refused(&m5, 0, Lack::OfOffering, later(1));
        places.refused(&m5, 2, Lack::OfSubnet, later(2));
        assert_eq!(places.order(A, &m5, None, later(3)), [1]);
        places.refused(&m5, 1, Lack::OfOffering, later(3));
        assert_eq!(places.order(A, &m5, None, later(4)), [0]);
    }

    #[test]
    fn a_repeated_intent_goes_where_it_was_sent_before() {
        let mut places = three();
        let m5 = offering("m5", false);
        let now = Instant::now();
        places.remember(A, 2);
        places.refused(&m5, 2, Lack::OfOffering, now);
        assert_eq!(places.order(A, &m5, None, now), [2, 0, 1]);
        for n in 0..INTENTS_MAX {
            places.remember(IntentId::new(100 + n as u128), 0);
        }
        assert_eq!(places.order(A, &m5, None, now), [0, 1]);
        assert_eq!(places.intents.len(), INTENTS_MAX);
    }
}
