//! Drivers that each break the contract in one way: does the suite notice?

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use longshore_core::config::InstanceType;
use longshore_core::ids::{InstanceId, IntentId, QuotaGroup};
use longshore_core::resources::MicroDollars;
use longshore_core::time::Timestamp;
use longshore_driver::conformance::{Fault, Refusal};
use longshore_driver::{
    CapacityScope, Cloud, CloudError, CreateSpec, ErrorClass, HostKeyCheck, Instance, Operation,
    PricePoint, Said, tag,
};
use longshore_driver_loopback::LoopbackCloud;
use longshore_secret::Secret;

/// How a driver is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    No,
    /// A new VM lacks one of our tags.
    ForgetsTypeTag,
    /// The list does not know whose a VM is, so it shows none.
    NeverLists,
    /// The list shows another set's VMs too.
    ListsOthers,
    /// The list shows every VM twice.
    ListsTwice,
    /// Changed tags are all that is left.
    RetagReplaces,
    /// Tags are not changed, and it says that they were.
    RetagDoesNothing,
    /// It lists another secret than it was given.
    ListsOtherSecret,
    /// The VM gets another secret than it was given.
    BootsOtherSecret,
    NoAddress,
    /// It vouches for another host key.
    OtherHostKey,
    /// The newest price comes first.
    PricesBackwards,
    /// The market's prices are kept from whoever asks.
    TellsNoPrices,
    /// What costs what is configured has a price of the market.
    PricesWhatIsFixed,
    /// A token that was used before makes another VM.
    TwoForOneToken,
    /// The same, and it shows the first one as its answer.
    SecretlyTwoForOneToken,
    /// The create is done, and it says that it was refused.
    DoneButRefused,
    /// It says that it was done, and nothing was.
    DestroysNothing,
    SecondDestroyFails,
    /// A lost answer passes for a refusal.
    LostIsPermanent,
    /// A lost answer passes for success.
    LostIsDone,
    /// A quota is taken for something that passes.
    QuotaIsTransient,
    /// Words of the cloud are dropped.
    DropsWords,
    /// A batch is answered in another order.
    BatchOutOfOrder,
}

/// A driver that is wrong in one way, in front of the real one; and the cloud's moods.
#[derive(Clone)]
pub(crate) struct WrongCloud {
    pub(crate) wrong: Wrong,
    pub(crate) inner: LoopbackCloud,
    /// The same host, another set.
    pub(crate) elsewhere: LoopbackCloud,
    pub(crate) state: Arc<Mutex<State>>,
}

#[derive(Default)]
pub(crate) struct State {
    /// What goes wrong next.
    pub(crate) fault: Option<Fault>,
    tokens: Vec<IntentId>,
    retagged: BTreeMap<InstanceId, BTreeMap<String, String>>,
    destroyed: BTreeSet<InstanceId>,
}

impl WrongCloud {
    /// The fault, if it is about this call.
    fn fault(&self, operation: Operation) -> Option<Fault> {
        let mut state = self.state.lock().unwrap();
        let about = match state.fault.as_ref()? {
            Fault::LostCreate => Operation::Create,
            Fault::Refused(refusal) => refusal.operation,
        };
        (about == operation).then(|| state.fault.take()).flatten()
    }

    fn refused(&self, operation: Operation) -> Result<(), CloudError> {
        match self.fault(operation) {
            Some(Fault::Refused(refusal)) => Err(self.understood(&refusal)),
            _ => Ok(()),
        }
    }

    /// What a right driver makes of it, but for what is wrong with this one.
    fn understood(&self, refusal: &Refusal) -> CloudError {
        let said = Said {
            code: &refusal.code,
            message: match self.wrong {
                Wrong::DropsWords => "",
                _ => &refusal.message,
            },
            request_id: "r-1",
        };
        match refusal.class {
            ErrorClass::Quota if self.wrong == Wrong::QuotaIsTransient => said.transient(),
            ErrorClass::RateLimited => said.rate_limited(None),
            ErrorClass::Quota => said.quota(),
            ErrorClass::Capacity => said.capacity(CapacityScope::Type),
            ErrorClass::NotFound => said.not_found(),
            ErrorClass::Ambiguous => said.ambiguous(),
            ErrorClass::Permanent => said.permanent(),
            ErrorClass::Transient => said.unknown(refusal.operation.name()),
        }
    }

