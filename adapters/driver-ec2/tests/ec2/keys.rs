//! Key pair: found by fingerprint, or imported once.

use longshore_driver::Cloud as _;
use longshore_driver_ec2::keys::KeyPair;

use crate::support::{Ec2, direct, kind};

/// RSA public key: for Ed25519 keys moto's fingerprints differ from EC2's.
fn rsa() -> String {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    let created = std::process::Command::new("ssh-keygen")
        .args(["-q", "-N", "", "-t", "rsa", "-b", "2048", "-f"])
        .arg(&file)
        .status();
    assert!(created.unwrap().success(), "ssh-keygen");
    std::fs::read_to_string(file.with_extension("pub")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn key_imported_once_and_found_later() {
    let ec2 = Ec2::start().await;
    let cloud = ec2.cloud();
    let key = rsa();
    let pair = KeyPair::new(&key).unwrap();
    let spec = || {
        let mut spec = ec2.spec();
        spec.public_key = Some(key.clone());
        spec
    };
    let many = (0..4).map(|_| {
        let (cloud, spec) = (cloud.clone(), spec());
        tokio::spawn(async move { cloud.create(spec).await })
    });
    for one in many.collect::<Vec<_>>() {
        one.await.unwrap().unwrap();
    }
    assert_eq!(ec2.proxy.calls("ImportKeyPair").len(), 1);
    assert_eq!(ec2.proxy.calls("DescribeKeyPairs").len(), 1);
    ec2.cloud().create(spec()).await.unwrap();
    assert_eq!(ec2.proxy.calls("ImportKeyPair").len(), 1);
    assert_eq!(ec2.proxy.calls("DescribeKeyPairs").len(), 2);
    for call in ec2.proxy.calls("RunInstances") {
        assert_eq!(call["KeyName"], pair.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn existing_key_name_is_used() {
    let ec2 = Ec2::start().await;
    let mut spec = ec2.spec();
    let name = format!("somebody-{}", ec2.set);
    let key = rsa();
    spec.public_key = Some(key.clone());
    let import = direct(&ec2.proxy.url).import_key_pair().key_name(&name);
    let key = aws_sdk_ec2::primitives::Blob::new(key.into_bytes());
    import.public_key_material(key).send().await.unwrap();
    ec2.cloud().create(spec).await.unwrap();
    assert_eq!(ec2.proxy.calls("RunInstances")[0]["KeyName"], name);
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_key_is_imported_again() {
    let ec2 = Ec2::start().await;
    let cloud = ec2.cloud();
    cloud.create(ec2.spec()).await.unwrap();
    let pair = KeyPair::new(&ec2.key.public_key().to_openssh().unwrap()).unwrap();
    let delete = direct(&ec2.proxy.url).delete_key_pair();
    delete.key_name(&pair.name).send().await.unwrap();
    let failed = cloud.create(ec2.spec()).await;
    assert_eq!(kind(&failed), "transient", "{failed:?}");
    cloud.create(ec2.spec()).await.unwrap();
    assert_eq!(ec2.proxy.calls("ImportKeyPair").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn reimported_key_rejected_is_permanent_error() {
    let ec2 = Ec2::start().await;
    let cloud = ec2.cloud();
    for expected in ["transient", "permanent", "permanent"] {
        ec2.proxy.refuse("RunInstances", "InvalidKeyPair.NotFound");
        let failed = cloud.create(ec2.spec()).await;
        assert_eq!(kind(&failed), expected, "{failed:?}");
        let words = failed.unwrap_err().to_string();
        assert!(words.contains("InvalidKeyPair.NotFound"), "{words}");
    }
    assert_eq!(
        ec2.proxy.calls("DescribeKeyPairs").len(),
        3,
        "every create looks up the key pair"
    );
    // A success resets the state after earlier rejections.
    cloud.create(ec2.spec()).await.unwrap();
    ec2.proxy.refuse("RunInstances", "InvalidKeyPair.NotFound");
    assert_eq!(kind(&cloud.create(ec2.spec()).await), "transient");
    cloud.create(ec2.spec()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn create_without_key_skips_key_pairs() {
    let ec2 = Ec2::start().await;
    let mut spec = ec2.spec();
    spec.public_key = None;
    ec2.cloud().create(spec).await.unwrap();
    assert_eq!(ec2.proxy.calls("DescribeKeyPairs").len(), 0);
    assert!(!ec2.proxy.calls("RunInstances")[0].contains_key("KeyName"));
}
