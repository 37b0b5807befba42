//! Command line in the flag syntax of dispatchers: `-x`, `--x`, `--x=v` and `-x v` are equivalent,
//! and flags end at the first positional argument.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Parsed command line.
#[derive(Debug, Clone)]
pub(crate) struct Flags {
    pub(crate) detach: bool,
    pub(crate) stdin_config: bool,
    pub(crate) list: bool,
    pub(crate) stdin_prices: bool,
    pub(crate) kill: Option<i32>,
    /// Path of a cluster configuration file from the command line.
    pub(crate) config: Option<PathBuf>,
    pub(crate) runtime_engine: String,
    pub(crate) broken_node_hook: Option<PathBuf>,
    pub(crate) enable_memory_limit: bool,
    pub(crate) ca_certs: Option<PathBuf>,
    pub(crate) sleep: Duration,
    pub(crate) version: bool,
    pub(crate) lock_dir: PathBuf,
    pub(crate) log_dir: PathBuf,
    pub(crate) scratch_dir: PathBuf,
    pub(crate) term_grace: Duration,
    pub(crate) no_cgroups: bool,
    pub(crate) uuid: Option<String>,
}

/// Result of parsing a command line.
pub(crate) enum Parsed {
    Flags(Box<Flags>),
    /// Help text, requested by a flag.
    Help(String),
    /// Error message and usage text.
    Usage(String),
}

/// Parses the arguments after the program name and the internal markers.
pub(crate) fn parse(args: &[OsString]) -> Parsed {
    let mut words = Vec::with_capacity(args.len());
    for arg in args {
        match arg.to_str() {
            Some(word) => words.push(word),
            None => {
                return Parsed::Usage(format!(
                    "argument is not UTF-8: {}\n",
                    arg.to_string_lossy()
                ));
            }
        }
    }
    match read(&words) {
        Ok((values, positional)) => build(&values, &positional),
        Err(Stop::Help) => Parsed::Help(usage()),
        Err(Stop::Bad(why)) => Parsed::Usage(format!("{why}\n{}", usage())),
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Bool,
    Int,
    Text,
    Time,
}

#[derive(Debug, Clone)]
enum Value {
    Bool(bool),
    Int(i64),
    Text(String),
    Time(Duration),
}

enum Stop {
    Help,
    Bad(String),
}

const COMPATIBLE: &str = "accepted for compatibility, without effect";

const TABLE: &[(&str, Kind, &str)] = &[
    (
        "broken-node-hook",
        Kind::Text,
        "program to run when this node looks broken; empty: write the flag file",
    ),
    (
        "ca-certs",
        Kind::Text,
        "PEM file of certificate authorities to trust besides the system's",
    ),
    ("cgroup-parent", Kind::Text, COMPATIBLE),
    ("cgroup-parent-subsystem", Kind::Text, COMPATIBLE),
    ("cgroup-root", Kind::Text, COMPATIBLE),
    ("check-containerd", Kind::Time, COMPATIBLE),
    (
        "config",
        Kind::Text,
        "cluster configuration file; cannot be read yet: use -stdin-config",
    ),
    ("container-enable-networking", Kind::Text, COMPATIBLE),
    ("container-network-mode", Kind::Text, COMPATIBLE),
    ("crunchstat-interval", Kind::Time, COMPATIBLE),
    ("detach", Kind::Bool, "start in the background"),
    (
        "enable-memory-limit",
        Kind::Bool,
        "hold the container to runtime_constraints.ram (default true)",
    ),
    (
        "kill",
        Kind::Int,
        "send this signal to the container's runner; 9 kills the whole process tree",
    ),
    ("list", Kind::Bool, "list the containers that run here"),
    (
        "lock-dir",
        Kind::Text,
        "directory of the lock files (default $LONGSHORE_LOCK_DIR or /var/lock)",
    ),
    (
        "log-dir",
        Kind::Text,
        "directory of local logs (default $LONGSHORE_LOG_DIR or /var/log/longshore)",
    ),
    ("memprofile", Kind::Text, COMPATIBLE),
    (
        "no-cgroups",
        Kind::Bool,
        "make no control groups: another manager owns that tree",
    ),
    (
        "no-detach",
        Kind::Bool,
        "only as the very first argument: set by the detaching parent",
    ),
    (
        "runtime-engine",
        Kind::Text,
        "process (docker, podman and singularity are not built yet)",
    ),
    (
        "scratch-dir",
        Kind::Text,
        "directory of scratch space (default $LONGSHORE_SCRATCH_DIR or /tmp/longshore)",
    ),
    ("sleep", Kind::Time, "wait before the start"),
    (
        "stdin-config",
        Kind::Bool,
        "read one JSON configuration document from stdin",
    ),
    (
        "stdin-prices",
        Kind::Bool,
        "with -list: read the price history from stdin",
    ),
    (
        "term-grace",
        Kind::Time,
        "from TERM to KILL when the time limit is over (default 10s)",
    ),
    ("version", Kind::Bool, "print the version"),
];

type Values = BTreeMap<&'static str, Value>;

fn read<'a>(words: &[&'a str]) -> Result<(Values, Vec<&'a str>), Stop> {
    let mut values = Values::new();
    let mut rest = words;
    while let Some((&word, after)) = rest.split_first() {
        if word.len() < 2 || !word.starts_with('-') {
            break;
        }
        rest = after;
        if word == "--" {
            break;
        }
        let body = word
            .strip_prefix("--")
            .or_else(|| word.strip_prefix('-'))
            .unwrap_or(word);
        if body.starts_with('-') || body.starts_with('=') {
            return Err(Stop::Bad(format!("bad flag syntax: {word}")));
        }
        let (name, given) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (body, None),
        };
        let Some(&(name, kind, _)) = TABLE.iter().find(|(known, ..)| *known == name) else {
            if matches!(name, "help" | "h") {
                return Err(Stop::Help);
            }
            return Err(Stop::Bad(format!("flag provided but not defined: -{name}")));
        };
        let text = match (kind, given) {
            (_, Some(value)) => value,
            (Kind::Bool, None) => "true",
            (_, None) => match rest.split_first() {
                Some((&next, after)) => {
                    rest = after;
                    next
                }
                None => return Err(Stop::Bad(format!("flag needs an argument: -{name}"))),
            },
        };
        let value = typed(kind, text).ok_or_else(|| {
            Stop::Bad(format!(
                "invalid value \"{text}\" for flag -{name}: parse error"
            ))
        })?;
        values.insert(name, value);
    }
    Ok((values, rest.to_vec()))
}

