//! Settings of the SSH connections and of the runner, with validation.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use longshore_secret::Secret;
use russh::keys::PrivateKey;

/// Login settings for the VMs of one cloud.
#[derive(Clone, Debug)]
pub struct SshSettings {
    /// User name for the login.
    pub user: String,
    /// True if commands that need root are run by `sudo`.
    pub sudo: bool,
    /// Port for addresses without a port.
    pub default_port: u16,
    /// Private key for the login.
    pub key: SshKey,
    /// Path of the instance secret on a VM, as a shell word. May contain variables.
    pub secret_path: String,
    /// Maximum number of concurrent key exchanges, at least 1.
    pub connects_max: usize,
}

/// Settings of the software on the VMs.
#[derive(Clone, Debug)]
pub struct RemoteSettings {
    /// Prefix of the container uuids of this cluster, five characters.
    pub cluster_id: String,
    /// Shell command that succeeds once a VM is ready; blank for none.
    pub boot_probe_command: String,
    /// Source of the runner binary.
    pub runner: RunnerSource,
    /// Additional arguments for each start of the runner.
    pub runner_args: Vec<String>,
    /// Value of the runner's `--runtime-engine`.
    pub runtime_engine: String,
}

/// Source of the runner binary on a VM.
#[derive(Clone)]
pub enum RunnerSource {
    /// Copied to the VM by the dispatcher.
    Deploy {
        /// Content of the binary.
        binary: Bytes,
        /// Target directory: an absolute path, optionally starting with a variable of the VM's
        /// shell.
        directory: String,
        /// File name without `~` and the checksum.
        name: String,
    },
    /// Part of the VM image.
    Installed {
        /// Shell words of the runner command.
        command: String,
    },
}

/// Shows the length of the binary, not the content.
impl fmt::Debug for RunnerSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deploy {
                binary,
                directory,
                name,
            } => f
                .debug_struct("Deploy")
                .field("binary_bytes", &binary.len())
                .field("directory", directory)
                .field("name", name)
                .finish(),
            Self::Installed { command } => f
                .debug_struct("Installed")
                .field("command", command)
                .finish(),
        }
    }
}

/// Invalid setting. The message contains the name, the expected value and the actual value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Invalid cluster id: correct the key under `Clusters`.
    #[error("cluster id {0:?}: expected five characters of a-z and 0-9")]
    ClusterId(String),
    /// Directory not safe in a command line: choose a is_plain path.
    #[error(
        "DeployRunnerDirectory {0:?}: expected an absolute path of letters, digits and `_ . - + /` \
         (a variable such as $HOME is allowed)"
    )]
    Directory(String),
    /// File name not safe in a command line.
    #[error("runner name {0:?}: expected letters, digits and `_ . -`")]
    Name(String),
    /// Empty runner binary.
    #[error("DeployRunnerBinary: the file is empty")]
    EmptyBinary,
    /// Missing runner command: set the command, or let the dispatcher deploy the runner.
    #[error("CrunchRunCommand: expected a command, found nothing")]
    Command,
    /// Missing or invalid user name: set in the settings of the driver.
    #[error("SSH user {0:?}: expected a user name")]
    User(String),
    /// Missing path of the instance secret.
    #[error("path of the instance secret: expected a path, found nothing")]
    SecretPath,
    /// Zero concurrent key exchanges: no connection would ever be established.
    #[error("connections being made at a time: expected at least 1, found 0")]
    Connects,
}

impl SshSettings {
    pub(crate) fn check(&self) -> Result<(), SettingsError> {
        if self.user.is_empty() || self.user.contains(char::is_whitespace) {
            return Err(SettingsError::User(self.user.clone()));
        }
        if self.secret_path.trim().is_empty() {
            return Err(SettingsError::SecretPath);
        }
        if self.connects_max == 0 {
            return Err(SettingsError::Connects);
        }
        Ok(())
    }
}

impl RemoteSettings {
    pub(crate) fn check(&self) -> Result<(), SettingsError> {
        let id = &self.cluster_id;
        let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        if id.len() != 5 || !id.bytes().all(is_plain) {
            return Err(SettingsError::ClusterId(id.clone()));
        }
        match &self.runner {
            RunnerSource::Deploy {
                binary,
                directory,
                name,
            } => {
                if binary.is_empty() {
                    return Err(SettingsError::EmptyBinary);
                }
                if !is_plain_directory(directory) {
                    return Err(SettingsError::Directory(directory.clone()));
                }
                let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
                if !name.bytes().all(is_plain) || name.is_empty() || name.starts_with(['-', '.']) {
                    return Err(SettingsError::Name(name.clone()));
                }
            }
            RunnerSource::Installed { command } if command.trim().is_empty() => {
                return Err(SettingsError::Command);
            }
            RunnerSource::Installed { .. } => {}
        }
        Ok(())
    }
}

/// True if the directory is one shell word, quoted or not.
fn is_plain_directory(directory: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-+/${}".contains(&b);
    directory.starts_with(['/', '$']) && directory.bytes().all(is_plain)
}

/// Private key for the login.
#[derive(Clone)]
pub struct SshKey {
    pub(crate) private: Arc<PrivateKey>,
    public: String,
}

