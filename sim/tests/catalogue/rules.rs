//! Rules of the dispatcher that no other story shows.

use longshore_core::Phase;
use longshore_core::event::Event;
use longshore_core::ids::ImageId;
use longshore_core::input::ContainerState;
use longshore_core::resources::Demand;
use longshore_sim::Fault;
use longshore_sim::story::{Story, bare, cores, minutes, number_types, seconds};

/// Rule 1.3: a container is judged only by a reading that began after the event. The result is in the
/// queue; the reading under way does not show it yet.
#[test]
fn a_result_that_no_reading_has_shown_yet_is_not_taken_for_none() {
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

/// Rule 1.13: a container that is locked keeps its VM against whoever comes later, however high its
/// priority is.
#[test]
fn who_is_locked_keeps_the_vm_against_a_newcomer_of_higher_priority() {
    let mut story = Story::with(|config| {
        number_types(config, &[1]);
        config.limits.instances = Some(1);
    });
    let first = story.submit_as(bare(1), 1, minutes(5));
    story.run_until("it is locked", minutes(5), |story| {
        story.state(first) == Some(ContainerState::Locked)
    });
    let newcomer = story.submit_as(bare(1), 1000, minutes(5));
    story.until_running(first);
    assert_eq!(story.lock_count(first), 1);
    assert_eq!(story.runs_on(newcomer), None);
    story.run_for(minutes(15));
    story.assert_complete(newcomer);
}

/// Rule 1.13: among equals the one that was seen first goes first.
#[test]
fn among_equals_who_came_first_goes_first() {
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

/// Rules 2.5 and 2.6: a container with an image of its own never shares a VM of another image, even an
/// idle one, and the usual ones never use its VM.
#[test]
fn an_idle_vm_of_another_image_is_no_room() {
    let mut story = Story::with(|config| number_types(config, &[2]));
    let special = |vcpus| Demand {
        vm_image: Some(ImageId::from("image-2")),
        ..bare(vcpus)
    };
    let usual_vm = story.idle_vms(&["type2"])[0];
    let (_, special_vm) = story.running(special(1), seconds(30));
    assert_ne!(special_vm, usual_vm);
    story.run_for(minutes(2));
    let all: Vec<_> = (0..3).map(|_| story.submit(bare(1))).collect();
    story.run_for(minutes(3));
    assert!(all.iter().all(|id| story.runs_on(*id) != Some(special_vm)));
    let again = story.submit(special(2));
    story.run_for(seconds(20));
    assert_eq!(story.runs_on(again), Some(special_vm));
}

/// Rule 3.2: the most loaded VM that fits is filled first, so that others fall idle; an empty one of a
/// cheaper type comes before a dearer one.
#[test]
fn what_is_partly_used_is_filled_first_and_then_the_cheapest() {
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

/// Rule 4.7: a VM is asked as soon as it has an address, every second at first, so that a fast boot is
/// not lost in a slow interval.
#[test]
fn a_vm_that_boots_in_ten_seconds_works_after_fifteen() {
    let mut story = Story::with(|config| config.intervals.probe = minutes(2));
    story.boots_take((10, 10));
    let container = story.submit(cores(1));
    story.run_until("a VM is made", minutes(1), |story| story.vms_made() == 1);
    let made = story.elapsed();
    story.until_running(container);
    let took = story.elapsed() - made;
    // The runner itself needs up to 8 s, its start and the lock a second or two.
    assert!(took < seconds(35), "{took:?}");
}

/// Rules 4.1 and 4.2: from booting to gone, a VM passes through every phase, and an operator at `info`
/// reads each of them.
#[test]
fn a_vm_and_a_container_can_be_followed_from_birth_to_end() {
    let mut story = Story::begin();
    let container = story.submit_as(cores(1), 500, seconds(30));
    story.run_for(minutes(8));
    story.assert_complete(container);
    let told: Vec<String> = story
        .events()
        .into_iter()
        .filter(|event| event.level() >= longshore_core::event::Level::Info)
        .map(ToString::to_string)
        .collect();
    let vm = |words: &str| {
        let place = told
            .iter()
            .position(|line| line.contains("i-00000001") && line.contains(words));
        place.unwrap_or_else(|| panic!("nobody says {words:?}: {told:#?}"))
    };
    let life = [
        "created",
        "is at",
        "ready",
        "given back",
        "destroyed",
        "gone",
    ]
    .map(vm);
    assert!(life.is_sorted(), "{told:#?}");
    let name = container.to_string();
    let of_container = |words: &str| {
        let place = told
            .iter()
            .position(|line| line.contains(&name) && line.contains(words));
        place.unwrap_or_else(|| panic!("nobody says {words:?}: {told:#?}"))
    };
    let life = ["seen", "starts on", "started on", "Complete"].map(of_container);
    assert!(life.is_sorted(), "{told:#?}");
}

/// Rule 4.13: a destroy is repeated every `TimeoutShutdown` at most, for as long as it takes.
#[test]
fn a_vm_that_will_not_die_is_destroyed_for_hours_and_never_forgotten() {
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

/// Rule 7.2: changed limits apply at once, and what runs does not notice.
#[test]
fn a_limit_that_is_cut_below_what_runs_stops_nothing_and_starts_nothing() {
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
