//! Gauges of containers, instances, costs and limits.

use std::time::Duration;

use longshore_core::config::{Budget, Config};
use longshore_core::input::{ContainerState, IdleBehavior, Input, OperatorRequest};
use longshore_core::resources::MicroDollars;

use super::{Scrape, gather};
use crate::world::{BOOTING, World, config, demand, instance, record};

fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

/// World of idle instances with a changed configuration.
fn quiet(instances: &[(&str, &str, IdleBehavior)], change: impl FnOnce(&mut Config)) -> World {
    let mut config = config();
    change(&mut config);
    let mut world = World::new(config);
    for (id, instance_type, behavior) in instances {
        world.cloud.push(instance(id, instance_type, *behavior));
        world.runners.insert((*id).into(), Vec::new());
    }
    world.lead();
    world.run_for(Duration::from_secs(5));
    world
}

fn price(scrape: &Scrape, category: &str, instance_type: &str) -> f64 {
    let labels = format!("category=\"{category}\",instance_type=\"{instance_type}\"");
    scrape.value(&format!("longshore_instances_price{{{labels}}}"))
}

#[test]
fn gauges_equal_the_dispatcher_totals() {
    let scrape = gather(&World::busy());
    assert_eq!(scrape.peer("containers_running"), 1.0);
    assert_eq!(scrape.peer("containers_allocated_not_started"), 2.0);
    assert_eq!(scrape.peer("containers_not_allocated_over_quota"), 1.0);
    assert_eq!(scrape.peer("at_quota"), 1.0);
    let entries = |state, instance_type| {
        let labels = format!("instance_type=\"{instance_type}\",state=\"{state}\"");
        scrape.peer(&format!("queue_entries{{{labels}}}"))
    };
    assert_eq!(entries("Running", "small"), 1.0);
    assert_eq!(entries("Queued", "large"), 1.0);
    assert_eq!(entries("Queued", ""), 1.0);
    let containers = |state, instance_type| {
        let labels = format!("instance_type=\"{instance_type}\",state=\"{state}\"");
        scrape.value(&format!("longshore_containers{{{labels}}}"))
    };
    assert_eq!(containers("Running", "small"), 1.0);
    assert_eq!(containers("Queued", "gpu"), 1.0);
    assert_eq!(containers("Queued", "tiny"), 0.0);
    let instances = |category, instance_type| {
        let labels = format!("category=\"{category}\",instance_type=\"{instance_type}\"");
        scrape.peer(&format!("instances_total{{{labels}}}"))
    };
    assert_eq!(instances("inuse", "small"), 1.0);
    assert_eq!(instances("hold", "small"), 1.0);
    assert_eq!(instances("unknown", "tiny"), 1.0);
    assert_eq!(instances("booting", "gpu"), 1.0);
    assert_eq!(scrape.peer("instances_price{category=\"inuse\"}"), 0.1);
    assert_eq!(scrape.peer("instances_price{category=\"unknown\"}"), 0.05);
    assert_eq!(scrape.peer("vcpus_total{category=\"unknown\"}"), 1.0);
    let memory = scrape.peer("memory_bytes_total{category=\"hold\"}");
    assert_eq!(memory, f64::from(4096_u32) * 1_048_576.0);
    let waited = scrape.peer("containers_longest_wait_time_seconds");
    assert!((93.0..95.0).contains(&waited), "{waited}");
    let silent = scrape.peer("probe_age_seconds_max");
    assert!((2.0..4.0).contains(&silent), "{silent}");
    assert_eq!(
        scrape.value("longshore_commands_in_flight{kind=\"create\"}"),
        1.0
    );
}

#[test]
fn idle_and_held_prices_are_separate() {
    let scrape = gather(&quiet(
        &[
            ("i-0001", "small", IdleBehavior::Run),
            ("i-0002", "tiny", IdleBehavior::Run),
            ("i-0003", "large", IdleBehavior::Hold),
        ],
        |_| {},
    ));
    let sum = scrape.peer("instances_price{category=\"idle\"}");
    assert!((sum - 0.15).abs() < 1e-9, "{sum}");
    assert_eq!(scrape.peer("instances_price{category=\"hold\"}"), 0.5);
    let idle = ["small", "tiny", "large"].map(|name| price(&scrape, "idle", name));
    assert_eq!(idle, [0.1, 0.05, 0.0]);
    assert_eq!(price(&scrape, "hold", "large"), 0.5);
    assert_eq!(scrape.peer("vcpus_total{category=\"idle\"}"), 3.0);
    let labels = "category=\"idle\",instance_type=\"tiny\"";
    assert_eq!(scrape.peer(&format!("instances_total{{{labels}}}")), 1.0);
}

