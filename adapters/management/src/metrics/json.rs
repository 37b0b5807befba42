//! Metric families as JSON: the mapping defined by protocol buffers for the messages of
//! `io.prometheus.client`. 64-bit integers are text, and so are values other than finite numbers.

use prometheus::proto::{Metric, MetricFamily, MetricType};
use serde_json::{Value, json};

pub(super) fn families(families: &[MetricFamily]) -> Value {
    families.iter().map(family).collect()
}

fn family(family: &MetricFamily) -> Value {
    let kind = family.get_field_type();
    let metrics: Value = family
        .get_metric()
        .iter()
        .map(|m| metric(kind, m))
        .collect();
    json!({
        "name": family.name(),
        "help": family.help(),
        "type": format!("{kind:?}"),
        "metric": metrics,
    })
}

fn metric(kind: MetricType, metric: &Metric) -> Value {
    let (key, value) = match kind {
        MetricType::COUNTER => {
            let value = number(metric.get_counter().get_value());
            ("counter", json!({ "value": value }))
        }
        MetricType::GAUGE => {
            let value = number(metric.get_gauge().get_value());
            ("gauge", json!({ "value": value }))
        }
        MetricType::SUMMARY => ("summary", summary(metric)),
        MetricType::HISTOGRAM => ("histogram", histogram(metric)),
        MetricType::UNTYPED => unreachable!("no metric of ours is untyped"),
    };
    let labels = metric.get_label().iter();
    let labels: Vec<Value> = labels
        .map(|label| json!({ "name": label.name(), "value": label.value() }))
        .collect();
    let mut shown = json!({ key: value });
    if !labels.is_empty() {
        shown["label"] = Value::Array(labels);
    }
    shown
}

fn summary(metric: &Metric) -> Value {
    let summary = metric.get_summary();
    let quantiles = summary.get_quantile().iter();
    let quantiles: Value = quantiles
        .map(|q| json!({ "quantile": number(q.quantile()), "value": number(q.value()) }))
        .collect();
    json!({
        "sampleCount": summary.sample_count().to_string(),
        "sampleSum": number(summary.sample_sum()),
        "quantile": quantiles,
    })
}

fn histogram(metric: &Metric) -> Value {
    let histogram = metric.get_histogram();
    let buckets = histogram.get_bucket().iter();
    let buckets: Value = buckets
        .map(|bucket| {
            json!({
                "cumulativeCount": bucket.cumulative_count().to_string(),
                "upperBound": number(bucket.upper_bound()),
            })
        })
        .collect();
    json!({
        "sampleCount": histogram.get_sample_count().to_string(),
        "sampleSum": number(histogram.get_sample_sum()),
        "bucket": buckets,
    })
}

fn number(value: f64) -> Value {
    if value.is_finite() {
        json!(value)
    } else if value.is_nan() {
        json!("NaN")
    } else if value > 0.0 {
        json!("Infinity")
    } else {
        json!("-Infinity")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finite_is_text() {
        let values = [1.5, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
        let shown = values.map(number);
        assert_eq!(json!(shown), json!([1.5, "NaN", "Infinity", "-Infinity"]));
    }
}