fn typed(kind: Kind, text: &str) -> Option<Value> {
    Some(match kind {
        Kind::Bool => Value::Bool(match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
            "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
            _ => return None,
        }),
        Kind::Int => Value::Int(text.parse().ok()?),
        Kind::Text => Value::Text(text.to_owned()),
        Kind::Time => Value::Time(duration(text)?),
    })
}

/// Parses `1h30m`, `1.5s`, `300ms`, or a number of seconds. Negative values are refused.
fn duration(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(Duration::from_secs(u64::from(seconds)));
    }
    longshore_units::parse_duration(text).ok()
}

fn build(values: &Values, positional: &[&str]) -> Parsed {
    let on = |name: &str, default: bool| match values.get(name) {
        Some(Value::Bool(value)) => *value,
        _ => default,
    };
    let text = |name: &str| match values.get(name) {
        Some(Value::Text(value)) if !value.is_empty() => Some(value.clone()),
        _ => None,
    };
    let time = |name: &str, default: Duration| match values.get(name) {
        Some(Value::Time(value)) => *value,
        _ => default,
    };
    let dir = |name: &str, variable: &str, default: &str| {
        let set = std::env::var_os(variable).filter(|value| !value.is_empty());
        let chosen = text(name)
            .map(PathBuf::from)
            .or_else(|| set.map(PathBuf::from));
        let chosen = chosen.unwrap_or_else(|| default.into());
        // Absolute, because processes in other working directories read the path from the lock
        // file.
        std::path::absolute(&chosen).unwrap_or(chosen)
    };
    let kill = match values.get("kill") {
        Some(Value::Int(signal)) if *signal >= 0 => match i32::try_from(*signal) {
            Ok(signal) => Some(signal),
            Err(_) => {
                let why =
                    format!("invalid value \"{signal}\" for flag -kill: value out of range\n");
                return Parsed::Usage(why + &usage());
            }
        },
        _ => None,
    };
    if let [_, extra, ..] = positional {
        return Parsed::Usage(format!(
            "unexpected argument after the uuid: {extra}\n{}",
            usage()
        ));
    }
    Parsed::Flags(Box::new(Flags {
        detach: on("detach", false),
        stdin_config: on("stdin-config", false),
        list: on("list", false),
        stdin_prices: on("stdin-prices", false),
        kill,
        config: text("config").map(PathBuf::from),
        runtime_engine: text("runtime-engine").unwrap_or_else(|| "docker".to_owned()),
        broken_node_hook: text("broken-node-hook").map(PathBuf::from),
        enable_memory_limit: on("enable-memory-limit", true),
        ca_certs: text("ca-certs").map(PathBuf::from),
        sleep: time("sleep", Duration::ZERO),
        version: on("version", false),
        lock_dir: dir("lock-dir", "LONGSHORE_LOCK_DIR", "/var/lock"),
        log_dir: dir("log-dir", "LONGSHORE_LOG_DIR", "/var/log/longshore"),
        scratch_dir: dir("scratch-dir", "LONGSHORE_SCRATCH_DIR", "/tmp/longshore"),
        term_grace: time("term-grace", Duration::from_secs(10)),
        no_cgroups: on("no-cgroups", false),
        uuid: positional.first().map(|&uuid| uuid.to_owned()),
    }))
}

