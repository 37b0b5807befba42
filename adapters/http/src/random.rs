//! Random names from the randomness of the operating system.

const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
/// Largest multiple of 36 in a byte. Larger bytes are skipped, to keep all digits equally likely.
const UNBIASED_END: u8 = 252;

/// The operating system provides no randomness: check `/dev/urandom` and the sandbox.
#[derive(Debug, thiserror::Error)]
#[error("no randomness: {0}")]
pub struct NoRandomness(#[from] getrandom::Error);

/// True for the digits used by [`base36`]: `0-9a-z`.
#[must_use]
pub fn is_base36_digit(byte: u8) -> bool {
    ALPHABET.contains(&byte)
}

/// Creates a text of `count` random digits of `0-9a-z`, 5.17 bits each.
///
/// # Errors
/// [`NoRandomness`].
pub fn base36(count: usize) -> Result<String, NoRandomness> {
    let mut text = String::with_capacity(count);
    let mut pool = [0_u8; 64];
    while text.len() < count {
        getrandom::fill(&mut pool)?;
        let missing = count - text.len();
        let unbiased = pool.iter().filter(|byte| **byte < UNBIASED_END);
        text.extend(
            unbiased
                .take(missing)
                .map(|byte| char::from(ALPHABET[usize::from(byte % 36)])),
        );
    }
    Ok(text)
}

/// Creates eight random hexadecimal digits; zeros without randomness.
#[must_use]
pub fn hex_or_zeros() -> String {
    let mut bytes = [0_u8; 4];
    let _ = getrandom::fill(&mut bytes);
    format!("{:08x}", u32::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base36_has_requested_length() {
        for count in [0, 1, 20, 200] {
            let text = base36(count).expect("randomness");
            assert_eq!(text.len(), count);
            assert!(text.bytes().all(is_base36_digit), "{text}");
        }
        assert_ne!(base36(20).ok(), base36(20).ok());
    }
}
