//! Explanations of waiting containers and instances for operators, by the scheduler's own criteria.

use longshore_core::config::Config;
use longshore_core::ids::ContainerId;
use longshore_core::resources::Demand;
use longshore_core::{CreateBlocked, Eligible, PlannedTermination, Shortfall, Unschedulable};
use longshore_sim::Fault;
use longshore_sim::story::{Story, cores, minutes, seconds};

fn only(names: &[&str], config: &mut Config) {
    config
        .types
        .retain(|name, _| names.contains(&name.as_str()));
}

fn eligible(story: &Story, id: ContainerId, name: &str) -> Eligible {
    let explanation = story.told(id).expect("a known container");
    let mut types = explanation.eligible.into_iter();
    let offer = types.find(|offer| offer.instance_type.as_str() == name);
    offer.expect("an eligible type")
}

#[test]
fn supervisor_limit_explained() {
    let mut story = Story::with(|config| {
        only(&["large"], config);
        config.limits.instances = Some(2);
    });
    let demand = Demand {
        supervisor: true,
        ..cores(1)
    };
    let all = [(); 2].map(|()| story.submit_as(demand.clone(), 900, minutes(60)));
    story.until_running(all[0]);
    story.run_for(minutes(1));
    let offer = eligible(&story, all[1], "large");
    assert_eq!(offer.blocked, Some(CreateBlocked::Supervisors { max: 1 }));
    assert_eq!(
        (offer.full, offer.roomy),
        (0, 1),
        "the instance has room for other containers"
    );
    let text = story.told(all[1]).unwrap().to_string();
    assert!(!text.contains("one more may be created"), "{text}");
    assert!(text.contains("the end of another supervisor"), "{text}");
}

#[test]
fn queue_overload_explained_with_deadline() {
    let mut story = Story::with(|config| only(&["large"], config));
    let all: Vec<_> = (0..2)
        .map(|_| story.submit_as(cores(1), 500, minutes(60)))
        .collect();
    story.run_until("both containers run", minutes(5), |s| {
        s.how_many_run(&all) == 2
    });
    story.strike(Fault::QueueBusy, 1);
    story.run_until("the overload is detected", seconds(30), |s| {
        s.containers_max().is_some()
    });
    let next = story.submit(cores(1));
    story.run_for(seconds(12));
    let offer = eligible(&story, next, "large");
    assert!(
        matches!(
            offer.blocked,
            Some(CreateBlocked::Containers {
                max: 1,
                until: Some(_)
            })
        ),
        "{offer:?}"
    );
}

fn spot() -> Demand {
    Demand {
        preemptible: true,
        ..cores(2)
    }
}

#[test]
fn spot_fallback_types_explained_with_time() {
    let mut story = Story::with(|config| {
        config.sizing.spot_fallback.after = Some(minutes(30));
    });
    let whole = Demand { vcpus: 4, ..spot() };
    let _long = story.running(whole, minutes(120));
    story.set_capacity("spot", 1);
    let next = story.submit(spot());
    story.run_for(minutes(10));
    let offer = eligible(&story, next, "medium");
    let fallback = offer.fallback.expect("a fallback type");
    let begins = story.since_begin(fallback.begins.expect("a start time of the fallback"));
    let text = story.told(next).unwrap().to_string();
    assert!(text.contains("(SpotFallback.After), in "), "{text}");
    assert!(!text.contains("medium is not eligible"), "{text}");
    assert!(eligible(&story, next, "spot").fallback.is_none());
    story.run_until("the container runs", minutes(40), |s| {
        s.runs_on(next).is_some()
    });
    let created = story
        .times_of(|action| {
            use longshore_core::command::{Action, CloudAction};
            matches!(action, Action::Cloud { action: CloudAction::Create { instance_type, .. }, .. } if instance_type.as_str() == "medium")
        });
    assert_eq!(created, [begins], "created at the explained time");
}

