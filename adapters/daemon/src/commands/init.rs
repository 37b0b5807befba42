//! `longshore init`: writes a working configuration for this machine.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use russh::keys::PrivateKey;
use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::{Ed25519Keypair, KeypairData};

use crate::cli::InitArgs;
use crate::error::{CliError, CliResult, Context as _};

pub(crate) fn run(args: &InitArgs) -> CliResult {
    let well_formed = |id: &str| {
        let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        id.len() == 5 && id.bytes().all(letter)
    };
    if !well_formed(&args.cluster_id) {
        return Err(CliError::usage(format!(
            "--cluster-id {:?}: expected five characters of a-z and 0-9",
            args.cluster_id
        )));
    }
    fs::create_dir_all(&args.dir).usage(args.dir.display())?;
    let dir = args.dir.canonicalize().usage(args.dir.display())?;
    let config = dir.join("config.yml");
    if config.exists() {
        return Err(CliError::usage(format!(
            "{} exists already: remove it, or choose another --dir",
            config.display()
        )));
    }
    let key = dir.join("dispatch_key");
    write_private(&key, &new_key()?)?;
    let text = Template {
        cluster_id: &args.cluster_id,
        queue_port: args.queue_port,
        management_port: args.management_port,
        root_token: &random_token()?,
        management_token: &random_token()?,
        dir: &dir,
    };
    write_private(&config, &text.fill())?;
    let config = config.display();
    println!(
        "{config} written. Next:\n  longshore queue --config {config} &\n  longshore dispatch \
         --config {config} &\n  longshore submit --config {config} --follow -- echo hello"
    );
    Ok(())
}

/// Values of the configuration template.
pub(crate) struct Template<'a> {
    pub(crate) cluster_id: &'a str,
    pub(crate) queue_port: u16,
    pub(crate) management_port: u16,
    pub(crate) root_token: &'a str,
    pub(crate) management_token: &'a str,
    pub(crate) dir: &'a Path,
}

impl Template<'_> {
    pub(crate) fn fill(&self) -> String {
        include_str!("init.yml")
            .replace("{cluster}", self.cluster_id)
            .replace("{queue_port}", &self.queue_port.to_string())
            .replace("{management_port}", &self.management_port.to_string())
            .replace("{root_token}", self.root_token)
            .replace("{management_token}", self.management_token)
            .replace("{dir}", &self.dir.display().to_string())
    }
}

/// 50 characters of a-z and 0-9, from the random number generator of the operating system.
pub(crate) fn random_token() -> CliResult<String> {
    const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut token = String::with_capacity(50);
    while token.len() < 50 {
        let mut bytes = [0; 64];
        getrandom::fill(&mut bytes).failed("random numbers")?;
        // 252 is the largest multiple of 36 below 256: larger bytes would favour some letters.
        let fair = bytes.iter().filter(|b| **b < 252);
        let letters = fair.map(|b| char::from(LETTERS[usize::from(*b) % 36]));
        token.extend(letters.take(50 - token.len()));
    }
    Ok(token)
}

/// New ED25519 key in OpenSSH's format.
pub(crate) fn new_key() -> CliResult<String> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).failed("random numbers")?;
    let pair = KeypairData::from(Ed25519Keypair::from_seed(&seed));
    let key = PrivateKey::new(pair, "longshore").failed("the SSH key")?;
    let text = key.to_openssh(LineEnding::LF).failed("the SSH key")?;
    Ok(text.to_string())
}

/// Writes a new file, readable by the owner only.
pub(crate) fn write_private(path: &Path, text: &str) -> CliResult {
    let mut open = fs::OpenOptions::new();
    let open = open.write(true).create_new(true).mode(0o600);
    let mut file = open.open(path).usage(path.display())?;
    file.write_all(text.as_bytes()).failed(path.display())
}
