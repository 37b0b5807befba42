//! End-to-end tests of the program on EC2: an emulator of the cloud, a real sshd for each instance,
//! real runners, real commands.

mod cloudtest;
mod faults;
mod life;
mod page;
mod prices;

use std::path::Path;
use std::sync::Arc;

use longshore_tests::{Setup, TestCluster, use_program};
use support::proxy::{Proxy, VmProvider};
use support::vm::Vms;

#[allow(
    dead_code,
    reason = "shared with the tests of the driver, which use the rest"
)]
#[path = "../../../driver-ec2/tests/ec2/support/emulated.rs"]
mod support;

/// Test cluster with EC2 as the cloud.
struct Whole {
    cluster: TestCluster,
    proxy: Proxy,
    vms: Arc<Vms>,
    /// Runs the proxy while the test blocks.
    runtime: tokio::runtime::Runtime,
}

/// Credentials accepted by the emulator.
const ACCESS_KEY: &str = "AccessKeyID: AKIATEST\n          SecretAccessKey: secretsecret\n";

/// Response of the emulator to a call made by the test itself.
fn asked(runtime: &tokio::runtime::Runtime, call: &str) -> String {
    let call = format!("{call}&Version=2016-11-15");
    // The emulator serves all AWS services at one address: the scope of the signature names the
    // service.
    let scope = "AWS4-HMAC-SHA256 Credential=AKIATEST/20260101/us-east-1/ec2/aws4_request, \
                 SignedHeaders=host, Signature=0";
    let call = reqwest::Client::new()
        .post(support::moto::url())
        .header("authorization", scope)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(call);
    let text = runtime.block_on(async { call.send().await?.text().await });
    text.expect("the emulator answers")
}

/// Texts of all elements with this name.
fn elements<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let open = format!("<{name}>");
    let parts = text.split(open.as_str()).skip(1);
    parts
        .filter_map(|part| Some(part.split_once('<')?.0))
        .collect()
}

/// Image known to the emulator.
fn image(runtime: &tokio::runtime::Runtime) -> String {
    let text = asked(runtime, "Action=DescribeImages&Owner.1=amazon");
    elements(&text, "imageId")
        .first()
        .expect("an image")
        .to_string()
}

impl Whole {
    /// Starts queue and dispatcher.
    fn start(setup: impl FnOnce(Setup) -> Setup) -> Self {
        let mut whole = Self::prepare(setup);
        whole.cluster.start_queue();
        whole.cluster.start_dispatcher();
        whole
    }

    /// Prepares cloud and configuration without starting processes.
    fn prepare(setup: impl FnOnce(Setup) -> Setup) -> Self {
        use_program(Path::new(env!("CARGO_BIN_EXE_longshore")));
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let vms = Arc::new(Vms::new());
        let provider: Arc<dyn VmProvider> = Arc::<Vms>::clone(&vms);
        let proxy = runtime.block_on(Proxy::with_vms(Some(provider)));
        let driver = format!(
            "{ACCESS_KEY}          Region: us-east-1\n          Endpoint: {}\n          \
             AdminUsername: root\n",
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
            cluster: TestCluster::prepare(setup(common)),
            proxy,
            vms,
            runtime,
        }
    }

    /// Requested instance types, in order.
    fn asked(&self) -> Vec<String> {
        let calls = self.proxy.calls("RunInstances");
        let types = calls.iter().map(|call| call["InstanceType"].clone());
        types.collect()
    }
}
