//! Spending within sliding windows, from the prices of all instances.
//!
//! A window is divided into buckets of equal length. The sum covers the current bucket and as many
//! full buckets as the window holds: the whole window, and at most one bucket more. So the sum
//! exceeds the spending of the window by up to 1/96 of the window, and never falls short.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::Budget;
use crate::fleet::Fleet;
use crate::fleet::vm::Vm;
use crate::ids::IntentId;
use crate::resources::MicroDollars;
use crate::time::Timestamp;

const BUCKETS: u64 = 96;
/// Unit of the sums: millionths of a dollar per hour, times nanoseconds.
const PER_MICRODOLLAR: u128 = 3_600_000_000_000;

/// Remaining amount of a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetLeft {
    /// Configured budget.
    pub budget: Budget,
    /// Amount spent within the window, rounded up, by existing and terminated instances.
    pub spent: MicroDollars,
    /// Amount left; no instance is created at zero.
    pub left: MicroDollars,
    /// Time at which the budget has room again, if used up and if all instances stay. Absent with
    /// room left, or if the running instances use up the budget for good.
    pub room_at: Option<Timestamp>,
}

/// State of all budgets: 97 numbers for each. Adding costs is O(budgets), and more once a bucket;
/// everything else O(budgets · buckets).
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Budgets {
    /// End of the counted time.
    counted_to: Timestamp,
    /// Start of the time to count for adopted instances: earlier costs were counted at the time.
    known_to: Timestamp,
    windows: Vec<Window>,
}

#[derive(Clone, Debug, Hash)]
struct Window {
    budget: Budget,
    /// Number of the newest bucket, counted from the epoch.
    newest: u64,
    /// Sums, indexed by the number of the bucket modulo the number of buckets.
    buckets: Vec<u128>,
    sum: u128,
}

impl Budgets {
    /// Adds the costs since the last call, at a constant price per hour.
    pub(crate) fn count(&mut self, now: Timestamp, price: MicroDollars) {
        let from = std::mem::replace(&mut self.counted_to, now);
        for window in &mut self.windows {
            window.add(from, now, price);
        }
    }

    /// Adds the past costs of an adopted instance, since the time in the id of the create request,
    /// or from now without an id. Costs of other instances gone before remain unknown.
    pub(crate) fn count_found(&mut self, vm: &Vm) {
        let from = billed_from(vm).max(self.known_to);
        for window in &mut self.windows {
            window.add(from, self.counted_to, vm.price());
        }
    }

    /// Marks the time up to now as counted, before all instances are forgotten.
    pub(crate) fn forget_instances(&mut self) {
        self.known_to = self.counted_to;
    }

    /// Takes over the configured budgets. An existing window keeps the sums; a new window starts
    /// with the costs of all existing instances.
    pub(crate) fn reconfigure(&mut self, budgets: &[Budget], fleet: &Fleet) {
        let mut before = std::mem::take(&mut self.windows);
        for budget in budgets {
            let same = |window: &Window| window.budget.window == budget.window;
            let window = match before.iter().position(same) {
                Some(at) => Window {
                    budget: *budget,
                    ..before.swap_remove(at)
                },
                None => {
                    let mut window = Window::new(*budget, self.counted_to);
                    for vm in fleet.iter() {
                        window.add(billed_from(vm), self.counted_to, vm.price());
                    }
                    window
                }
            };
            self.windows.push(window);
        }
    }

    /// Budget used up for longest, if any, with the time at which the budget has room again.
    pub(crate) fn exhausted(&self, price: MicroDollars) -> Option<(Budget, Option<Timestamp>)> {
        let used_up = self.windows.iter().filter(|window| window.is_used_up());
        let dated = used_up.map(|window| (window.budget, window.room_at(self.counted_to, price)));
        dated.max_by_key(|(_, room_at)| room_at.unwrap_or(Timestamp::NEVER))
    }

    /// Remaining amount of each budget.
    pub(crate) fn left(&self, price: MicroDollars) -> Vec<BudgetLeft> {
        let left = |window: &Window| {
            let spent = window.sum.div_ceil(PER_MICRODOLLAR);
            let spent = u64::try_from(spent).unwrap_or(u64::MAX);
            let room_at = window.room_at(self.counted_to, price);
            BudgetLeft {
                budget: window.budget,
                spent: MicroDollars(spent),
                left: MicroDollars(window.budget.limit.0.saturating_sub(spent)),
                room_at: room_at.filter(|_| window.is_used_up()),
            }
        };
        self.windows.iter().map(left).collect()
    }
}

/// Start of the costs of an instance: the time of the create request, if known.
fn billed_from(vm: &Vm) -> Timestamp {
    let asked = vm.identity.intent.map(IntentId::asked_at);
    // A later create request does not belong to this instance.
    asked
        .filter(|at| *at <= vm.lifecycle.since)
        .unwrap_or(vm.lifecycle.since)
}

impl Window {
    fn new(budget: Budget, now: Timestamp) -> Self {
        let mut window = Self {
            budget,
            newest: 0,
            buckets: vec![0; slot(BUCKETS) + 1],
            sum: 0,
        };
        window.newest = window.number(now);
        window
    }

    /// Nanoseconds in a bucket.
    fn width(&self) -> u64 {
        let nanos = u64::try_from(self.budget.window.as_nanos()).unwrap_or(u64::MAX);
        nanos.div_ceil(BUCKETS).max(1)
    }

    fn number(&self, at: Timestamp) -> u64 {
        at.as_nanos() / self.width()
    }

