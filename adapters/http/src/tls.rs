//! Certificate and key of a server.

use std::fmt;
use std::sync::Arc;

use longshore_secret::Secret;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// Certificate chain with its key, for TLS 1.2 and 1.3.
#[derive(Clone)]
pub struct ServerTls(Arc<ServerConfig>);

/// Reasons for refusing a certificate or a key. Never contains the key.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate is not PEM: write the chain, with the certificate of the server first.
    #[error(
        "the certificate cannot be read: {0}. Expected PEM, the server's own first, then the chain"
    )]
    Certificate(String),
    /// The key is not PEM, or encrypted: write the key without a passphrase.
    #[error("the key cannot be read: {0}. Expected an unencrypted private key in PEM")]
    Key(String),
    /// Certificate and key do not match, or are of an unsupported kind.
    #[error("certificate and key cannot be used together: {0}")]
    Pair(String),
}

impl ServerTls {
    /// Parses a chain in PEM format, with the certificate of the server first, and its key.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn from_pem(certificates: &str, key: &Secret) -> Result<Self, TlsError> {
        let chain = CertificateDer::pem_slice_iter(certificates.as_bytes());
        let chain: Result<Vec<_>, _> = chain.collect();
        let chain = chain.map_err(|error| TlsError::Certificate(error.to_string()))?;
        if chain.is_empty() {
            return Err(TlsError::Certificate("there is none".to_owned()));
        }
        let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes())
            .map_err(|error| TlsError::Key(error.to_string()))?;
        let pair = |error: rustls::Error| TlsError::Pair(error.to_string());
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(pair)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(pair)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config)))
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.0))
    }
}

impl fmt::Debug for ServerTls {
    /// Writes the name of the type only, nothing of the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerTls")
    }
}
