//! The key pair by which EC2 knows our public key, and how it is found again.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::Md5;
use russh::keys::PublicKey;
use russh::keys::ssh_key::HashAlg;
use russh::keys::ssh_key::public::{KeyData, RsaPublicKey};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use spki::der::asn1::{AnyRef, BitString, UintRef};
use spki::der::{Encode as _, Error as DerError};
use spki::{AlgorithmIdentifierRef, ObjectIdentifier, SubjectPublicKeyInfo};

/// RFC 8017, appendix C: `rsaEncryption`.
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// Hexadecimal digits of a key's hash in the name of its key pair.
const NAME_HASH_DIGITS: usize = 32;

/// A public key as EC2 sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPair {
    /// The key, in OpenSSH format.
    pub openssh: String,
    /// What EC2 may show as its fingerprint, however it came there.
    pub fingerprints: Vec<String>,
    /// What we call it where EC2 does not know it yet. It follows from the key, so that two
    /// dispatchers with one key choose the same.
    pub name: String,
}

/// The public key cannot be put on EC2's instances.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not a key at all: check `DispatchPrivateKey`.
    #[error("the public key is not in OpenSSH format: {0}")]
    Format(String),
    /// EC2 has no place for it: set `DispatchPrivateKey` to another.
    #[error("EC2 takes keys of RSA and Ed25519, this one is of {0}: make another with ssh-keygen")]
    Algorithm(String),
}

impl KeyPair {
    /// Computes what EC2 computes.
    ///
    /// # Errors
    /// If EC2 would not take the key.
    pub fn new(openssh: &str) -> Result<Self, KeyError> {
        let openssh = openssh.trim();
        let key = PublicKey::from_openssh(openssh)
            .map_err(|error| KeyError::Format(error.to_string()))?;
        let fingerprints = match key.key_data() {
            KeyData::Rsa(rsa) => {
                let der = pkix(rsa).map_err(|error| KeyError::Format(error.to_string()))?;
                vec![colons(&Md5::digest(&der)), colons(&Sha1::digest(&der))]
            }
            KeyData::Ed25519(_) => {
                let padded = STANDARD.encode(key.fingerprint(HashAlg::Sha256).as_bytes());
                vec![padded.trim_end_matches('=').to_owned(), padded]
            }
            other => return Err(KeyError::Algorithm(other.algorithm().to_string())),
        };
        let hash = hex::encode(Sha256::digest(fingerprints[0].as_bytes()));
        Ok(Self {
            openssh: openssh.to_owned(),
            fingerprints,
            name: format!("longshore-{}", &hash[..NAME_HASH_DIGITS]),
        })
    }
}

/// The key as a `SubjectPublicKeyInfo` (RFC 5280, RFC 8017), which is what EC2 hashes.
fn pkix(key: &RsaPublicKey) -> Result<Vec<u8>, DerError> {
    let numbers = [key.n(), key.e()].map(|number| UintRef::new(number.as_bytes()));
    let [modulus, exponent] = numbers;
    let sequence = vec![modulus?, exponent?].to_der()?;
    let info = SubjectPublicKeyInfo {
        algorithm: AlgorithmIdentifierRef {
            oid: RSA_ENCRYPTION,
            parameters: Some(AnyRef::NULL),
        },
        subject_public_key: BitString::from_bytes(&sequence)?,
    };
    info.to_der()
}

fn colons(bytes: &[u8]) -> String {
    let pairs: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    pairs.join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made by `ssh-keygen -t rsa -b 2048` and `ssh-keygen -t ed25519`.
    const RSA: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQCmjF2/YqDsvl7YMSxm1iRK8be16V2g1nGYIWOqpsYwosK6y/MRG0gYGrhLKUS2JPfI6OkjbVs1fpedh9rGQAlGxMErl+awQiI33pUrWIkXKSqwpfKlOxew666B33dvVITC+MdXZ75TCQIKyFx5eaAV8UQz1t71uyn3ko6YEqNa/dzitkcEblW4fCiClfaTqOTKbtPhYuChNqy6AzXOm6eaZw9F9gTMKZU++zwTghyhCFv+VGr/osMqwSSW9g2ti6f3xLGgj8VObkeVp/NfNIpWmMqweuj3p9xo80AlV4JLQQYI79xm5bCbR/WY2XxGioYglXn5ds+Jlb0u5gZdDY6b test";
    const ED25519: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOrhQfsSGzBT0uNXS7+8QCfy5EXOo084AS9YGQq8BMGH test";

    #[test]
    fn an_rsa_key_has_the_fingerprints_that_openssl_computes() {
        // ssh-keygen -e -m PKCS8 -f key.pub | openssl pkey -pubin -outform DER | openssl md5 -c
        let md5 = "6b:19:d7:33:fd:23:3e:fc:72:20:e1:d0:49:b2:62:71";
        // The same with `openssl sha1 -c`.
        let sha1 = "e1:d6:c0:94:96:c4:95:84:e5:b1:3f:da:4a:a2:c4:51:f7:57:90:6a";
        assert_eq!(KeyPair::new(RSA).unwrap().fingerprints, [md5, sha1]);
    }

    #[test]
    fn an_ed25519_key_has_the_fingerprint_that_ssh_keygen_shows() {
        // ssh-keygen -l -f key.pub
        let shown = "gua87yPsWfOfkNp2t2no6pyuiGRWOZ32Hkt0u9+H/n8";
        let padded = "gua87yPsWfOfkNp2t2no6pyuiGRWOZ32Hkt0u9+H/n8=";
        assert_eq!(KeyPair::new(ED25519).unwrap().fingerprints, [shown, padded]);
    }

    #[test]
    fn the_name_follows_from_the_key_alone() {
        let key = KeyPair::new(ED25519).unwrap();
        let elsewhere = ED25519.replace("test", "another comment");
        assert_eq!(KeyPair::new(&elsewhere).unwrap().name, key.name);
        assert_ne!(KeyPair::new(RSA).unwrap().name, key.name);
        assert!(key.name.len() <= 255 && key.name.is_ascii(), "EC2's limit");
    }

    #[test]
    fn what_ec2_would_not_take_is_told() {
        let ecdsa = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBL6R464IRCIcm3vx7d7lU39XJdDYl/Q/iRODWIOOARTdJEPsJZnORe/kUUKQL8mZ0/C/hDjm5TXD7YimEBBSemk=";
        let error = KeyPair::new(ecdsa).unwrap_err();
        assert!(matches!(&error, KeyError::Algorithm(name) if name.contains("ecdsa")));
        let error = KeyPair::new("ssh-rsa nonsense").unwrap_err();
        assert!(matches!(error, KeyError::Format(_)));
    }
}
