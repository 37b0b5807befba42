//! `longshore health`: whether the dispatcher is able to work.

use serde_json::Value;

use super::instances::pause_text;
use super::{block_on, load};
use crate::cli::HealthArgs;
use crate::client::Client;
use crate::exit::Outcome;

const PING: &str = "/_health/ping";
/// The process's exit status where it is not.
const UNHEALTHY: u8 = 1;

pub(crate) fn run(args: &HealthArgs) -> Outcome<u8> {
    let client = Client::for_management(&load(&args.config)?)?;
    let told = block_on(client.get(PING, &[]))?;
    if args.json.json {
        println!("{told}");
    } else {
        println!("{}", words(&told));
    }
    Ok(if told["health"] == "OK" { 0 } else { UNHEALTHY })
}

/// The verdict in the first line, then a line for each type and image that rests.
fn words(told: &Value) -> String {
    let health = told["health"].as_str().unwrap_or("unknown");
    let verdict = match told["error"].as_str() {
        Some(why) => format!("{health}: {why}"),
        None => health.to_owned(),
    };
    let pauses = told["boot_pauses"].as_array().into_iter().flatten();
    let lines: Vec<String> = std::iter::once(verdict)
        .chain(pauses.map(pause_text))
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::words;

    #[test]
    fn the_verdict_comes_first_and_then_what_rests() {
        assert_eq!(words(&json!({ "health": "OK" })), "OK");
        let told = json!({
            "health": "ERROR", "error": "no answer of the queue for 200 s",
            "boot_pauses": [{
                "instance_type": "small", "image": "image-1", "failures": 5,
                "until": "2026-08-07T00:00:00Z", "message": "it never answered",
            }],
        });
        assert_eq!(
            words(&told),
            "ERROR: no answer of the queue for 200 s\n\
             small with image image-1: no more until 2026-08-07T00:00:00Z, since its last 5 boots \
             failed: it never answered"
        );
    }
}
