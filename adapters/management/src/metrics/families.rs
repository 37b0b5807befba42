//! Construction of metric families without the metrics library.

use prometheus::proto::{Gauge, LabelPair, Metric, MetricFamily, MetricType};

pub(super) fn family(
    name: &str,
    help: &str,
    kind: MetricType,
    metrics: Vec<Metric>,
) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

pub(super) fn gauge(labels: &[(&str, &str)], value: f64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::from_gauge(gauge);
    metric.set_label(self::labels(labels));
    metric
}

/// Labels sorted by name, as the metrics library has them.
pub(super) fn labels(pairs: &[(&str, &str)]) -> Vec<LabelPair> {
    let mut sorted = pairs.to_vec();
    sorted.sort_unstable();
    let pair = |(name, value): (&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pair
    };
    sorted.into_iter().map(pair).collect()
}
