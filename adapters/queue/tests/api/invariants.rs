//! Random operations: invariants hold for all callers.

use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::support::{Answer, World};

const STATES: [&str; 5] = ["Queued", "Locked", "Running", "Complete", "Cancelled"];

#[derive(Clone, Debug)]
enum Operation {
    Lock(usize),
    Unlock(usize),
    Cancel(usize),
    Put(usize, usize),
    Priority(usize, i64),
    Progress(usize),
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        3 => (0..5_usize).prop_map(Operation::Lock),
        2 => (0..5_usize).prop_map(Operation::Unlock),
        1 => (0..5_usize).prop_map(Operation::Cancel),
        5 => (0..5_usize, 0..5_usize).prop_map(|(caller, state)| Operation::Put(caller, state)),
        1 => (0..5_usize, -1..3_i64).prop_map(|(caller, priority)| Operation::Priority(caller, priority)),
        1 => (0..5_usize).prop_map(Operation::Progress),
    ]
}

async fn perform(world: &World, callers: &[String], uuid: &str, operation: &Operation) -> Answer {
    match operation {
        Operation::Lock(caller) => world.lock(&callers[*caller], uuid).await,
        Operation::Unlock(caller) => world.unlock(&callers[*caller], uuid).await,
        Operation::Cancel(caller) => {
            world
                .post(&callers[*caller], &format!("containers/{uuid}/cancel"), &[])
                .await
        }
        Operation::Put(caller, state) => {
            world
                .put(&callers[*caller], uuid, &json!({ "state": STATES[*state] }))
                .await
        }
        Operation::Priority(caller, priority) => {
            world
                .put(&callers[*caller], uuid, &json!({ "priority": priority }))
                .await
        }
        Operation::Progress(caller) => {
            world
                .put(
                    &callers[*caller],
                    uuid,
                    &json!({ "runtime_status": { "activity": "x" } }),
                )
                .await
        }
    }
}

/// Checks the invariants between the records before and after one operation.
fn check(
    before: &Value,
    after: &Value,
    answer: &Answer,
    is_admin: bool,
) -> Result<(), TestCaseError> {
    let state = |record: &Value| record["state"].as_str().unwrap_or_default().to_owned();
    let (from, to) = (state(before), state(after));
    let is_held = matches!(to.as_str(), "Locked" | "Running");
    prop_assert_eq!(after["locked_by_uuid"].is_string(), is_held);
    prop_assert_eq!(after["auth_uuid"].is_string(), is_held);
    let is_final = matches!(to.as_str(), "Complete" | "Cancelled");
    prop_assert_eq!(after["finished_at"].is_string(), is_final);
    let count = |record: &Value| record["lock_count"].as_i64().unwrap_or_default();
    let locks = i64::from(from == "Queued" && to == "Locked");
    prop_assert_eq!(
        count(after),
        count(before) + locks,
        "each lock counts, nothing else does"
    );
    let legal = match (from.as_str(), to.as_str()) {
        ("Queued", "Locked" | "Cancelled") => true,
        ("Locked", "Queued" | "Running" | "Cancelled") => true,
        ("Running", "Complete" | "Cancelled") => true,
        ("Complete", "Cancelled") => is_admin,
        (a, b) => a == b,
    };
    prop_assert!(legal, "{} to {}", from, to);
    if answer.status != 200 {
        prop_assert_eq!(before, after, "a refused operation changes nothing");
    }
    prop_assert!(
        matches!(answer.status, 200 | 403 | 422),
        "{}",
        answer.status
    );
    if let (true, Some(holder)) = (
        from == "Locked" && to == "Running",
        before["locked_by_uuid"].as_str(),
    ) {
        prop_assert_eq!(
            after["locked_by_uuid"].as_str(),
            Some(holder),
            "a start does not change hands"
        );
    }
    Ok(())
}

#[test]
fn random_operations_keep_the_invariants() {
    let runtime = Runtime::new().unwrap();
    let (world, callers) = runtime.block_on(async {
        let world = World::with(|config| config.max_dispatch_attempts = 3).await;
        let (_, second) = world
            .server
            .tokens()
            .create(longshore_queue::Role::Dispatcher, "two")
            .await
            .unwrap();
        let callers = vec![
            world.admin.clone(),
            world.dispatcher.clone(),
            world.dispatcher.clone(),
            second.expose().to_owned(),
            world.alice.clone(),
        ];
        (world, callers)
    });
    let config = ProptestConfig {
        cases: 96,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let strategy = proptest::collection::vec(operation(), 1..40);
    let result = runner.run(&strategy, |operations| {
        runtime.block_on(async {
            let uuid = world.create(1).await;
            let mut before = world.record(&uuid).await;
            for operation in &operations {
                let answer = perform(&world, &callers, &uuid, operation).await;
                let after = world.record(&uuid).await;
                let is_admin = matches!(operation, Operation::Put(0, _));
                check(&before, &after, &answer, is_admin)?;
                before = after;
            }
            Ok(())
        })
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
