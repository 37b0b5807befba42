//! The worked example of the page for operators, word for word but for the names in an account.

use std::path::Path;

use longshore_tests::{Setup, Site};

use super::{Whole, asked, elements, image};

/// The configuration on the page.
fn example() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/ec2.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let (_, rest) = page.split_once("```yaml\n").expect("an example");
    rest.split_once("```").expect("its end").0.to_owned()
}

/// Replaces what must be there.
fn put(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from} in {text}");
    text.replace(from, to)
}

#[test]
fn the_worked_example_leads_to_a_first_container() {
    // Its own cloud and machines, and a site as `longshore init` leaves it.
    let mut whole = Whole::prepare(|setup: Setup| setup);
    whole.site = Site::init();
    let text = asked(&whole.runtime, "Action=DescribeSubnets");
    let subnets = elements(&text, "subnetId");
    let text = asked(&whole.runtime, "Action=DescribeSecurityGroups");
    let group = elements(&text, "groupId")[0];
    let key = whole.site.path("dispatch_key");
    let mut example = example();
    for (from, to) in [
        ("/etc/longshore/dispatch_key", key.display().to_string()),
        ("ami-0123456789abcdef0", image(&whole.runtime)),
        ("subnet-0aaaaaaaaaaaaaaaa", subnets[0].to_owned()),
        ("subnet-0bbbbbbbbbbbbbbbb", subnets[1].to_owned()),
        ("sg-0cccccccccccccccc", group.to_owned()),
        // The machines of the test have no cloud-init and let in nobody but root.
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
    let before = whole.site.read("config.yml");
    let (head, _) = before
        .split_once("    Containers:\n")
        .expect("what is replaced");
    let config = format!("{head}{example}");
    std::fs::write(whole.site.config(), config).expect("the configuration is written");

    let site = &mut whole.site;
    site.start_queue();
    site.start_dispatcher();
    for (args, provider_type, price) in [
        (&["submit", "--follow"][..], "m5.large", None),
        (
            &["submit", "--follow", "--preemptible"],
            "m5.large",
            Some("0.096000"),
        ),
    ] {
        let words = [args, &["--", "sh", "-c", "echo hello from $(hostname)"]].concat();
        let done = site.longshore(&words).succeeded();
        assert!(done.stdout.contains("hello from "), "{done:#?}");
        let calls = whole.proxy.calls("RunInstances");
        let call = calls.last().expect("a call");
        assert_eq!(call["InstanceType"], provider_type);
        let cap = call.get("InstanceMarketOptions.SpotOptions.MaxPrice");
        assert_eq!(cap.map(String::as_str), price);
    }
    let log = site.dispatch_log();
    assert!(!log.contains(" WARN ") && !log.contains(" ERROR "), "{log}");
    drop(whole.site);
    drop(whole.runtime);
}
