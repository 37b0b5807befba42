//! Reader of the peer's cluster configuration file: YAML, `Clusters: {zzzzz: {…}}`, exactly one
//! cluster.
//!
//! All errors are reported at once, each with path, line, found value, expected value and advice.
//! Unknown keys get a warning, keys of other programs of the cluster do not. Nulls and entries named
//! `SAMPLE` count as absent.
//!
//! Differences from the peer: digits in quotes are a size like any other (the peer drops them
//! silently), and a duplicate key is an error.

use std::io::Read as _;
use std::path::Path;

mod cloud_vms;
mod cluster;
mod containers;
mod host;
mod instance_types;
#[cfg(test)]
mod keys;
mod reader;
#[cfg(test)]
mod reference;
mod report;
mod sections;
mod tree;

#[cfg(test)]
mod tests;

pub use cluster::{
    Api, BuiltinQueue, CloudVms, ClusterConfig, InternalUrl, Log, LogFormat, LogLevel, Pem, Runner,
    RuntimeEngine, Services, TlsFiles,
};
pub use report::{ConfigError, ConfigErrors, ConfigWarning};

use reader::{Report, Section, UnknownKeys};

/// Size limit of the file.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Configuration read without errors.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Content of the file.
    pub cluster: ClusterConfig,
    /// Warnings for the log.
    pub warnings: Vec<ConfigWarning>,
}

/// Reads a configuration. Reads a private key given as `file:///path` too; the size of this host, if
/// the loopback driver has no types; and `/etc/services`, if the SSH port is a name.
///
/// # Errors
/// All errors of the text. No error contains the value of a secret.
pub fn load(text: &str) -> Result<Loaded, ConfigErrors> {
    load_into(&Report::default(), text)
}

/// Reads a configuration as [`load`] does, into a given report.
fn load_into(report: &Report, text: &str) -> Result<Loaded, ConfigErrors> {
    let tree = tree::Tree::parse(text).map_err(|e| ConfigErrors(vec![e]))?;
    let root = Section::root(&tree, report);
    let cluster = only_cluster(&root);
    root.finish(UnknownKeys::WarnIfSimilar);
    let (errors, warnings) = report.take();
    match cluster {
        Some(cluster) if errors.is_empty() => Ok(Loaded { cluster, warnings }),
        _ => Err(ConfigErrors(errors)),
    }
}

/// Reads the configuration in a file of at most 16 MiB; `-` is the standard input.
///
/// # Errors
/// Errors of [`load`], and failure to read the file.
pub fn load_file(path: &Path) -> Result<Loaded, ConfigErrors> {
    let text =
        read_file(path).map_err(|reason| ConfigErrors(vec![ConfigError::Unreadable { reason }]))?;
    load(&text)
}

fn read_file(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        let mut input = std::io::stdin().lock().take(FILE_BYTES_MAX + 1);
        input.read_to_string(&mut text)
    } else {
        let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
        file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)
    };
    match read {
        Ok(bytes) if bytes as u64 > FILE_BYTES_MAX => Err("it is larger than 16 MiB".into()),
        Ok(_) => Ok(text),
        Err(e) => Err(e.to_string()),
    }
}

/// Reads the only cluster of the file; errors go into the report. `None` if there is no cluster, or
/// more than one.
fn only_cluster(root: &Section<'_>) -> Option<ClusterConfig> {
    const EXPECTED: &str = "one cluster, under its id of five characters";
    let Some(clusters) = root.get("Clusters") else {
        root.missing("Clusters", EXPECTED, "begin the file with Clusters:");
        return None;
    };
    let named = clusters.section().named();
    let [(id, entry)] = named.as_slice() else {
        let ids: Vec<&str> = named.iter().map(|(id, _)| *id).collect();
        let found = format!("{} clusters ({})", ids.len(), ids.join(", "));
        clusters.wrong_as(found, EXPECTED, "keep the one that this host serves");
        return None;
    };
    let well_formed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if id.len() != 5 || !id.bytes().all(well_formed) {
        let found = format!("the id {:?}", id.chars().take(60).collect::<String>());
        let advice = "write the first five characters of the cluster's uuids";
        entry.wrong_as(found, "five characters of a-z and 0-9", advice);
    }
    Some(sections::cluster(id, entry.section()))
}
