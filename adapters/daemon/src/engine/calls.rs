//! Measurement of driver calls.

use std::sync::Arc;

use longshore_driver::layer::CallEnd;
use longshore_driver::{Called, Instrument, Layered, SharedCloud, Watch};
use longshore_management::Metrics;

/// Wraps the driver in a layer that counts and times calls.
pub(crate) fn timed(cloud: SharedCloud, metrics: Arc<Metrics>) -> SharedCloud {
    Arc::new(Layered::new(
        cloud,
        Instrument(Arc::new(CallMetrics(metrics))),
    ))
}

/// Observer that adds calls to the metrics.
struct CallMetrics(Arc<Metrics>);

impl Watch for CallMetrics {
    fn called(&self, call: &Called<'_>) {
        let outcome = match call.end {
            CallEnd::Done => "done",
            CallEnd::Failed(_) => "failed",
            CallEnd::Abandoned => "abandoned",
        };
        let operation = call.operation.name();
        self.0.driver_call_ended(operation, outcome, call.took);
    }
}
