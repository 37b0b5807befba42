//! Faults of cloud calls, as a layer around the driver.

use async_trait::async_trait;
use longshore_driver::{Answer, Call, CloudError, Layer, Operation};

use super::{Fault, FaultInjector, Target};

/// Refuses calls, and loses responses of calls.
#[derive(Clone, Debug)]
pub(crate) struct ChaosLayer(pub(crate) FaultInjector);

#[async_trait]
impl Layer for ChaosLayer {
    async fn wrap<T: Answer>(
        &self,
        operation: Operation,
        instances: usize,
        call: Call<'_, T>,
    ) -> T {
        let target = match operation {
            Operation::Create => Target::Create,
            Operation::List => Target::List,
            Operation::Destroy => Target::Destroy,
            Operation::SetTags | Operation::Prices | Operation::HostKeyCheck => return call.await,
        };
        let (Some(fault), _) = self.0.draw(target) else {
            return call.await;
        };
        let message = format!("chaos: {}", fault.name());
        let error = match fault {
            Fault::CreateOverQuota => CloudError::Quota { message },
            Fault::CreateAnswerLost => {
                let made = call.await;
                if made.error().is_some() {
                    // Without a successful response there is nothing to lose.
                    self.0.put_back(target, fault);
                    return made;
                }
                CloudError::Ambiguous { message }
            }
            _ => CloudError::Transient { message },
        };
        self.0.count(fault);
        T::all(error, instances)
    }
}
