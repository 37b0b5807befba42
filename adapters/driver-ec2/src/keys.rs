//! Key pair of a public key, and its fingerprints in EC2.

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

/// Object identifier `rsaEncryption` (RFC 8017, appendix C).
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// Number of hexadecimal digits of the key's hash in the name of its key pair.
const NAME_HASH_DIGITS: usize = 32;

/// Public key with its representation in EC2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPair {
    /// Key in OpenSSH format.
    pub openssh: String,
    /// Possible fingerprints of the key in EC2, for generated and imported keys.
    pub fingerprints: Vec<String>,
    /// Name for an import. Depends only on the key, so that dispatchers with the same key choose
    /// the same name.
    pub name: String,
}

/// Public key unusable on EC2.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not a public key: check `DispatchPrivateKey`.
    #[error("the public key is not in OpenSSH format: {0}")]
    Format(String),
    /// Unsupported key type: set `DispatchPrivateKey` to another key.
    #[error(
        "EC2 supports RSA and Ed25519 keys, but the key type is {0}: create another key with ssh-keygen"
    )]
    Algorithm(String),
}

impl KeyPair {
    /// Computes the fingerprints like EC2.
    ///
    /// # Errors
    /// An invalid key or an unsupported key type.
    pub fn new(openssh: &str) -> Result<Self, KeyError> {
        let openssh = openssh.trim();
        let key = PublicKey::from_openssh(openssh)
            .map_err(|error| KeyError::Format(error.to_string()))?;
        let fingerprints = match key.key_data() {
            KeyData::Rsa(rsa) => {
                let der = subject_public_key_info(rsa)
                    .map_err(|error| KeyError::Format(error.to_string()))?;
                vec![
                    colon_separated_hex(&Md5::digest(&der)),
                    colon_separated_hex(&Sha1::digest(&der)),
                ]
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

/// `SubjectPublicKeyInfo` of the key (RFC 5280, RFC 8017), the input of EC2's fingerprint.
fn subject_public_key_info(key: &RsaPublicKey) -> Result<Vec<u8>, DerError> {
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

fn colon_separated_hex(bytes: &[u8]) -> String {
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
    fn rsa_fingerprints_match_openssl() {
        // ssh-keygen -e -m PKCS8 -f key.pub | openssl pkey -pubin -outform DER | openssl md5 -c
        let md5 = "6b:19:d7:33:fd:23:3e:fc:72:20:e1:d0:49:b2:62:71";
        // Same command with `openssl sha1 -c`.
        let sha1 = "e1:d6:c0:94:96:c4:95:84:e5:b1:3f:da:4a:a2:c4:51:f7:57:90:6a";
        assert_eq!(KeyPair::new(RSA).unwrap().fingerprints, [md5, sha1]);
    }

    #[test]
    fn ed25519_fingerprint_matches_ssh_keygen() {
        // ssh-keygen -l -f key.pub
        let expected = "gua87yPsWfOfkNp2t2no6pyuiGRWOZ32Hkt0u9+H/n8";
        let padded = "gua87yPsWfOfkNp2t2no6pyuiGRWOZ32Hkt0u9+H/n8=";
        assert_eq!(
            KeyPair::new(ED25519).unwrap().fingerprints,
            [expected, padded]
        );
    }

    #[test]
    fn key_pair_name_depends_on_key_only() {
        let key = KeyPair::new(ED25519).unwrap();
        let elsewhere = ED25519.replace("test", "another comment");
        assert_eq!(KeyPair::new(&elsewhere).unwrap().name, key.name);
        assert_ne!(KeyPair::new(RSA).unwrap().name, key.name);
        assert!(key.name.len() <= 255 && key.name.is_ascii(), "EC2's limit");
    }

    #[test]
    fn unsupported_key_is_rejected() {
        let ecdsa = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBL6R464IRCIcm3vx7d7lU39XJdDYl/Q/iRODWIOOARTdJEPsJZnORe/kUUKQL8mZ0/C/hDjm5TXD7YimEBBSemk=";
        let error = KeyPair::new(ecdsa).unwrap_err();
        assert!(matches!(&error, KeyError::Algorithm(name) if name.contains("ecdsa")));
        let error = KeyPair::new("ssh-rsa nonsense").unwrap_err();
        assert!(matches!(error, KeyError::Format(_)));
    }
}
