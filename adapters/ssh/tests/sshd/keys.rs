//! Private keys in the formats of `ssh-keygen`.

use std::path::Path;
use std::process::{Command, Stdio};

use longshore_secret::Secret;
use longshore_ssh::{KeyError, SshKey};

fn keygen(path: &Path, kind: &str, format: &str, passphrase: &str) -> String {
    let status = Command::new("ssh-keygen")
        .args(["-q", "-t", kind, "-m", format, "-N", passphrase, "-f"])
        .arg(path)
        .stdin(Stdio::null())
        .status()
        .expect("ssh-keygen comes with openssh-client");
    assert!(status.success());
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn common_key_formats_are_parsed() {
    let dir = tempfile::tempdir().unwrap();
    for (kind, format) in [
        ("ed25519", "RFC4716"),
        ("rsa", "RFC4716"),
        ("rsa", "PEM"),
        ("rsa", "PKCS8"),
        ("ecdsa", "RFC4716"),
        ("ecdsa", "PKCS8"),
        ("ecdsa", "PEM"),
    ] {
        let path = dir.path().join(format!("{kind}-{format}"));
        let key = SshKey::parse(&Secret::new(keygen(&path, kind, format, ""))).unwrap();
        let public = std::fs::read_to_string(path.with_extension("pub")).unwrap();
        assert!(public.starts_with(key.public_line()), "{kind} {format}");
        assert_eq!(
            SshKey::parse(&Secret::new(public)).unwrap_err(),
            KeyError::Public
        );

        let path = dir.path().join(format!("{kind}-{format}-locked"));
        let locked = Secret::new(keygen(&path, kind, format, "sesame"));
        assert_eq!(
            SshKey::parse(&locked).unwrap_err(),
            KeyError::Encrypted,
            "{kind} {format}"
        );
    }
}
