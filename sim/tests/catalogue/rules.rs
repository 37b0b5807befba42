//! Rules of the dispatcher without a scenario elsewhere.

use longshore_core::Phase;
use longshore_core::event::Event;
use longshore_core::ids::ImageId;
use longshore_core::input::ContainerState;
use longshore_core::resources::Demand;
use longshore_sim::Fault;
use longshore_sim::story::{Story, bare, cores, minutes, number_types, seconds};

/// Rule 1.3: a container is judged only by a snapshot started after the event. The result is in the
/// queue; the poll in flight does not contain the result yet.
#[test]
fn late_result_container_not_cancelled() {
    let mut story = Story::with(|config| config.intervals.poll = seconds(1));
    story.without_hints();
    let all: Vec<_> = (0..20)
        .map(|n| story.submit_as(cores(1), 500, seconds(20 + 3 * n)))
        .collect();
    for _ in 0..150 {
        story.strike(Fault::QueueAnswerLate, 1);
        story.run_for(seconds(2));
    }
    story.run_for(minutes(20));
    for container in all {
        story.assert_complete(container);
        assert_eq!(story.cancels_of(container), 0);
    }
}

/// Rule 1.13: a locked container keeps its instance against newcomers of any priority.
#[test]
fn locked_container_keeps_reserved_instance() {
    let mut story = Story::with(|config| {
        number_types(config, &[1]);
        config.limits.instances = Some(1);
    });
    let first = story.submit_as(bare(1), 1, minutes(5));
    story.run_until("the container is locked", minutes(5), |story| {
        story.state(first) == Some(ContainerState::Locked)
    });
    let newcomer = story.submit_as(bare(1), 1000, minutes(5));
    story.until_running(first);
    assert_eq!(story.lock_count(first), 1);
    assert_eq!(story.runs_on(newcomer), None);
    story.run_for(minutes(15));
    story.assert_complete(newcomer);
}

/// Rule 1.13: containers of equal priority start in the order of arrival.
#[test]
fn equal_priority_fifo_order() {
    let mut story = Story::with(|config| {
        number_types(config, &[1]);
        config.limits.instances = Some(1);
    });
    let mut all = Vec::new();
    for _ in 0..4 {
        all.push(story.submit_as(bare(1), 5, seconds(30)));
        story.run_for(seconds(3));
    }
    for container in all {
        story.until_running(container);
    }
}

/// Rules 2.5 and 2.6: a container with a custom image never shares an instance of another image,
/// not even an idle instance, and containers with the default image never use the custom instance.
#[test]
fn custom_image_instances_not_shared() {
    let mut story = Story::with(|config| number_types(config, &[2]));
    let custom = |vcpus| Demand {
        vm_image: Some(ImageId::from("image-2")),
        ..bare(vcpus)
    };
    let default_vm = story.idle_vms(&["type2"])[0];
    let (_, custom_vm) = story.running(custom(1), seconds(30));
    assert_ne!(custom_vm, default_vm);
    story.run_for(minutes(2));
    let all: Vec<_> = (0..3).map(|_| story.submit(bare(1))).collect();
    story.run_for(minutes(3));
    assert!(all.iter().all(|id| story.runs_on(*id) != Some(custom_vm)));
    let again = story.submit(custom(2));
    story.run_for(seconds(20));
    assert_eq!(story.runs_on(again), Some(custom_vm));
}

/// Rule 3.2: the most loaded suitable instance is filled first, so other instances become idle; an
/// empty instance of a cheaper type precedes a more expensive instance.
#[test]
fn partly_used_instance_filled_first() {
    let mut story = Story::with(|config| number_types(config, &[4, 5]));
    let vms = story.idle_vms(&["type5", "type4", "type4"]);
    let (_, used) = story.running(bare(1), minutes(60));
    assert!(used == vms[1] || used == vms[2], "the cheaper type");
    let all: Vec<_> = (0..3).map(|_| story.submit(bare(1))).collect();
    story.run_for(seconds(20));
    assert!(all.iter().all(|id| story.runs_on(*id) == Some(used)));
    let next = story.submit(bare(1));
    story.run_for(seconds(20));
    let other = story.runs_on(next);
    assert!(other != Some(used) && other != Some(vms[0]));
}

