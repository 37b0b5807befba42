//! Watches for the notice that a spot instance is about to be taken away.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};
use ureq::Agent;

const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// More failures in a row mean that there is no metadata service.
const ERRORS_MAX: u32 = 5;
const SERVICE: &str = "http://169.254.169.254";

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Notice {
    action: String,
    time: String,
}

/// Polls until there is a notice, and hands over what it adds to `runtime_status`. Returns when the
/// service cannot be reached, or when `report` is no longer interested. LONGSHORE_IMDS_URL names
/// another service.
pub(crate) fn watch(report: &dyn Fn(Map<String, Value>) -> bool, say: &dyn Fn(&str)) {
    let base = std::env::var("LONGSHORE_IMDS_URL").unwrap_or_else(|_| SERVICE.to_owned());
    let agent: Agent = Agent::config_builder()
        .proxy(None)
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(2)))
        .build()
        .into();
    let mut errors = 0;
    let mut known: Option<Notice> = None;
    loop {
        match look(&agent, &base) {
            Ok(notice) => {
                errors = 0;
                if let Some(notice) = notice.filter(|notice| known.as_ref() != Some(notice)) {
                    say(&format!(
                        "the cloud announced: {} at {}",
                        notice.action, notice.time
                    ));
                    if !report(status(&notice)) {
                        return;
                    }
                    known = Some(notice);
                }
            }
            Err(error) => {
                errors += 1;
                if errors > ERRORS_MAX {
                    return say(&format!(
                        "no longer watching for spot interruptions: {error}"
                    ));
                }
            }
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

fn look(agent: &Agent, base: &str) -> Result<Option<Notice>, ureq::Error> {
    let token = agent
        .put(format!("{base}/latest/api/token"))
        .header("X-aws-ec2-metadata-token-ttl-seconds", "60");
    let mut token = token.send_empty()?;
    if !token.status().is_success() {
        return Err(ureq::Error::StatusCode(token.status().as_u16()));
    }
    let token = token
        .body_mut()
        .with_config()
        .limit(4096)
        .read_to_string()?;
    let notice = agent.get(format!("{base}/latest/meta-data/spot/instance-action"));
    let mut notice = notice
        .header("X-aws-ec2-metadata-token", token.trim())
        .call()?;
    match notice.status().as_u16() {
        404 => Ok(None),
        200 => {
            let text = notice
                .body_mut()
                .with_config()
                .limit(4096)
                .read_to_string()?;
            serde_json::from_str(&text)
                .map(Some)
                .map_err(|e| ureq::Error::Io(e.into()))
        }
        status => Err(ureq::Error::StatusCode(status)),
    }
}

fn status(notice: &Notice) -> Map<String, Value> {
    let text = format!(
        "Cloud provider scheduled instance {} at {}",
        notice.action, notice.time
    );
    let mut status = Map::new();
    status.insert("warning".to_owned(), "preemption notice".into());
    status.insert("warningDetail".to_owned(), text.clone().into());
    status.insert("preemptionNotice".to_owned(), text.into());
    status
}