#[test]
fn budget_gauges_show_spent_and_left() {
    let budget = |window, dollars: u64| Budget {
        window,
        limit: MicroDollars(dollars * 1_000_000),
    };
    // Ten cents an hour.
    let mut world = quiet(&[("i-0001", "small", IdleBehavior::Hold)], |config| {
        config.limits.budgets = vec![budget(minutes(24 * 60), 10), budget(minutes(60), 3)];
    });
    world.run_for(minutes(5 * 60));
    let scrape = gather(&world);
    let amount = |what: &str, window: &str| {
        scrape.value(&format!(
            "longshore_budget_{what}{{window_seconds=\"{window}\"}}"
        ))
    };
    let near = |amount: f64, expected: f64| (amount - expected).abs() < 0.002;
    for (what, window, expected) in [
        ("spent", "86400", 0.5),
        ("left", "86400", 9.5),
        ("spent", "3600", 0.1),
        ("left", "3600", 2.9),
    ] {
        let amount = amount(what, window);
        assert!(near(amount, expected), "{what} in {window} s: {amount}");
    }
}

#[test]
fn concurrency_limit_is_shown_while_active() {
    let mut world = quiet(&[], |config| config.limits.initial_quota = Some(7));
    assert_eq!(gather(&world).peer("max_concurrent_containers"), 7.0);
    world.run_for(minutes(1));
    // Growth by a tenth, at least by one, with each quiet minute.
    assert_eq!(gather(&world).peer("max_concurrent_containers"), 8.0);
}

#[test]
fn boot_backoff_gauge_has_next_trial_time() {
    let mut world = quiet(&[], |config| {
        config.limits.boot_failures = Some(2);
        config.timeouts.booting = minutes(2);
    });
    // A small instance never gets an address in this world.
    world.submit(record(BOOTING, ContainerState::Queued, 50, demand(2, 1024)));
    world.run_for(minutes(5));
    let pauses = world.core.view().boot_backoffs();
    assert_eq!(pauses.len(), 1);
    let scrape = gather(&world);
    let labels = "image=\"image-1\",instance_type=\"small\"";
    let until = scrape.value(&format!("longshore_boot_pause_until_seconds{{{labels}}}"));
    let seconds = |nanos: u64| nanos as f64 / 1e9;
    assert!(until > seconds(world.now.as_nanos()), "{until} is past");
    assert!((until - seconds(pauses[0].until.as_nanos())).abs() < 1e-3);
    let of_small = |name: &str, label: &str| {
        scrape.value(&format!(
            "longshore_{name}_total{{instance_type=\"small\"{label}}}"
        ))
    };
    assert_eq!(of_small("boot_pauses", ""), 1.0);
    assert_eq!(of_small("boot_outcomes", ",outcome=\"failure\""), 2.0);
    assert_eq!(
        of_small("unexpected_shutdowns", ",reason=\"boot_timeout\""),
        2.0
    );
    let destroys = "driver_operations{error=\"0\",operation=\"Destroy\"}";
    assert_eq!(scrape.peer(destroys), 2.0);
    let span = "instances_time_from_shutdown_request_to_disappearance_seconds";
    assert_eq!(scrape.peer(&format!("{span}_count")), 2.0);
}

#[test]
fn tag_calls_for_idle_behavior_are_counted() {
    let mut world = quiet(&[("i-0001", "small", IdleBehavior::Run)], |_| {});
    let calls = |world: &World, operation: &str| {
        let labels = format!("error=\"0\",operation=\"{operation}\"");
        gather(world).peer(&format!("driver_operations{{{labels}}}"))
    };
    let before = ["SetTags", "Destroy"].map(|operation| calls(&world, operation));
    assert_eq!(before, [0.0, 0.0]);
    assert!(calls(&world, "List") >= 1.0);
    let wish = OperatorRequest::SetIdleBehavior {
        instance: "i-0001".into(),
        behavior: IdleBehavior::Hold,
    };
    world
        .core
        .handle_input(world.now, Input::OperatorRequest(wish));
    world.settle();
    assert_eq!(calls(&world, "SetTags"), 1.0);
}
