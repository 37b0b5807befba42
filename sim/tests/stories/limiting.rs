//! Where something waits for a limit: what goes on meanwhile, and what is kept for it.

use longshore_sim::story::{Story, cores, minutes, seconds};

fn only(names: &[&str], config: &mut longshore_core::config::Config) {
    config
        .types
        .retain(|name, _| names.contains(&name.as_str()));
}

#[test]
fn lower_ones_do_not_take_the_last_vm_that_a_blocked_one_waits_for() {
    let mut story = Story::with(|config| {
        only(&["large"], config);
        config.limits.instances = Some(1);
    });
    let low: Vec<_> = (1..=12)
        .map(|n| story.submit_as(cores(1), 1, seconds(60 + 20 * (n % 4))))
        .collect();
    story.run_until("the VM is full", minutes(5), |s| {
        low.iter().filter(|id| s.runs_on(**id).is_some()).count() == 4
    });
    let high = story.submit_as(cores(4), 900, minutes(2));
    story.run_until("it runs next", minutes(3), |s| s.runs_on(high).is_some());
    let left = low.iter().filter(|id| !story.has_ended(**id)).count();
    assert_eq!(left, 8, "none of the others went before it");
    story.run_for(minutes(20));
    for container in low {
        story.assert_complete(container);
    }
    assert_eq!(story.vms_made(), 1);
}

#[test]
fn lower_ones_go_on_where_the_blocked_one_does_not_wait() {
    let mut story = Story::with(|config| {
        only(&["large"], config);
        config.limits.instances = Some(2);
    });
    let long: Vec<_> = (0..2)
        .map(|_| story.submit_as(cores(3), 800, minutes(60)))
        .collect();
    story.run_until("both VMs are busy", minutes(5), |s| {
        long.iter().all(|id| s.runs_on(*id).is_some())
    });
    let high = story.submit_as(cores(4), 900, minutes(2));
    story.run_for(seconds(20));
    let low: Vec<_> = (0..2)
        .map(|_| story.submit_as(cores(1), 1, minutes(1)))
        .collect();
    story.run_for(seconds(20));
    let running = |s: &Story| low.iter().filter(|id| s.runs_on(**id).is_some()).count();
    assert_eq!(running(&story), 1, "one VM is kept, the other is not");
    story.run_for(minutes(3));
    for container in low {
        story.assert_complete(container);
    }
    assert_eq!(story.runs_on(high), None);
}
