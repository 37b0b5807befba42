//! Lifecycle of VMs through the driver.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::support::{
    Host, alive, booted, find, intent, key, log_in, spec, until, vm, vm_processes,
};
use longshore_core::ids::InstanceId;
use longshore_driver::{Cloud as _, CloudError};
use longshore_driver_loopback::{LoopbackCloud, SetupError};
use longshore_secret::Secret;

/// Parses process ids printed by a command.
fn pids(text: &str) -> Vec<i32> {
    text.split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}

/// Command that starts background processes in three ways (new session, cleared environment,
/// ignored signals) and prints their ids.
const START_PROCESSES: &str = "
    (setsid sh -c 'setsid sh -c \"echo \\$\\$ > a; exec sleep 1000\" &' &)
    setsid env -i sh -c 'echo $$ > b; exec sleep 1000' &
    nohup sh -c 'trap \"\" TERM HUP INT; echo $$ > c; while :; do sleep 1; done' &
    while ! test -s a || ! test -s b || ! test -s c; do sleep 0.01; done
    cat a b c";

async fn start_processes(client: &crate::support::Client) -> Vec<i32> {
    // The processes hold the output open, so the channel does not close.
    let mut channel = client.start(START_PROCESSES).await;
    let mut text = Vec::new();
    while text.iter().filter(|byte| **byte == b'\n').count() < 3 {
        match channel.wait().await {
            Some(russh::ChannelMsg::Data { data }) => text.extend_from_slice(&data),
            Some(_) => {}
            None => break,
        }
    }
    let pids = pids(std::str::from_utf8(&text).unwrap());
    assert_eq!(pids.len(), 3);
    pids
}

