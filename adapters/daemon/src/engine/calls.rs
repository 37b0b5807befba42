//! Times the calls of drivers.

use std::sync::Arc;

use longshore_driver::layer::CallEnd;
use longshore_driver::{Called, Instrument, Layered, SharedCloud, Watch};
use longshore_management::Metrics;

/// The same driver, with its calls counted from now on.
pub(crate) fn timed(cloud: SharedCloud, metrics: Arc<Metrics>) -> SharedCloud {
    Arc::new(Layered::new(cloud, Instrument(Arc::new(Timed(metrics)))))
}

/// Into the metrics.
struct Timed(Arc<Metrics>);

impl Watch for Timed {
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
