//! What is put around drivers: deadlines and timing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use longshore_core::config::InstanceType;
use longshore_core::ids::{InstanceId, QuotaGroup};
use longshore_driver::layer::CallEnd;
use longshore_driver::{
    Called, Cloud, CloudError, CreateSpec, Deadlines, ErrorClass, Instance, Instrument, Layered,
    SharedCloud, Watch,
};

/// Destroys at once, refuses tags, and never answers anything else.
struct Silent;

#[async_trait]
impl Cloud for Silent {
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
        vec!["here".to_owned()]
    }

    fn for_subnet(&self, index: usize) -> Option<SharedCloud> {
        (index == 0).then(|| Arc::new(Silent) as SharedCloud)
    }
}

fn ids(names: &[&str]) -> Vec<InstanceId> {
    names.iter().map(|name| InstanceId::from(*name)).collect()
}

#[tokio::test]
async fn a_call_without_an_answer_is_given_up_and_may_have_been_done() {
    let each = Duration::from_millis(20);
    let cloud = Layered::new(Arc::new(Silent), Deadlines { each });
    let listed = cloud.list().await.unwrap_err();
    assert_eq!(ErrorClass::of(&listed), ErrorClass::Transient);
    assert_eq!(listed.to_string(), "failed: List: no answer within 20ms");
    let stuck = cloud.destroy(&InstanceId::from("stuck")).await;
    assert_eq!(ErrorClass::of(&stuck.unwrap_err()), ErrorClass::Ambiguous);
    assert_eq!(cloud.destroy(&InstanceId::from("a")).await, Ok(()));
    // Every instance of a batch that was given up has its answer.
    let batch = cloud.destroy_many(&ids(&["a", "stuck", "b"])).await;
    let classes: Vec<_> = batch.iter().flat_map(|a| a.as_ref().err()).collect();
    assert_eq!(classes.len(), 3, "{batch:?}");
    let there = cloud.for_subnet(0).expect("a subnet");
    assert!(there.list().await.is_err(), "deadlines count there too");
    assert_eq!(cloud.subnets(), ["here"]);
    assert!(cloud.for_subnet(1).is_none());
}

#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Watch for Heard {
    fn called(&self, call: &Called<'_>) {
        let end = match call.end {
            CallEnd::Done => "done".to_owned(),
            CallEnd::Failed(error) => error.to_string(),
            CallEnd::Abandoned => "abandoned".to_owned(),
        };
        let words = format!("{} {end}", call.operation);
        self.0.lock().unwrap().push(words);
    }
}

#[tokio::test]
async fn every_call_is_told_of_even_if_nobody_waits_for_it() {
    let heard = Arc::new(Heard::default());
    let cloud = Layered::new(Silent, Instrument(Arc::clone(&heard) as Arc<dyn Watch>));
    let (gone, stuck) = (InstanceId::from("a"), InstanceId::from("stuck"));
    assert_eq!(cloud.destroy(&gone).await, Ok(()));
    let refused = cloud.set_tags(&gone, BTreeMap::new()).await;
    assert!(refused.is_err());
    let soon = Duration::from_millis(20);
    let given_up = tokio::time::timeout(soon, cloud.destroy(&stuck)).await;
    assert!(given_up.is_err());
    let batch = cloud.destroy_many(&ids(&["a", "b"])).await;
    assert_eq!(batch, [Ok(()), Ok(())]);
    let heard = heard.0.lock().unwrap();
    assert_eq!(
        *heard,
        [
            "Destroy done",
            "SetTags quota exceeded: 50 tags",
            "Destroy abandoned",
            "Destroy done",
        ]
    );
}
