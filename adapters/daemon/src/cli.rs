//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Hidden: runs one loopback VM.
pub(crate) const LOOPBACK_VM: &str = "loopback-vm";

const EXIT_CODES: &str = "Exit status: 0 done, 1 failed, 2 the command line, the configuration or a \
                          given file is wrong.";

/// Dispatches containers to cloud VMs.
#[derive(Debug, Parser)]
#[command(name = "longshore", version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where the configuration is.
#[derive(Args, Clone, Debug)]
pub(crate) struct ConfigArg {
    /// Cluster configuration; `-` reads standard input.
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

/// Output for scripts.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct JsonArg {
    /// Print JSON, for scripts.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a commented configuration for this machine, with fresh tokens and keys.
    #[command(
        after_help = "Example:\n  longshore init --dir ~/longshore\n  longshore queue --config ~/longshore/config.yml"
    )]
    Init(InitArgs),
    /// Serve the built-in queue.
    #[command(after_help = "Example:\n  longshore queue --config ~/longshore/config.yml")]
    Queue(QueueArgs),
    /// Dispatch containers from the queue to VMs, until TERM or INT. HUP reads the configuration again.
    #[command(
        after_help = "Example:\n  longshore dispatch --config ~/longshore/config.yml --journal /var/log/longshore"
    )]
    Dispatch(DispatchArgs),
    /// Run a queue, a dispatcher and VMs on this host, and watch 60 containers go through.
    #[command(
        after_help = "Examples:\n  longshore demo --journal /tmp/demo\n  longshore demo --chaos --seed 7"
    )]
    Demo(DemoArgs),
    /// Try the cloud account, image and keys of the configuration before containers do: rent an
    /// instance, reach it, give it back, and say what is wrong on the way.
    ///
    /// It makes one instance at a time (in each configured subnet), which costs what a few minutes of
    /// that type cost, and destroys whatever it made, also after a failure and on TERM or INT. Its
    /// instances are of a set of their own: those of a dispatcher at work are not touched.
    #[command(
        after_help = "Example:\n  longshore cloudtest --config /etc/arvados/config.yml --command 'df -h /tmp'\n\nExit status: 0 all well, 1 a step failed or the test was stopped, 2 the command line or the configuration is wrong."
    )]
    Cloudtest(CloudtestArgs),
    /// Submit a container.
    #[command(
        after_help = "Example:\n  longshore submit --vcpus 2 --ram 1GiB --follow -- sh -c 'echo hello'"
    )]
    Submit(SubmitArgs),
    /// List containers.
    #[command(after_help = "Example:\n  longshore ps --all --json")]
    Ps(PsArgs),
    /// Show what a container has printed.
    #[command(after_help = "Example:\n  longshore logs -f zzzzz-dz642-0123456789abcde")]
    Logs(LogsArgs),
    /// Stop containers: set their priority to 0.
    #[command(after_help = "Example:\n  longshore cancel zzzzz-dz642-0123456789abcde")]
    Cancel(CancelArgs),
    /// Tell why a container waits, or why an instance is there and when it goes.
    #[command(
        after_help = "Example:\n  longshore explain zzzzz-dz642-0123456789abcde\n  longshore explain i-0123456789abcdef0"
    )]
    Explain(ExplainArgs),
    /// Tell whether a running dispatcher is able to work, and which types rest because they do not boot.
    #[command(
        after_help = "Example:\n  longshore health --json\n\nExit status: 0 it is able to work, 1 it is not or does not answer, 2 the command line or the configuration is wrong."
    )]
    Health(HealthArgs),
    /// See and steer the instances of a running dispatcher.
    Instances(InstancesArgs),
    /// Create, list and revoke tokens of the built-in queue.
    Token(TokenArgs),
    /// Run a journal again and prove that the same commands come out.
    #[command(
        after_help = "Example:\n  longshore replay /var/log/longshore/longshore-1790000000000000000.jsonl\n\nExit status: 0 the same, 1 another command came out or a line was changed, 2 not a journal."
    )]
    Replay(ReplayArgs),
    /// Run one VM of the loopback driver.
    #[command(name = LOOPBACK_VM, hide = true)]
    LoopbackVm {
        /// Its directory.
        dir: PathBuf,
    },
}

#[derive(Args, Debug)]
pub(crate) struct InitArgs {
    /// Where to write `config.yml`, the key and, later, the database; must not have a `config.yml`.
    #[arg(long, default_value = ".", value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Five characters of a-z and 0-9: the beginning of each container's uuid.
    #[arg(long, default_value = "local", value_name = "ID")]
    pub(crate) cluster_id: String,
    /// Port of the queue.
    #[arg(long, default_value_t = 9005)]
    pub(crate) queue_port: u16,
    /// Port of the management API.
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
    /// Record every input in a new file in this directory, for `longshore replay`. It grows until
    /// the process ends.
    #[arg(long, value_name = "DIR")]
    pub(crate) journal: Option<PathBuf>,
    /// Where to keep the leadership lock and, for the loopback driver, the VMs. By default
    /// /var/lib/longshore for root, else longshore in the user's state directory.
    #[arg(long, env = "LONGSHORE_STATE_DIR", value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// Containers to submit; at least 4, since four of them are special.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(4..=10_000))]
    pub(crate) containers: u32,
    /// Let VMs freeze, vanish, break and refuse, and the queue and the cloud lose answers; then prove
    /// that every container is accounted for.
    #[arg(long)]
    pub(crate) chaos: bool,
    /// Which faults `--chaos` deals, and in which order.
    #[arg(long, default_value_t = 1, requires = "chaos")]
    pub(crate) seed: u64,
    /// Record every input in a new file in this directory, for `longshore replay`.
    #[arg(long, value_name = "DIR")]
    pub(crate) journal: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}

