//! The life of VMs as the driver shows it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::support::{Host, alive, booted, find, intent, key, log_in, marked, spec, until, vm};
use longshore_core::ids::InstanceId;
use longshore_driver::{Cloud as _, CloudError};
use longshore_driver_loopback::{LoopbackCloud, SetupError};
use longshore_secret::Secret;

/// Numbers of processes, written by a command.
fn pids(text: &str) -> Vec<i32> {
    text.split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}

/// A command that leaves processes behind in each of the ways there are, and prints their numbers.
const SPREAD: &str = "
    (setsid sh -c 'setsid sh -c \"echo \\$\\$ > a; exec sleep 1000\" &' &)
    setsid env -i sh -c 'echo $$ > b; exec sleep 1000' &
    nohup sh -c 'trap \"\" TERM HUP INT; echo $$ > c; while :; do sleep 1; done' &
    while ! test -s a || ! test -s b || ! test -s c; do sleep 0.01; done
    cat a b c";

async fn spread(client: &crate::support::Client) -> Vec<i32> {
    // They hold the output open, so the channel does not close by itself.
    let mut channel = client.start(SPREAD).await;
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

/// The number of the VM's own process.
fn process(host: &Host, id: &InstanceId) -> i32 {
    let text = std::fs::read_to_string(host.vm(id).join("process.json")).unwrap();
    let process: serde_json::Value = serde_json::from_str(&text).unwrap();
    i32::try_from(process["pid"].as_i64().unwrap()).unwrap()
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Plays two parts: started with a directory in its environment, it only makes a VM there and waits
/// for its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_vm_survives_the_kill_of_its_maker() {
    const STAGE: &str = "LOOPBACK_TEST_STAGE";
    if let Some(dir) = std::env::var_os(STAGE) {
        let mut params = Host::new().params();
        params.state_dir = dir.into();
        let cloud = Host::new().cloud_of("set-a", params);
        let (made, client) = vm(&cloud, 1).await;
        println!("made {} {:?}", made.id, spread(&client).await);
        tokio::time::sleep(crate::support::PATIENCE).await;
        panic!("nobody killed the maker");
    }
    let host = Host::new();
    let mut maker = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "instances::a_vm_survives_the_kill_of_its_maker"])
        .args(["--nocapture"])
        .env(STAGE, host.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let output = std::io::BufReader::new(maker.stdout.take().unwrap());
    let line = std::io::BufRead::lines(output)
        .map(Result::unwrap)
        .find(|line| line.contains("made "))
        .expect("the maker makes a VM");
    maker.kill().unwrap();
    maker.wait().unwrap();

    let (_, made) = line.split_once("made ").unwrap();
    let (id, left) = made.split_once(" [").unwrap();
    let id = InstanceId::from(id);
    let left = pids(&left.replace([',', ']'], " "));
    let cloud = host.cloud();
    let listed = find(&cloud, &id).await.unwrap();
    assert!(!listed.terminated && listed.address.is_some());
    assert!(alive(process(&host, &id)) && left.iter().all(|pid| alive(*pid)));
    cloud.destroy(&id).await.unwrap();
    assert!(left.iter().all(|pid| !alive(*pid)));
    assert_eq!(marked(&host.path()), Vec::<i32>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_is_listed_from_its_creation_until_it_is_forgotten() {
    let host = Host::new();
    let mut params = host.params();
    params.terminated_shown = Duration::from_millis(300);
    let cloud = host.cloud_of("set-a", params);
    let (made, _client) = vm(&cloud, 1).await;
    let listed = find(&cloud, &made.id).await.unwrap();
    assert!(!listed.terminated && listed.address.is_some());
    assert_eq!(
        (&listed.tags, &listed.secret),
        (&made.tags, &Secret::new("secret-1"))
    );

    cloud.destroy(&made.id).await.unwrap();
    let ended = find(&cloud, &made.id).await.unwrap();
    assert!(ended.terminated && ended.address.is_none() && ended.secret.is_empty());
    let dir = host.vm(&made.id);
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
    until("its removal", || async {
        find(&cloud, &made.id).await.is_none().then_some(())
    })
    .await;
    assert!(!dir.exists());
    assert_eq!(
        std::fs::read_dir(host.path().join("tmp")).unwrap().count(),
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn destroying_what_is_gone_is_success() {
    let host = Host::new();
    let cloud = host.cloud();
    let (made, _client) = vm(&cloud, 1).await;
    let (one, two) = tokio::join!(cloud.destroy(&made.id), cloud.destroy(&made.id));
    assert_eq!((one, two), (Ok(()), Ok(())));
    for id in [
        made.id.as_str(),
        "lo-0123456789abcdef",
        "../../etc",
        "",
        "i-123",
    ] {
        assert_eq!(cloud.destroy(&InstanceId::from(id)).await, Ok(()), "{id:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_intent_makes_one_vm_however_often_it_is_asked_at_once() {
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
    // As with a real cloud's token: the one that ended is what there is.
    assert_eq!(one.destroy_all().await.unwrap(), 1);
    assert!(one.create(spec(1, &key)).await.unwrap().terminated);
    assert_eq!(marked(&host.path()), Vec::<i32>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_configured_number_there_is_no_quota() {
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
async fn tags_are_merged_and_outlive_the_dispatcher() {
    let host = Host::new();
    let cloud = host.cloud();
    let made = cloud.create(spec(1, &key())).await.unwrap();
    let tag = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
    let changes = (tag("IdleBehavior", "hold"), tag("Note", "x"));
    let (one, two) = tokio::join!(
        cloud.set_tags(&made.id, changes.0),
        cloud.set_tags(&made.id, changes.1)
    );
    assert_eq!((one, two), (Ok(()), Ok(())));
    let later = host.cloud();
    let tags = find(&later, &made.id).await.unwrap().tags;
    let expected = [
        ("IdleBehavior", "hold"),
        ("InstanceIntent", &intent(1).to_string()),
        ("InstanceSetID", "set-a"),
        ("InstanceType", "small"),
        ("Note", "x"),
    ];
    let tags: Vec<(&str, &str)> = tags.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(tags, expected);
    // Behind the prefix, beside the operator's, and without the secret.
    let stored = std::fs::read_to_string(host.vm(&made.id).join("tags.json")).unwrap();
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
        .set_tags(&made.id, tag("InstanceSecret", "stolen"))
        .await;
    assert!(
        matches!(refused, Err(CloudError::Permanent { .. })),
        "{refused:?}"
    );
    cloud.destroy_all().await.unwrap();
    let refused = cloud.set_tags(&made.id, BTreeMap::new()).await;
    assert!(
        matches!(refused, Err(CloudError::NotFound { .. })),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_sets_vms_are_neither_seen_nor_touched() {
    let host = Host::new();
    let ours = host.cloud();
    let mut params = host.params();
    params.terminated_shown = Duration::ZERO;
    let theirs = host.cloud_of("set-b", params);
    let (made, client) = vm(&ours, 1).await;
    assert_eq!(theirs.list().await.unwrap(), vec![]);
    assert_eq!(theirs.destroy_all().await.unwrap(), 0);
    let refused = theirs.set_tags(&made.id, BTreeMap::new()).await;
    assert!(
        matches!(refused, Err(CloudError::NotFound { .. })),
        "{refused:?}"
    );
    assert_eq!(client.run("echo on").await.text(), "on\n");
    // The same wish of another set is another wish.
    assert_ne!(theirs.create(spec(1, &key())).await.unwrap().id, made.id);
    assert_eq!(theirs.destroy_all().await.unwrap(), 1);
    ours.destroy_all().await.unwrap();
    // Nor is what has ended forgotten by others before its time.
    theirs.list().await.unwrap();
    assert!(find(&ours, &made.id).await.unwrap().terminated);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_is_shown_when_the_boot_delay_is_over() {
    let host = Host::new();
    let mut params = host.params();
    params.boot_delay = Duration::from_millis(700);
    let cloud = host.cloud_of("set-a", params);
    let key = key();
    let begun = Instant::now();
    let made = cloud.create(spec(1, &key)).await.unwrap();
    assert_eq!(made.address, None);
    let address = booted(&cloud, &made.id).await;
    assert!(
        begun.elapsed() >= Duration::from_millis(700),
        "{:?}",
        begun.elapsed()
    );
    assert!(log_in(&address, cloud.remote_user(), &key).await.is_some());
    cloud.destroy_all().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_can_be_destroyed_while_it_boots() {
    let host = Host::new();
    let mut params = host.params();
    params.boot_delay = Duration::from_secs(3600);
    let cloud = host.cloud_of("set-a", params);
    let made = cloud.create(spec(1, &key())).await.unwrap();
    cloud.destroy(&made.id).await.unwrap();
    assert_eq!(marked(&host.path()), Vec::<i32>::new());
    assert!(find(&cloud, &made.id).await.unwrap().terminated);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_dispatcher_finds_the_vm_and_what_runs_on_it_and_can_end_both() {
    let host = Host::new();
    let cloud = host.cloud();
    let key = key();
    let made = cloud.create(spec(1, &key)).await.unwrap();
    let address = booted(&cloud, &made.id).await;
    drop(cloud);

    let later = host.cloud();
    assert_eq!(
        find(&later, &made.id).await.unwrap().address.as_deref(),
        Some(address.as_str())
    );
    // It is of no session or process group of its maker's.
    let client = log_in(&address, later.remote_user(), &key).await.unwrap();
    let pid = process(&host, &made.id);
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    assert_eq!(fields[2..4], [pid.to_string(), pid.to_string()]);

    let left = spread(&client).await;
    assert!(left.iter().all(|pid| alive(*pid)));
    later.destroy(&made.id).await.unwrap();
    assert!(!alive(pid) && left.iter().all(|pid| !alive(*pid)));
    assert_eq!(marked(&host.path()), Vec::<i32>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_whose_process_was_killed_is_terminated_and_its_leftovers_end() {
    let host = Host::new();
    let cloud = host.cloud();
    let (made, client) = vm(&cloud, 1).await;
    let (other, other_client) = vm(&cloud, 2).await;
    let left = spread(&client).await;
    let pid = process(&host, &made.id);
    assert!(alive(left[0]) && alive(left[2]));
    kill(pid);
    let listed = until("its end", || async {
        find(&cloud, &made.id).await.filter(|vm| vm.terminated)
    })
    .await;
    assert_eq!(listed.address, None);
    assert!(!alive(left[0]) && !alive(left[2]));
    assert_eq!(cloud.destroy(&made.id).await, Ok(()));
    // The one that had cleared its environment as well is beyond reach, as documented.
    kill(left[1]);

    assert!(!find(&cloud, &other.id).await.unwrap().terminated);
    assert_eq!(other_client.run("echo on").await.text(), "on\n");
    cloud.destroy_all().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destruction_that_was_cut_short_is_completed() {
    let host = Host::new();
    let cloud = host.cloud();
    let (made, _client) = vm(&cloud, 1).await;
    std::fs::write(host.vm(&made.id).join("terminating"), "").unwrap();
    assert!(find(&cloud, &made.id).await.unwrap().terminated);
    assert_eq!(marked(&host.path()), Vec::<i32>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn halves_of_vms_are_ignored_and_cleaned_up() {
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

    // A program that cannot be started leaves nothing behind.
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
async fn a_vm_that_cannot_boot_is_terminated_and_tells_why_in_its_log() {
    let host = Host::new();
    let cloud = host.cloud();
    let mut params = host.params();
    params.program.args = vec!["one-argument-too-many".into()];
    let broken = host.cloud_of("set-a", params);
    let made = broken.create(spec(1, &key())).await.unwrap();
    until("its end", || async {
        find(&cloud, &made.id).await?.terminated.then_some(())
    })
    .await;
    let log = std::fs::read_to_string(host.vm(&made.id).join("vm.log")).unwrap();
    assert!(log.contains("expected one argument"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_vm_can_be_made_from_is_refused_for_good() {
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
async fn no_secret_is_on_a_command_line_in_a_log_or_readable_by_others() {
    use std::os::unix::fs::PermissionsExt as _;
    let host = Host::new();
    let cloud = host.cloud();
    let (made, _client) = vm(&cloud, 4711).await;
    for pid in marked(&host.path()) {
        for file in ["cmdline", "environ"] {
            let text = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            assert!(
                !String::from_utf8_lossy(&text).contains("secret-4711"),
                "{file}"
            );
        }
    }
    let dir = host.vm(&made.id);
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
async fn what_is_wrong_with_the_set_up_is_said_at_once() {
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
async fn a_vm_that_is_taken_back_is_announced_and_ended_by_the_driver() {
    let host = Host::new();
    let cloud = host.cloud();
    let (made, client) = vm(&cloud, 1).await;
    let left = spread(&client).await;
    cloud
        .interrupt(&made.id, Duration::from_secs(3600))
        .await
        .unwrap();
    let shown = find(&cloud, &made.id).await.unwrap();
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
    assert!(left.iter().all(|pid| alive(*pid)), "it may use its time");

    // Anybody who may write there can do the same.
    std::fs::write(host.vm(&made.id).join("take-back"), "1\n").unwrap();
    let shown = find(&cloud, &made.id).await.unwrap();
    assert!(shown.preempted && shown.terminated);
    assert!(!left.iter().any(|pid| alive(*pid)));
    let again = cloud.interrupt(&made.id, Duration::ZERO).await;
    assert!(matches!(again, Err(CloudError::NotFound { .. })));
}
