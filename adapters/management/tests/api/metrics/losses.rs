//! Counters of preemptions, unexpected terminations and failed boots.

use std::time::Duration;

use longshore_core::event::{BootOutcome, CloudCall, Event};
use longshore_core::ids::{CloudId, TypeName, VmName};
use longshore_core::input::CloudError;
use longshore_core::{Phase, ShutdownReason};
use longshore_management::Metrics;

use super::{gather, of};
use crate::world::{RUNNING, START, World, id};

#[test]
fn unexpected_terminations_are_counted_by_reason() {
    let metrics = Metrics::new();
    let leaving = |reason| Event::Terminating {
        instance: "i-1".into(),
        instance_type: "small".into(),
        reason,
        complaint: None,
    };
    let broken = |held| Event::Broken {
        instance: "i-2".into(),
        instance_type: "large".into(),
        why: "it says so".into(),
        held,
    };
    for event in [
        leaving(ShutdownReason::Unresponsive),
        leaving(ShutdownReason::BootTimeout),
        leaving(ShutdownReason::Unkillable),
        leaving(ShutdownReason::Idle),
        leaving(ShutdownReason::Operator("mine".into())),
        broken(false),
        broken(true),
    ] {
        metrics.observe(START, &event);
    }
    let scrape = of(&metrics);
    let count = |reason: &str, name: &str| {
        let labels = format!("{{instance_type=\"{name}\",reason=\"{reason}\"}}");
        scrape.value(&format!("longshore_unexpected_shutdowns_total{labels}"))
    };
    for reason in ["unresponsive", "boot_timeout", "unkillable"] {
        assert_eq!(count(reason, "small"), 1.0, "{reason}");
    }
    assert_eq!(count("broken", "large"), 1.0, "a held one is not shut down");
    assert_eq!(count("unresponsive", "large"), 0.0);
}

#[test]
fn disappeared_instance_is_counted_by_last_state() {
    for (vanishing, state) in [("i-0001", "running"), ("i-0002", "idle")] {
        let mut world = World::busy();
        world.cloud.retain(|record| record.id.as_str() != vanishing);
        world.runners.remove(&vanishing.into());
        world.run_for(Duration::from_secs(200));
        let gone = world.core.view().instance(&vanishing.into()).is_none();
        assert!(gone, "{vanishing} should be forgotten by now");
        let scrape = gather(&world);
        let count = |name: &str| scrape.value(&format!("{name}state=\"{state}\"}}"));
        assert_eq!(count("arvados_dispatchcloud_instances_disappeared{"), 1.0);
        let unexpected = "longshore_unexpected_disappearances_total{instance_type=\"small\",";
        assert_eq!(count(unexpected), 1.0);
    }
}

fn gone(phase: Phase, runners: usize, expected: Option<Duration>) -> Event {
    Event::Gone {
        instance: "i-1".into(),
        instance_type: TypeName::from("small"),
        phase,
        runners,
        expected,
    }
}

#[test]
fn disappeared_instance_with_runners_counts_as_running() {
    let metrics = Metrics::new();
    for event in [
        gone(Phase::Ready, 2, None),
        gone(Phase::Cordoned, 0, None),
        gone(Phase::Booting, 0, None),
        gone(Phase::Shutdown, 1, Some(Duration::from_secs(3))),
    ] {
        metrics.observe(START, &event);
    }
    let scrape = of(&metrics);
    let count = |state| scrape.peer(&format!("instances_disappeared{{state=\"{state}\"}}"));
    let counts = ["unknown", "booting", "idle", "running", "shutdown"].map(count);
    assert_eq!(counts, [0.0, 1.0, 1.0, 1.0, 1.0]);
    let unexpected = "longshore_unexpected_disappearances_total{instance_type=\"small\",";
    assert_eq!(
        scrape.value(&format!("{unexpected}state=\"shutdown\"}}")),
        0.0
    );
    assert_eq!(
        scrape.value(&format!("{unexpected}state=\"booting\"}}")),
        1.0
    );
    let span = "instances_time_from_shutdown_request_to_disappearance_seconds";
    assert_eq!(scrape.peer(&format!("{span}_sum")), 3.0);
    assert_eq!(scrape.peer(&format!("{span}_count")), 1.0);
}

#[test]
fn removed_type_is_still_counted() {
    let metrics = Metrics::new();
    metrics.observe(
        START,
        &Event::Boot {
            instance: "a".into(),
            instance_type: TypeName::from("re\"moved"),
            outcome: BootOutcome::Failure,
        },
    );
    metrics.observe(
        START,
        &Event::CloudCalled {
            cloud: CloudId(7),
            call: CloudCall::Destroy,
            error: Some(CloudError::RateLimited {
                until: None,
                message: "slow down".into(),
            }),
        },
    );
    let scrape = of(&metrics);
    let labels = r#"instance_type="re\"moved",outcome="failure""#;
    assert_eq!(
        scrape.value(&format!("longshore_boot_outcomes_total{{{labels}}}")),
        1.0
    );
    let labels = r#"class="rate_limited",cloud="7",operation="Destroy""#;
    assert_eq!(
        scrape.value(&format!("longshore_cloud_call_errors_total{{{labels}}}")),
        1.0
    );
}

#[test]
fn preemptions_and_boot_backoffs_are_counted() {
    let metrics = Metrics::new();
    let (instance, instance_type) = (VmName::from("a"), TypeName::from("small"));
    for event in [
        Event::PreemptionNotice {
            instance: instance.clone(),
            instance_type: instance_type.clone(),
            at: START,
            containers: 1,
        },
        Event::Interrupted {
            container: id(RUNNING),
            instance,
            instance_type: instance_type.clone(),
            times: 1,
        },
        Event::BootBackoffStarted {
            instance_type,
            image: "image".into(),
            failures: 5,
            until: START,
            why: "no answer".into(),
        },
    ] {
        metrics.observe(START, &event);
    }
    let scrape = of(&metrics);
    for name in ["preemption_notices", "interruptions", "boot_pauses"] {
        let series = format!("longshore_{name}_total{{instance_type=\"small\"}}");
        assert_eq!(scrape.value(&series), 1.0, "{name}");
    }
}

#[test]
fn boot_outcomes_are_counted_by_type() {
    let metrics = Metrics::new();
    let ways = [
        (BootOutcome::Success, "success"),
        (BootOutcome::Failure, "failure"),
        (BootOutcome::Aborted, "aborted"),
        (BootOutcome::Disappeared, "disappeared"),
    ];
    for (times, (outcome, _)) in (1..).zip(ways) {
        for instance_type in std::iter::repeat_n("small", times).chain(["large"]) {
            let event = Event::Boot {
                instance: "i-1".into(),
                instance_type: instance_type.into(),
                outcome,
            };
            metrics.observe(START, &event);
        }
    }
    let scrape = of(&metrics);
    for (times, (_, name)) in (1_u32..).zip(ways) {
        let count = |instance_type: &str| {
            let labels = format!("instance_type=\"{instance_type}\",outcome=\"{name}\"");
            scrape.value(&format!("longshore_boot_outcomes_total{{{labels}}}"))
        };
        let in_all = scrape.peer(&format!("boot_outcomes{{outcome=\"{name}\"}}"));
        let expected = f64::from(times);
        assert_eq!(
            (count("small"), count("large"), in_all),
            (expected, 1.0, expected + 1.0)
        );
    }
}
