//! `longshore explain`: why something is as it is.

use longshore_core::ids::ContainerId;
use serde_json::Value;

use super::{block_on, load};
use crate::cli::{ClientArgs, ExplainArgs};
use crate::client::Client;
use crate::exit::{Failure, Outcome};

const EXPLAIN: &str = "/arvados/v1/dispatch/explain";

pub(crate) fn run(args: &ExplainArgs) -> Outcome {
    let client = Client::for_management(&load(&args.config)?)?;
    block_on(async {
        let params = [("id", args.id.clone())];
        let told = match client.find(EXPLAIN, &params).await? {
            Some(told) => told,
            None => return over(args).await,
        };
        match told["text"].as_str() {
            Some(text) if !args.json.json => println!("{text}"),
            _ => println!("{told}"),
        }
        Ok(())
    })
}

/// The dispatcher does not know it: of a container, the queue may tell the end.
async fn over(args: &ExplainArgs) -> Outcome {
    let unknown = || {
        Failure::Failed(format!(
            "the dispatcher knows neither a container nor an instance of this name: {}",
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
        println!("{}", last_words(&args.id, &record));
    }
    Ok(())
}

/// What the queue's record says of a container that the dispatcher does not follow.
fn last_words(id: &str, record: &Value) -> String {
    let state = record["state"].as_str().unwrap_or("of an unknown state");
    let mut words = format!("{id}: {state}; the dispatcher does not follow it (any more)");
    if let Some(code) = record["exit_code"].as_i64() {
        words.push_str(&format!("\nexit code {code}"));
    }
    for key in ["error", "warning", "activity"] {
        if let Some(text) = record["runtime_status"][key].as_str() {
            words.push_str(&format!("\n{key}: {text}"));
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::last_words;

    #[test]
    fn the_end_of_a_container_is_told_with_its_error() {
        let record = json!({
            "state": "Cancelled", "exit_code": null,
            "runtime_status": { "error": "no type fits" },
        });
        let words = last_words("x", &record);
        assert_eq!(
            words,
            "x: Cancelled; the dispatcher does not follow it (any more)\nerror: no type fits"
        );
    }
}
