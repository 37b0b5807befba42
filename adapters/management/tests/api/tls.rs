//! TLS with a configured certificate.

use std::sync::Arc;

use longshore_management::{ServerTls, TlsError};
use longshore_secret::Secret;

use crate::support::{Api, TOKEN, settings};
use crate::world::World;

struct Identity {
    certificate: String,
    key: Secret,
}

fn identity() -> Identity {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    Identity {
        certificate: made.cert.pem(),
        key: Secret::new(made.signing_key.serialize_pem()),
    }
}

fn encrypt(api: &Api, own: &Identity) {
    let mut encrypted = settings(TOKEN);
    encrypted.tls = Some(ServerTls::from_pem(&own.certificate, &own.key).expect("a pair"));
    api.settings.send_replace(Arc::new(encrypted));
}

/// Client with trust in this certificate only.
fn client(own: &Identity) -> reqwest::Client {
    let trusted = reqwest::Certificate::from_pem(own.certificate.as_bytes()).expect("PEM");
    let builder = reqwest::Client::builder().tls_certs_only([trusted]);
    builder.build().expect("a client")
}

async fn ping(client: &reqwest::Client, api: &Api) -> Result<String, reqwest::Error> {
    let url = format!("https://{}/_health/ping", api.addr);
    let answer = client.get(url).bearer_auth(TOKEN).send().await?;
    answer.text().await
}

#[tokio::test]
async fn tls_requires_trust_in_the_certificate() {
    let api = Api::new(World::busy()).await;
    let own = identity();
    encrypt(&api, &own);
    let answer = ping(&client(&own), &api).await.expect("an answer");
    assert_eq!(answer, r#"{"health":"OK"}"#);
    let stranger = ping(&client(&identity()), &api).await;
    assert!(stranger.expect_err("not trusted").is_connect());
    let plain = api.client().get(api.url("/_health/ping")).send().await;
    plain.expect_err("nothing is said unencrypted");
    api.shutdown().await.expect("it ends");
}

#[tokio::test]
async fn new_certificate_applies_from_next_connection() {
    let api = Api::new(World::busy()).await;
    let (old, new) = (identity(), identity());
    encrypt(&api, &old);
    let before = client(&old);
    ping(&before, &api).await.expect("an answer");
    encrypt(&api, &new);
    ping(&client(&new), &api).await.expect("an answer");
    ping(&client(&old), &api)
        .await
        .expect_err("no longer shown");
    ping(&before, &api)
        .await
        .expect("the open connection stays");
}

#[test]
fn unusable_tls_file_error_hides_the_key() {
    let (own, other) = (identity(), identity());
    let told = |certificate: &str, key: &Secret| {
        let error = ServerTls::from_pem(certificate, key).expect_err("unusable");
        assert!(!error.to_string().contains(own.key.expose()));
        error
    };
    let none = told("", &own.key);
    assert!(matches!(none, TlsError::Certificate(_)), "{none}");
    let no_key = told(&own.certificate, &Secret::new("sesame"));
    assert!(matches!(no_key, TlsError::Key(_)), "{no_key}");
    let strangers = told(&own.certificate, &other.key);
    assert!(matches!(strangers, TlsError::Pair(_)), "{strangers}");
}
