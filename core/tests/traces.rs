//! Traces of complete scenarios: inputs, decisions and events.
//!
//! Each trace is a snapshot, so a change of behavior shows as a change of the trace.

mod story;

use longshore_core::HealthProblem;
use longshore_core::command::{CloudAction, QueueAction, Signal, VmAction};
use longshore_core::ids::InstanceId;
use longshore_core::input::{
    CloudError, ContainerState, IdleBehavior, Input, OperatorRequest, QueueError, VmError,
};
use story::{Sized as _, Story, container};

#[test]
fn container_full_life_is_traced() {
    let mut story = Story::begin();
    story.queue_has(&[container(1).vcpus(1)]);
    story.vm_boots("i-1");
    story.lock_succeeds(1);
    story.start_succeeds("i-1", 1);
    story.note("the runner reports Running, then Complete, and the queue gives a hint");
    story.container(1).state = ContainerState::Complete;
    story.hint();
    story.answer_poll();
    story.signal_ends("i-1", 1, Signal::Term);
    story.wait_steadily(61, "i-1", &[]);
    story.destroy_succeeds("i-1");
    story.list(&[]);
    story.wait_secs(2);
    story.list(&[]);
    story.wait_secs(2);
    story.list(&[]);
    insta::assert_snapshot!(story.trace());
}

#[test]
fn container_ignoring_term_is_killed() {
    let mut story = Story::begin();
    story.queue_has(&[container(1).vcpus(1)]);
    story.vm_boots("i-1");
    story.lock_succeeds(1);
    story.start_succeeds("i-1", 1);
    story.container(1).state = ContainerState::Running;
    story.container(1).priority = 0;
    story.hint();
    story.answer_poll();
    while story.signal_survived("i-1", 1) == Signal::Term {
        story.wait_steadily(5, "i-1", &[1]);
    }
    story.wait_steadily(5, "i-1", &[1]);
    story.signal_ends("i-1", 1, Signal::Kill);
    story.note("it still says Running: nobody else will end it");
    story.wait_steadily(1, "i-1", &[]);
    story.expect_queue(|action| matches!(action, QueueAction::Cancel { error: Some(_), .. }));
    insta::assert_snapshot!(story.trace());
}

#[test]
fn restarted_dispatcher_adopts_its_instances() {
    let mut story = Story::begin();
    let mut running = container(1).vcpus(1);
    running.state = ContainerState::Running;
    running.locked_by_us = true;
    let mut locked = container(2).vcpus(1);
    locked.state = ContainerState::Locked;
    locked.locked_by_us = true;
    story.queue_has(&[running, locked]);
    story.cloud_has("i-1", IdleBehavior::Run);
    story.probe_succeeds("i-1", &[1]);
    story.wait_steadily(61, "i-1", &[1]);
    story.list(&[("i-1", IdleBehavior::Run, None)]);
    story.wait_steadily(1, "i-1", &[1]);
    story.note("nothing is known to run container 2, so it goes back to the queue");
    story.expect_queue(|action| matches!(action, QueueAction::Unlock { .. }));
    insta::assert_snapshot!(story.trace());
}

#[test]
fn lost_create_is_matched_by_intent() {
    let mut story = Story::begin();
    story.queue_has(&[container(1).vcpus(1)]);
    let intent = story.create_fails(CloudError::Ambiguous {
        message: "connection reset".into(),
    });
    story.wait_secs(1);
    story.list(&[("i-7", IdleBehavior::Run, Some(intent))]);
    story.probe_succeeds("i-7", &[]);
    story.expect_queue(|action| matches!(action, QueueAction::Lock { .. }));
    insta::assert_snapshot!(story.trace());
}

#[test]
fn identity_mismatch_prevents_start() {
    let mut story = Story::begin();
    story.queue_has(&[container(1).vcpus(1)]);
    story.vm_appears("i-1");
    for _ in 0..3 {
        story.probe_fails(
            "i-1",
            VmError::IdentityMismatch("the secret is wrong".into()),
        );
        story.wait_secs(10);
    }
    assert!(!story.trace().contains("Start {"), "{}", story.trace());
    insta::assert_snapshot!(story.trace());
}

#[test]
fn held_instance_stays_and_takes_no_container() {
    let mut story = Story::begin();
    story.queue_has(&[container(1).vcpus(1)]);
    story.vm_boots("i-1");
    story.note("the operator holds it while the lock is under way");
    story.input(Input::OperatorRequest(OperatorRequest::SetIdleBehavior {
        instance: InstanceId::from("i-1"),
        behavior: IdleBehavior::Hold,
    }));
    story.expect_cloud(|action| matches!(action, CloudAction::Tag { .. }));
    story.lock_succeeds(1);
    story.expect_queue(|action| matches!(action, QueueAction::Unlock { .. }));
    story.wait_secs(3600);
    assert!(!story.trace().contains("Destroy"), "{}", story.trace());
    assert!(!story.trace().contains("Start {"), "{}", story.trace());
}

