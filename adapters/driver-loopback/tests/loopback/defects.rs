//! Drivers with a single violation of the contract, for tests of the suite.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use longshore_core::config::InstanceType;
use longshore_core::ids::{InstanceId, IntentId, QuotaGroup};
use longshore_core::resources::MicroDollars;
use longshore_core::time::Timestamp;
use longshore_driver::conformance::{ErrorCase, Fault};
use longshore_driver::{
    CapacityScope, Cloud, CloudError, CreateSpec, ErrorClass, HostKeyCheck, Instance, Operation,
    PricePoint, ProviderError, tag,
};
use longshore_driver_loopback::LoopbackCloud;
use longshore_secret::Secret;

/// Violation of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    None,
    /// A new VM lacks a tag.
    DropsTypeTag,
    /// The list is empty because instance sets are not recognized.
    ListsNothing,
    /// The list contains the VMs of another set too.
    ListsOtherSet,
    /// The list contains every VM twice.
    ListsTwice,
    /// A tag change removes all other tags.
    RetagReplaces,
    /// A tag change has no effect but returns success.
    RetagIsNoOp,
    /// The listed secret differs from the secret of the create request.
    ListsOtherSecret,
    /// The secret on the VM differs from the secret of the create request.
    BootsOtherSecret,
    NoAddress,
    /// The host key check returns the key of another host.
    OtherHostKey,
    /// The newest price is first.
    PricesUnsorted,
    /// No spot prices are returned.
    NoSpotPrices,
    /// An on-demand instance has a spot price.
    PricesOnDemand,
    /// A create with a used token creates another VM.
    DuplicateCreate,
    /// Like `DuplicateCreate`, but the response contains the first VM.
    HiddenDuplicateCreate,
    /// A successful create returns an error.
    CreatesButFails,
    /// A destroy has no effect but returns success.
    DestroyIsNoOp,
    SecondDestroyFails,
    /// A lost response is classified as permanent.
    LostResponseIsPermanent,
    /// A lost response is reported as success.
    LostResponseIsSuccess,
    /// A quota error is classified as transient.
    QuotaIsTransient,
    /// The error text lacks the cloud's message.
    DropsMessage,
    /// Batch results have another order than the requests.
    BatchOutOfOrder,
}

/// Driver with a defect in front of the real driver, with injected faults.
#[derive(Clone)]
pub(crate) struct DefectiveCloud {
    pub(crate) defect: Defect,
    pub(crate) inner: LoopbackCloud,
    /// Driver for another set on the same host.
    pub(crate) other_set: LoopbackCloud,
    pub(crate) state: Arc<Mutex<State>>,
}

#[derive(Default)]
pub(crate) struct State {
    /// Fault for the next matching call.
    pub(crate) fault: Option<Fault>,
    tokens: Vec<IntentId>,
    retagged: BTreeMap<InstanceId, BTreeMap<String, String>>,
    destroyed: BTreeSet<InstanceId>,
}

impl DefectiveCloud {
    /// Takes the fault, if the fault applies to this operation.
    fn fault(&self, operation: Operation) -> Option<Fault> {
        let mut state = self.state.lock().unwrap();
        let about = match state.fault.as_ref()? {
            Fault::LostCreate => Operation::Create,
            Fault::Error(case) => case.operation,
        };
        (about == operation).then(|| state.fault.take()).flatten()
    }

    fn injected_error(&self, operation: Operation) -> Result<(), CloudError> {
        match self.fault(operation) {
            Some(Fault::Error(case)) => Err(self.classified(&case)),
            _ => Ok(()),
        }
    }

    /// Classification of a correct driver, except for the defect.
    fn classified(&self, case: &ErrorCase) -> CloudError {
        let error = ProviderError {
            code: &case.code,
            message: match self.defect {
                Defect::DropsMessage => "",
                _ => &case.message,
            },
            request_id: "r-1",
        };
        match case.class {
            ErrorClass::Quota if self.defect == Defect::QuotaIsTransient => error.transient(),
            ErrorClass::RateLimited => error.rate_limited(None),
            ErrorClass::Quota => error.quota(),
            ErrorClass::Capacity => error.capacity(CapacityScope::Type),
            ErrorClass::NotFound => error.not_found(),
            ErrorClass::Ambiguous => error.ambiguous(),
            ErrorClass::Permanent => error.permanent(),
            ErrorClass::Transient => error.unknown(case.operation.name()),
        }
    }

    async fn create_vm(&self, mut spec: CreateSpec) -> Result<Instance, CloudError> {
        let (again, nth) = {
            let tokens = &mut self.state.lock().unwrap().tokens;
            let again = tokens.contains(&spec.intent);
            tokens.push(spec.intent);
            (again, tokens.len())
        };
        match self.defect {
            Defect::DropsTypeTag => drop(spec.tags.remove(tag::TYPE)),
            Defect::BootsOtherSecret => {
                let script = "printf %s other > \"$LONGSHORE_VM_DIR/instance-secret\"\n";
                spec.init_script = Secret::new(script);
            }
            Defect::DuplicateCreate | Defect::HiddenDuplicateCreate if again => {
                let first = spec.clone();
                spec.intent = IntentId::new((nth as u128) << 64);
                let second = self.inner.create(spec).await?;
                return match self.defect {
                    Defect::DuplicateCreate => Ok(second),
                    _ => self.inner.create(first).await,
                };
            }
            _ => {}
        }
        self.inner.create(spec).await
    }

