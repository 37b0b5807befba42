//! Document for the runner's standard input, in the peer's format.

use std::collections::BTreeMap;

use hmac::{Hmac, KeyInit as _, Mac as _};
use longshore_core::config::InstanceType;
use longshore_core::ids::ContainerId;
use longshore_management::TypeJson;
use longshore_secret::Secret;
use serde_json::{Value, json};
use sha2::Sha256;

/// Settings common to all runners.
#[derive(Clone, Debug)]
pub(crate) struct RunnerConfig {
    /// `host[:port]` of the containers API.
    pub(crate) api_host: String,
    /// Full URL, preferred by Longshore's own runner: plain HTTP is possible.
    pub(crate) api_url: String,
    pub(crate) api_token: Secret,
    pub(crate) api_insecure: bool,
    /// True for the driver `ec2`, whose spot instances announce their preemption.
    pub(crate) ec2: bool,
}

impl RunnerConfig {
    /// Document for one start, as JSON. Secret, since the document contains the API token.
    pub(crate) fn document(
        &self,
        container: ContainerId,
        offer: &InstanceType,
        address: &str,
    ) -> Secret {
        let mut env = BTreeMap::from([
            ("ARVADOS_API_HOST", self.api_host.clone()),
            ("ARVADOS_API_TOKEN", self.api_token.expose().to_owned()),
            ("LONGSHORE_API_URL", self.api_url.clone()),
            ("InstanceType", instance_type_text(offer)),
            ("GatewayAddress", gateway_address(address)),
            ("GatewayAuthSecret", self.gateway_secret(container)),
        ]);
        if self.api_insecure {
            env.insert("ARVADOS_API_HOST_INSECURE", "1".to_owned());
        }
        let document = json!({
            "Env": env,
            // The runner's own keepstore would need the whole cluster configuration, including the
            // root token, on every VM.
            "KeepBuffers": 0,
            "EC2SpotCheck": self.ec2 && offer.preemptible,
            "Cluster": Value::Null,
        });
        Secret::new(document.to_string())
    }

    /// Secret with which the controller authenticates to the runner's gateway.
    fn gateway_secret(&self, container: ContainerId) -> String {
        let key = self.api_token.expose().as_bytes();
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
        mac.update(container.as_str().as_bytes());
        hex::encode(mac.finalize().into_bytes())
    }
}

/// Host of the VM without the SSH port, and port 0: the runner chooses a port.
fn gateway_address(address: &str) -> String {
    let host = match address.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None if address.matches(':').count() == 1 => address.split(':').next().unwrap_or_default(),
        None => address,
    };
    if host.contains(':') {
        format!("[{host}]:0")
    } else {
        format!("{host}:0")
    }
}

/// Instance type in the peer's format: indented by four, a line feed at the end, no name.
fn instance_type_text(offer: &InstanceType) -> String {
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut to = serde_json::Serializer::with_formatter(&mut text, formatter);
    let written = serde::Serialize::serialize(&TypeJson::new(offer), &mut to);
    assert!(written.is_ok(), "JSON in memory is always written");
    let mut text = String::from_utf8(text).expect("JSON is UTF-8");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use longshore_core::ids::{CloudId, QuotaGroup};
    use longshore_core::resources::{MicroDollars, Resources};

    use super::*;

    fn offer() -> InstanceType {
        InstanceType {
            cloud: CloudId(0),
            provider_type: "m5.large".into(),
            resources: Resources {
                vcpus: 2,
                ram: 8_000_000_000,
                scratch: 30,
                gpus: 0,
            },
            added_scratch: 10,
            gpus: None,
            price: MicroDollars(123_000),
            preemptible: true,
            quota_group: QuotaGroup::from("spot"),
        }
    }

    fn config() -> RunnerConfig {
        RunnerConfig {
            api_host: "zzzzz.example.com".into(),
            api_url: "https://zzzzz.example.com/".into(),
            api_token: Secret::new("topsecret"),
            api_insecure: false,
            ec2: true,
        }
    }

    #[test]
    fn gateway_address_drops_ssh_port() {
        assert_eq!(gateway_address("10.1.2.3:22"), "10.1.2.3:0");
        assert_eq!(gateway_address("10.1.2.3"), "10.1.2.3:0");
        assert_eq!(gateway_address("[fe80::1]:22"), "[fe80::1]:0");
        assert_eq!(gateway_address("fe80::1"), "[fe80::1]:0");
    }

    #[test]
    fn document_contains_peer_keys() {
        let container = "zzzzz-dz642-0123456789abcde".parse().unwrap();
        let secret = config().document(container, &offer(), "h:22");
        let document: Value = serde_json::from_str(secret.expose()).unwrap();
        assert_eq!(document["EC2SpotCheck"], true);
        assert_eq!(document["Env"]["ARVADOS_API_TOKEN"], "topsecret");
        assert!(document["Env"].get("ARVADOS_API_HOST_INSECURE").is_none());
        let text = document["Env"]["InstanceType"].as_str().unwrap();
        assert!(
            text.starts_with("{\n    \"") && text.ends_with("}\n"),
            "{text}"
        );
        let inner: Value = serde_json::from_str(text).unwrap();
        assert_eq!(inner["IncludedScratch"], 20);
        assert_eq!(inner["Price"], 0.123);
        assert_eq!(
            document["Env"]["GatewayAuthSecret"].as_str().unwrap().len(),
            64
        );
    }
}