#[test]
fn interrupted_spot_type_ineligible_by_interruption() {
    let mut story = Story::with(|config| {
        config.sizing.spot_fallback.interruptions = Some(1);
        config.limits.instances = Some(1);
        config.intervals.sync = seconds(2);
    });
    let container = story.submit_as(spot(), 500, minutes(60));
    let vm = story.until_running(container);
    story.vm(vm).take_back();
    let other = story.submit_as(cores(8), 900, minutes(60));
    story.run_until(
        "the other container has the only instance",
        minutes(10),
        |s| s.runs_on(other).is_some(),
    );
    story.run_for(seconds(30));
    let explanation = story.told(container).unwrap();
    let shortfalls = |name: &str| {
        let mut others = explanation.ineligible.iter();
        let other = others.find(|other| other.instance_type.as_str() == name);
        other.map(|other| other.shortfalls.clone())
    };
    assert_eq!(
        shortfalls("spot"),
        Some(vec![Shortfall::Interrupted]),
        "{explanation}"
    );
    assert!(
        explanation
            .eligible
            .iter()
            .any(|o| o.instance_type.as_str() == "medium")
    );
    assert!(
        matches!(
            shortfalls("large").as_deref(),
            Some([Shortfall::Price { .. }])
        ),
        "{explanation}"
    );
}

#[test]
fn pending_creates_explained() {
    let mut story = Story::with(|config| {
        only(&["small"], config);
        config.limits.creates_in_flight = Some(1);
    });
    story.strike(Fault::CreateSlow, 1);
    let all = [(); 2].map(|()| story.submit(cores(1)));
    story.run_for(seconds(12));
    let next = story.shown(all[1]).and_then(|view| view.unblocked_by);
    assert_eq!(next.as_deref(), Some("the answers to creates under way"));
}

#[test]
fn unkillable_instance_shows_deadline() {
    let mut story = Story::with(|config| only(&["large"], config));
    let (stubborn, vm) = story.running(cores(1), minutes(300));
    let (_other, same) = story.running(cores(1), minutes(300));
    assert_eq!(vm, same);
    story.vm(vm).ignore_kill();
    story.kill_container(stubborn);
    story.run_for(minutes(5));
    let explanation = story.told_vm(vm).expect("a known instance");
    let PlannedTermination::Draining {
        until: Some(until), ..
    } = explanation.termination
    else {
        panic!("{explanation}");
    };
    let text = explanation.to_string();
    assert!(text.contains("at the latest"), "{text}");
    let due = story.since_begin(until);
    story.run_for(due - story.elapsed() - seconds(1));
    assert!(!story.is_gone(vm));
    story.run_for(minutes(3));
    assert!(story.is_gone(vm));
}

#[test]
fn held_preempted_instance_shows_deadline() {
    let mut story = Story::with(|config| config.intervals.sync = seconds(2));
    let (_, vm) = story.running(spot(), minutes(60));
    story.hold(vm);
    story.vm(vm).announce_loss();
    story.run_until("the preemption notice is known", minutes(1), |s| {
        s.shown_vm(vm).is_some_and(|vm| vm.preempted_at.is_some())
    });
    let explanation = story.told_vm(vm).expect("a known instance");
    assert!(
        matches!(
            explanation.termination,
            PlannedTermination::Held { until: Some(_) }
        ),
        "{explanation}"
    );
    assert_eq!(explanation.unschedulable, Some(Unschedulable::Preempted));
    let text = explanation.to_string();
    assert!(text.contains("preempted by the cloud: "), "{text}");
    assert!(
        text.contains("run or drain, preempted by the cloud"),
        "{text}"
    );
}

#[test]
fn max_instances_names_terminating_instance() {
    let mut story = Story::with(|config| {
        only(&["small", "huge"], config);
        config.limits.instances = Some(2);
        config.timeouts.idle = minutes(5);
    });
    let _long = story.running(cores(1), minutes(60));
    let (short, _) = story.running(cores(1), minutes(1));
    story.run_until("the container ends", minutes(5), |s| s.has_ended(short));
    let waiting = story.submit(cores(8));
    let unblocked_by = |story: &Story| {
        let shown = story.shown(waiting).and_then(|view| view.unblocked_by);
        shown.unwrap_or_default()
    };
    story.run_until("an instance is terminating", seconds(20), |s| {
        unblocked_by(s)
            == "the end of an instance, or a higher MaxInstances; one is terminating"
    });
    story.run_for(minutes(10));
    story.assert_complete(waiting);
}