#[derive(Args, Debug)]
pub(crate) struct CloudtestArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArg,
    /// Value of the tag InstanceSetID on the instances of the test.
    #[arg(long, value_name = "ID", default_value = "zzzzz-zzzzz-zzzzzzcloudtest",
          value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) instance_set_id: String,
    /// The image to boot from, instead of ImageID.
    #[arg(long, value_name = "ID")]
    pub(crate) image_id: Option<String>,
    /// A name under InstanceTypes; by default the cheapest.
    #[arg(long, value_name = "NAME")]
    pub(crate) instance_type: Option<String>,
    /// Destroy instances of the same set that are there already, such as those of an earlier test;
    /// otherwise they end the test.
    #[arg(long)]
    pub(crate) destroy_existing: bool,
    /// Shell command to run on the instance once it is ready; the test fails if it does.
    #[arg(long, value_name = "COMMAND")]
    pub(crate) command: Option<String>,
    /// Wait for Enter before the instance is destroyed, and tell how to log in.
    #[arg(long)]
    pub(crate) pause_before_destroy: bool,
    /// Where the loopback driver keeps its VMs. By default /var/lib/longshore for root, else
    /// longshore in the user's state directory.
    #[arg(long, env = "LONGSHORE_STATE_DIR", value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}

/// Where the queue is, for its users.
#[derive(Args, Clone, Debug)]
pub(crate) struct ClientArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArg,
    /// URL of the queue, instead of the configuration's.
    #[arg(long, env = "LONGSHORE_API_URL", value_name = "URL")]
    pub(crate) url: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct SubmitArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Cores; 0 shares one with other such containers.
    #[arg(long, default_value_t = 1)]
    pub(crate) vcpus: u32,
    /// Memory, such as 512MiB or 4GB.
    #[arg(long, default_value = "256MiB", value_parser = crate::sizes::parse)]
    pub(crate) ram: u64,
    /// Disk, such as 10GiB.
    #[arg(long, default_value = "0", value_parser = crate::sizes::parse)]
    pub(crate) scratch: u64,
    /// 1 to 1000; higher comes first.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(i64).range(1..))]
    pub(crate) priority: i64,
    /// Environment variable for the command; may be given several times.
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = parse_env)]
    pub(crate) env: Vec<(String, String)>,
    /// A name to recognise it by.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Run on preemptible instances.
    #[arg(long)]
    pub(crate) preemptible: bool,
    /// Seconds after which it is stopped; 0 for no limit.
    #[arg(long, default_value_t = 0)]
    pub(crate) max_run_time: u32,
    /// Wait for its end, show what it prints, and exit with its exit status.
    #[arg(long, short)]
    pub(crate) follow: bool,
    #[command(flatten)]
    pub(crate) json: JsonArg,
    /// The command and its arguments.
    #[arg(required = true, last = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct PsArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Also those that are over.
    #[arg(long, short)]
    pub(crate) all: bool,
    /// At most so many, newest first.
    #[arg(long, default_value_t = 100)]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}

#[derive(Args, Debug)]
pub(crate) struct LogsArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Go on until the container is over.
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// The container.
    pub(crate) uuid: String,
}

#[derive(Args, Debug)]
pub(crate) struct CancelArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// The containers.
    #[arg(required = true)]
    pub(crate) uuid: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArg,
    #[command(flatten)]
    pub(crate) json: JsonArg,
    /// A container's uuid, an instance's name, or a wish as `intent …` in the log names it.
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
    /// List instances, tab-separated: instance, address, state, idle behaviour, type, provider type,
    /// price, containers.
    #[command(after_help = "Example:\n  longshore instances list --header")]
    List {
        /// Print the names of the columns first.
        #[arg(long)]
        header: bool,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Take no containers, and never shut down.
    #[command(after_help = "Example:\n  longshore instances hold i-0123456789abcdef0")]
    Hold(InstanceIds),
    /// Take no containers, and shut down when the last one ends.
    #[command(after_help = "Example:\n  longshore instances drain i-0123456789abcdef0")]
    Drain(InstanceIds),
    /// Back to normal.
    #[command(after_help = "Example:\n  longshore instances run i-0123456789abcdef0")]
    Run(InstanceIds),
    /// Destroy now, whatever runs there.
    #[command(
        after_help = "Example:\n  longshore instances kill --reason 'disk errors' i-0123456789abcdef0"
    )]
    Kill {
        /// For the log.
        #[arg(long, default_value = "")]
        reason: String,
        #[command(flatten)]
        ids: InstanceIds,
    },
}

#[derive(Args, Debug)]
pub(crate) struct InstanceIds {
    /// The instances, as `instances list` names them.
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
    /// Make a token and print it, once.
    #[command(after_help = "Example:\n  longshore token create --role user alice")]
    Create {
        /// admin: everything; dispatcher: lock and report; user: own containers only.
        #[arg(long, value_parser = ["admin", "dispatcher", "user"], default_value = "user")]
        role: String,
        /// Whose.
        owner: String,
    },
    /// List tokens, without their secrets.
    #[command(after_help = "Example:\n  longshore token list --json")]
    List {
        #[command(flatten)]
        json: JsonArg,
    },
    /// End a token.
    #[command(after_help = "Example:\n  longshore token revoke zzzzz-gj3su-0123456789abcde")]
    Revoke {
        /// Its uuid, as `token list` shows it.
        uuid: String,
    },
}

#[derive(Args, Debug)]
pub(crate) struct ReplayArgs {
    /// The journal.
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) json: JsonArg,
}

fn parse_env(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}
