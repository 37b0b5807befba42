//! Trusted certificate authorities: the system's, and optionally another file.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

/// Paths of the system's certificate bundle; the first existing path is used.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Returns the TLS configuration for `https`.
pub(crate) fn config(insecure: bool, extra: Option<&Path>) -> Result<TlsConfig, String> {
    let chosen = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let bundle = chosen.or_else(|| BUNDLES.iter().map(PathBuf::from).find(|path| path.exists()));
    let mut roots = match bundle.map(fs::read) {
        Some(Ok(pem)) => certificates(&pem),
        Some(Err(_)) | None => Vec::new(),
    };
    if let Some(path) = extra {
        let pem = fs::read(path).map_err(|e| format!("-ca-certs {}: {e}", path.display()))?;
        let added = certificates(&pem);
        if added.is_empty() {
            return Err(format!(
                "-ca-certs {}: expected certificates in PEM form, found none",
                path.display()
            ));
        }
        roots.extend(added);
    }
    if roots.is_empty() && !insecure {
        return Err(format!(
            "no certificate authorities found ({}): install ca-certificates, or name a PEM file with -ca-certs",
            BUNDLES.join(", ")
        ));
    }
    Ok(TlsConfig::builder()
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .disable_verification(insecure)
        .root_certs(RootCerts::Specific(roots.into()))
        .build())
}

fn certificates(pem: &[u8]) -> Vec<Certificate<'static>> {
    let items = parse_pem(pem).filter_map(Result::ok);
    items
        .filter_map(|item| match item {
            PemItem::Certificate(certificate) => Some(certificate),
            _ => None,
        })
        .collect()
}