/// Error of a private key. No message quotes the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Empty text: set the key, or `file:///` and the path of the key file.
    #[error("no SSH private key is set: expected its text in PEM or OpenSSH format")]
    Empty,
    /// Encrypted key: nobody can type a passphrase. `ssh-keygen -p -N ''` on a copy removes the
    /// passphrase.
    #[error(
        "the SSH private key is encrypted with a passphrase: expected an unencrypted one \
         (`ssh-keygen -p -N '' -f FILE` removes the passphrase)"
    )]
    Encrypted,
    /// Public key in place of the private key.
    #[error("this is an SSH public key: expected the private one (the file without `.pub`)")]
    Public,
    /// Neither PEM nor OpenSSH format, or truncated.
    #[error(
        "the SSH private key cannot be read: expected PEM or OpenSSH text, whole, from \
         `-----BEGIN … PRIVATE KEY-----` to `-----END … PRIVATE KEY-----`"
    )]
    Unreadable,
    /// Unsupported kind of key: use Ed25519, ECDSA or RSA.
    #[error("the SSH private key is of an unsupported kind: expected Ed25519, ECDSA or RSA")]
    Unsupported,
}

impl SshKey {
    /// Parses an unencrypted key in PEM (PKCS#1, PKCS#8, SEC1) or OpenSSH format.
    ///
    /// # Errors
    /// If the text is not a usable private key. The error contains no part of the text.
    pub fn parse(text: &Secret) -> Result<Self, KeyError> {
        let plain = text.expose().trim();
        if plain.is_empty() {
            return Err(KeyError::Empty);
        }
        if ["ssh-", "ecdsa-sha2-", "-----BEGIN PUBLIC"]
            .iter()
            .any(|start| plain.starts_with(start))
        {
            return Err(KeyError::Public);
        }
        if plain.contains("ENCRYPTED") {
            return Err(KeyError::Encrypted);
        }
        let private = russh::keys::decode_secret_key(plain, None).map_err(|e| match e {
            russh::keys::Error::KeyIsEncrypted => KeyError::Encrypted,
            russh::keys::Error::UnsupportedKeyType { .. }
            | russh::keys::Error::UnknownAlgorithm(_) => KeyError::Unsupported,
            _ => KeyError::Unreadable,
        })?;
        if private.is_encrypted() {
            return Err(KeyError::Encrypted);
        }
        let public = private
            .public_key()
            .to_openssh()
            .map_err(|_| KeyError::Unsupported)?;
        Ok(Self {
            private: Arc::new(private),
            public,
        })
    }

    /// Public key, as a line for `authorized_keys`.
    #[must_use]
    pub fn public_line(&self) -> &str {
        &self.public
    }
}

impl fmt::Debug for SshKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SshKey({})", self.public)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW
QyNTUxOQAAACBPLACEHOLDER
-----END OPENSSH PRIVATE KEY-----
";

    #[test]
    fn unreadable_key_is_not_quoted() {
        let error = SshKey::parse(&Secret::new(KEY)).unwrap_err();
        assert_eq!(error, KeyError::Unreadable);
        assert!(!format!("{error} {error:?}").contains("b3Blbn"));
    }

    #[test]
    fn invalid_keys_have_distinct_errors() {
        for (text, error) in [
            ("", KeyError::Empty),
            (" \n", KeyError::Empty),
            ("ssh-ed25519 AAAAC3 me@here", KeyError::Public),
            (
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMII=\n",
                KeyError::Encrypted,
            ),
            ("file:///etc/key", KeyError::Unreadable),
        ] {
            assert_eq!(
                SshKey::parse(&Secret::new(text)).unwrap_err(),
                error,
                "{text:?}"
            );
        }
    }

    fn settings(runner: RunnerSource) -> RemoteSettings {
        RemoteSettings {
            cluster_id: "zzzzz".into(),
            boot_probe_command: String::new(),
            runner,
            runner_args: vec![],
            runtime_engine: "docker".into(),
        }
    }

    fn deploy_to(directory: &str) -> Result<(), SettingsError> {
        settings(RunnerSource::Deploy {
            binary: Bytes::from_static(b"x"),
            directory: directory.into(),
            name: "longshore-runner".into(),
        })
        .check()
    }

    #[test]
    fn unsafe_directories_are_refused() {
        assert_eq!(deploy_to("/var/lib/arvados"), Ok(()));
        assert_eq!(deploy_to("${LONGSHORE_VM_DIR}/bin"), Ok(()));
        for wrong in [
            "", "lib", "/a b", "/a;b", "$(id)", "/a'b", "/a\"b", "/a`b`", "/a\nb",
        ] {
            assert_eq!(
                deploy_to(wrong),
                Err(SettingsError::Directory(wrong.into()))
            );
        }
    }

    #[test]
    fn cluster_id_needs_five_characters() {
        let mut settings = settings(RunnerSource::Installed {
            command: "crunch-run".into(),
        });
        assert_eq!(settings.check(), Ok(()));
        settings.cluster_id = "zzzz".into();
        assert_eq!(
            settings.check(),
            Err(SettingsError::ClusterId("zzzz".into()))
        );
    }
}
