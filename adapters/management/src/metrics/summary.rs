//! Summaries with quantiles over a sliding window, missing from the metrics library.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use longshore_core::time::Timestamp;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Metric, MetricFamily, MetricType, Quantile, Summary};

use super::families;

/// Maximum number of observations for quantiles, per series.
const WINDOW_LEN: usize = 1000;
/// Age limit of observations for quantiles.
const WINDOW_AGE: Duration = Duration::from_secs(600);
const QUANTILES: [f64; 4] = [0.5, 0.9, 0.95, 0.99];

/// Latest known time, shared by all summaries, since the collection of metrics has no time
/// argument.
#[derive(Clone, Debug, Default)]
pub(super) struct Clock(Arc<AtomicU64>);

impl Clock {
    pub(super) fn advance(&self, now: Timestamp) {
        self.0.fetch_max(now.as_nanos(), Ordering::Relaxed);
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// Summaries of one name, by combination of label values.
#[derive(Clone, Debug)]
pub(super) struct SummaryVec {
    clock: Clock,
    desc: Arc<Desc>,
    series: Arc<Mutex<BTreeMap<Vec<String>, Series>>>,
}

/// One summary.
#[derive(Clone, Debug)]
pub(super) struct Series {
    clock: Clock,
    window: Arc<Mutex<Window>>,
}

#[derive(Debug, Default)]
struct Window {
    count: u64,
    sum: f64,
    /// Oldest first.
    recent: VecDeque<(Timestamp, f64)>,
}

impl SummaryVec {
    pub(super) fn new(clock: &Clock, name: &str, help: &str, labels: &[&str]) -> Self {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        let desc = Desc::new(name.to_owned(), help.to_owned(), labels, HashMap::new());
        Self {
            clock: clock.clone(),
            // Names and labels are constants of this crate.
            desc: Arc::new(desc.unwrap_or_else(|error| unreachable!("{error}"))),
            series: Arc::default(),
        }
    }

    /// Summary for these label values, in the order of the labels; visible from now on.
    pub(super) fn with(&self, values: &[&str]) -> Series {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        let mut series = lock(&self.series);
        let one = series.entry(values).or_insert_with(|| Series {
            clock: self.clock.clone(),
            window: Arc::default(),
        });
        one.clone()
    }
}

impl Collector for SummaryVec {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let names = &self.desc.variable_labels;
        let now = self.clock.now();
        let each = lock(&self.series)
            .iter()
            .map(|(values, series)| {
                let pairs = names.iter().zip(values);
                let pairs: Vec<_> = pairs.map(|(n, v)| (n.as_str(), v.as_str())).collect();
                let mut metric = Metric::from_label(families::labels(&pairs));
                metric.set_summary(lock(&series.window).summary(now));
                metric
            })
            .collect();
        let (name, help) = (&self.desc.fq_name, &self.desc.help);
        vec![families::family(name, help, MetricType::SUMMARY, each)]
    }
}

impl Series {
    pub(super) fn observe(&self, span: Duration) {
        lock(&self.window).push(self.clock.now(), span.as_secs_f64());
    }
}

impl Window {
    fn push(&mut self, now: Timestamp, value: f64) {
        self.count += 1;
        self.sum += value;
        if self.recent.len() == WINDOW_LEN {
            self.recent.pop_front();
        }
        self.recent.push_back((now, value));
    }

    fn summary(&mut self, now: Timestamp) -> Summary {
        while let Some((at, _)) = self.recent.front()
            && now.since(*at) > WINDOW_AGE
        {
            self.recent.pop_front();
        }
        let mut values: Vec<f64> = self.recent.iter().map(|(_, value)| *value).collect();
        values.sort_by(f64::total_cmp);
        let each = QUANTILES.map(|rank| {
            let mut quantile = Quantile::default();
            quantile.set_quantile(rank);
            quantile.set_value(nearest_rank(&values, rank));
            quantile
        });
        let mut summary = Summary::default();
        summary.set_sample_count(self.count);
        summary.set_sample_sum(self.sum);
        summary.set_quantile(each.to_vec());
        summary
    }
}

/// Smallest value with at least the fraction `rank` of values not above it; `NaN` without values.
fn nearest_rank(sorted: &[f64], rank: f64) -> f64 {
    let at_least = (rank * sorted.len() as f64).ceil() as usize;
    let value = sorted.get(at_least.saturating_sub(1));
    value.copied().unwrap_or(f64::NAN)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No operation under these locks can panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Timestamp {
        Timestamp::EPOCH + Duration::from_secs(secs)
    }

    fn quantiles(window: &mut Window, now: Timestamp) -> Vec<f64> {
        let summary = window.summary(now);
        summary.get_quantile().iter().map(|q| q.value()).collect()
    }

    #[test]
    fn quantiles_are_values_that_were_observed() {
        let mut window = Window::default();
        for value in (1..=100).rev() {
            window.push(at(1), f64::from(value));
        }
        assert_eq!(quantiles(&mut window, at(1)), [50.0, 90.0, 95.0, 99.0]);
        let mut one = Window::default();
        one.push(at(1), 7.0);
        assert_eq!(quantiles(&mut one, at(1)), [7.0; 4]);
    }

    #[test]
    fn old_observations_leave_quantiles_only() {
        let mut window = Window::default();
        window.push(at(1), 5.0);
        window.push(at(100), 3.0);
        assert_eq!(quantiles(&mut window, at(601)), [3.0, 5.0, 5.0, 5.0]);
        assert_eq!(quantiles(&mut window, at(602)), [3.0; 4]);
        assert!(quantiles(&mut window, at(701)).iter().all(|q| q.is_nan()));
        let summary = window.summary(at(701));
        assert_eq!((summary.sample_count(), summary.sample_sum()), (2, 8.0));
    }

    #[test]
    fn the_window_is_bounded() {
        let mut window = Window::default();
        for value in 0..3000 {
            window.push(at(1), f64::from(value));
        }
        assert_eq!(window.recent.len(), WINDOW_LEN);
        assert_eq!(quantiles(&mut window, at(1))[0], 2499.0);
        assert_eq!(window.summary(at(1)).sample_count(), 3000);
    }
}
