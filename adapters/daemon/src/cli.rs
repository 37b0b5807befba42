//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Hidden command: runs one loopback VM.
pub(crate) const LOOPBACK_VM: &str = "loopback-vm";

const EXIT_CODES: &str = "Exit status: 0 done, 1 failed, 2 invalid command line, configuration or \
                          input file.";

/// Dispatches containers to cloud VMs.
#[derive(Debug, Parser)]
#[command(name = "longshore", version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Option for the configuration file.
#[derive(Args, Clone, Debug)]
pub(crate) struct ConfigArg {
    /// Cluster configuration file; `-` reads standard input
    #[arg(
        long,
        short,
        global = true,
        env = "ARVADOS_CONFIG",
        default_value = "/etc/arvados/config.yml",
        value_name = "FILE"
    )]
    pub(crate) config: PathBuf,
}

/// Option for machine-readable output.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct JsonArg {
    /// Print JSON, for scripts
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a commented configuration for this machine, with new tokens and keys
    #[command(
        after_help = "Example:\n  longshore init --dir ~/longshore\n  longshore queue --config ~/longshore/config.yml"
    )]
    Init(InitArgs),
    /// Serve the built-in queue
    #[command(after_help = "Example:\n  longshore queue --config ~/longshore/config.yml")]
    Queue(QueueArgs),
    /// Dispatch containers from the queue to VMs until TERM or INT; HUP reloads the configuration
    #[command(
        after_help = "Example:\n  longshore dispatch --config ~/longshore/config.yml --journal /var/log/longshore"
    )]
    Dispatch(DispatchArgs),
    /// Run a queue, a dispatcher and VMs on this host, and process 60 containers
    #[command(
        after_help = "Examples:\n  longshore demo --journal /tmp/demo\n  longshore demo --chaos --seed 7"
    )]
    Demo(DemoArgs),
    /// Test the cloud account, image and keys of the configuration: create an instance, log in,
    /// destroy the instance, and report every problem
    ///
    /// The test creates one instance at a time (in each configured subnet), at the cost of a few
    /// minutes of the instance type, and destroys every instance that the test created, also after
    /// a failure and on TERM or INT. The instances carry their own instance set ID: instances of a
    /// running dispatcher are not touched.
    #[command(
        after_help = "Example:\n  longshore cloudtest --config /etc/arvados/config.yml --command 'df -h /tmp'\n\nExit status: 0 all steps passed, 1 a step failed or the test was stopped, 2 invalid command line or configuration."
    )]
    Cloudtest(CloudtestArgs),
    /// Submit a container
    #[command(
        after_help = "Example:\n  longshore submit --vcpus 2 --ram 1GiB --follow -- sh -c 'echo hello'"
    )]
    Submit(SubmitArgs),
    /// List containers
    #[command(after_help = "Example:\n  longshore ps --all --json")]
    Ps(PsArgs),
    /// Print the output of a container
    #[command(after_help = "Example:\n  longshore logs -f zzzzz-dz642-0123456789abcde")]
    Logs(LogsArgs),
    /// Cancel containers: set the priority to 0
    #[command(after_help = "Example:\n  longshore cancel zzzzz-dz642-0123456789abcde")]
    Cancel(CancelArgs),
    /// Explain the state of a container (reason for waiting) or of an instance (purpose, planned
    /// termination)
    #[command(
        after_help = "Example:\n  longshore explain zzzzz-dz642-0123456789abcde\n  longshore explain i-0123456789abcdef0"
    )]
    Explain(ExplainArgs),
    /// Report the health of a running dispatcher, and instance types backed off after failed boots
    #[command(
        after_help = "Example:\n  longshore health --json\n\nExit status: 0 healthy, 1 unhealthy or unreachable, 2 invalid command line or configuration."
    )]
    Health(HealthArgs),
    /// List and control the instances of a running dispatcher
    Instances(InstancesArgs),
    /// Create, list and revoke tokens of the built-in queue
    Token(TokenArgs),
    /// Replay a journal and check that the core issues the same commands
    #[command(
        after_help = "Example:\n  longshore replay /var/log/longshore/longshore-1790000000000000000.jsonl\n\nExit status: 0 all commands are the same, 1 a command differs or a line was modified, 2 not a journal."
    )]
    Replay(ReplayArgs),
    /// Run one VM of the loopback driver
    #[command(name = LOOPBACK_VM, hide = true)]
    LoopbackVm {
        /// Directory of the VM
        dir: PathBuf,
    },
}

