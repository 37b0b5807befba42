//! Times the calls of drivers.

use std::sync::Arc;

use longshore_driver::layer::CallOutcome;
use longshore_driver::{CallObserver, CallRecord, Instrument, Layered, SharedCloud};
use longshore_management::Metrics;

/// The same driver, with its calls counted from now on.
pub(crate) fn timed(cloud: SharedCloud, metrics: Arc<Metrics>) -> SharedCloud {
    Arc::new(Layered::new(cloud, Instrument(Arc::new(Timed(metrics)))))
}

/// Into the metrics.
struct Timed(Arc<Metrics>);

impl CallObserver for Timed {
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