/// Rule 4.7: probes begin as soon as the address is known, every second at first: a fast boot is
/// not delayed by a long probe interval.
#[test]
fn fast_boot_detected_early() {
    let mut story = Story::with(|config| config.intervals.probe = minutes(2));
    story.boots_take((10, 10));
    let container = story.submit(cores(1));
    story.run_until("an instance is created", minutes(1), |story| {
        story.vms_made() == 1
    });
    let made = story.elapsed();
    story.until_running(container);
    let took = story.elapsed() - made;
    // The runner needs up to 8 s, its start and the lock one or two seconds.
    assert!(took < seconds(35), "{took:?}");
}

/// Rules 4.1 and 4.2: an instance passes through every phase from booting to gone, and the log at
/// `info` shows each phase.
#[test]
fn lifecycle_events_logged_in_order() {
    let mut story = Story::begin();
    let container = story.submit_as(cores(1), 500, seconds(30));
    story.run_for(minutes(8));
    story.assert_complete(container);
    let log: Vec<String> = story
        .events()
        .into_iter()
        .filter(|event| event.level() >= longshore_core::event::Level::Info)
        .map(ToString::to_string)
        .collect();
    let vm = |words: &str| {
        let position = log
            .iter()
            .position(|line| line.contains("i-00000001") && line.contains(words));
        position.unwrap_or_else(|| panic!("no log line with {words:?}: {log:#?}"))
    };
    let phases = [
        "created",
        "address",
        "ready",
        "terminating",
        "destroy call",
        "gone",
    ]
    .map(vm);
    assert!(phases.is_sorted(), "{log:#?}");
    let name = container.to_string();
    let of_container = |words: &str| {
        let position = log
            .iter()
            .position(|line| line.contains(&name) && line.contains(words));
        position.unwrap_or_else(|| panic!("no log line with {words:?}: {log:#?}"))
    };
    let phases = ["seen", "starts on", "started on", "Complete"].map(of_container);
    assert!(phases.is_sorted(), "{log:#?}");
}

/// Rule 4.13: a destroy is repeated at intervals of at most `TimeoutShutdown` until the instance is
/// gone.
#[test]
fn destroy_without_effect_repeated_for_hours() {
    let mut story = Story::begin();
    let (_, vm) = story.running(cores(1), seconds(5));
    story.strike(Fault::DestroyLies, 1_000_000);
    story.run_for(minutes(180));
    assert!(!story.is_gone(vm));
    assert_eq!(
        story.shown_vm(vm).map(|shown| shown.phase),
        Some(Phase::Shutdown)
    );
    let tried = story.destroys();
    assert!(
        (10..=1081).contains(&tried),
        "{tried} destroys in three hours"
    );
    story.strike(Fault::DestroyLies, 0);
    story.run_for(minutes(20));
    assert!(story.is_gone(vm));
}

/// Rule 7.2: changed limits apply immediately, without effect on running containers.
#[test]
fn lowered_limit_stops_nothing() {
    let mut story = Story::with(|config| number_types(config, &[1]));
    let all: Vec<_> = (0..4)
        .map(|_| story.submit_as(bare(1), 500, minutes(20)))
        .collect();
    story.run_for(minutes(3));
    assert_eq!(story.how_many_run(&all), 4);
    story.reconfigure(|config| config.limits.instances = Some(1));
    let late = story.submit(bare(1));
    story.run_for(minutes(10));
    assert_eq!((story.how_many_run(&all), story.creates()), (4, 4));
    assert_eq!(story.runs_on(late), None);
    story.reconfigure(|config| config.limits.instances = Some(5));
    story.run_for(minutes(3));
    assert!(story.runs_on(late).is_some());
    let signals = |event: &Event| matches!(event, Event::Signalling { .. });
    assert_eq!(story.count_events(signals), 0);
}