    fn listed(&self, mut instance: Instance) -> Instance {
        match self.defect {
            Defect::NoAddress => instance.address = None,
            Defect::ListsOtherSecret => instance.secret = Secret::new("other"),
            Defect::RetagReplaces => {
                if let Some(new) = self.state.lock().unwrap().retagged.get(&instance.id) {
                    let stays = [tag::SET, tag::INTENT];
                    instance
                        .tags
                        .retain(|name, _| stays.contains(&name.as_str()));
                    instance.tags.extend(new.clone());
                }
            }
            _ => {}
        }
        instance
    }
}

#[async_trait]
impl Cloud for DefectiveCloud {
    async fn create(&self, spec: CreateSpec) -> Result<Instance, CloudError> {
        let fault = self.fault(Operation::Create);
        if let Some(Fault::Error(case)) = &fault {
            return Err(self.classified(case));
        }
        let created = self.create_vm(spec).await?;
        let message = "connection reset before the answer".to_owned();
        match self.defect {
            Defect::CreatesButFails => Err(CloudError::Permanent { message }),
            _ if fault.is_none() => Ok(self.listed(created)),
            Defect::LostResponseIsSuccess => Ok(self.listed(created)),
            Defect::LostResponseIsPermanent => Err(CloudError::Permanent { message }),
            _ => Err(CloudError::Ambiguous { message }),
        }
    }

    async fn list(&self) -> Result<Vec<Instance>, CloudError> {
        self.injected_error(Operation::List)?;
        let mut seen = self.inner.list().await?;
        match self.defect {
            Defect::ListsNothing => seen.clear(),
            Defect::ListsOtherSet => seen.extend(self.other_set.list().await?),
            Defect::ListsTwice => seen.extend(seen.clone()),
            _ => {}
        }
        Ok(seen
            .into_iter()
            .map(|instance| self.listed(instance))
            .collect())
    }

    async fn set_tags(
        &self,
        instance: &InstanceId,
        tags: BTreeMap<String, String>,
    ) -> Result<(), CloudError> {
        self.injected_error(Operation::SetTags)?;
        match self.defect {
            Defect::RetagIsNoOp => return Ok(()),
            Defect::RetagReplaces => {
                let retagged = &mut self.state.lock().unwrap().retagged;
                retagged.insert(instance.clone(), tags.clone());
            }
            _ => {}
        }
        self.inner.set_tags(instance, tags).await
    }

    async fn destroy(&self, instance: &InstanceId) -> Result<(), CloudError> {
        let first = self
            .state
            .lock()
            .unwrap()
            .destroyed
            .insert(instance.clone());
        match self.injected_error(Operation::Destroy) {
            Err(CloudError::NotFound { .. }) => return Ok(()),
            Err(error) => {
                self.state.lock().unwrap().destroyed.remove(instance);
                return Err(error);
            }
            Ok(()) => {}
        }
        match self.defect {
            Defect::DestroyIsNoOp => Ok(()),
            Defect::SecondDestroyFails if !first => Err(CloudError::NotFound {
                message: format!("no instance {instance}"),
            }),
            _ => self.inner.destroy(instance).await,
        }
    }

    async fn create_many(&self, specs: Vec<CreateSpec>) -> Vec<Result<Instance, CloudError>> {
        let mut answers = Vec::new();
        for spec in specs {
            answers.push(self.create(spec).await);
        }
        if self.defect == Defect::BatchOutOfOrder {
            answers.reverse();
        }
        answers
    }

    async fn prices(
        &self,
        instances: &[InstanceId],
        _: Timestamp,
    ) -> Result<BTreeMap<InstanceId, Vec<PricePoint>>, CloudError> {
        let point = |at| PricePoint {
            since: Timestamp::from_nanos(at),
            price: MicroDollars(at),
        };
        let points = match self.defect {
            Defect::PricesUnsorted => vec![point(2), point(1)],
            Defect::NoSpotPrices => Vec::new(),
            _ => vec![point(1), point(2)],
        };
        let priced = instances.iter().map(|id| (id.clone(), points.clone()));
        Ok(priced.collect())
    }

    async fn host_key_check(&self, _: &InstanceId, _: &str) -> Result<HostKeyCheck, CloudError> {
        Ok(match self.defect {
            Defect::OtherHostKey => HostKeyCheck::Other,
            _ => HostKeyCheck::Own,
        })
    }

    fn remote_user(&self) -> &str {
        self.inner.remote_user()
    }

    fn secret_path(&self) -> &str {
        self.inner.secret_path()
    }

    fn quota_group(&self, instance_type: &InstanceType) -> QuotaGroup {
        self.inner.quota_group(instance_type)
    }
}
