//! `longshore submit`, `ps`, `logs` and `cancel`: commands of queue users.

use std::io::Write as _;
use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::{Value, json};

use super::block_on;
use crate::cli::{CancelArgs, LogsArgs, PsArgs, SubmitArgs};
use crate::client::Client;
use crate::error::{CliError, CliResult, Context as _};

const CONTAINERS: &str = "/arvados/v1/containers";
const POLL_PAUSE: Duration = Duration::from_millis(200);
/// Exit status of `submit --follow` for a cancelled container, which has no exit status of its own.
const CANCELLED_STATUS: u8 = 1;

pub(crate) fn submit(args: &SubmitArgs) -> CliResult<u8> {
    let client = Client::for_queue(&args.client)?;
    block_on(async {
        let record = client
            .post(CONTAINERS, &json!({ "container": record(args) }))
            .await?;
        let uuid = text(&record, "uuid");
        if args.json.json && !args.follow {
            println!("{record}");
        } else {
            // With --follow, standard output carries the container's output only.
            if args.follow {
                eprintln!("{uuid}");
            } else {
                println!("{uuid}");
            }
        }
        if !args.follow {
            return Ok(0);
        }
        copy_log(&client, &uuid, true).await?;
        let ended = wait_until_over(&client, &uuid).await?;
        if args.json.json {
            eprintln!("{ended}");
        }
        Ok(exit_status(&uuid, &ended))
    })
}

/// Container record to create.
fn record(args: &SubmitArgs) -> Value {
    let env: serde_json::Map<String, Value> = args
        .env
        .iter()
        .map(|(name, value)| (name.clone(), Value::from(value.as_str())))
        .collect();
    let mut record = json!({
        "command": args.command,
        "environment": env,
        "cwd": ".",
        "priority": args.priority,
        "runtime_constraints": { "vcpus": args.vcpus, "ram": args.ram },
        "scheduling_parameters": {
            "preemptible": args.preemptible,
            "max_run_time": args.max_run_time,
        },
    });
    if let Some(name) = &args.name {
        record["name"] = json!(name);
    }
    if args.scratch > 0 {
        record["mounts"] = json!({ "/tmp": { "kind": "tmp", "capacity": args.scratch } });
    }
    record
}

async fn wait_until_over(client: &Client, uuid: &str) -> CliResult<Value> {
    loop {
        let record = client.get(&format!("{CONTAINERS}/{uuid}"), &[]).await?;
        if matches!(record["state"].as_str(), Some("Complete" | "Cancelled")) {
            return Ok(record);
        }
        tokio::time::sleep(POLL_PAUSE).await;
    }
}

fn exit_status(uuid: &str, record: &Value) -> u8 {
    if record["state"] == "Complete" {
        let status = record["exit_code"].as_i64().unwrap_or(1);
        return u8::try_from(status).unwrap_or(1);
    }
    let why = record["runtime_status"]["error"].as_str();
    eprintln!(
        "{uuid} was cancelled{}",
        why.map_or(String::new(), |why| format!(": {why}"))
    );
    CANCELLED_STATUS
}

pub(crate) fn ps(args: &PsArgs) -> CliResult {
    let client = Client::for_queue(&args.client)?;
    block_on(async {
        let mut params = vec![
            ("limit", args.limit.to_string()),
            ("order", "created_at desc".to_owned()),
            ("count", "none".to_owned()),
        ];
        if !args.all {
            let filters = json!([["state", "in", ["Queued", "Locked", "Running"]]]);
            params.push(("filters", filters.to_string()));
        }
        let page = client.get(CONTAINERS, &params).await?;
        let items = page["items"].as_array().cloned().unwrap_or_default();
        let mut out = std::io::stdout().lock();
        if !args.json.json {
            let header = format!(
                "{:27}  {:9}  {:>8}  {:>5}  {:>10}  {:>4}  COMMAND",
                "CONTAINER", "STATE", "PRIORITY", "VCPUS", "RAM", "EXIT"
            );
            writeln!(out, "{header}").failed("standard output")?;
        }
        for record in &items {
            let line = if args.json.json {
                record.to_string()
            } else {
                row(record)
            };
            writeln!(out, "{line}").failed("standard output")?;
        }
        Ok(())
    })
}

fn row(record: &Value) -> String {
    let need = &record["runtime_constraints"];
    let words = record["command"].as_array();
    let command: Vec<&str> = words
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let command = command.join(" ").replace(['\n', '\r', '\u{1b}'], " ");
    let command: String = command.chars().take(60).collect();
    let exit = record["exit_code"].as_i64();
    format!(
        "{:27}  {:9}  {:>8}  {:>5}  {:>10}  {:>4}  {command}",
        text(record, "uuid"),
        text(record, "state"),
        record["priority"],
        need["vcpus"].as_u64().unwrap_or(0),
        longshore_units::format_byte_size(need["ram"].as_u64().unwrap_or(0)),
        exit.map_or_else(|| "-".to_owned(), |code| code.to_string()),
    )
}

pub(crate) fn logs(args: &LogsArgs) -> CliResult {
    let client = Client::for_queue(&args.client)?;
    block_on(copy_log(&client, &args.uuid, args.follow))
}

/// Copies the output of a container to standard output.
async fn copy_log(client: &Client, uuid: &str, follow: bool) -> CliResult {
    let params = if follow {
        vec![("follow", "true".to_owned())]
    } else {
        Vec::new()
    };
    let mut offset = 0_u64;
    loop {
        let mut params = params.clone();
        params.push(("offset", offset.to_string()));
        let path = format!("{CONTAINERS}/{uuid}/log");
        let response = client.stream(&path, &params).await?;
        let header = |name: &str| {
            let value = response.headers().get(name)?.to_str().ok()?;
            value.parse::<u64>().ok()
        };
        let (next, end) = (header("x-log-next-offset"), header("x-log-end"));
        let mut body = response.bytes_stream();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.failed("the log ended early")?;
            let mut out = std::io::stdout().lock();
            out.write_all(&chunk).failed("standard output")?;
            out.flush().failed("standard output")?;
        }
        match (follow, next, end) {
            (false, Some(next), Some(end)) if next > offset && next < end => offset = next,
            _ => return Ok(()),
        }
    }
}

pub(crate) fn cancel(args: &CancelArgs) -> CliResult {
    let client = Client::for_queue(&args.client)?;
    block_on(async {
        let mut failed = 0;
        for uuid in &args.uuid {
            match stop(&client, uuid).await {
                Ok(()) => println!("{uuid}"),
                Err(error) => {
                    eprintln!("{uuid}: {}", error.chain());
                    failed += 1;
                }
            }
        }
        match failed {
            0 => Ok(()),
            n => Err(CliError::failed(format!(
                "{n} of {} failed",
                args.uuid.len()
            ))),
        }
    })
}

/// Cancels a container by setting the priority to 0.
pub(crate) async fn stop(client: &Client, uuid: &str) -> CliResult {
    let path = format!("{CONTAINERS}/{uuid}");
    let priority = json!({ "container": { "priority": 0 } });
    client.put(&path, &priority).await.map(drop)
}

fn text(record: &Value, key: &str) -> String {
    record[key].as_str().unwrap_or_default().to_owned()
}
