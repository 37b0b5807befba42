//! Trust in certificates.

use std::sync::Arc;

use longshore_core::input::QueueError;
use longshore_queue_client::{ApiClient, ApiSettings};
use longshore_secret::Secret;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::{LONG, TOKEN};

/// Starts an API with a self-signed certificate; returns the URL, and the certificate as PEM.
async fn self_signed() -> (String, String) {
    let names = vec!["localhost".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    let pem = made.cert.pem();
    let chain = vec![CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM")];
    let key = made.signing_key.serialize_pem();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the usual versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a pair");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // Fails if the client does not trust the certificate.
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                answer(&mut stream).await;
            });
        }
    });
    (format!("https://localhost:{port}/"), pem)
}

/// Responds to each request of a connection with an empty list of containers.
async fn answer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    const BODY: &str = r#"{"uuid":"zzzzz-gj3su-000000000000000","items":[],"items_available":0}"#;
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        BODY.len()
    );
    let text = head + BODY;
    let mut request = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut chunk).await {
        request.extend_from_slice(&chunk[..length]);
        if request.ends_with(b"\r\n\r\n") {
            request.clear();
            if stream.write_all(text.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

fn client(url: &str, insecure: bool, ca_pem: Option<&str>) -> ApiClient {
    let settings = ApiSettings {
        base_url: url.to_owned(),
        token: Secret::new(TOKEN),
        insecure,
        concurrency_max: 4,
        ca_pem: ca_pem.map(|pem| pem.as_bytes().to_vec()),
    };
    ApiClient::new(settings).expect("settings")
}

#[tokio::test]
async fn self_signed_api_requires_configured_trust() {
    let (url, pem) = self_signed().await;
    let refused = client(&url, false, None).poll(10, LONG).await;
    let Err(QueueError::Unavailable(why)) = refused else {
        panic!("the certificate was trusted: {refused:?}");
    };
    assert!(why.contains("certificate"), "{why}");
    for trusting in [client(&url, true, None), client(&url, false, Some(&pem))] {
        let found = trusting.poll(10, LONG).await;
        assert_eq!(found.expect("an answer"), []);
    }
}
