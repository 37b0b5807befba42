//! The page `docs/configuration.md`, rendered from the table of keys, and the comparison of that table
//! with the reader.
//!
//! `BLESS=1 cargo test -p longshore-cluster-config reference` writes the page anew.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use super::cluster::ClusterConfig;
use super::keys::{Default, IGNORED, KEYS, Key, NOT_FOLLOWED, Origin, Unit};
use super::reader::{Recorded, Report};
use super::{ConfigErrors, Loaded, load_into};

/// Document with required keys only, a type and a queue of required keys only included.
const REQUIRED_ONLY: &str = "\
Clusters:
  zzzzz:
    Services: {Controller: {ExternalURL: \"https://zzzzz.example.com\"}}
    Longshore: {Queue: {Database: /queue.db}}
    InstanceTypes: {a: {VCPUs: 1}}
";

/// Sections in the order of the page, by the beginning of the paths of their keys; the first match
/// counts.
const SECTIONS: &[(&str, &str, &str)] = &[
    (
        "Containers.CloudVMs.",
        "`Containers.CloudVMs`",
        "Section of the dispatcher.",
    ),
    (
        "Containers.",
        "`Containers`",
        "Sizing of containers, and the runner.",
    ),
    (
        "InstanceTypes.*.",
        "`InstanceTypes.NAME`",
        "Types that may be created. With the driver `loopback`, no types at all mean one type \
         `localhost` of the size of this host at 1 dollar an hour.",
    ),
    (
        "",
        "The cluster",
        "Tokens, addresses, logs, the built-in queue.",
    ),
];

const HEAD: &str = "\
# Configuration

<!-- Generated from adapters/cluster-config/src/keys.rs. Do not edit by hand:
     BLESS=1 cargo test -p longshore-cluster-config reference -->

Every command reads the cluster's own file, `/etc/arvados/config.yml` unless `--config FILE` or
`ARVADOS_CONFIG` names another one (`-` reads standard input). The file has one cluster under
`Clusters: {zzzzz: {…}}`; paths below are relative to that cluster. `longshore init` writes a commented
file for one machine.

All mistakes are reported at once, each with path, line, found value, expected value and advice. Keys that
nobody knows are ignored with a warning that names the nearest known key. A key given twice is an error.
`null` counts as absent, and so does an entry named `SAMPLE`.

The column *default* shows the value used for a file with required keys only. *Whose*: `peer` keys are
those of arvados-dispatch-cloud and mean the same there; `Longshore` keys are new.

On HUP, `longshore dispatch` reads the file again. Everything that decisions depend on is taken over at
once. A change of the cluster's id, `SystemRootToken`, `Services`, `TLS.Insecure`, the settings of the
driver and of the runner, `DispatchPrivateKey`, `SystemLogs` or `API.MaxConcurrentRequests` needs a restart:
such a key is named in the log, and then nothing of the new file is used.

Units:

- duration: Go's syntax, such as `300ms`, `10s`, `1h30m`; a bare number other than 0 is an error.
- duration > 0: the same; zero or less means the default.
- bytes: a number with or without a unit, such as `4000000000`, `64MiB` or `1.5GB`.
- count, 0 = off: zero or less means \"no limit\" or \"off\".
- count > 0: zero or less means the default.
- per second: calls per second, fractions allowed (`0.2` is twelve a minute, one at a time); zero or less
  means no limit. A burst has as many calls as one second brings, at least one.
- dollars: decimal, exact to a millionth.
";

const TAIL: &str = "\
## `Containers.CloudVMs.DriverParameters` of the driver `loopback`

| key | default | unit | meaning |
|---|---|---|---|
| `StateDir` | `loopback` in the state directory of the dispatcher | text | Absolute path for everything about the VMs. |
| `MaxInstances` | 8 | count | VMs at a time, of all instance sets in this directory; one more is a quota error. |
| `BootDelay` | 0 | duration | A VM opens its SSH port this long after its creation. |
| `TerminatedShown` | 1m | duration | A VM that has ended is listed as terminated for this long. |

The keys of the driver `ec2` are in [ec2.md](ec2.md).
";

/// The page, with the defaults found in `cluster`.
fn page(cluster: &ClusterConfig) -> String {
    let mut page = HEAD.to_owned();
    for (prefix, title, about) in SECTIONS {
        let _ = write!(
            page,
            "\n## {title}\n\n{about}\n\n| key | default | unit | meaning | whose |\n|---|---|---|---|---|\n"
        );
        for key in KEYS.iter().filter(|key| section_of(key.path) == *prefix) {
            page.push_str(&row(key, prefix, cluster));
        }
    }
    page.push_str("\n## Checked, without effect\n\n| key | reason |\n|---|---|\n");
    for (path, reason) in NOT_FOLLOWED {
        let _ = writeln!(page, "| `{path}` | {reason} |");
    }
    page.push_str(
        "\n## Ignored: keys of other programs\n\nAccepted without a warning, and never read. Sections of \
         the cluster that are not named on this\npage are ignored too.\n\n",
    );
    for path in IGNORED {
        let _ = writeln!(page, "- `{}`", path.replace('*', "NAME"));
    }
    page.push('\n');
    page.push_str(TAIL);
    page
}

fn section_of(path: &str) -> &'static str {
    let found = SECTIONS
        .iter()
        .find(|(prefix, ..)| path.starts_with(prefix));
    found.map_or("", |(prefix, ..)| prefix)
}

fn row(key: &Key, prefix: &str, cluster: &ClusterConfig) -> String {
    let name = key.path.strip_prefix(prefix).unwrap_or(key.path);
    let name = name.replace('*', "URL");
    let default = match key.default {
        Default::Required => "required".to_owned(),
        Default::Read(read) => read(cluster),
        Default::Rule(rule) => rule.to_owned(),
    };
    let unit = unit_name(key.unit);
    let whose = match key.origin {
        Origin::Peer => "peer",
        Origin::Longshore => "Longshore",
    };
    format!(
        "| `{name}` | {default} | {unit} | {} | {whose} |\n",
        key.meaning
    )
}

fn unit_name(unit: Unit) -> &'static str {
    match unit {
        Unit::Text => "text",
        Unit::Secret => "text, secret",
        Unit::Bool => "true or false",
        Unit::Duration => "duration > 0",
        Unit::DurationOrZero => "duration",
        Unit::Size => "bytes",
        Unit::Count => "count",
        Unit::CountOrOff => "count, 0 = off",
        Unit::CountOrDefault => "count > 0",
        Unit::Rate => "per second",
        Unit::Factor => "number",
        Unit::Dollars => "dollars",
        Unit::List => "list",
        Unit::Map => "names with values",
        Unit::Section => "section",
        Unit::Url => "URL",
    }
}

