//! What the operator chose, checked.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use longshore_secret::Secret;
use russh::keys::PrivateKey;

/// How to log in to the VMs of one cloud.
#[derive(Clone, Debug)]
pub struct SshSettings {
    /// The user to log in as.
    pub user: String,
    /// Whether what needs root is put behind `sudo`.
    pub sudo: bool,
    /// For addresses without a port.
    pub default_port: u16,
    /// To log in with.
    pub key: SshKey,
    /// Where a VM keeps its secret, as a word of its shell; it may contain variables.
    pub secret_path: String,
    /// At most so many key exchanges at a time; at least 1.
    pub connects_max: usize,
}

/// What to run on the VMs.
#[derive(Clone, Debug)]
pub struct RemoteSettings {
    /// The five characters that our containers' uuids begin with.
    pub cluster_id: String,
    /// Shell command that succeeds once a VM is ready; blank for none.
    pub boot_probe_command: String,
    /// Where the runner comes from.
    pub runner: RunnerSource,
    /// Further arguments for each start of the runner.
    pub runner_args: Vec<String>,
    /// Value of the runner's `--runtime-engine`.
    pub runtime_engine: String,
}

/// Where the runner on a VM comes from.
#[derive(Clone)]
pub enum RunnerSource {
    /// It is copied there by us.
    Deploy {
        /// The program.
        binary: Bytes,
        /// Where to put it: an absolute path, which may begin with a variable of the VM's shell.
        directory: String,
        /// Its name there, before `~` and its checksum.
        name: String,
    },
    /// It is on the image.
    Installed {
        /// Shell words that start it.
        command: String,
    },
}

/// Shows how long the program is, not the program.
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

/// A setting cannot work. The message names it, says what was expected, and what was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The cluster's id has another form: correct the key under `Clusters`.
    #[error("cluster id {0:?}: expected five characters of a-z and 0-9")]
    ClusterId(String),
    /// The directory would break the command lines it becomes part of: choose a plain path.
    #[error(
        "DeployRunnerDirectory {0:?}: expected an absolute path of letters, digits and `_ . - + /` \
         (a variable such as $HOME is allowed)"
    )]
    Directory(String),
    /// The name would break the command lines it becomes part of.
    #[error("runner name {0:?}: expected letters, digits and `_ . -`")]
    Name(String),
    /// There is no program to deploy: the file is empty.
    #[error("DeployRunnerBinary: the file is empty")]
    EmptyBinary,
    /// There is no command: set it, or let the runner be deployed.
    #[error("CrunchRunCommand: expected a command, found nothing")]
    Command,
    /// No user to log in as: the driver's settings name it.
    #[error("SSH user {0:?}: expected a user name")]
    User(String),
    /// Nowhere to read the proof of identity.
    #[error("path of the instance secret: expected a path, found nothing")]
    SecretPath,
    /// With 0 nothing would ever be connected.
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
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        if id.len() != 5 || !id.bytes().all(plain) {
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
                let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
                if !name.bytes().all(plain) || name.is_empty() || name.starts_with(['-', '.']) {
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

/// Whether it stays one word in a shell, quoted or not.
fn is_plain_directory(directory: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-+/${}".contains(&b);
    directory.starts_with(['/', '$']) && directory.bytes().all(plain)
}

/// A private key to log in with.
#[derive(Clone)]
pub struct SshKey {
    pub(crate) private: Arc<PrivateKey>,
    public: String,
}

/// The text is no key that we can use. No message quotes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Nothing is there: give the key, or `file:///` and the path of its file.
    #[error("no SSH private key is set: expected its text in PEM or OpenSSH format")]
    Empty,
    /// Nobody is there to type a passphrase: `ssh-keygen -p -N ''` on a copy removes it.
    #[error(
        "the SSH private key is encrypted with a passphrase: expected an unencrypted one \
         (`ssh-keygen -p -N '' -f FILE` removes the passphrase)"
    )]
    Encrypted,
    /// The other half was given.
    #[error("this is an SSH public key: expected the private one (the file without `.pub`)")]
    Public,
    /// Neither PEM nor OpenSSH, or cut off.
    #[error(
        "the SSH private key cannot be read: expected PEM or OpenSSH text, whole, from \
         `-----BEGIN … PRIVATE KEY-----` to `-----END … PRIVATE KEY-----`"
    )]
    Unreadable,
    /// The format is right, the kind of key is not: use Ed25519, ECDSA or RSA.
    #[error("the SSH private key is of an unsupported kind: expected Ed25519, ECDSA or RSA")]
    Unsupported,
}

impl SshKey {
    /// Reads an unencrypted key in PEM (PKCS#1, PKCS#8, SEC1) or OpenSSH format.
    ///
    /// # Errors
    /// What is wrong with the text, without any of it.
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

    /// The public half, as a line for `authorized_keys`.
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
    fn a_broken_key_is_refused_without_quoting_it() {
        let said = SshKey::parse(&Secret::new(KEY)).unwrap_err();
        assert_eq!(said, KeyError::Unreadable);
        assert!(!format!("{said} {said:?}").contains("b3Blbn"));
    }

    #[test]
    fn what_is_no_private_key_gets_its_own_message() {
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
    fn directories_that_would_break_a_command_line_are_refused() {
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
    fn a_cluster_id_has_five_characters() {
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
