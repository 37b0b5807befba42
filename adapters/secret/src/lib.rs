//! String type for tokens, private keys and instance secrets.
//!
//! [`Secret`] has no `Display` and no `Serialize`, its `Debug` output is constant, comparison takes
//! constant time, and the memory is wiped on drop. Only [`Secret::expose`] returns the text, so
//! `git grep expose` lists every place to review.

use std::fmt;

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// A secret text.
///
/// ```
/// use longshore_secret::Secret;
/// let token = Secret::new("v2/abc/def");
/// assert_eq!(format!("{token:?}"), "Secret(…)");
/// assert_eq!(token.expose(), "v2/abc/def");
/// ```
#[derive(Clone, Default, serde::Deserialize)]
#[serde(from = "String")]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes ownership of the text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// Returns the text. Call only where the text is sent or written.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// True if the text is empty. An empty secret must never authenticate.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_hides_text() {
        let secret = Secret::new("hunter2");
        assert!(!format!("{secret:?} {:?}", Some(&secret)).contains("hunter2"));
    }

    #[test]
    fn comparison_uses_text() {
        assert_eq!(Secret::new("a"), Secret::from("a".to_owned()));
        assert_ne!(Secret::new("a"), Secret::new("ab"));
    }
}