fn usage() -> String {
    let mut text = String::from("Usage: longshore-runner [flags] container-uuid\n");
    for (name, kind, help) in TABLE {
        let value = match kind {
            Kind::Bool => "",
            Kind::Int => " int",
            Kind::Text => " string",
            Kind::Time => " duration",
        };
        text += &format!("  -{name}{value}\n    \t{help}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(words: &[&str]) -> Result<Box<Flags>, String> {
        let args: Vec<OsString> = words.iter().map(OsString::from).collect();
        match parse(&args) {
            Parsed::Flags(flags) => Ok(flags),
            Parsed::Help(_) => Err("help".to_owned()),
            Parsed::Usage(text) => Err(text),
        }
    }

    #[test]
    fn all_flag_spellings_are_equivalent() -> Result<(), String> {
        for words in [
            ["-kill", "15", "u"].as_slice(),
            &["--kill", "15", "u"],
            &["--kill=15", "u"],
            &["-kill=15", "u"],
        ] {
            let flags = flags(words)?;
            assert_eq!((flags.kill, flags.uuid.as_deref()), (Some(15), Some("u")));
        }
        Ok(())
    }

    #[test]
    fn flags_end_at_positional_or_double_dash() {
        assert!(flags(&["u", "--list"]).is_err_and(|e| e.contains("unexpected argument")));
        assert_eq!(
            flags(&["--", "-u"]).map(|f| f.uuid),
            Ok(Some("-u".to_owned()))
        );
    }

    #[test]
    fn every_flag_in_table_parses() {
        for (name, kind, _) in TABLE {
            let word = match kind {
                Kind::Bool => format!("--{name}=false"),
                Kind::Int => format!("--{name}=-1"),
                Kind::Text => format!("--{name}=x"),
                Kind::Time => format!("--{name}=10s"),
            };
            assert!(flags(&[&word, "u"]).is_ok(), "{word}");
        }
    }

    #[test]
    fn invalid_command_line_names_reason() {
        assert!(flags(&["--frob"]).is_err_and(|e| e.contains("not defined: -frob")));
        assert!(flags(&["--kill"]).is_err_and(|e| e.contains("needs an argument: -kill")));
        assert!(flags(&["--kill", "x"]).is_err_and(|e| e.contains("invalid value \"x\"")));
        assert!(flags(&["---kill"]).is_err_and(|e| e.contains("bad flag syntax")));
        assert!(flags(&["--list=maybe"]).is_err_and(|e| e.contains("invalid value \"maybe\"")));
        assert!(flags(&["-help"]).is_err_and(|e| e == "help"));
    }

    #[test]
    fn durations_are_parsed_with_units() {
        assert_eq!(duration("1h30m"), Some(Duration::from_secs(5400)));
        assert_eq!(duration("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!(duration("0"), Some(Duration::ZERO));
        assert_eq!(duration("7"), Some(Duration::from_secs(7)));
        assert!(
            ["", "5 s", "x", "1.2.3s", "s"]
                .iter()
                .all(|bad| duration(bad).is_none())
        );
    }
}
