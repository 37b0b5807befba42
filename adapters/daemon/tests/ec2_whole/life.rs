//! Life cycle of instances, from the create request to the end.

use longshore_tests::{Container, Daemon, until};

use super::support::proxy::Effect;
use super::{ACCESS_KEY, Whole};

#[test]
fn container_runs_and_idle_instance_is_terminated() {
    let whole = Whole::start(|setup| setup.set("TimeoutIdle", "1s"));
    let api = whole.cluster.api();
    let uuid = api.submit(&Container::sh("echo hello from $(cat /proc/1/comm)"));
    let done = api.until_state(&uuid, "Complete");
    assert_eq!(done["exit_code"], 0, "{done}");
    until("the instance is terminated", || {
        whole.vms.running().is_empty()
    });
    until("the dispatcher lists no instance", || {
        whole.cluster.instances().is_empty()
    });
    assert_eq!(whole.asked(), ["m5.large"]);
    assert_eq!(whole.proxy.ended(), 1);
    // The secret was sent to the VM and in the tag, and appears nowhere else.
    let call = &whole.proxy.calls("RunInstances")[0];
    let name = call
        .iter()
        .find(|(_, value)| *value == "ArvadosInstanceSecret")
        .expect("a tag with the secret")
        .0;
    let secret = &call[&name.replace(".Key", ".Value")];
    assert_eq!(secret.len(), 40);
    assert!(!whole.cluster.dispatch_log().contains(secret));
    drop(whole.cluster);
    drop(whole.runtime);
}

#[test]
fn lost_create_response_creates_one_instance() {
    let whole = Whole::start(|setup| setup);
    let api = whole.cluster.api();
    whole
        .proxy
        .fault("RunInstances", None, 1, Effect::LoseAnswer);
    let uuid = api.submit(&Container::sh("true"));
    let done = api.until_state(&uuid, "Complete");
    assert_eq!(done["exit_code"], 0, "{done}");
    assert_eq!(whole.asked(), ["m5.large"], "matched by the intent");
    assert_eq!(whole.vms.running().len(), 1);
    drop(whole.cluster);
    drop(whole.runtime);
}

#[test]
fn lagging_list_creates_no_second_instance() {
    let whole = Whole::start(|setup| setup.set("DisappearGrace", "60s"));
    let api = whole.cluster.api();
    let lists = || whole.proxy.calls("DescribeInstances").len();
    // The response is lost and lists lag: a second create would be paid twice.
    whole
        .proxy
        .fault("RunInstances", None, 1, Effect::LoseAnswer);
    whole
        .proxy
        .fault("DescribeInstances", None, 1000, Effect::ShowNothing);
    let first = api.submit(&Container::sh("true"));
    until("an instance was requested", || whole.asked().len() == 1);
    let before = lists();
    until("lists without the instance arrived", || {
        lists() >= before + 4
    });
    assert_eq!(api.state(&first), "Queued");
    whole.proxy.clear_faults();
    api.until_state(&first, "Complete");
    // Lists lag again after showing the instance: the instance still exists, and takes the next
    // container.
    whole
        .proxy
        .fault("DescribeInstances", None, 1000, Effect::ShowNothing);
    let before = lists();
    until("lists without the instance arrived", || {
        lists() >= before + 3
    });
    let second = api.submit(&Container::sh("true"));
    api.until_state(&second, "Complete");
    assert_eq!(whole.asked(), ["m5.large"]);
    assert_eq!((whole.vms.running().len(), whole.proxy.ended()), (1, 0));
    drop(whole.cluster);
    drop(whole.runtime);
}

#[test]
fn credentials_may_come_from_environment() {
    let mut whole = Whole::prepare(|setup| setup.replace(&format!("{ACCESS_KEY}          "), ""));
    whole.cluster.start_queue();
    let mut command = whole.cluster.command(&["dispatch"]);
    command
        .env("AWS_ACCESS_KEY_ID", "AKIAENVIRONMENT")
        .env("AWS_SECRET_ACCESS_KEY", "kept-in-the-environment");
    let dispatcher = Daemon::start(&mut command, &whole.cluster.path("dispatch.log"));
    whole.cluster.until_dispatching();
    let api = whole.cluster.api();
    let uuid = api.submit(&Container::sh("true"));
    api.until_state(&uuid, "Complete");
    assert_eq!(whole.proxy.signers(), ["AKIAENVIRONMENT"]);
    assert!(!whole.cluster.dispatch_log().contains("kept-in-the"));
    assert!(dispatcher.terminate().success());
    drop(whole.cluster);
    drop(whole.runtime);
}
