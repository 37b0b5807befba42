//! `longshore token`.

use longshore_queue::{Role, Tokens};
use serde_json::json;

use super::queue::{builtin, queue_config};
use super::{block_on, load};
use crate::cli::{TokenArgs, TokenCommand};
use crate::error::{CliError, CliResult, Context as _};

pub(crate) fn run(args: &TokenArgs) -> CliResult {
    let cluster = load(&args.config)?;
    let config = queue_config(&cluster, builtin(&cluster)?);
    block_on(async {
        let tokens = Tokens::open(&config).await.failed("the queue's database")?;
        match &args.command {
            TokenCommand::Create { role, owner } => {
                let role = match role.as_str() {
                    "admin" => Role::Admin,
                    "dispatcher" => Role::Dispatcher,
                    _ => Role::User,
                };
                let (_, secret) = tokens.create(role, owner).await.failed("the token")?;
                println!("{}", secret.expose());
            }
            TokenCommand::List { json } => {
                let all = tokens.list().await.failed("the tokens")?;
                for token in all {
                    let (role, owner) = (token.role.name(), &token.owner);
                    if json.json {
                        let line = json!({
                            "uuid": token.uuid, "role": role, "owner": owner,
                            "created_at": token.created_at,
                        });
                        println!("{line}");
                    } else {
                        println!("{}\t{role}\t{owner}\t{}", token.uuid, token.created_at);
                    }
                }
            }
            TokenCommand::Revoke { uuid } => {
                if !tokens.revoke(uuid).await.failed("the token")? {
                    return Err(CliError::failed(format!("there is no token {uuid}")));
                }
            }
        }
        Ok(())
    })
}
