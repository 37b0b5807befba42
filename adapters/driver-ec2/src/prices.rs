//! Prices of spot instances: the market's price history plus the volume price.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use longshore_core::resources::MicroDollars;
use longshore_core::time::Timestamp;
use longshore_driver::PricePoint;

use crate::from_ec2::{Market, SpotInstance};

/// Hours per month in EC2's volume prices.
const HOURS_PER_MONTH: u64 = 30 * 24;

/// Number of update intervals in a query, so that a query includes the last price change and the
/// time of failed queries.
const QUERY_INTERVALS: u32 = 3;

/// Maximum number of price points per market; the oldest are dropped first.
const POINTS_MAX: usize = 2000;

/// Entry of the price history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Quote {
    pub(crate) market: Market,
    pub(crate) at: Timestamp,
    pub(crate) price: MicroDollars,
}

/// Queried price history by market. Lookups cost O(log markets).
#[derive(Clone, Debug, Default)]
pub(crate) struct Prices {
    markets: BTreeMap<Market, History>,
}

#[derive(Clone, Debug, Default)]
struct History {
    queried_at: Timestamp,
    from: Timestamp,
    points: BTreeMap<Timestamp, MicroDollars>,
}

impl Prices {
    /// Markets with a history due for a query.
    pub(crate) fn due(
        &self,
        markets: BTreeSet<Market>,
        since: Timestamp,
        now: Timestamp,
        interval: Duration,
    ) -> BTreeSet<Market> {
        let is_due = |market: &Market| match self.markets.get(market) {
            Some(history) => now.since(history.queried_at) >= interval || since < history.from,
            None => true,
        };
        markets.into_iter().filter(is_due).collect()
    }

    /// Start of the next query for these markets: a known part of the history is not queried again.
    pub(crate) fn query_start(
        &self,
        due: &BTreeSet<Market>,
        since: Timestamp,
        now: Timestamp,
        interval: Duration,
    ) -> Timestamp {
        let recent = now - interval.saturating_mul(QUERY_INTERVALS);
        let goes_back = |market: &Market| {
            let history = self.markets.get(market);
            // After a longer pause the history would have a gap.
            history.is_some_and(|h| h.from <= since && h.queried_at >= recent)
        };
        match due.iter().all(goes_back) {
            true => recent,
            false => recent.min(since),
        }
    }

    /// Records the result of a query.
    pub(crate) fn record(
        &mut self,
        queried: BTreeSet<Market>,
        from: Timestamp,
        now: Timestamp,
        quotes: Vec<Quote>,
    ) {
        for market in queried {
            let history = self.markets.entry(market).or_default();
            history.from = match history.points.is_empty() {
                true => from,
                false => history.from.min(from),
            };
            history.queried_at = now;
        }
        for quote in quotes {
            if let Some(history) = self.markets.get_mut(&quote.market) {
                history.points.insert(quote.at, quote.price);
                while history.points.len() > POINTS_MAX {
                    history.points.pop_first();
                }
            }
        }
    }

    /// Drops all other markets.
    pub(crate) fn retain(&mut self, markets: &BTreeSet<Market>) {
        self.markets.retain(|market, _| markets.contains(market));
    }

    /// Prices of an instance per hour from `since` on, including the volume price. The first point
    /// is the price at `since` or at the launch, if known.
    pub(crate) fn price_points(
        &self,
        spot: &SpotInstance,
        since: Timestamp,
        gib_month: MicroDollars,
    ) -> Vec<PricePoint> {
        let Some(history) = self.markets.get(&spot.market) else {
            return Vec::new();
        };
        let volume = volume_hour(gib_month, spot.volume_gib);
        let start = since.max(spot.launched);
        let before = history.points.range(..=start).next_back();
        let after = history.points.iter().filter(|(at, _)| **at > start);
        let point = |(at, price): (&Timestamp, &MicroDollars)| PricePoint {
            since: *at,
            price: MicroDollars(price.0.saturating_add(volume.0)),
        };
        before.into_iter().chain(after).map(point).collect()
    }
}

/// Price of a volume per hour, rounded to the nearest millionth.
fn volume_hour(MicroDollars(gib_month): MicroDollars, gib: u64) -> MicroDollars {
    let month = gib_month.saturating_mul(gib);
    MicroDollars(month.saturating_add(HOURS_PER_MONTH / 2) / HOURS_PER_MONTH)
}

