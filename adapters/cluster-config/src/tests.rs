use std::time::Duration;

use longshore_core::config::{Budget, Config, Rate};
use longshore_core::ids::TypeName;
use longshore_core::resources::{GpuStack, MicroDollars};
use proptest::prelude::*;

use super::*;

const TOKEN: &str = "abcdefghijklmnopqrstuvwxyz0123456789";

/// Cluster with required keys only, plus `more` (indented by 4).
fn with(more: &str) -> String {
    format!(
        "Clusters:\n  zzzzz:\n    SystemRootToken: {TOKEN}\n    ManagementToken: {TOKEN}\n    \
         Services:\n      Controller: {{ExternalURL: \"https://zzzzz.example.com\"}}\n{more}"
    )
}

fn loaded(more: &str) -> Loaded {
    load(&with(more)).unwrap_or_else(|e| panic!("{e}"))
}

/// Errors as text, one per line; panics if there are none.
fn errors(more: &str) -> String {
    load(&with(more)).map_or_else(|e| e.to_string(), |_| panic!("accepted: {more}"))
}

fn warnings(more: &str) -> Vec<String> {
    loaded(more)
        .warnings
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn vms(keys: &str) -> String {
    format!("    Containers: {{CloudVMs: {{{keys}}}}}\n")
}

/// Defaults of the core, without a keepstore beside containers.
fn defaults() -> Config {
    let mut config = Config::default();
    config.sizing.keep_buffers_per_vcpu = 0;
    config
}

#[test]
fn minimal_file_gets_every_default() {
    let Loaded { cluster, warnings } = loaded("");
    assert_eq!(warnings, []);
    assert_eq!(cluster.core, defaults());
    assert_eq!(cluster.cluster_id, "zzzzz");
    assert_eq!(cluster.system_root_token.expose(), TOKEN);
    assert!(cluster.dispatch_private_key.is_empty());
    assert_eq!(
        cluster.services.controller_url,
        "https://zzzzz.example.com/"
    );
    assert_eq!(cluster.services.controller_host, "zzzzz.example.com");
    assert!(!cluster.services.tls_insecure);
    let cloud = &cluster.cloud;
    assert_eq!((cloud.driver.as_str(), cloud.ssh_port), ("ec2", 22));
    assert_eq!(cloud.boot_probe_command, "systemctl is-system-running");
    assert_eq!(cloud.deploy_runner_binary, "/proc/self/exe");
    assert_eq!(cloud.deploy_runner_directory, "/tmp/arvados-crunch-run");
    assert!(cloud.deploy_public_key);
    assert_eq!(cloud.tag_key_prefix, "Arvados");
    assert_eq!(cluster.runner.crunch_run_command, "crunch-run");
    assert_eq!(cluster.runner.runtime_engine, RuntimeEngine::Docker);
    assert_eq!(
        cluster.log,
        Log {
            format: LogFormat::Json,
            level: LogLevel::Info
        }
    );
    let api = Api {
        max_items_per_response: 1000,
        concurrency_max: 16,
        max_dispatch_attempts: 10,
    };
    assert_eq!(cluster.api, api);
    assert_eq!(cluster.queue, None);
}

#[test]
fn every_key_reaches_its_field() {
    let cluster = loaded(include_str!("testdata/all_keys.yml")).cluster;
    let core = &cluster.core;
    assert_eq!(core.image.as_str(), "ami-1");
    assert_eq!(core.sizing.reserve_extra_ram, 256 << 20);
    assert_eq!(
        core.sizing.keep_buffers_per_vcpu, 0,
        "no keepstore is started"
    );
    assert_eq!(core.sizing.max_price_factor_ppm, 1_250_000);
    let seconds = |d: Duration| d.as_secs();
    let i = &core.intervals;
    assert_eq!(
        [i.poll, i.sync, i.probe].map(seconds),
        [11, 12, 13],
        "{i:?}"
    );
    let t = &core.timeouts;
    let all = [
        t.idle,
        t.booting,
        t.probe,
        t.shutdown,
        t.signal,
        t.term,
        t.kill,
        t.unkillable,
        t.stale_run_lock,
        t.stale_lock,
        t.create_ambiguous,
        t.disappear_grace,
    ];
    let expected = [21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32];
    assert_eq!(all.map(seconds), expected, "{t:?}");
    assert_eq!(t.scheduling.map(seconds), Some(33));
    let l = &core.limits;
    assert_eq!(l.instances, Some(41));
    assert_eq!(l.creates_in_flight, Some(42));
    assert_eq!(l.containers_per_instance, Some(43));
    let rates = [l.probes, l.creates, l.destroys, l.lists, l.cloud_ops];
    assert_eq!(rates, [44, 45, 46, 47, 48].map(Rate::per_second));
    assert_eq!(l.price_per_hour, Some(MicroDollars(49_500_000)));
    assert_eq!(l.boot_failures, Some(51));
    let spot = &core.sizing.spot_fallback;
    assert_eq!(spot.interruptions, Some(52));
    assert_eq!(spot.after.map(seconds), Some(53));
    assert_eq!(l.initial_quota, Some(50));
    assert_eq!(l.supervisor_fraction_ppm, Some(250_000));
    let limits = l.budgets.iter().map(|budget| budget.limit.0);
    assert_eq!(limits.collect::<Vec<_>>(), [51_000_000, 52_000_000]);
    let cloud = &cluster.cloud;
    assert_eq!(cloud.driver, "azure");
    assert_eq!(cloud.driver_parameters["Subnet"][1], 2);
    assert_eq!(cloud.ssh_port, 2222);
    assert_eq!(cloud.boot_probe_command, "");
    assert_eq!(cloud.instance_init_command, "echo init");
    assert_eq!(cloud.deploy_runner_binary, "");
    assert_eq!(cloud.deploy_runner_directory, "/opt");
    assert!(!cloud.deploy_public_key);
    assert_eq!(cloud.resource_tags["who"], "me");
    assert_eq!(cloud.tag_key_prefix, "Ours");
    let runner = &cluster.runner;
    assert_eq!(runner.crunch_run_command, "run");
    assert_eq!(runner.crunch_run_arguments, ["-a", "b c"]);
    assert_eq!(runner.runtime_engine.name(), "singularity");
    assert_eq!(cluster.log.format, LogFormat::Text);
    assert_eq!(cluster.log.level.name(), "warn");
    let api = Api {
        max_items_per_response: 5,
        concurrency_max: 1,
        max_dispatch_attempts: 7,
    };
    assert_eq!(cluster.api, api);
    assert!(cluster.services.tls_insecure);
    let urls: Vec<_> = cluster.services.dispatch_cloud.iter().collect();
    assert_eq!(urls[0].url, "http://localhost:9006/");
    assert_eq!(urls[0].listen, "0.0.0.0:9007");
    assert_eq!(urls[1].listen, "other:80");
    let queue = cluster.queue.unwrap_or_else(|| panic!("no queue"));
    assert_eq!(queue.database.to_str(), Some("/tmp/queue.db"));
    assert_eq!(queue.listen, "zzzzz.example.com:443");
}

#[test]
fn peer_file_loads_without_warnings() {
    let more = include_str!("testdata/peer.yml");
    assert_eq!(warnings(more), [] as [String; 0]);
    let types = loaded(more).cluster.core.types;
    let names: Vec<_> = types.keys().map(TypeName::as_str).collect();
    let expected = [
        "big",
        "big.preemptible",
        "gpu",
        "gpu.preemptible",
        "tiny",
        "tiny.preemptible",
    ];
    assert_eq!(names, expected);
    let tiny = &types[&TypeName::from("tiny")];
    assert_eq!(tiny.provider_type, "t3.tiny");
    assert_eq!(tiny.resources.ram, 4_000_000_000);
    assert_eq!(tiny.resources.scratch, 30_000_000_000);
    assert_eq!(tiny.added_scratch, 10_000_000_000);
    assert_eq!(tiny.price, MicroDollars(41_600));
    assert_eq!(tiny.quota_group.as_str(), "on-demand");
    let twin = &types[&TypeName::from("tiny.preemptible")];
    assert_eq!(twin.price, MicroDollars(33_280));
    assert_eq!(
        (twin.preemptible, twin.quota_group.as_str()),
        (true, "spot")
    );
    // A configured type is not overwritten.
    assert_eq!(
        types[&TypeName::from("big.preemptible")].price,
        MicroDollars(70_000)
    );
    let gpus = types[&TypeName::from("gpu")].gpus.clone();
    let gpus = gpus.unwrap_or_else(|| panic!("no GPUs"));
    assert_eq!((gpus.stack, gpus.count), (GpuStack::Cuda, 2));
    assert_eq!((gpus.driver.major, gpus.driver.minor), (12, 2));
    assert_eq!(types[&TypeName::from("gpu")].resources.gpus, 2);
}

#[test]
fn all_errors_are_reported_with_advice() {
    let all = errors(include_str!("testdata/all_wrong.yml"));
    let expected = include_str!("testdata/all_wrong.txt");
    assert_eq!(all.trim(), expected.trim(), "\n{all}");
    let thrice = errors("    TLS: {}\n    TLS: {}\n    TLS: {}\n");
    assert_eq!(thrice.matches("first in line 7").count(), 2, "{thrice}");
    let list = errors("    InstanceTypes: [{VCPUs: 1}]\n");
    assert!(
        list.contains("InstanceTypes (line 7): found a list"),
        "{list}"
    );
}

#[test]
fn clusters_number_and_id_are_checked() {
    let error = |text: &str| load(text).map_or_else(|e| e.to_string(), |_| String::new());
    assert!(error("").contains("Clusters (line 1): found nothing"));
    assert!(error("a: [").contains("not valid YAML (line 1)"));
    assert!(error("a: 1").contains("Clusters (line 1): found nothing"));
    assert!(error("Clusters:").contains("Clusters (line 1): found nothing"));
    assert!(error("Clusters: []").contains("found a list"));
    assert!(error("Clusters: {}").contains("found 0 clusters"));
    let two = error("Clusters: {aaaaa: {}, bbbbb: {}}");
    assert!(two.contains("found 2 clusters (aaaaa, bbbbb)"), "{two}");
    let bad = error("Clusters: {ZZZZZ: {}}");
    assert!(bad.contains("found the id \"ZZZZZ\""), "{bad}");
    assert!(!error("Clusters: {SAMPLE: {}, zzzzz: {}}").contains("clusters ("));
}

#[test]
fn unknown_keys_suggest_known_names() {
    let found = warnings(
        "    containers: {}\n    Users: {}\n    InstanceType: {}\n    \
         Containers: {cloudvms: {}, ReserveExtraRam: 1, Nonsense: 1, CloudVMs: {TimeoutIdel: 1s, SAMPLE: 1}}\n",
    );
    let c = "Clusters.zzzzz";
    let case = "(upper and lower case differ)";
    let meant = "unknown key, ignored; perhaps you meant";
    let expected = [
        format!("{c}.containers (line 7): {meant} Containers {case}"),
        format!("{c}.InstanceType (line 9): {meant} InstanceTypes"),
        format!("{c}.Containers.CloudVMs.TimeoutIdel (line 10): {meant} TimeoutIdle"),
        format!("{c}.Containers.cloudvms (line 10): {meant} CloudVMs {case}"),
        format!("{c}.Containers.ReserveExtraRam (line 10): {meant} ReserveExtraRAM {case}"),
        format!("{c}.Containers.Nonsense (line 10): unknown or outdated key, ignored; delete it"),
    ];
    assert_eq!(found, expected);
}

#[test]
fn rates_accept_fractions() {
    let limits = loaded(&vms("MaxCreatesPerSecond: 0.2, MaxListsPerSecond: 2.5")).cluster;
    let limits = limits.core.limits;
    let rate = |interval, burst| Some(Rate { interval, burst });
    assert_eq!(limits.creates, rate(Duration::from_secs(5), 1));
    assert_eq!(limits.lists, rate(Duration::from_millis(400), 2));
    assert_eq!(limits.destroys, None);
}

#[test]
fn keepstore_buffers_warn_without_effect() {
    let text = "    Containers: {LocalKeepBlobBuffersPerVCPU: 4}\n";
    let Loaded { cluster, warnings } = loaded(text);
    assert_eq!(cluster.core, defaults());
    let [warning] = warnings.try_into().expect("one warning");
    let message = warning.to_string();
    assert!(message.contains("LocalKeepBlobBuffersPerVCPU"), "{message}");
    assert!(message.contains("not followed"), "{message}");
}

#[test]
fn nulls_count_as_absent() {
    let cluster = loaded(&vms("TimeoutIdle: ~, MaxInstances: null, ResourceTags: ")).cluster;
    assert_eq!(cluster.core, defaults());
    let types = "    InstanceTypes: {a: {VCPUs: 1, RAM: 1, GPU: ~, Price: null}}\n";
    assert_eq!(loaded(types).cluster.core.types.len(), 1);
}

#[test]
fn budgets_report_each_error_with_path() {
    let limits = loaded(&vms(
        "Budgets: [{Window: 24h, Limit: 500}, {Window: 90m, Limit: 0.5}]",
    ));
    let budget = |secs, limit| Budget {
        window: Duration::from_secs(secs),
        limit: MicroDollars(limit),
    };
    let expected = [budget(86_400, 500_000_000), budget(5400, 500_000)];
    assert_eq!(limits.cluster.core.limits.budgets, expected);
    let wrong = "Budgets: [5, {Window: 24h}, {Limit: 1}, {Window: 1s, Limit: 1}, \
                 {Window: 1h, Limit: 0}, {Window: soon, Limit: much}, {Window: 2h, Limit: -3}, \
                 {Window: 3h, Limit: 9}, {Window: 180m, Limit: 7}]";
    let found = errors(&vms(wrong));
    let expected = [
        "Budgets[0] (line 7): found 5, expected a section with Window and Limit",
        "Budgets[1].Limit (line 7): found nothing, expected an amount above 0",
        "Budgets[2].Window (line 7): found nothing, expected a duration from 1m",
        "Budgets[3].Window (line 7): found \"1s\", expected a duration from 1m",
        "Budgets[4].Limit (line 7): found 0, expected an amount above 0",
        "Budgets[5].Window (line 7): found \"soon\"",
        "Budgets[5].Limit (line 7): found \"much\"",
        "Budgets[6].Limit (line 7): found -3",
        "Budgets[8].Window (line 7): found \"180m\", expected a span that no other budget has",
    ];
    for line in expected {
        assert!(found.contains(line), "{line} is not in\n{found}");
    }
    assert_eq!(found.lines().count(), expected.len(), "{found}");
    assert!(errors(&vms("Budgets: 24h")).contains("expected a list"));
}

#[test]
fn type_above_max_price_gets_warning() {
    let types = "    InstanceTypes: {a: {VCPUs: 1, RAM: 1, Price: 3}}\n";
    let messages = warnings(&format!("{}{types}", vms("MaxPricePerHour: 2.5")));
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert!(messages[0].contains("InstanceTypes.a: costs more than MaxPricePerHour"));
}

#[test]
fn zero_means_default_or_no_limit() {
    let keys = "SyncInterval: 0, ProbeInterval: -1s, TimeoutIdle: 0s, MaxInstances: 0, \
                MaxCloudOpsPerSecond: -1, SupervisorFraction: 0, InitialQuotaEstimate: -5";
    let cluster = loaded(&vms(keys)).cluster;
    let default = Config::default();
    assert_eq!(cluster.core.intervals, default.intervals);
    assert_eq!(cluster.core.timeouts, default.timeouts);
    assert_eq!(cluster.core.limits.instances, None);
    assert_eq!(cluster.core.limits.cloud_ops, None);
    assert_eq!(cluster.core.limits.initial_quota, None);
    assert_eq!(cluster.core.limits.supervisor_fraction_ppm, None);
}

#[test]
fn poll_interval_zero_becomes_default() {
    let loaded = loaded(&vms("PollInterval: 0"));
    assert_eq!(loaded.cluster.core.intervals.poll, Duration::from_secs(10));
    let warning = loaded.warnings[0].to_string();
    assert!(
        warning.contains("CloudVMs.PollInterval (line 7)"),
        "{warning}"
    );
}

#[test]
fn digits_in_quotes_are_a_size() {
    let types = "    InstanceTypes: {a: {VCPUs: 1, RAM: \"4000000000\"}}\n";
    let types = loaded(types).cluster.core.types;
    assert_eq!(types[&TypeName::from("a")].resources.ram, 4_000_000_000);
}

#[test]
fn loopback_without_types_is_this_host() {
    let types = loaded(&vms("Driver: loopback")).cluster.core.types;
    let host = &types[&TypeName::from("localhost")];
    assert_eq!(types.len(), 1);
    assert_eq!(host.price, MicroDollars(1_000_000));
    let r = host.resources;
    assert!(r.vcpus > 0 && r.ram > 0 && r.scratch > 0, "{r:?}");
    let two = format!(
        "{}    InstanceTypes: {{a: {{VCPUs: 1, RAM: 1}}, b: {{VCPUs: 2, RAM: 2}}}}\n",
        vms("Driver: loopback")
    );
    assert_eq!(loaded(&two).cluster.core.types.len(), 2);
    assert!(loaded("").cluster.core.types.is_empty());
}

#[test]
fn private_key_file_is_read() {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let path = dir.path().join("key");
    let pem = "-----BEGIN OPENSSH PRIVATE KEY-----\nsesame\n";
    std::fs::write(&path, pem).unwrap_or_else(|e| panic!("{e}"));
    let key = |value: &str| format!("    Containers: {{DispatchPrivateKey: {value:?}}}\n");
    let at = format!("file://{}", path.display());
    assert_eq!(loaded(&key(&at)).cluster.dispatch_private_key.expose(), pem);
    assert_eq!(loaded(&key(pem)).cluster.dispatch_private_key.expose(), pem);
    let missing = errors(&key("file:///no/such/key"));
    assert!(missing.contains("/no/such/key"), "{missing}");
    for wrong in ["file://sesame", "/sesame", "sesame"] {
        let error = errors(&key(wrong));
        assert!(!error.contains("sesame"), "{error}");
        assert!(error.contains("Containers.DispatchPrivateKey"), "{error}");
    }
}

#[test]
fn tls_certificate_needs_key_read_late() {
    let tls = |text: &str| loaded(&format!("    TLS: {{{text}}}\n")).cluster.tls;
    assert_eq!(tls("Insecure: true"), None);
    assert_eq!(tls("Certificate: '', Key: ''"), None);
    let files = tls("Certificate: 'file:///no/cert', Key: \"-----BEGIN PRIVATE KEY-----\"");
    let files = files.unwrap_or_else(|| panic!("files"));
    assert_eq!(files.certificate, Pem::File("/no/cert".into()));
    let missing = files.certificate.read().expect_err("no such file");
    assert!(missing.contains("/no/cert"), "{missing}");
    let key = files.key.read().unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(key.expose(), "-----BEGIN PRIVATE KEY-----");
    let key_only = errors("    TLS: {Key: 'file:///key'}\n");
    assert!(key_only.contains("TLS.Certificate"), "{key_only}");
    let bare = errors("    TLS: {Certificate: '/cert', Key: sesame}\n");
    assert!(!bare.contains("sesame"), "{bare}");
    assert!(bare.contains("file:///absolute/path"), "{bare}");
}

#[test]
fn tls_follows_scheme_of_bound_url() {
    let urls = |text: &str| {
        let text = format!("      DispatchCloud: {{InternalURLs: {{{text}}}}}\n");
        let urls = loaded(&text).cluster.services.dispatch_cloud;
        urls.iter().map(|url| url.tls).collect::<Vec<_>>()
    };
    assert_eq!(
        urls("\"http://a:1\": {}, \"https://b:2\": {}"),
        [false, true]
    );
    assert_eq!(
        urls("\"https://a\": {ListenURL: \"http://127.0.0.1:9006\"}"),
        [false]
    );
}

#[test]
fn secrets_absent_from_errors_and_debug() {
    let found = errors(
        "    Containers: {DispatchPrivateKey: [sesame1], CloudVMs: {DriverParameters: \
         {SecretAccessKey: sesame2, SecretAccessKey: sesame3}}}\n",
    );
    assert!(!found.contains("sesame"), "{found}");
    let text = "Clusters: {zzzzz: {SystemRootToken: sesame-5, ManagementToken: [sesame6], \
                Services: {Controller: {ExternalURL: \"https://me:sesame4@host/\"}}}}";
    let found = load(text).map_or_else(|e| e.to_string(), |_| String::new());
    assert_eq!(found.lines().count(), 3, "{found}");
    assert!(!found.contains("sesame"), "{found}");
    let good = loaded(&vms("DriverParameters: {SecretAccessKey: sesame}"));
    let shown = format!("{good:?}");
    assert!(
        !shown.contains("sesame") && !shown.contains(TOKEN),
        "{shown}"
    );
}

#[test]
fn short_and_empty_tokens_get_warnings() {
    let text = "Clusters: {zzzzz: {SystemRootToken: short1, Services: {Controller: {ExternalURL: http://x}}}}";
    let loaded = load(text).unwrap_or_else(|e| panic!("{e}"));
    let warnings: Vec<_> = loaded.warnings.iter().map(|w| w.path.as_str()).collect();
    let expected = [
        "Clusters.zzzzz.ManagementToken",
        "Clusters.zzzzz.SystemRootToken",
    ];
    assert_eq!(warnings, expected);
}

#[test]
fn load_file_reads_path() {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let path = dir.path().join("config.yml");
    let unreadable = load_file(&path).map_or_else(|e| e.to_string(), |_| String::new());
    assert!(unreadable.starts_with("cannot be read: "), "{unreadable}");
    // The caller adds the name of the file.
    assert!(!unreadable.contains("config.yml"), "{unreadable}");
    std::fs::write(&path, with("")).unwrap_or_else(|e| panic!("{e}"));
    assert!(load_file(&path).is_ok());
}

/// Text of words frequent in configurations.
fn yaml_like() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("Clusters: ".to_owned()),
        Just("zzzzz: ".to_owned()),
        Just("Containers: ".to_owned()),
        Just("CloudVMs: ".to_owned()),
        Just("InstanceTypes: ".to_owned()),
        Just("GPU: ".to_owned()),
        Just("TimeoutIdle: ".to_owned()),
        Just("RAM: ".to_owned()),
        "[\\[\\]{}:,&*!|>'\"%@`~#-]",
        "[0-9.eE+-]{1,8}",
        "[a-zA-Z]{1,4}",
        Just("\n".to_owned()),
        Just("  ".to_owned()),
    ];
    proptest::collection::vec(word, 0..60).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn load_never_panics(chaos in "\\PC{0,200}", likely in yaml_like()) {
        let _ = (load(&chaos), load(&likely), load(&with(&likely)));
    }

    #[test]
    fn load_any_value_names_path_of_error(
        key in prop_oneof![Just("TimeoutIdle"), Just("MaxInstances"), Just("SSHPort"), Just("MaxPricePerHour"), Just("ResourceTags"), Just("Driver"), Just("DriverParameters"), Just("Budgets")],
        value in prop_oneof!["[0-9][0-9.e-]{0,30}", "\"[a-z0-9 ]{0,9}\"", Just("[1, 2]".to_owned()), Just("{a: {b: 1}}".to_owned()), Just("true".to_owned())],
    ) {
        let text = format!("    Containers:\n      CloudVMs:\n        {key}: {value}\n");
        if let Err(errors) = load(&with(&text)) {
            for error in errors.0 {
                let shown = error.to_string();
                let prefix = format!("Clusters.zzzzz.Containers.CloudVMs.{key}");
                prop_assert!(shown.starts_with(&prefix), "{}", shown);
            }
        }
    }
}
