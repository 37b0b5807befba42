//! Measurement of driver calls.

use std::sync::Arc;

use longshore_driver::layer::CallOutcome;
use longshore_driver::{CallObserver, CallRecord, Instrument, Layered, SharedCloud};
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

impl CallObserver for CallMetrics {
    fn call_ended(&self, call: &CallRecord<'_>) {
        let outcome = match call.outcome {
            CallOutcome::Done => "done",
            CallOutcome::Failed(_) => "failed",
            CallOutcome::Abandoned => "abandoned",
        };
        let operation = call.operation.name();
        self.0.driver_call_ended(operation, outcome, call.took);
    }
}
