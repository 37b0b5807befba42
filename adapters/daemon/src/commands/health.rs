//! `longshore health`: reports the health of a running dispatcher.

use serde_json::Value;

use super::instances::backoff_text;
use super::{block_on, load};
use crate::cli::HealthArgs;
use crate::client::Client;
use crate::error::CliResult;

const PING: &str = "/_health/ping";
/// Exit status for an unhealthy dispatcher.
const UNHEALTHY: u8 = 1;

pub(crate) fn run(args: &HealthArgs) -> CliResult<u8> {
    let client = Client::for_management(&load(&args.config)?)?;
    let answer = block_on(client.get(PING, &[]))?;
    if args.json.json {
        println!("{answer}");
    } else {
        println!("{}", text(&answer));
    }
    Ok(if answer["health"] == "OK" {
        0
    } else {
        UNHEALTHY
    })
}

/// Verdict in the first line, then a line for each instance type and image backed off.
fn text(answer: &Value) -> String {
    let health = answer["health"].as_str().unwrap_or("unknown");
    let verdict = match answer["error"].as_str() {
        Some(why) => format!("{health}: {why}"),
        None => health.to_owned(),
    };
    let backoffs = answer["boot_backoffs"].as_array().into_iter().flatten();
    let lines: Vec<String> = std::iter::once(verdict)
        .chain(backoffs.map(backoff_text))
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::text;

    #[test]
    fn verdict_precedes_boot_backoffs() {
        assert_eq!(text(&json!({ "health": "OK" })), "OK");
        let answer = json!({
            "health": "ERROR", "error": "no answer of the queue for 200 s",
            "boot_backoffs": [{
                "instance_type": "small", "image": "image-1", "failures": 5,
                "until": "2026-08-07T00:00:00Z", "message": "it never answered",
            }],
        });
        assert_eq!(
            text(&answer),
            "ERROR: no answer of the queue for 200 s\n\
             small with image image-1: no more until 2026-08-07T00:00:00Z, since its last 5 boots \
             failed: it never answered"
        );
    }
}
