//! Random names: uuids, token secrets and suffixes of error tokens.

use longshore_http::random::{NoRandomness, base36, is_base36_digit};
use longshore_secret::Secret;

/// Type part of a container uuid.
const CONTAINER: &str = "dz642";
/// Type part of a token uuid.
const TOKEN: &str = "gj3su";
/// Random digits at the end of a uuid.
const UUID_DIGITS: usize = 15;
/// 50 digits of base 36 hold 258 bits.
const SECRET_DIGITS: usize = 50;

/// True for the uuid of a container of any cluster.
pub(crate) fn is_container_uuid(text: &str) -> bool {
    is_uuid(text, CONTAINER)
}

/// True for the uuid of a token of any cluster.
pub(crate) fn is_token_uuid(text: &str) -> bool {
    is_uuid(text, TOKEN)
}

pub(crate) fn container_uuid(cluster: &str) -> Result<String, NoRandomness> {
    uuid(cluster, CONTAINER)
}

pub(crate) fn token_uuid(cluster: &str) -> Result<String, NoRandomness> {
    uuid(cluster, TOKEN)
}

/// Uuid of the root token. Fixed, so that locks survive a change of the root token.
pub(crate) fn root_token_uuid(cluster: &str) -> String {
    format!("{cluster}-{TOKEN}-000000000000000")
}

pub(crate) fn token_secret() -> Result<Secret, NoRandomness> {
    Ok(Secret::new(base36(SECRET_DIGITS)?))
}

fn uuid(cluster: &str, kind: &str) -> Result<String, NoRandomness> {
    Ok(format!("{cluster}-{kind}-{}", base36(UUID_DIGITS)?))
}

fn is_uuid(text: &str, kind: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == 27
        && bytes[5] == b'-'
        && bytes[11] == b'-'
        && &bytes[6..11] == kind.as_bytes()
        && bytes[..5]
            .iter()
            .chain(&bytes[12..])
            .all(|byte| is_base36_digit(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn created_uuids_have_valid_form() {
        let container = container_uuid("zzzzz").unwrap();
        assert!(is_container_uuid(&container), "{container}");
        assert!(!is_token_uuid(&container));
        assert!(is_token_uuid(&token_uuid("zzzzz").unwrap()));
        assert!(is_token_uuid(&root_token_uuid("zzzzz")));
        assert_ne!(container, container_uuid("zzzzz").unwrap());
    }

    #[test]
    fn malformed_uuids_are_refused() {
        for bad in [
            "",
            "zzzzz-dz642-00000000000000",
            "zzzzz-dz642-00000000000000A",
            "zzzzz-dz642_000000000000000",
        ] {
            assert!(!is_container_uuid(bad), "{bad}");
        }
    }

    #[test]
    fn secret_has_fifty_digits() {
        assert_eq!(token_secret().unwrap().expose().len(), 50);
    }
}
