//! The whole program on EC2: an emulator for the cloud, a real sshd for each instance, real runners,
//! real commands.

use std::path::Path;
use std::sync::Arc;

use longshore_tests::{Container, Setup, Site, until, use_program};
use support::proxy::{Effect, Machines, Proxy};
use support::vm::Vms;

#[allow(
    dead_code,
    reason = "shared with the tests of the driver, which use the rest"
)]
#[path = "../../../ec2/tests/ec2/support/emulated.rs"]
mod support;

/// A dispatcher whose cloud is EC2.
struct Whole {
    site: Site,
    proxy: Proxy,
    vms: Arc<Vms>,
    /// The proxy answers while the test waits.
    runtime: tokio::runtime::Runtime,
}

/// An image that the emulator knows.
fn image(runtime: &tokio::runtime::Runtime) -> String {
    let call = "Action=DescribeImages&Version=2016-11-15&Owner.1=amazon";
    // Every service of AWS answers at this address: the signature's scope says which is meant.
    let scope = "AWS4-HMAC-SHA256 Credential=AKIATEST/20260101/us-east-1/ec2/aws4_request, \
                 SignedHeaders=host, Signature=0";
    let call = reqwest::Client::new()
        .post(support::moto::url())
        .header("authorization", scope)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(call);
    let text = runtime.block_on(async { call.send().await?.text().await });
    let text = text.expect("the emulator answers");
    let (_, rest) = text.split_once("<imageId>").expect("an image");
    rest.split_once('<').expect("its name").0.to_owned()
}

impl Whole {
    fn start(setup: impl FnOnce(Setup) -> Setup) -> Self {
        use_program(Path::new(env!("CARGO_BIN_EXE_longshore")));
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let vms = Arc::new(Vms::new());
        let machines: Arc<dyn Machines> = Arc::<Vms>::clone(&vms);
        let proxy = runtime.block_on(Proxy::with_machines(Some(machines)));
        let driver = format!(
            "AccessKeyID: AKIATEST\n          SecretAccessKey: secretsecret\n          \
             Region: us-east-1\n          Endpoint: {}\n          AdminUsername: root\n",
            proxy.url
        );
        let loopback =
            "StateDir: {dir}/vms\n          BootDelay: 200ms\n          TerminatedShown: 60s\n";
        let common = Setup::default()
            .set("Driver", "ec2")
            .replace(loopback, &driver)
            .set(
                "ImageID",
                &format!("{}\n        SSHPort: {}", image(&runtime), vms.port),
            )
            .set("DeployRunnerDirectory", "/run/runner")
            .set("TimeoutBooting", "60s")
            .replace(
                "      small:\n",
                "      small:\n        ProviderType: m5.large\n",
            )
            .replace(
                "      large:\n",
                "      large:\n        ProviderType: g4dn.xlarge\n",
            );
        Self {
            site: Site::start_with(setup(common)),
            proxy,
            vms,
            runtime,
        }
    }

    /// The types that were asked for, in this order.
    fn asked(&self) -> Vec<String> {
        let calls = self.proxy.calls("RunInstances");
        let types = calls.iter().map(|call| call["InstanceType"].clone());
        types.collect()
    }

    fn asked_for(&self, provider_type: &str) -> usize {
        self.asked().iter().filter(|t| *t == provider_type).count()
    }
}

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
fn refusals_stop_only_what_they_are_about_and_are_not_hammered() {
    // One at a time, so that they arrive in the order in which they were asked for.
    let one_by_one = "1s\n        MaxConcurrentInstanceCreateOps: 1";
    let whole = Whole::start(|setup| setup.set("SyncInterval", one_by_one));
    let refuse = |code: &str| {
        let words = format!("The cloud says {code}.");
        Effect::Refuse(400, code.to_owned(), words)
    };
    let api = whole.site.api();
    // The bigger one needs a type of a group whose quota is used up; the other has to wait for EC2
    // to listen again.
    let (quota, rate) = (refuse("VcpuLimitExceeded"), refuse("RequestLimitExceeded"));
    whole
        .proxy
        .fault("RunInstances", Some("g4dn.xlarge"), 1000, quota);
    whole.proxy.fault("RunInstances", Some("m5.large"), 1, rate);
    let urgent = api.submit(&Container::sh("true").vcpus(4).with("priority", 900));
    let modest = api.submit(&Container::sh("true").with("priority", 100));
    let done = api.until_state(&modest, "Complete");
    assert_eq!(done["exit_code"], 0, "{done}");
    assert_eq!(api.state(&urgent), "Queued");
    let asked = whole.asked();
    assert_eq!(asked[0], "g4dn.xlarge", "higher priority first: {asked:?}");
    assert_eq!(whole.asked_for("m5.large"), 2, "{asked:?}");
    // A minute is the shortest pause after a quota error.
    assert_eq!(whole.asked_for("g4dn.xlarge"), 1, "{asked:?}");
    let log = whole.site.dispatch_log();
    assert!(log.contains("VcpuLimitExceeded"), "{log}");

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
