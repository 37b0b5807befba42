//! Leadership: only a single dispatcher acts.

use longshore_core::event::Event;
use longshore_sim::Fault;
use longshore_sim::story::{Story, cores, minutes, seconds};

#[test]
fn lost_leadership_stops_commands() {
    let mut story = Story::begin();
    let (container, _) = story.running(cores(1), minutes(30));
    let waiting = story.submit(cores(8));
    story.lose_leadership(minutes(5));
    let before = story.count_commands(|_| true);
    story.run_for(minutes(4));
    assert_eq!(story.count_commands(|_| true), before);
    story.run_for(minutes(60));
    story.assert_complete(container);
    story.assert_complete(waiting);
    assert_eq!(story.starts_of(container), 1);
    let lost = |e: &Event| matches!(e, Event::Leadership { held: false });
    assert_eq!(story.count_events(lost), 1);
}

#[test]
fn regained_leadership_ignores_old_answers() {
    let mut story = Story::begin();
    let container = story.submit(cores(1));
    story.run_until("a create is sent", minutes(1), |s| s.creates() == 1);
    story.lose_leadership(seconds(2));
    story.run_for(minutes(15));
    story.assert_complete(container);
    assert_eq!(story.vms(), 0);
}

#[test]
fn canary_at_leadership_loss_blocks_nothing() {
    let mut story = Story::with(|config| config.types.retain(|name, _| name.as_str() == "small"));
    story.strike(Fault::CreateFails, 1);
    let container = story.submit(cores(1));
    story.run_until("the second create is sent", minutes(2), |s| {
        s.creates() == 2
    });
    story.lose_leadership(seconds(1));
    story.run_for(minutes(30));
    story.assert_complete(container);
}
