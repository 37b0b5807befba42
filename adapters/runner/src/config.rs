//! Configuration of the API access, from the JSON document on stdin or from the environment.

use std::collections::BTreeMap;
use std::io::{BufReader, Read};

use longshore_secret::Secret;
use serde::Deserialize;

/// Maximum size of the document, which may contain a whole cluster configuration.
const CONFIG_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Configuration error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The document on stdin is not the JSON object expected by `--stdin-config`.
    #[error(
        "decode stdin: {0}; expected one JSON object like {{\"Env\": {{\"ARVADOS_API_HOST\": ...}}}}"
    )]
    Decode(serde_json::Error),
    /// Missing variable: set in `Env` of the document on stdin, or in the environment.
    #[error("{0} is empty: set it in Env of the configuration on stdin")]
    Empty(&'static str),
    /// Invalid value of a variable.
    #[error("{name} is malformed: expected {expected}")]
    Malformed {
        name: &'static str,
        expected: &'static str,
    },
    /// Cluster configuration file on the command line: use `--stdin-config`.
    #[error(
        "-config {0}: reading a cluster configuration file is not built yet; use --stdin-config"
    )]
    File(String),
}

/// Document on stdin. Unknown keys are skipped: `Cluster` may be large and contains secrets not
/// needed by the runner.
#[derive(Deserialize)]
struct Document {
    #[serde(rename = "Env", default)]
    env: Option<BTreeMap<String, Secret>>,
    #[serde(rename = "EC2SpotCheck", default)]
    ec2_spot_check: Option<bool>,
}

/// Validated configuration.
pub(crate) struct Config {
    /// Base URL of the API, without a trailing slash.
    pub(crate) api_url: String,
    pub(crate) api_host: String,
    pub(crate) token: Secret,
    /// True if the certificate of the API is not verified.
    pub(crate) insecure: bool,
    /// Price of the instance in dollars per hour; 0 if not sent by the dispatcher.
    pub(crate) price: f64,
    pub(crate) ec2_spot_check: bool,
    /// `HOST:0` of the gateway address, an IPv6 host in brackets; empty if not sent by the
    /// dispatcher.
    pub(crate) gateway_address: String,
    env: BTreeMap<String, Secret>,
}

impl Config {
    /// Reads one document, without waiting for further input.
    pub(crate) fn read(from: impl Read) -> Result<Self, ConfigError> {
        let mut decoder =
            serde_json::Deserializer::from_reader(BufReader::new(from.take(CONFIG_BYTES_MAX)));
        let document = Document::deserialize(&mut decoder).map_err(ConfigError::Decode)?;
        Self::new(
            document.env.unwrap_or_default(),
            document.ec2_spot_check.unwrap_or_default(),
        )
    }

    /// Reads the variables of this process's environment.
    pub(crate) fn from_environment() -> Result<Self, ConfigError> {
        let env = std::env::vars_os().filter_map(|(name, value)| {
            let name = name
                .into_string()
                .ok()
                .filter(|name| READ.contains(&name.as_str()))?;
            Some((name, Secret::from(value.into_string().ok()?)))
        });
        Self::new(env.collect(), false)
    }

    fn new(env: BTreeMap<String, Secret>, ec2_spot_check: bool) -> Result<Self, ConfigError> {
        let text = |name: &str| env.get(name).map_or("", Secret::expose);
        let token = text("ARVADOS_API_TOKEN");
        if token.is_empty() {
            return Err(ConfigError::Empty("ARVADOS_API_TOKEN"));
        }
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            let expected = "printable ASCII without spaces";
            return Err(ConfigError::Malformed {
                name: "ARVADOS_API_TOKEN",
                expected,
            });
        }
        let (api_url, api_host) = api_url(text("LONGSHORE_API_URL"), text("ARVADOS_API_HOST"))?;
        let insecure = matches!(
            text("ARVADOS_API_HOST_INSECURE")
                .to_ascii_lowercase()
                .as_str(),
            "1" | "yes" | "true"
        );
        let token = Secret::new(token);
        let price = price(text("InstanceType"))?;
        Ok(Self {
            api_url,
            api_host,
            token,
            insecure,
            price,
            ec2_spot_check,
            gateway_address: text("GatewayAddress").to_owned(),
            env,
        })
    }

    /// Returns the document for the detached child, with only the variables read by a runner.
    pub(crate) fn document(&self) -> Secret {
        let read = self
            .env
            .iter()
            .filter(|(name, _)| READ.contains(&name.as_str()));
        let env: BTreeMap<&str, &str> = read
            .map(|(name, value)| (name.as_str(), value.expose()))
            .collect();
        Secret::new(
            serde_json::json!({"Env": env, "EC2SpotCheck": self.ec2_spot_check}).to_string(),
        )
    }
}

