//! Random names: uuids, token secrets, request ids. 36 letters, from the operating system.

use longshore_secret::Secret;

use crate::error::ApiError;

const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
/// 50 letters of 36 hold 258 bits.
const SECRET_LETTERS: usize = 50;

/// Whether this is the uuid of a container of any cluster.
pub(crate) fn is_container_uuid(text: &str) -> bool {
    is_uuid(text, "dz642")
}

/// Whether this is the uuid of a token of any cluster.
pub(crate) fn is_token_uuid(text: &str) -> bool {
    is_uuid(text, "gj3su")
}

pub(crate) fn container_uuid(cluster: &str) -> Result<String, ApiError> {
    Ok(format!("{cluster}-dz642-{}", letters(15)?))
}

pub(crate) fn token_uuid(cluster: &str) -> Result<String, ApiError> {
    Ok(format!("{cluster}-gj3su-{}", letters(15)?))
}

/// The one token uuid that is not random, so that locks outlive a change of the root token.
pub(crate) fn root_token_uuid(cluster: &str) -> String {
    format!("{cluster}-gj3su-000000000000000")
}

pub(crate) fn token_secret() -> Result<Secret, ApiError> {
    Ok(Secret::new(letters(SECRET_LETTERS)?))
}

pub(crate) fn request_id() -> Result<String, ApiError> {
    Ok(format!("req-{}", letters(20)?))
}

/// Eight hexadecimal digits for an error token.
pub(crate) fn error_suffix() -> String {
    let mut bytes = [0_u8; 4];
    // Without randomness the token is only less unique, and the error it marks still goes out.
    let _ = getrandom::fill(&mut bytes);
    format!("{:08x}", u32::from_be_bytes(bytes))
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
            .all(|b| ALPHABET.contains(b))
}

fn letters(count: usize) -> Result<String, ApiError> {
    let mut text = String::with_capacity(count);
    let mut pool = [0_u8; 64];
    while text.len() < count {
        getrandom::fill(&mut pool)
            .map_err(|e| ApiError::internal(format!("no randomness: {e}")))?;
        // 252 is the largest multiple of 36 in a byte: no letter is likelier than another.
        for byte in pool.iter().filter(|b| **b < 252) {
            if text.len() < count {
                text.push(char::from(ALPHABET[usize::from(byte % 36)]));
            }
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_have_the_shape_they_are_checked_for() {
        let container = container_uuid("zzzzz").unwrap();
        assert!(is_container_uuid(&container), "{container}");
        assert!(!is_token_uuid(&container));
        assert!(is_token_uuid(&root_token_uuid("zzzzz")));
        assert_ne!(container, container_uuid("zzzzz").unwrap());
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
    fn secrets_have_fifty_letters() {
        assert_eq!(token_secret().unwrap().expose().len(), 50);
    }
}
