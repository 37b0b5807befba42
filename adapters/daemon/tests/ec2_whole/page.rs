//! Example of the operators' page, unchanged except for names of the account.

use std::path::Path;

use longshore_tests::{Setup, TestCluster};

use super::{Whole, asked, elements, image};

/// Configuration of the page.
fn example() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/ec2.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let (_, rest) = page.split_once("```yaml\n").expect("an example");
    rest.split_once("```")
        .expect("the end of the example")
        .0
        .to_owned()
}

/// Replaces text that must occur.
fn put(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from} in {text}");
    text.replace(from, to)
}

#[test]
fn documented_example_runs_a_container() {
    // A separate cloud and VMs, and a cluster configured by `longshore init`.
    let mut whole = Whole::prepare(|setup: Setup| setup);
    whole.cluster = TestCluster::init();
    let text = asked(&whole.runtime, "Action=DescribeSubnets");
    let subnets = elements(&text, "subnetId");
    let text = asked(&whole.runtime, "Action=DescribeSecurityGroups");
    let group = elements(&text, "groupId")[0];
    let key = whole.cluster.path("dispatch_key");
    let mut example = example();
    for (from, to) in [
        ("/etc/longshore/dispatch_key", key.display().to_string()),
        ("ami-0123456789abcdef0", image(&whole.runtime)),
        ("subnet-0aaaaaaaaaaaaaaaa", subnets[0].to_owned()),
        ("subnet-0bbbbbbbbbbbbbbbb", subnets[1].to_owned()),
        ("sg-0cccccccccccccccc", group.to_owned()),
        // The VMs of the test have no cloud-init, and accept logins of root only.
        (
            "test -e /var/lib/cloud/instance/boot-finished",
            "test -s /run/arvados-instance-secret".to_owned(),
        ),
        (
            "AdminUsername: admin",
            format!(
                "AdminUsername: root\n          Endpoint: {}",
                whole.proxy.url
            ),
        ),
        (
            "        Enable: true\n",
            format!(
                "        Enable: true\n        SSHPort: {}\n        DeployRunnerDirectory: /run/runner\n",
                whole.vms.port
            ),
        ),
    ] {
        example = put(&example, from, &to);
    }
    let before = whole.cluster.read("config.yml");
    let (head, _) = before
        .split_once("    Containers:\n")
        .expect("the section to replace");
    let config = format!("{head}{example}");
    std::fs::write(whole.cluster.config(), config).expect("the configuration is written");

    let cluster = &mut whole.cluster;
    cluster.start_queue();
    cluster.start_dispatcher();
    for (args, provider_type, price) in [
        (&["submit", "--follow"][..], "m5.large", None),
        (
            &["submit", "--follow", "--preemptible"],
            "m5.large",
            Some("0.096000"),
        ),
    ] {
        let words = [args, &["--", "sh", "-c", "echo hello from $(hostname)"]].concat();
        let done = cluster.longshore(&words).succeeded();
        assert!(done.stdout.contains("hello from "), "{done:#?}");
        let calls = whole.proxy.calls("RunInstances");
        let call = calls.last().expect("a call");
        assert_eq!(call["InstanceType"], provider_type);
        let cap = call.get("InstanceMarketOptions.SpotOptions.MaxPrice");
        assert_eq!(cap.map(String::as_str), price);
    }
    let log = cluster.dispatch_log();
    assert!(!log.contains(" WARN ") && !log.contains(" ERROR "), "{log}");
    drop(whole.cluster);
    drop(whole.runtime);
}
