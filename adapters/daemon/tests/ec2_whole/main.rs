//! The whole program on EC2: an emulator for the cloud, a real sshd for each instance, real runners,
//! real commands.

mod cloudtest;
mod faults;
mod life;
mod page;
mod prices;

use std::path::Path;
use std::sync::Arc;

use longshore_tests::{Setup, Site, use_program};
use support::proxy::{Proxy, VmProvider};
use support::vm::Vms;

#[allow(
    dead_code,
    reason = "shared with the tests of the driver, which use the rest"
)]
#[path = "../../../driver-ec2/tests/ec2/support/emulated.rs"]
mod support;

/// A dispatcher whose cloud is EC2.
struct Whole {
    site: Site,
    proxy: Proxy,
    vms: Arc<Vms>,
    /// The proxy answers while the test waits.
    runtime: tokio::runtime::Runtime,
}

/// Signs in, as far as the emulator looks.
const ACCESS_KEY: &str = "AccessKeyID: AKIATEST\n          SecretAccessKey: secretsecret\n";

/// What the emulator says to a call that is not the driver's business.
fn asked(runtime: &tokio::runtime::Runtime, call: &str) -> String {
    let call = format!("{call}&Version=2016-11-15");
    // Every service of AWS answers at this address: the signature's scope says which is meant.
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

/// The texts of all elements with this name.
fn elements<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let open = format!("<{name}>");
    let parts = text.split(open.as_str()).skip(1);
    parts
        .filter_map(|part| Some(part.split_once('<')?.0))
        .collect()
}

/// An image that the emulator knows.
fn image(runtime: &tokio::runtime::Runtime) -> String {
    let text = asked(runtime, "Action=DescribeImages&Owner.1=amazon");
    elements(&text, "imageId")
        .first()
        .expect("an image")
        .to_string()
}

impl Whole {
    /// Everything at work.
    fn start(setup: impl FnOnce(Setup) -> Setup) -> Self {
        let mut whole = Self::prepare(setup);
        whole.site.start_queue();
        whole.site.start_dispatcher();
        whole
    }

    /// A cloud and a configuration, and no process yet.
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
            site: Site::prepare(setup(common)),
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
}
