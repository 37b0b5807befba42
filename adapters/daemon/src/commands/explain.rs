//! `longshore explain`: explains the state of a container or an instance.

use longshore_core::ids::ContainerId;
use serde_json::Value;

use super::{block_on, load};
use crate::cli::{ClientArgs, ExplainArgs};
use crate::client::Client;
use crate::error::{CliError, CliResult};

const EXPLAIN: &str = "/arvados/v1/dispatch/explain";

pub(crate) fn run(args: &ExplainArgs) -> CliResult {
    let client = Client::for_management(&load(&args.config)?)?;
    block_on(async {
        let params = [("id", args.id.clone())];
        let explanation = match client.find(EXPLAIN, &params).await? {
            Some(explanation) => explanation,
            None => return explain_untracked(args).await,
        };
        match explanation["text"].as_str() {
            Some(text) if !args.json.json => println!("{text}"),
            _ => println!("{explanation}"),
        }
        Ok(())
    })
}

/// Handles an ID unknown to the dispatcher: the queue may still have the record of an ended
/// container.
async fn explain_untracked(args: &ExplainArgs) -> CliResult {
    let unknown = || {
        CliError::failed(format!(
            "the dispatcher knows neither a container nor an instance with this name: {}",
            args.id
        ))
    };
    if args.id.parse::<ContainerId>().is_err() {
        return Err(unknown());
    }
    let queue = Client::for_queue(&ClientArgs {
        config: args.config.clone(),
        url: None,
    })?;
    let path = format!("/arvados/v1/containers/{}", args.id);
    let record = queue.find(&path, &[]).await?.ok_or_else(unknown)?;
    if args.json.json {
        println!("{record}");
    } else {
        println!("{}", record_text(&args.id, &record));
    }
    Ok(())
}

/// Text about a container from the queue's record, if the dispatcher does not track the container.
fn record_text(id: &str, record: &Value) -> String {
    let state = record["state"].as_str().unwrap_or("of an unknown state");
    let mut text = format!("{id}: {state}; not tracked by the dispatcher (any more)");
    if let Some(code) = record["exit_code"].as_i64() {
        text.push_str(&format!("\nexit code {code}"));
    }
    for key in ["error", "warning", "activity"] {
        if let Some(value) = record["runtime_status"][key].as_str() {
            text.push_str(&format!("\n{key}: {value}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::record_text;

    #[test]
    fn untracked_container_text_includes_error() {
        let record = json!({
            "state": "Cancelled", "exit_code": null,
            "runtime_status": { "error": "no type fits" },
        });
        let text = record_text("x", &record);
        assert_eq!(
            text,
            "x: Cancelled; not tracked by the dispatcher (any more)\nerror: no type fits"
        );
    }
}
