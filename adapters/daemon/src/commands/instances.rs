//! `longshore instances`: what operators do.

use serde_json::Value;

use super::{block_on, load};
use crate::cli::{InstancesArgs, InstancesCommand};
use crate::client::Client;
use crate::exit::{Failure, Outcome};

const INSTANCES: &str = "/arvados/v1/dispatch/instances";

pub(crate) fn run(args: &InstancesArgs) -> Outcome {
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

async fn list(client: &Client, header: bool, json: bool) -> Outcome {
    let page = client.get(INSTANCES, &[]).await?;
    let items = page["items"].as_array().cloned().unwrap_or_default();
    if header && !json {
        println!(
            "instance\taddress\tstate\tidle-behavior\tconfig-type\tprovider-type\tprice\trunning-containers"
        );
    }
    for item in &items {
        if json {
            println!("{item}");
        } else {
            println!("{}", row(item));
        }
    }
    Ok(())
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
    ]
    .join("\t")
}

/// Does the same to each, and goes on when one fails.
async fn each(client: &Client, what: &str, ids: &[String], reason: &str) -> Outcome {
    let mut failed = 0;
    for id in ids {
        let path = format!("{INSTANCES}/{what}");
        let form = [("instance_id", id.as_str()), ("reason", reason)];
        match client.post_form(&path, &form).await {
            Ok(status) => eprintln!("{id}: {status} ({})", client.host()),
            Err(failure) => {
                eprintln!("{id}: {failure}");
                failed += 1;
            }
        }
    }
    match failed {
        0 => Ok(()),
        n => Err(Failure::Failed(format!("{n} of {} failed", ids.len()))),
    }
}