/// Parses a price in EC2's format, such as `0.0312000`, rounded to the nearest millionth.
pub(crate) fn parse_price(text: &str) -> Option<MicroDollars> {
    let price: f64 = text.trim().parse().ok()?;
    if !(0.0..1e9).contains(&price) {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "in range"
    )]
    let micros = (price * 1e6).round() as u64;
    Some(MicroDollars(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(hours: u32) -> Timestamp {
        Timestamp::EPOCH + HOUR * hours
    }

    fn market(zone: &str) -> Market {
        Market {
            provider_type: "m5.large".to_owned(),
            zone: zone.to_owned(),
        }
    }

    fn quote(zone: &str, hour: u32, price: u64) -> Quote {
        Quote {
            market: market(zone),
            at: at(hour),
            price: MicroDollars(price),
        }
    }

    fn spot(zone: &str, launched: u32, volume_gib: u64) -> SpotInstance {
        SpotInstance {
            market: market(zone),
            launched: at(launched),
            volume_gib,
        }
    }

    fn points(prices: &[PricePoint]) -> Vec<(Timestamp, u64)> {
        prices.iter().map(|p| (p.since, p.price.0)).collect()
    }

    #[test]
    fn prices_cover_zone_since_launch() {
        let mut prices = Prices::default();
        let quotes = vec![
            quote("a", 30, 300),
            quote("a", 10, 100),
            quote("a", 20, 200),
            quote("b", 15, 999),
            quote("unqueried", 1, 1),
        ];
        let queried = BTreeSet::from([market("a"), market("b")]);
        prices.record(queried, at(0), at(31), quotes);
        let cost = |spot: &SpotInstance, since| {
            points(&prices.price_points(spot, at(since), MicroDollars(0)))
        };
        assert_eq!(
            cost(&spot("a", 12, 0), 0),
            [(at(10), 100), (at(20), 200), (at(30), 300)]
        );
        assert_eq!(cost(&spot("a", 12, 0), 25), [(at(20), 200), (at(30), 300)]);
        assert_eq!(cost(&spot("a", 20, 0), 0), [(at(20), 200), (at(30), 300)]);
        assert_eq!(cost(&spot("b", 20, 0), 0), [(at(15), 999)]);
        assert_eq!(cost(&spot("unqueried", 20, 0), 0), []);
    }

    #[test]
    fn prices_include_volume() {
        let mut prices = Prices::default();
        prices.record([market("a")].into(), at(0), at(9), vec![quote("a", 1, 50)]);
        let cost = prices.price_points(&spot("a", 2, 720), at(0), MicroDollars(100_000));
        assert_eq!(points(&cost), [(at(1), 100_050)]);
        assert_eq!(volume_hour(MicroDollars(100_000), 1), MicroDollars(139));
    }

    #[test]
    fn market_queried_once_per_interval() {
        let mut prices = Prices::default();
        let both = || BTreeSet::from([market("a"), market("b")]);
        assert_eq!(prices.due(both(), at(90), at(100), HOUR), both());
        let from = |prices: &Prices, since, now| prices.query_start(&both(), since, now, HOUR);
        assert_eq!(from(&prices, at(99), at(100)), at(97));
        assert_eq!(from(&prices, at(90), at(100)), at(90));
        prices.record(
            [market("a")].into(),
            at(97),
            at(100),
            vec![quote("a", 98, 5)],
        );
        let only_b = BTreeSet::from([market("b")]);
        let half = at(100) + HOUR / 2;
        assert_eq!(prices.due(both(), at(98), half, HOUR), only_b);
        assert_eq!(prices.due(both(), at(98), at(101), HOUR), both());
        assert_eq!(prices.due(both(), at(96), half, HOUR), both());
        // A known part of the history is not queried again, unless there would be a gap.
        prices.record(both(), at(90), at(101), vec![quote("b", 98, 5)]);
        assert_eq!(from(&prices, at(90), at(102)), at(99));
        assert_eq!(from(&prices, at(89), at(102)), at(89));
        assert_eq!(from(&prices, at(90), at(105)), at(90));
        prices.retain(&only_b);
        assert_eq!(prices.due(both(), at(98), half, HOUR), [market("a")].into());
    }

    #[test]
    fn parse_price_decimal_dollars() {
        assert_eq!(parse_price("0.0312000"), Some(MicroDollars(31_200)));
        assert_eq!(parse_price("12"), Some(MicroDollars(12_000_000)));
        for nonsense in ["", "-1", "NaN", "inf", "1e300", "free"] {
            assert_eq!(parse_price(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn price_history_is_bounded() {
        let mut prices = Prices::default();
        let count = u32::try_from(POINTS_MAX).unwrap() + 10;
        let quotes = (0..count).map(|hour| quote("a", hour, u64::from(hour)));
        prices.record([market("a")].into(), at(0), at(9), quotes.collect());
        assert_eq!(prices.markets[&market("a")].points.len(), POINTS_MAX);
    }
}