fn load_recorded(text: &str) -> (Result<Loaded, ConfigErrors>, Recorded) {
    let report = Report::default();
    let loaded = load_into(&report, text);
    (loaded, report.recorded.take())
}

/// Path below the cluster, with `*` for names chosen by the operator and `[]` for items of lists.
fn pattern(path: &str) -> String {
    const NAMED: [&str; 2] = ["InstanceTypes.", "Services.DispatchCloud.InternalURLs."];
    let path = path.splitn(3, '.').nth(2).unwrap_or_default();
    let path = match path.split_once('[') {
        Some((list, item)) => {
            let rest = item.split_once(']').map_or("", |(_, rest)| rest);
            format!("{list}[]{rest}")
        }
        None => path.to_owned(),
    };
    let Some(map) = NAMED.iter().find(|map| path.starts_with(**map)) else {
        return path;
    };
    let name = &path[map.len()..];
    let key = name
        .rfind("GPU.")
        .or_else(|| name.rfind('.').map(|dot| dot + 1));
    key.map_or(path.clone(), |at| format!("{map}*.{}", &name[at..]))
}

fn patterns(paths: &BTreeSet<String>) -> BTreeSet<String> {
    let patterns = paths.iter().map(|path| pattern(path));
    patterns.filter(|path| !path.is_empty()).collect()
}

fn required_only() -> ClusterConfig {
    let (loaded, _) = load_recorded(REQUIRED_ONLY);
    loaded.unwrap_or_else(|e| panic!("{e}")).cluster
}

/// Text of `all_keys.yml` below the cluster, with a type that has a GPU.
fn document_with_every_section() -> String {
    let keys = include_str!("testdata/all_keys.yml");
    format!(
        "Clusters:\n  zzzzz:\n    Services:\n      Controller: {{ExternalURL: \"http://x\"}}\n{keys}    \
         InstanceTypes: {{a: {{VCPUs: 1, GPU: {{DeviceCount: 0}}}}}}\n"
    )
}

#[test]
fn keys_table_matches_reader_both_ways() {
    let (loaded, recorded) = load_recorded(&document_with_every_section());
    loaded.unwrap_or_else(|e| panic!("{e}"));
    // A section is declared only where its absence or its content has a meaning of its own.
    let is_plain_section = |path: &String| {
        let below = format!("{path}.");
        let declared = KEYS.iter().any(|key| key.path == path);
        !declared && KEYS.iter().any(|key| key.path.starts_with(&below))
    };
    let mut asked = patterns(&recorded.asked);
    asked.retain(|path| !is_plain_section(path));
    let followed = KEYS.iter().map(|key| key.path);
    let declared = followed.chain(NOT_FOLLOWED.iter().map(|(path, _)| *path));
    let declared: BTreeSet<String> = declared.map(str::to_owned).collect();
    let undeclared: Vec<_> = asked.difference(&declared).collect();
    assert!(
        undeclared.is_empty(),
        "read and not in the table: {undeclared:?}"
    );
    let unread: Vec<_> = declared.difference(&asked).collect();
    assert!(unread.is_empty(), "in the table and not read: {unread:?}");
    let ignored: BTreeSet<String> = IGNORED.iter().map(|path| (*path).to_owned()).collect();
    assert_eq!(patterns(&recorded.ignored), ignored);
}

#[test]
fn keys_required_are_those_reported_missing() {
    let (loaded, _) = load_recorded(
        "Clusters: {zzzzz: {Longshore: {Queue: {}}, InstanceTypes: {a: {}}, \
         Containers: {CloudVMs: {Budgets: [{}]}}}}",
    );
    let errors = loaded.map_or_else(|e| e.to_string(), |_| String::new());
    let missing = errors.lines().filter(|line| line.contains("found nothing"));
    let missing: BTreeSet<String> = missing
        .map(|line| {
            let path = line.split(" (line").next().unwrap_or_default();
            pattern(path)
        })
        .collect();
    let required = KEYS
        .iter()
        .filter(|key| matches!(key.default, Default::Required));
    let required: BTreeSet<String> = required.map(|key| key.path.to_owned()).collect();
    assert_eq!(missing, required, "{errors}");
}

#[test]
fn reference_page_equals_rendered_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let rendered = page(&required_only());
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &rendered).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        return;
    }
    let page = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(
        page == rendered,
        "docs/configuration.md differs from the table of keys; write it anew with \
         BLESS=1 cargo test -p longshore-cluster-config reference"
    );
}