/// Variables read by the runner.
const READ: [&str; 6] = [
    "ARVADOS_API_HOST",
    "ARVADOS_API_HOST_INSECURE",
    "ARVADOS_API_TOKEN",
    "GatewayAddress",
    "InstanceType",
    "LONGSHORE_API_URL",
];

fn api_url(url: &str, host: &str) -> Result<(String, String), ConfigError> {
    if !url.is_empty() {
        let bare = url.trim_end_matches('/');
        let name = "LONGSHORE_API_URL";
        let parsed: Option<ureq::http::Uri> = bare.parse().ok();
        let good = parsed.filter(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.query().is_none()
        });
        let authority = good.and_then(|uri| uri.authority().map(|a| a.to_string()));
        let expected = "a URL like http://127.0.0.1:8000";
        let authority = authority.ok_or(ConfigError::Malformed { name, expected })?;
        return Ok((
            bare.to_owned(),
            if host.is_empty() {
                authority
            } else {
                host.to_owned()
            },
        ));
    }
    let name = "ARVADOS_API_HOST";
    if host.is_empty() {
        return Err(ConfigError::Empty(name));
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    let parsed: Option<ureq::http::Uri> = format!("https://{host}").parse().ok();
    if !host.bytes().all(allowed) || parsed.is_none() {
        return Err(ConfigError::Malformed {
            name,
            expected: "HOST or HOST:PORT, without https:// or a path",
        });
    }
    Ok((format!("https://{host}"), host.to_owned()))
}

fn price(text: &str) -> Result<f64, ConfigError> {
    #[derive(Deserialize)]
    struct InstanceType {
        #[serde(rename = "Price", default)]
        price: f64,
    }
    if text.trim().is_empty() {
        return Ok(0.0);
    }
    let parsed: Option<InstanceType> = serde_json::from_str(text).ok();
    let price = parsed.map(|kind| kind.price).filter(|price| *price >= 0.0);
    price.ok_or(ConfigError::Malformed {
        name: "InstanceType",
        expected: "a JSON object with a Price of zero or more",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Config, String> {
        Config::read(json.as_bytes()).map_err(|e| e.to_string())
    }

    #[test]
    fn document_keeps_only_needed_variables() -> Result<(), String> {
        let config = read(
            r#"{"Env":{"ARVADOS_API_HOST":"api.example:443","ARVADOS_API_TOKEN":"tok","ARVADOS_API_HOST_INSECURE":"1",
            "InstanceType":"{\n    \"Price\": 0.25\n}\n","GatewayAddress":"1.2.3.4:0","GatewayAuthSecret":"hush"},
            "KeepBuffers":3,"EC2SpotCheck":true,"Cluster":{"SystemRootToken":"root"}} trailing"#,
        )?;
        assert_eq!(config.api_url, "https://api.example:443");
        assert!(config.insecure && config.ec2_spot_check && (config.price - 0.25).abs() < 1e-9);
        let document = config.document();
        assert!(!document.expose().contains("hush") && !document.expose().contains("root"));
        let copy = read(document.expose())?;
        assert_eq!(
            (copy.token.expose(), copy.gateway_address.as_str()),
            ("tok", "1.2.3.4:0")
        );
        Ok(())
    }

    #[test]
    fn full_url_overrides_host() -> Result<(), String> {
        let config = read(
            r#"{"Env":{"ARVADOS_API_TOKEN":"t","ARVADOS_API_HOST":"h","LONGSHORE_API_URL":"http://127.0.0.1:1/"}}"#,
        )?;
        assert_eq!(
            (config.api_url.as_str(), config.api_host.as_str()),
            ("http://127.0.0.1:1", "h")
        );
        Ok(())
    }

    #[test]
    fn config_error_names_variable_without_secret() {
        let message = |json: &str| read(json).err().unwrap_or_default();
        assert!(message("{}").starts_with("ARVADOS_API_TOKEN is empty"));
        assert!(
            message(r#"{"Env":{"ARVADOS_API_TOKEN":"t"}}"#)
                .starts_with("ARVADOS_API_HOST is empty")
        );
        let spaced = message(r#"{"Env":{"ARVADOS_API_TOKEN":"hush hush","ARVADOS_API_HOST":"h"}}"#);
        assert!(spaced.contains("ARVADOS_API_TOKEN is malformed") && !spaced.contains("hush"));
        assert!(
            message(r#"{"Env":{"ARVADOS_API_TOKEN":"t","ARVADOS_API_HOST":"https://h/"}}"#)
                .contains("HOST:PORT")
        );
        assert!(
            message(r#"{"Env":{"ARVADOS_API_TOKEN":"t","LONGSHORE_API_URL":"ftp://h"}}"#)
                .contains("LONGSHORE_API_URL")
        );
        assert!(message(r#"{"Env": 3}"#).starts_with("decode stdin: "));
        assert!(message("not json").starts_with("decode stdin: "));
    }
}
