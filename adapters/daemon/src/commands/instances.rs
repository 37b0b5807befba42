//! `longshore instances`: lists and controls instances.

use serde_json::Value;

use super::{block_on, load};
use crate::cli::{InstancesArgs, InstancesCommand};
use crate::client::Client;
use crate::error::{CliError, CliResult};

const INSTANCES: &str = "/arvados/v1/dispatch/instances";

pub(crate) fn run(args: &InstancesArgs) -> CliResult {
    let client = Client::for_management(&load(&args.config)?)?;
    block_on(async {
        match &args.command {
            InstancesCommand::List { header, json } => list(&client, *header, json.json).await,
            InstancesCommand::Hold(ids) => each(&client, "hold", &ids.id, "").await,
            InstancesCommand::Drain(ids) => each(&client, "drain", &ids.id, "").await,
            InstancesCommand::Run(ids) => each(&client, "run", &ids.id, "").await,
            InstancesCommand::Kill { reason, ids } => each(&client, "kill", &ids.id, reason).await,
        }
    })
}

async fn list(client: &Client, header: bool, json: bool) -> CliResult {
    let page = client.get(INSTANCES, &[]).await?;
    let items = page["items"].as_array().cloned().unwrap_or_default();
    if header && !json {
        println!(
            "instance\taddress\tstate\tidle-behavior\tconfig-type\tprovider-type\tprice\trunning-containers\tbroken"
        );
    }
    for item in &items {
        if json {
            println!("{item}");
        } else {
            println!("{}", row(item));
        }
    }
    // On standard error, since programs read the table.
    for backoff in page["boot_backoffs"].as_array().into_iter().flatten() {
        eprintln!("{}", backoff_text(backoff));
    }
    Ok(())
}

/// Text about an instance type and image backed off: until when, and the reason.
pub(crate) fn backoff_text(backoff: &Value) -> String {
    let text = |key: &str| backoff[key].as_str().unwrap_or_default();
    format!(
        "{} with image {}: no more until {}, since its last {} boots failed: {}",
        text("instance_type"),
        text("image"),
        text("until"),
        backoff["failures"].as_u64().unwrap_or_default(),
        text("message"),
    )
}

fn row(item: &Value) -> String {
    let running = item["running_container_uuids"].as_array();
    let running: Vec<&str> = running
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let field = |key: &str| match item[key].as_str() {
        None | Some("") => "-".to_owned(),
        Some(text) => text.to_owned(),
    };
    let running = match running.as_slice() {
        [] => "-".to_owned(),
        uuids => uuids.join(","),
    };
    [
        field("instance"),
        field("address"),
        field("worker_state"),
        field("idle_behavior"),
        field("arvados_instance_type"),
        field("provider_instance_type"),
        format!("{:.6}", item["price"].as_f64().unwrap_or(0.0)),
        running,
        field("broken"),
    ]
    .join("\t")
}

/// Applies an operation to each instance, and continues after failures.
async fn each(client: &Client, operation: &str, ids: &[String], reason: &str) -> CliResult {
    let mut failed = 0;
    for id in ids {
        let path = format!("{INSTANCES}/{operation}");
        let form = [("instance_id", id.as_str()), ("reason", reason)];
        match client.post_form(&path, &form).await {
            Ok(status) => eprintln!("{id}: {status} ({})", client.host()),
            Err(error) => {
                eprintln!("{id}: {}", error.chain());
                failed += 1;
            }
        }
    }
    match failed {
        0 => Ok(()),
        n => Err(CliError::failed(format!("{n} of {} failed", ids.len()))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{backoff_text, row};

    #[test]
    fn backoff_text_names_type_deadline_and_reason() {
        let backoff = json!({
            "instance_type": "small", "image": "image-1", "failures": 5,
            "until": "2026-08-07T00:00:00Z", "message": "it never answered",
        });
        assert_eq!(
            backoff_text(&backoff),
            "small with image image-1: no more until 2026-08-07T00:00:00Z, since its last 5 boots \
             failed: it never answered"
        );
    }

    #[test]
    fn broken_instance_reason_is_last_column() {
        let last_column = |item| row(&item).rsplit('\t').next().map(str::to_owned);
        let broken = json!({ "instance": "i-1", "broken": "it reports itself broken" });
        assert_eq!(
            last_column(broken).as_deref(),
            Some("it reports itself broken")
        );
        assert_eq!(last_column(json!({ "broken": null })).as_deref(), Some("-"));
    }
}