#[derive(Args, Debug)]
pub(crate) struct InitArgs {
    /// Directory for `config.yml`, the key and, later, the database; must not contain a
    /// `config.yml`
    #[arg(long, default_value = ".", value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Cluster ID, five characters of a-z and 0-9: the prefix of every container UUID
    #[arg(long, default_value = "local", value_name = "ID")]
    pub(crate) cluster_id: String,
    /// Port of the queue
    #[arg(long, default_value_t = 9005)]
    pub(crate) queue_port: u16,
    /// Port of the management API
    #[arg(long, default_value_t = 9006)]
    pub(crate) management_port: u16,
}

#[derive(Args, Debug)]
pub(crate) struct QueueArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArg,
}

#[derive(Args, Debug)]
pub(crate) struct DispatchArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArg,
    /// Record every input in a new file in DIR, for `longshore replay`; the file grows until the
    /// process ends
    #[arg(long, value_name = "DIR")]
    pub(crate) journal: Option<PathBuf>,
    /// Directory for the leader lock and the VMs of the loopback driver [default:
    /// /var/lib/longshore for root, else longshore in the user's state directory]
    #[arg(long, env = "LONGSHORE_STATE_DIR", value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// Number of containers to submit; at least 4, for the four special containers
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(4..=10_000))]
    pub(crate) containers: u32,
    /// Inject faults: VMs freeze, vanish, break and refuse, the queue and the cloud lose responses;
    /// then check that every container is accounted for
    #[arg(long)]
    pub(crate) chaos: bool,
    /// Seed of the kinds and the order of the faults of `--chaos`
    #[arg(long, default_value_t = 1, requires = "chaos")]
    pub(crate) seed: u64,
    /// Record every input in a new file in DIR, for `longshore replay`
    #[arg(long, value_name = "DIR")]
    pub(crate) journal: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}

#[derive(Args, Debug)]
pub(crate) struct CloudtestArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArg,
    /// Value of the tag InstanceSetID on the instances of the test
    #[arg(long, value_name = "ID", default_value = "zzzzz-zzzzz-zzzzzzcloudtest",
          value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) instance_set_id: String,
    /// Image to boot, instead of ImageID
    #[arg(long, value_name = "ID")]
    pub(crate) image_id: Option<String>,
    /// Instance type, a name under InstanceTypes [default: the cheapest]
    #[arg(long, value_name = "NAME")]
    pub(crate) instance_type: Option<String>,
    /// Destroy existing instances of the same instance set, such as the instances of an earlier
    /// test; without the option, existing instances fail the test
    #[arg(long)]
    pub(crate) destroy_existing: bool,
    /// Shell command to run on the instance after the boot; a failure of the command fails the test
    #[arg(long, value_name = "COMMAND")]
    pub(crate) command: Option<String>,
    /// Wait for Enter before destroying the instance, and print the command to log in
    #[arg(long)]
    pub(crate) pause_before_destroy: bool,
    /// Directory of the VMs of the loopback driver [default: /var/lib/longshore for root, else
    /// longshore in the user's state directory]
    #[arg(long, env = "LONGSHORE_STATE_DIR", value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}

/// Options of queue clients: location of the queue.
#[derive(Args, Clone, Debug)]
pub(crate) struct ClientArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArg,
    /// URL of the queue, instead of the URL in the configuration
    #[arg(long, env = "LONGSHORE_API_URL", value_name = "URL")]
    pub(crate) url: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct SubmitArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Number of cores; 0 shares a core with other containers of 0 cores
    #[arg(long, default_value_t = 1)]
    pub(crate) vcpus: u32,
    /// Memory, such as 512MiB, 1.5GB or 4000000000
    #[arg(long, default_value = "256MiB", value_parser = parse_byte_size)]
    pub(crate) ram: u64,
    /// Disk space, such as 10GiB
    #[arg(long, default_value = "0", value_parser = parse_byte_size)]
    pub(crate) scratch: u64,
    /// Priority, 1 to 1000; higher priorities start first
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(i64).range(1..))]
    pub(crate) priority: i64,
    /// Environment variable of the command; repeatable
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = parse_env)]
    pub(crate) env: Vec<(String, String)>,
    /// Name to recognise the container by
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Run on preemptible instances
    #[arg(long)]
    pub(crate) preemptible: bool,
    /// Time limit, such as 90s or 1h30m, or a number of seconds; 0 for no limit
    #[arg(long, default_value = "0", value_name = "DURATION", value_parser = parse_seconds)]
    pub(crate) max_run_time: u32,
    /// Wait for the end of the container, print the output, and exit with the exit status of the
    /// command
    #[arg(long, short)]
    pub(crate) follow: bool,
    #[command(flatten)]
    pub(crate) json: JsonArg,
    /// Command and arguments
    #[arg(required = true, last = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct PsArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Also list finished containers
    #[arg(long, short)]
    pub(crate) all: bool,
    /// Maximum number of containers, newest first
    #[arg(long, default_value_t = 100)]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}

