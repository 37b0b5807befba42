//! From the wish to the end of an instance.

use longshore_tests::{Container, Daemon, until};

use super::support::proxy::Effect;
use super::{ACCESS_KEY, Whole};

#[test]
fn a_container_gets_an_instance_runs_and_gives_it_back() {
    let whole = Whole::start(|setup| setup.set("TimeoutIdle", "1s"));
    let api = whole.site.api();
    let uuid = api.submit(&Container::sh("echo hello from $(cat /proc/1/comm)"));
    let done = api.until_state(&uuid, "Complete");
    assert_eq!(done["exit_code"], 0, "{done}");
    until("the instance is given back", || {
        whole.vms.running().is_empty()
    });
    until("the dispatcher has seen it", || {
        whole.site.instances().is_empty()
    });
    assert_eq!(whole.asked(), ["m5.large"]);
    assert_eq!(whole.proxy.ended(), 1);
    // The secret went to the VM and into its tag, and nowhere else.
    let call = &whole.proxy.calls("RunInstances")[0];
    let name = call
        .iter()
        .find(|(_, value)| *value == "ArvadosInstanceSecret")
        .expect("a tag with the secret")
        .0;
    let secret = &call[&name.replace(".Key", ".Value")];
    assert_eq!(secret.len(), 40);
    assert!(!whole.site.dispatch_log().contains(secret));
    drop(whole.site);
    drop(whole.runtime);
}

#[test]
fn a_lost_answer_makes_one_instance_in_the_end() {
    let whole = Whole::start(|setup| setup);
    let api = whole.site.api();
    whole
        .proxy
        .fault("RunInstances", None, 1, Effect::LoseAnswer);
    let uuid = api.submit(&Container::sh("true"));
    let done = api.until_state(&uuid, "Complete");
    assert_eq!(done["exit_code"], 0, "{done}");
    assert_eq!(whole.asked(), ["m5.large"], "found by its intent");
    assert_eq!(whole.vms.running().len(), 1);
    drop(whole.site);
    drop(whole.runtime);
}

#[test]
fn a_list_that_lags_costs_no_second_instance() {
    let whole = Whole::start(|setup| setup.set("DisappearGrace", "60s"));
    let api = whole.site.api();
    let lists = || whole.proxy.calls("DescribeInstances").len();
    // The answer is lost and the lists do not have it yet: who asks again now would pay twice.
    whole
        .proxy
        .fault("RunInstances", None, 1, Effect::LoseAnswer);
    whole
        .proxy
        .fault("DescribeInstances", None, 1000, Effect::ShowNothing);
    let first = api.submit(&Container::sh("true"));
    until("an instance was asked for", || whole.asked().len() == 1);
    let before = lists();
    until("lists came without it", || lists() >= before + 4);
    assert_eq!(api.state(&first), "Queued");
    whole.proxy.clear_faults();
    api.until_state(&first, "Complete");
    // Lists lag again, after they have shown it: it is not gone, and takes the next container.
    whole
        .proxy
        .fault("DescribeInstances", None, 1000, Effect::ShowNothing);
    let before = lists();
    until("lists came without it", || lists() >= before + 3);
    let second = api.submit(&Container::sh("true"));
    api.until_state(&second, "Complete");
    assert_eq!(whole.asked(), ["m5.large"]);
    assert_eq!((whole.vms.running().len(), whole.proxy.ended()), (1, 0));
    drop(whole.site);
    drop(whole.runtime);
}

#[test]
fn who_signs_may_come_from_the_environment() {
    let mut whole = Whole::prepare(|setup| setup.replace(&format!("{ACCESS_KEY}          "), ""));
    whole.site.start_queue();
    let mut command = whole.site.command(&["dispatch"]);
    command
        .env("AWS_ACCESS_KEY_ID", "AKIAENVIRONMENT")
        .env("AWS_SECRET_ACCESS_KEY", "kept-in-the-environment");
    let dispatcher = Daemon::start(&mut command, &whole.site.path("dispatch.log"));
    whole.site.until_dispatching();
    let api = whole.site.api();
    let uuid = api.submit(&Container::sh("true"));
    api.until_state(&uuid, "Complete");
    assert_eq!(whole.proxy.signers(), ["AKIAENVIRONMENT"]);
    assert!(!whole.site.dispatch_log().contains("kept-in-the"));
    assert!(dispatcher.terminate().success());
    drop(whole.site);
    drop(whole.runtime);
}