#[test]
fn unsatisfiable_container_is_cancelled_with_reason() {
    let mut story = Story::begin();
    story.queue_has(&[container(1).vcpus(64)]);
    story.lock_succeeds(1);
    let cancelled = story.expect_queue(|a| matches!(a, QueueAction::Cancel { .. }));
    let QueueAction::Cancel { error, .. } = cancelled else {
        unreachable!()
    };
    insta::assert_snapshot!(error.unwrap_or_default());
}

#[test]
fn start_lost_answer_is_resolved_by_probe() {
    let mut story = Story::begin();
    story.queue_has(&[container(1).vcpus(1)]);
    story.vm_boots("i-1");
    story.lock_succeeds(1);
    story.start_fails("i-1", 1, VmError::Lost("keepalive".into()));
    story.probe_succeeds("i-1", &[1]);
    let view = story.core.view();
    let seen = view.container(container(1).id).expect("known");
    assert_eq!(seen.instance, Some("i-1".into()));
    story.wait_steadily(11, "i-1", &[]);
    story.wait_steadily(1, "i-1", &[]);
    story.expect_queue(|action| matches!(action, QueueAction::Unlock { .. }));
}

#[test]
fn refused_lock_frees_the_instance() {
    let mut story = Story::begin();
    story.queue_has(&[container(1).vcpus(2), container(2).vcpus(2)]);
    story.vm_boots("i-1");
    story.lock_fails(1, QueueError::Refused("cannot lock when Cancelled".into()));
    story.lock_succeeds(2);
    story.expect_vm("i-1", |action| matches!(action, VmAction::Start { .. }));
}

/// Adds the current explanations of a container and an instance to the trace.
fn explain(story: &mut Story, n: u32, instance: &str) {
    let (view, now) = (story.core.view(), story.now());
    let id = container(n).id;
    let container = view.explain_container(now, id).map(|e| e.to_string());
    let instance = view.explain_instance(now, instance).map(|e| e.to_string());
    for text in [container, instance].into_iter().flatten() {
        for line in text.lines() {
            story.note(line);
        }
    }
}

#[test]
fn explanation_is_available_at_every_step() {
    let mut story = Story::begin();
    story.queue_has(&[
        container(1).vcpus(2),
        container(2).vcpus(2),
        container(3).vcpus(9),
    ]);
    explain(&mut story, 3, "");
    story.vm_appears("i-1");
    story.wait_secs(3);
    explain(&mut story, 1, "i-1");
    explain(&mut story, 2, "");
    story.probe_succeeds("i-1", &[]);
    story.lock_succeeds(1);
    explain(&mut story, 1, "i-1");
    story.start_succeeds("i-1", 1);
    story.container(1).state = ContainerState::Running;
    story.hint();
    story.answer_poll();
    story.wait_steadily(70, "i-1", &[1]);
    explain(&mut story, 1, "i-1");
    story.input(Input::OperatorRequest(OperatorRequest::SetIdleBehavior {
        instance: InstanceId::from("i-1"),
        behavior: IdleBehavior::Drain,
    }));
    explain(&mut story, 2, "i-1");
    story.input(Input::OperatorRequest(OperatorRequest::KillInstance {
        instance: InstanceId::from("i-1"),
        reason: "disk errors".into(),
    }));
    story.wait_secs(2);
    explain(&mut story, 1, "i-1");
    insta::assert_snapshot!(story.trace());
}

#[test]
fn health_reports_silence_and_lost_leadership() {
    let mut story = Story::begin();
    let health_problems = |story: &Story| story.core.view().health_problems(story.now());
    story.queue_has(&[]);
    assert_eq!(health_problems(&story), []);
    story.wait_secs(119);
    assert_eq!(health_problems(&story), []);
    story.wait_secs(3);
    assert!(matches!(
        health_problems(&story)[..],
        [HealthProblem::QueueSilent { .. }]
    ));
    story.wait_secs(60);
    let both = health_problems(&story);
    assert!(
        matches!(
            both[..],
            [
                HealthProblem::QueueSilent { .. },
                HealthProblem::CloudSilent { .. }
            ]
        ),
        "{both:?}"
    );
    story.input(Input::Leadership { held: false });
    assert_eq!(health_problems(&story), [HealthProblem::NotLeader]);
}
