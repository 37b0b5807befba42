//! Driver layers: deadlines and timing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use longshore_core::config::InstanceType;
use longshore_core::ids::{InstanceId, QuotaGroup};
use longshore_driver::layer::CallOutcome;
use longshore_driver::{
    CallObserver, CallRecord, Cloud, CloudError, CreateSpec, Deadlines, ErrorClass, Instance,
    Instrument, Layered, SharedCloud,
};

/// Driver with immediate destroys, rejected tags, and no response to any other call.
struct UnresponsiveCloud;

#[async_trait]
impl Cloud for UnresponsiveCloud {
    async fn create(&self, _: CreateSpec) -> Result<Instance, CloudError> {
        std::future::pending().await
    }

    async fn list(&self) -> Result<Vec<Instance>, CloudError> {
        std::future::pending().await
    }

    async fn set_tags(
        &self,
        _: &InstanceId,
        _: BTreeMap<String, String>,
    ) -> Result<(), CloudError> {
        Err(CloudError::Quota {
            message: "50 tags".to_owned(),
        })
    }

    async fn destroy(&self, instance: &InstanceId) -> Result<(), CloudError> {
        match instance.as_str() {
            "stuck" => std::future::pending().await,
            _ => Ok(()),
        }
    }

    fn remote_user(&self) -> &str {
        "root"
    }

    fn quota_group(&self, _: &InstanceType) -> QuotaGroup {
        QuotaGroup::from("all")
    }

    fn subnets(&self) -> Vec<String> {
        vec!["subnet-1".to_owned()]
    }

    fn for_subnet(&self, index: usize) -> Option<SharedCloud> {
        (index == 0).then(|| Arc::new(UnresponsiveCloud) as SharedCloud)
    }
}

fn ids(names: &[&str]) -> Vec<InstanceId> {
    names.iter().map(|name| InstanceId::from(*name)).collect()
}

#[tokio::test]
async fn deadline_write_timeout_is_ambiguous() {
    let each = Duration::from_millis(20);
    let cloud = Layered::new(Arc::new(UnresponsiveCloud), Deadlines { each });
    let listed = cloud.list().await.unwrap_err();
    assert_eq!(ErrorClass::of(&listed), ErrorClass::Transient);
    assert_eq!(listed.to_string(), "failed: List: no answer within 20ms");
    let stuck = cloud.destroy(&InstanceId::from("stuck")).await;
    assert_eq!(ErrorClass::of(&stuck.unwrap_err()), ErrorClass::Ambiguous);
    assert_eq!(cloud.destroy(&InstanceId::from("a")).await, Ok(()));
    // Every instance of a timed-out batch has a result.
    let batch = cloud.destroy_many(&ids(&["a", "stuck", "b"])).await;
    let classes: Vec<_> = batch.iter().flat_map(|a| a.as_ref().err()).collect();
    assert_eq!(classes.len(), 3, "{batch:?}");
    let subnet_driver = cloud.for_subnet(0).expect("a subnet");
    assert!(
        subnet_driver.list().await.is_err(),
        "the deadline applies in the subnet driver too"
    );
    assert_eq!(cloud.subnets(), ["subnet-1"]);
    assert!(cloud.for_subnet(1).is_none());
}

#[derive(Default)]
struct Recorder(Mutex<Vec<String>>);

impl CallObserver for Recorder {
    fn call_ended(&self, call: &CallRecord<'_>) {
        let outcome = match call.outcome {
            CallOutcome::Done => "done".to_owned(),
            CallOutcome::Failed(error) => error.to_string(),
            CallOutcome::Abandoned => "abandoned".to_owned(),
        };
        let text = format!("{} {outcome}", call.operation);
        self.0.lock().unwrap().push(text);
    }
}

#[tokio::test]
async fn instrument_dropped_call_is_reported() {
    let recorder = Arc::new(Recorder::default());
    let cloud = Layered::new(
        UnresponsiveCloud,
        Instrument(Arc::clone(&recorder) as Arc<dyn CallObserver>),
    );
    let (gone, stuck) = (InstanceId::from("a"), InstanceId::from("stuck"));
    assert_eq!(cloud.destroy(&gone).await, Ok(()));
    let refused = cloud.set_tags(&gone, BTreeMap::new()).await;
    assert!(refused.is_err());
    let soon = Duration::from_millis(20);
    let given_up = tokio::time::timeout(soon, cloud.destroy(&stuck)).await;
    assert!(given_up.is_err());
    let batch = cloud.destroy_many(&ids(&["a", "b"])).await;
    assert_eq!(batch, [Ok(()), Ok(())]);
    let recorder = recorder.0.lock().unwrap();
    assert_eq!(
        *recorder,
        [
            "Destroy done",
            "SetTags quota exceeded: 50 tags",
            "Destroy abandoned",
            "Destroy done",
        ]
    );
}