/// Process id of the VM process.
fn process(host: &Host, id: &InstanceId) -> i32 {
    let text = std::fs::read_to_string(host.vm(id).join("process.json")).unwrap();
    let process: serde_json::Value = serde_json::from_str(&text).unwrap();
    i32::try_from(process["pid"].as_i64().unwrap()).unwrap()
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Runs in two processes: with a directory in the environment, the test only creates a VM there and
/// waits to be killed.
#[tokio::test(flavor = "multi_thread")]
async fn vm_survives_killed_creator() {
    const STAGE: &str = "LOOPBACK_TEST_STAGE";
    if let Some(dir) = std::env::var_os(STAGE) {
        let mut params = Host::new().params();
        params.state_dir = dir.into();
        let cloud = Host::new().cloud_of("set-a", params);
        let (created, client) = vm(&cloud, 1).await;
        println!(
            "created {} {:?}",
            created.id,
            start_processes(&client).await
        );
        tokio::time::sleep(crate::support::TIMEOUT).await;
        panic!("the creator was not killed");
    }
    let host = Host::new();
    let mut creator = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "instances::vm_survives_killed_creator"])
        .args(["--nocapture"])
        .env(STAGE, host.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let output = std::io::BufReader::new(creator.stdout.take().unwrap());
    let line = std::io::BufRead::lines(output)
        .map(Result::unwrap)
        .find(|line| line.contains("created "))
        .expect("the creator makes a VM");
    creator.kill().unwrap();
    creator.wait().unwrap();

    let (_, created) = line.split_once("created ").unwrap();
    let (id, left) = created.split_once(" [").unwrap();
    let id = InstanceId::from(id);
    let left = pids(&left.replace([',', ']'], " "));
    let cloud = host.cloud();
    let listed = find(&cloud, &id).await.unwrap();
    assert!(!listed.terminated && listed.address.is_some());
    assert!(alive(process(&host, &id)) && left.iter().all(|pid| alive(*pid)));
    cloud.destroy(&id).await.unwrap();
    assert!(left.iter().all(|pid| !alive(*pid)));
    assert_eq!(vm_processes(&host.path()), Vec::<i32>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_listed_until_retention_ends() {
    let host = Host::new();
    let mut params = host.params();
    params.terminated_shown = Duration::from_millis(300);
    let cloud = host.cloud_of("set-a", params);
    let (created, _client) = vm(&cloud, 1).await;
    let listed = find(&cloud, &created.id).await.unwrap();
    assert!(!listed.terminated && listed.address.is_some());
    assert_eq!(
        (&listed.tags, &listed.secret),
        (&created.tags, &Secret::new("secret-1"))
    );

    cloud.destroy(&created.id).await.unwrap();
    let ended = find(&cloud, &created.id).await.unwrap();
    assert!(ended.terminated && ended.address.is_none() && ended.secret.is_empty());
    let dir = host.vm(&created.id);
    for gone in [
        "secret",
        "instance-secret",
        "init-script",
        "lock",
        "scratch",
        "home",
    ] {
        assert!(!dir.join(gone).exists(), "{gone}");
    }
    assert!(dir.join("vm.log").exists());
    until("removal of the VM directory", || async {
        find(&cloud, &created.id).await.is_none().then_some(())
    })
    .await;
    assert!(!dir.exists());
    assert_eq!(
        std::fs::read_dir(host.path().join("tmp")).unwrap().count(),
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn destroy_terminated_vm_succeeds() {
    let host = Host::new();
    let cloud = host.cloud();
    let (created, _client) = vm(&cloud, 1).await;
    let (one, two) = tokio::join!(cloud.destroy(&created.id), cloud.destroy(&created.id));
    assert_eq!((one, two), (Ok(()), Ok(())));
    for id in [
        created.id.as_str(),
        "lo-0123456789abcdef",
        "../../etc",
        "",
        "i-123",
    ] {
        assert_eq!(cloud.destroy(&InstanceId::from(id)).await, Ok(()), "{id:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_creates_same_intent_one_vm() {
    let host = Host::new();
    let (one, two) = (host.cloud(), host.cloud());
    let key = key();
    let tasks: Vec<_> = (0..8)
        .map(|n| {
            let cloud = if n % 2 == 0 { one.clone() } else { two.clone() };
            let spec = spec(1, &key);
            tokio::spawn(async move { cloud.create(spec).await.unwrap().id })
        })
        .collect();
    let mut ids = BTreeSet::new();
    for task in tasks {
        ids.insert(task.await.unwrap());
    }
    assert_eq!(ids.len(), 1);
    assert_eq!(one.list().await.unwrap().len(), 1);
    // Like a real cloud's token: the terminated VM is returned.
    assert_eq!(one.destroy_all().await.unwrap(), 1);
    assert!(one.create(spec(1, &key)).await.unwrap().terminated);
    assert_eq!(vm_processes(&host.path()), Vec::<i32>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn create_above_max_instances_is_quota_error() {
    let host = Host::new();
    let mut params = host.params();
    params.instances_max = 2;
    let cloud = host.cloud_of("set-a", params.clone());
    let other = host.cloud_of("set-b", params);
    let key = key();
    let first = cloud.create(spec(1, &key)).await.unwrap();
    other.create(spec(2, &key)).await.unwrap();
    let refused = cloud.create(spec(3, &key)).await.unwrap_err();
    assert!(
        matches!(&refused, CloudError::Quota { message } if message.contains("MaxInstances")),
        "{refused}"
    );
    assert_eq!(cloud.create(spec(1, &key)).await.unwrap().id, first.id);
    cloud.destroy(&first.id).await.unwrap();
    cloud.create(spec(3, &key)).await.unwrap();
    cloud.destroy_all().await.unwrap();
    other.destroy_all().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_merge_and_survive_restart() {
    let host = Host::new();
    let cloud = host.cloud();
    let created = cloud.create(spec(1, &key())).await.unwrap();
    let tag = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
    let changes = (tag("IdleBehavior", "hold"), tag("Note", "x"));
    let (one, two) = tokio::join!(
        cloud.set_tags(&created.id, changes.0),
        cloud.set_tags(&created.id, changes.1)
    );
    assert_eq!((one, two), (Ok(()), Ok(())));
    let later = host.cloud();
    let tags = find(&later, &created.id).await.unwrap().tags;
    let expected = [
        ("IdleBehavior", "hold"),
        ("InstanceIntent", &intent(1).to_string()),
        ("InstanceSetID", "set-a"),
        ("InstanceType", "small"),
        ("Note", "x"),
    ];
    let tags: Vec<(&str, &str)> = tags.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(tags, expected);
    // Stored with the prefix, next to resource tags, and without the secret.
    let stored = std::fs::read_to_string(host.vm(&created.id).join("tags.json")).unwrap();
    assert!(
        stored.contains("\"test-Note\"")
            && stored.contains("\"Owner\"")
            && !stored.contains("secret-1")
    );

    let missing = InstanceId::from("lo-0123456789abcdef");
    let refused = cloud.set_tags(&missing, BTreeMap::new()).await;
    assert!(
        matches!(refused, Err(CloudError::NotFound { .. })),
        "{refused:?}"
    );
    let refused = cloud
        .set_tags(&created.id, tag("InstanceSecret", "stolen"))
        .await;
    assert!(
        matches!(refused, Err(CloudError::Permanent { .. })),
        "{refused:?}"
    );
    cloud.destroy_all().await.unwrap();
    let refused = cloud.set_tags(&created.id, BTreeMap::new()).await;
    assert!(
        matches!(refused, Err(CloudError::NotFound { .. })),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn other_set_vms_are_isolated() {
    let host = Host::new();
    let ours = host.cloud();
    let mut params = host.params();
    params.terminated_shown = Duration::ZERO;
    let theirs = host.cloud_of("set-b", params);
    let (created, client) = vm(&ours, 1).await;
    assert_eq!(theirs.list().await.unwrap(), vec![]);
    assert_eq!(theirs.destroy_all().await.unwrap(), 0);
    let refused = theirs.set_tags(&created.id, BTreeMap::new()).await;
    assert!(
        matches!(refused, Err(CloudError::NotFound { .. })),
        "{refused:?}"
    );
    assert_eq!(client.run("echo on").await.text(), "on\n");
    // The same intent in another set is a different request.
    assert_ne!(theirs.create(spec(1, &key())).await.unwrap().id, created.id);
    assert_eq!(theirs.destroy_all().await.unwrap(), 1);
    ours.destroy_all().await.unwrap();
    // Other sets do not remove the terminated VM before the end of the retention.
    theirs.list().await.unwrap();
    assert!(find(&ours, &created.id).await.unwrap().terminated);
}

#[tokio::test(flavor = "multi_thread")]
async fn address_listed_after_boot_delay() {
    let host = Host::new();
    let mut params = host.params();
    params.boot_delay = Duration::from_millis(700);
    let cloud = host.cloud_of("set-a", params);
    let key = key();
    let begun = Instant::now();
    let created = cloud.create(spec(1, &key)).await.unwrap();
    assert_eq!(created.address, None);
    let address = booted(&cloud, &created.id).await;
    assert!(
        begun.elapsed() >= Duration::from_millis(700),
        "{:?}",
        begun.elapsed()
    );
    assert!(log_in(&address, cloud.remote_user(), &key).await.is_some());
    cloud.destroy_all().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn destroy_booting_vm_succeeds() {
    let host = Host::new();
    let mut params = host.params();
    params.boot_delay = Duration::from_secs(3600);
    let cloud = host.cloud_of("set-a", params);
    let created = cloud.create(spec(1, &key())).await.unwrap();
    cloud.destroy(&created.id).await.unwrap();
    assert_eq!(vm_processes(&host.path()), Vec::<i32>::new());
    assert!(find(&cloud, &created.id).await.unwrap().terminated);
}

#[tokio::test(flavor = "multi_thread")]
async fn restarted_dispatcher_can_destroy_vm() {
    let host = Host::new();
    let cloud = host.cloud();
    let key = key();
    let created = cloud.create(spec(1, &key)).await.unwrap();
    let address = booted(&cloud, &created.id).await;
    drop(cloud);

    let later = host.cloud();
    assert_eq!(
        find(&later, &created.id).await.unwrap().address.as_deref(),
        Some(address.as_str())
    );
    // The VM process has its own session and process group.
    let client = log_in(&address, later.remote_user(), &key).await.unwrap();
    let pid = process(&host, &created.id);
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    assert_eq!(fields[2..4], [pid.to_string(), pid.to_string()]);

    let left = start_processes(&client).await;
    assert!(left.iter().all(|pid| alive(*pid)));
    later.destroy(&created.id).await.unwrap();
    assert!(!alive(pid) && left.iter().all(|pid| !alive(*pid)));
    assert_eq!(vm_processes(&host.path()), Vec::<i32>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_vm_process_terminates_vm() {
    let host = Host::new();
    let cloud = host.cloud();
    let (created, client) = vm(&cloud, 1).await;
    let (other, other_client) = vm(&cloud, 2).await;
    let left = start_processes(&client).await;
    let pid = process(&host, &created.id);
    assert!(alive(left[0]) && alive(left[2]));
    kill(pid);
    let listed = until("termination of the VM", || async {
        find(&cloud, &created.id).await.filter(|vm| vm.terminated)
    })
    .await;
    assert_eq!(listed.address, None);
    assert!(!alive(left[0]) && !alive(left[2]));
    assert_eq!(cloud.destroy(&created.id).await, Ok(()));
    // A process with a cleared environment is not found, as documented.
    kill(left[1]);

    assert!(!find(&cloud, &other.id).await.unwrap().terminated);
    assert_eq!(other_client.run("echo on").await.text(), "on\n");
    cloud.destroy_all().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_destroy_is_completed() {
    let host = Host::new();
    let cloud = host.cloud();
    let (created, _client) = vm(&cloud, 1).await;
    std::fs::write(host.vm(&created.id).join("terminating"), "").unwrap();
    assert!(find(&cloud, &created.id).await.unwrap().terminated);
    assert_eq!(vm_processes(&host.path()), Vec::<i32>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn partial_vm_directories_are_removed() {
    let host = Host::new();
    let cloud = host.cloud();
    let halves = [
        host.path().join("tmp/lo-0000000000000001"),
        host.path().join("vms/lo-0000000000000002"),
    ];
    for half in &halves {
        std::fs::create_dir_all(half.join("scratch")).unwrap();
        std::fs::write(half.join("tags.json"), "{}").unwrap();
    }
    let foreign = host.path().join("vms/notes");
    std::fs::create_dir(&foreign).unwrap();
    assert_eq!(cloud.list().await.unwrap(), vec![]);
    assert!(!halves[0].exists() && !halves[1].exists() && foreign.exists());

    // A program that cannot be started leaves no VM.
    let mut params = host.params();
    params.program.path = host.path().join("state.lock");
    let broken = host.cloud_of("set-a", params);
    let refused = broken.create(spec(1, &key())).await.unwrap_err();
    assert!(
        matches!(&refused, CloudError::Permanent { message } if message.contains("state.lock")),
        "{refused}"
    );
    assert_eq!(cloud.list().await.unwrap(), vec![]);
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_boot_terminates_vm() {
    let host = Host::new();
    let cloud = host.cloud();
    let mut params = host.params();
    params.program.args = vec!["one-argument-too-many".into()];
    let broken = host.cloud_of("set-a", params);
    let created = broken.create(spec(1, &key())).await.unwrap();
    until("termination of the VM", || async {
        find(&cloud, &created.id).await?.terminated.then_some(())
    })
    .await;
    let log = std::fs::read_to_string(host.vm(&created.id).join("vm.log")).unwrap();
    assert!(log.contains("expected one argument"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn create_invalid_spec_is_permanent_error() {
    let host = Host::new();
    let cloud = host.cloud();
    let good = spec(1, &key());
    let mut long = good.clone();
    long.init_script = Secret::new("#".repeat(16 * 1024));
    let mut keyless = good.clone();
    keyless.public_key = None;
    let mut garbled = good.clone();
    garbled.public_key = Some("ssh-ed25519 AAAA".to_owned());
    let mut open = good.clone();
    open.tags
        .insert("InstanceSecret".to_owned(), "x".to_owned());
    for (spec, words) in [
        (long, "init script"),
        (keyless, "public key"),
        (garbled, "OpenSSH"),
        (open, "InstanceSecret"),
    ] {
        let refused = cloud.create(spec).await.unwrap_err();
        assert!(
            matches!(&refused, CloudError::Permanent { message } if message.contains(words)),
            "{refused}"
        );
    }
    assert_eq!(cloud.list().await.unwrap(), vec![]);
}

#[tokio::test(flavor = "multi_thread")]
async fn secret_is_never_exposed() {
    use std::os::unix::fs::PermissionsExt as _;
    let host = Host::new();
    let cloud = host.cloud();
    let (created, _client) = vm(&cloud, 4711).await;
    for pid in vm_processes(&host.path()) {
        for file in ["cmdline", "environ"] {
            let text = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            assert!(
                !String::from_utf8_lossy(&text).contains("secret-4711"),
                "{file}"
            );
        }
    }
    let dir = host.vm(&created.id);
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let may_hold_it = path.ends_with("secret") || path.ends_with("instance-secret");
        assert!(
            may_hold_it || !text.contains("secret-4711"),
            "{}",
            path.display()
        );
    }
    for path in [dir.join("secret"), dir] {
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}", path.display());
    }
    cloud.destroy_all().await.unwrap();
}

#[tokio::test]
async fn invalid_setup_fails_at_construction() {
    let host = Host::new();
    let settings = longshore_driver::CloudSettings {
        instance_set_id: "set-a".to_owned(),
        tag_key_prefix: String::new(),
        resource_tags: BTreeMap::new(),
    };
    let mut params = host.params();
    params.program.path = "/nowhere/at/all".into();
    let error = LoopbackCloud::new(settings.clone(), params).unwrap_err();
    assert!(
        matches!(&error, SetupError::Program { .. })
            && error.to_string().contains("/nowhere/at/all")
    );
    let mut params = host.params();
    params.state_dir = "/proc/self/no".into();
    let error = LoopbackCloud::new(settings, params).unwrap_err();
    assert!(
        matches!(&error, SetupError::StateDir(_)) && error.to_string().contains("/proc/self/no")
    );
}

#[tokio::test]
async fn preempted_vm_gets_notice_and_terminates() {
    let host = Host::new();
    let cloud = host.cloud();
    let (created, client) = vm(&cloud, 1).await;
    let left = start_processes(&client).await;
    cloud
        .interrupt(&created.id, Duration::from_secs(3600))
        .await
        .unwrap();
    let shown = find(&cloud, &created.id).await.unwrap();
    assert!(shown.preempted && !shown.terminated);
    let said = client
        .run("cat $LONGSHORE_LOCK_DIR/crunch-run-preempted")
        .await;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let mut words = text.split_whitespace();
    let at: u64 = words.next().unwrap().parse().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    assert!(now.unwrap().as_secs().abs_diff(at - 3600) < 120, "{text}");
    assert_eq!(words.next(), Some("terminate"));
    assert!(
        left.iter().all(|pid| alive(*pid)),
        "processes run until the end of the notice"
    );

    // Writing the file has the same effect.
    std::fs::write(host.vm(&created.id).join("take-back"), "1\n").unwrap();
    let shown = find(&cloud, &created.id).await.unwrap();
    assert!(shown.preempted && shown.terminated);
    assert!(!left.iter().any(|pid| alive(*pid)));
    let again = cloud.interrupt(&created.id, Duration::ZERO).await;
    assert!(matches!(again, Err(CloudError::NotFound { .. })));
}