#[derive(Args, Debug)]
pub(crate) struct LogsArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Follow the output until the container has ended
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// UUID of the container
    pub(crate) uuid: String,
}

#[derive(Args, Debug)]
pub(crate) struct CancelArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// UUIDs of the containers
    #[arg(required = true)]
    pub(crate) uuid: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArg,
    #[command(flatten)]
    pub(crate) json: JsonArg,
    /// UUID of a container, name of an instance, or ID of a create request (`intent …` in the log)
    pub(crate) id: String,
}

#[derive(Args, Debug)]
pub(crate) struct HealthArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArg,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}

#[derive(Args, Debug)]
pub(crate) struct InstancesArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArg,
    #[command(subcommand)]
    pub(crate) command: InstancesCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum InstancesCommand {
    /// List instances, tab-separated: instance, address, state, idle behavior, type, provider type,
    /// price, containers, reason of the failure if broken
    #[command(after_help = "Example:\n  longshore instances list --header")]
    List {
        /// Print column names first
        #[arg(long)]
        header: bool,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Hold instances: accept no containers, and never shut down
    #[command(after_help = "Example:\n  longshore instances hold i-0123456789abcdef0")]
    Hold(InstanceIds),
    /// Drain instances: accept no containers, and shut down after the last container
    #[command(after_help = "Example:\n  longshore instances drain i-0123456789abcdef0")]
    Drain(InstanceIds),
    /// Return instances to normal operation
    #[command(after_help = "Example:\n  longshore instances run i-0123456789abcdef0")]
    Run(InstanceIds),
    /// Destroy instances now, including running containers
    #[command(
        after_help = "Example:\n  longshore instances kill --reason 'disk errors' i-0123456789abcdef0"
    )]
    Kill {
        /// Reason for the log
        #[arg(long, default_value = "")]
        reason: String,
        #[command(flatten)]
        ids: InstanceIds,
    },
}

#[derive(Args, Debug)]
pub(crate) struct InstanceIds {
    /// Names of the instances, as listed by `instances list`
    #[arg(required = true)]
    pub(crate) id: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct TokenArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArg,
    #[command(subcommand)]
    pub(crate) command: TokenCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Create a token and print the secret, once
    #[command(after_help = "Example:\n  longshore token create --role user alice")]
    Create {
        /// admin: all rights; dispatcher: lock and report; user: own containers only
        #[arg(long, value_parser = ["admin", "dispatcher", "user"], default_value = "user")]
        role: String,
        /// Name of the owner
        owner: String,
    },
    /// List tokens, without secrets
    #[command(after_help = "Example:\n  longshore token list --json")]
    List {
        #[command(flatten)]
        json: JsonArg,
    },
    /// Revoke a token
    #[command(after_help = "Example:\n  longshore token revoke zzzzz-gj3su-0123456789abcde")]
    Revoke {
        /// UUID of the token, as listed by `token list`
        uuid: String,
    },
}

#[derive(Args, Debug)]
pub(crate) struct ReplayArgs {
    /// Journal file
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}

fn parse_byte_size(text: &str) -> Result<u64, String> {
    longshore_units::parse_byte_size(text)
        .map_err(|error| format!("{error}: expected a number and a unit, such as 512MiB or 4GB"))
}

/// Parses a number of seconds, or a duration, rounded up to seconds.
fn parse_seconds(text: &str) -> Result<u32, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    let duration = longshore_units::parse_duration(text)
        .map_err(|error| format!("{error}: expected a duration such as 90s or 1h30m"))?;
    let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    u32::try_from(seconds).map_err(|_| "a duration of more than 136 years".to_owned())
}

fn parse_env(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}