    /// Adds the costs of a span of time up to now, without the part before the window.
    fn add(&mut self, from: Timestamp, now: Timestamp, price: MicroDollars) {
        let last = self.number(now);
        while self.newest < last && self.sum > 0 {
            self.newest += 1;
            let dropped = std::mem::take(&mut self.buckets[slot(self.newest)]);
            self.sum -= dropped;
        }
        self.newest = self.newest.max(last);
        let oldest = last.saturating_sub(BUCKETS);
        for number in oldest.max(self.number(from))..=last {
            let begin = number.saturating_mul(self.width());
            let end = begin.saturating_add(self.width()).min(now.as_nanos());
            let span = end.saturating_sub(begin.max(from.as_nanos()));
            let cost = u128::from(price.0) * u128::from(span);
            self.buckets[slot(number)] += cost;
            self.sum += cost;
        }
    }

    fn limit(&self) -> u128 {
        u128::from(self.budget.limit.0) * PER_MICRODOLLAR
    }

    fn is_used_up(&self) -> bool {
        self.sum >= self.limit()
    }

    /// Time at which the sum falls below the limit, if all instances stay.
    fn room_at(&self, now: Timestamp, price: MicroDollars) -> Option<Timestamp> {
        let mut left_behind = 0;
        (1..=BUCKETS + 1).find_map(|step| {
            let number = self.newest + step;
            left_behind += self.buckets[slot(number)];
            let at = Timestamp::from_nanos(number.saturating_mul(self.width()));
            let more = at.since(now).as_nanos() * u128::from(price.0);
            (self.sum - left_behind + more < self.limit()).then_some(at)
        })
    }
}

/// Index of a bucket.
fn slot(number: u64) -> usize {
    usize::try_from(number % (BUCKETS + 1)).expect("the index is small")
}

/// Formats a duration in the largest whole unit, as operators do.
pub(crate) fn short(span: Duration) -> String {
    let secs = span.as_secs();
    match secs {
        _ if secs == 0 || span.subsec_nanos() > 0 => format!("{span:?}"),
        _ if secs.is_multiple_of(3600) => format!("{}h", secs / 3600),
        _ if secs.is_multiple_of(60) => format!("{}m", secs / 60),
        _ => format!("{secs}s"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn budgets(limit: u64, window: Duration) -> Budgets {
        let mut budgets = Budgets::default();
        budgets.count(at(1_000_000), MicroDollars(0));
        let budget = Budget {
            window,
            limit: MicroDollars(limit),
        };
        budgets.reconfigure(&[budget], &Fleet::default());
        budgets
    }

    fn at(secs: u64) -> Timestamp {
        Timestamp::EPOCH + Duration::from_secs(secs)
    }

    #[test]
    fn budget_old_spending_leaves_window() {
        let mut budgets = budgets(100, HOUR);
        let price = MicroDollars(100);
        budgets.count(at(1_000_000 + 3599), price);
        assert_eq!(budgets.exhausted(price), None);
        budgets.count(at(1_000_000 + 3700), price);
        let (_, room_at) = budgets.exhausted(price).expect("the budget is used up");
        assert_eq!(
            room_at, None,
            "running instances use up the budget for good"
        );
        let (_, room_at) = budgets
            .exhausted(MicroDollars(0))
            .expect("the budget is used up");
        let room_at = room_at.expect("no costs accrue");
        budgets.count(room_at - Duration::from_nanos(1), MicroDollars(0));
        assert!(budgets.exhausted(MicroDollars(0)).is_some());
        budgets.count(room_at, MicroDollars(0));
        assert_eq!(budgets.exhausted(MicroDollars(0)), None);
    }

    #[test]
    fn budget_window_reconfigured_keeps_sums() {
        let mut budgets = budgets(50, HOUR);
        budgets.count(at(1_000_000 + 3600), MicroDollars(100));
        assert!(budgets.exhausted(MicroDollars(0)).is_some());
        let budget = |window, limit| Budget {
            window,
            limit: MicroDollars(limit),
        };
        let both = [budget(HOUR * 2, 99), budget(HOUR, 200)];
        budgets.reconfigure(&both, &Fleet::default());
        assert_eq!(budgets.exhausted(MicroDollars(0)), None);
        let left: Vec<u64> = budgets
            .left(MicroDollars(0))
            .iter()
            .map(|b| b.left.0)
            .collect();
        assert_eq!(left, [99, 100]);
    }

    #[test]
    fn duration_formatted_in_largest_unit() {
        let names = [86_400, 90 * 60, 61].map(|s| short(Duration::from_secs(s)));
        assert_eq!(names, ["24h", "90m", "61s"]);
    }

    proptest! {
        #[test]
        fn budget_sum_covers_window_plus_bucket(
            steps in proptest::collection::vec((1u64..2000, 0u64..1000), 1..120), hours in 1u32..8,
        ) {
            let window = HOUR * hours;
            let mut budgets = budgets(u64::MAX, window);
            let (mut now, mut spans) = (1_000_000, Vec::new());
            for (secs, price) in steps {
                spans.push((now, now + secs, price));
                now += secs;
                budgets.count(at(now), MicroDollars(price));
            }
            let since = |first: u64| -> u128 {
                let cost = |(from, to, price): &(u64, u64, u64)| {
                    u128::from(to.saturating_sub((*from).max(first))) * u128::from(*price)
                };
                spans.iter().map(cost).sum::<u128>() * 1_000_000_000
            };
            let begin = now - window.as_secs().min(now);
            let sum = budgets.windows[0].sum;
            prop_assert!(sum >= since(begin));
            prop_assert!(sum <= since(begin - window.as_secs() / 96 - 1));
            let buckets = &budgets.windows[0].buckets;
            prop_assert_eq!(buckets.iter().sum::<u128>(), sum);
        }
    }
}