    async fn make(&self, mut spec: CreateSpec) -> Result<Instance, CloudError> {
        let (again, nth) = {
            let tokens = &mut self.state.lock().unwrap().tokens;
            let again = tokens.contains(&spec.intent);
            tokens.push(spec.intent);
            (again, tokens.len())
        };
        match self.wrong {
            Wrong::ForgetsTypeTag => drop(spec.tags.remove(tag::TYPE)),
            Wrong::BootsOtherSecret => {
                let script = "printf %s other > \"$LONGSHORE_VM_DIR/instance-secret\"\n";
                spec.init_script = Secret::new(script);
            }
            Wrong::TwoForOneToken | Wrong::SecretlyTwoForOneToken if again => {
                let first = spec.clone();
                spec.intent = IntentId::new((nth as u128) << 64);
                let second = self.inner.create(spec).await?;
                return match self.wrong {
                    Wrong::TwoForOneToken => Ok(second),
                    _ => self.inner.create(first).await,
                };
            }
            _ => {}
        }
        self.inner.create(spec).await
    }

    fn shown(&self, mut instance: Instance) -> Instance {
        match self.wrong {
            Wrong::NoAddress => instance.address = None,
            Wrong::ListsOtherSecret => instance.secret = Secret::new("other"),
            Wrong::RetagReplaces => {
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
impl Cloud for WrongCloud {
    async fn create(&self, spec: CreateSpec) -> Result<Instance, CloudError> {
        let fault = self.fault(Operation::Create);
        if let Some(Fault::Refused(refusal)) = &fault {
            return Err(self.understood(refusal));
        }
        let made = self.make(spec).await?;
        let message = "connection reset before the answer".to_owned();
        match self.wrong {
            Wrong::DoneButRefused => Err(CloudError::Permanent { message }),
            _ if fault.is_none() => Ok(self.shown(made)),
            Wrong::LostIsDone => Ok(self.shown(made)),
            Wrong::LostIsPermanent => Err(CloudError::Permanent { message }),
            _ => Err(CloudError::Ambiguous { message }),
        }
    }

    async fn list(&self) -> Result<Vec<Instance>, CloudError> {
        self.refused(Operation::List)?;
        let mut seen = self.inner.list().await?;
        match self.wrong {
            Wrong::NeverLists => seen.clear(),
            Wrong::ListsOthers => seen.extend(self.elsewhere.list().await?),
            Wrong::ListsTwice => seen.extend(seen.clone()),
            _ => {}
        }
        Ok(seen
            .into_iter()
            .map(|instance| self.shown(instance))
            .collect())
    }

    async fn set_tags(
        &self,
        instance: &InstanceId,
        tags: BTreeMap<String, String>,
    ) -> Result<(), CloudError> {
        self.refused(Operation::SetTags)?;
        match self.wrong {
            Wrong::RetagDoesNothing => return Ok(()),
            Wrong::RetagReplaces => {
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
        match self.refused(Operation::Destroy) {
            Err(CloudError::NotFound { .. }) => return Ok(()),
            Err(error) => {
                self.state.lock().unwrap().destroyed.remove(instance);
                return Err(error);
            }
            Ok(()) => {}
        }
        match self.wrong {
            Wrong::DestroysNothing => Ok(()),
            Wrong::SecondDestroyFails if !first => Err(CloudError::NotFound {
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
        if self.wrong == Wrong::BatchOutOfOrder {
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
        let points = match self.wrong {
            Wrong::PricesBackwards => vec![point(2), point(1)],
            Wrong::TellsNoPrices => Vec::new(),
            _ => vec![point(1), point(2)],
        };
        let priced = instances.iter().map(|id| (id.clone(), points.clone()));
        Ok(priced.collect())
    }

    async fn host_key_check(&self, _: &InstanceId, _: &str) -> Result<HostKeyCheck, CloudError> {
        Ok(match self.wrong {
            Wrong::OtherHostKey => HostKeyCheck::Other,
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
