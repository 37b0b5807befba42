//! Sections directly below the cluster: tokens, services, log, API, built-in queue.

use std::path::PathBuf;

use longshore_secret::Secret;
use url::Url;

use super::cluster::{
    Api, BuiltinQueue, ClusterConfig, InternalUrl, Log, LogFormat, LogLevel, Pem, Services,
    TlsFiles,
};
use super::reader::{Entry, Section, UnknownKeys};
use super::{containers, instance_types};

/// Reads a whole cluster.
pub(super) fn cluster(id: &str, section: Section<'_>) -> ClusterConfig {
    let system_root_token = token(&section, "SystemRootToken");
    let management_token = token(&section, "ManagementToken");
    let (tls, tls_insecure) = tls(&section);
    let services = services(&section, tls_insecure);
    let log = log(&section);
    let queue = queue(&section, &services);
    section.ignore(&["PostgreSQL", "ClusterID"]);
    let containers_section = section.section("Containers");
    let containers = containers::containers(&containers_section);
    containers_section.finish(UnknownKeys::Warn);
    let api = api(&section, containers.max_dispatch_attempts);
    let types = instance_types::instance_types(
        &section,
        containers.preemptible_price_factor_ppm,
        containers.cloud.driver == "loopback",
    );
    if let Some(max) = containers.core.limits.price_per_hour {
        let expensive = types.iter().filter(|(_, offer)| offer.price > max);
        for (name, _) in expensive {
            let path = section.path_of(&format!("InstanceTypes.{name}"));
            let message = "costs more than MaxPricePerHour; no instance of it is ever created";
            section.report().warn(&path, None, message.to_owned());
        }
    }
    // Other programs have too many keys here for a list.
    section.finish(UnknownKeys::WarnIfSimilar);
    let mut core = containers.core;
    core.types = types;
    ClusterConfig {
        cluster_id: id.to_owned(),
        core,
        system_root_token,
        management_token,
        dispatch_private_key: containers.dispatch_private_key,
        services,
        tls,
        cloud: containers.cloud,
        runner: containers.runner,
        log,
        api,
        queue,
    }
}

fn token(section: &Section<'_>, key: &'static str) -> Secret {
    let Some(entry) = section.get(key) else {
        warn_of_weak_token(section, key, None, 0);
        return Secret::default();
    };
    let Some(text) = entry.secret_text() else {
        return Secret::default();
    };
    if !text.bytes().all(|b| b.is_ascii_alphanumeric()) {
        let expected = "a token of the characters A-Z, a-z and 0-9";
        entry.wrong_kind(
            expected,
            "make a new one, for instance 40 random such characters",
        );
        return Secret::default();
    }
    warn_of_weak_token(section, key, Some(entry.line()), text.len());
    Secret::new(text)
}

fn warn_of_weak_token(section: &Section<'_>, key: &str, line: Option<u64>, len: usize) {
    let message = match len {
        0 => "is empty; nobody can be authenticated with it",
        1..32 => "has less than 32 characters; a longer one is harder to guess",
        _ => return,
    };
    let path = section.path_of(key);
    section.report().warn(&path, line, message.to_owned());
}

fn services(section: &Section<'_>, tls_insecure: bool) -> Services {
    let services = section.section("Services");
    let controller = services.section("Controller");
    let url = match controller.get("ExternalURL") {
        Some(entry) => entry.text().and_then(|text| web_url(&entry, &text)),
        None => {
            controller.missing(
                "ExternalURL",
                "the URL of the containers API",
                "write one such as https://zzzzz.example.com, or http://127.0.0.1:9000 for the built-in queue",
            );
            None
        }
    };
    let dispatch = services.section("DispatchCloud");
    let dispatch_cloud = internal_urls(&dispatch);
    controller.ignore(&["InternalURLs"]);
    dispatch.ignore(&["ExternalURL"]);
    controller.finish(UnknownKeys::WarnIfSimilar);
    dispatch.finish(UnknownKeys::WarnIfSimilar);
    services.finish(UnknownKeys::WarnIfSimilar);
    Services {
        controller_url: url.as_ref().map(Url::to_string).unwrap_or_default(),
        controller_host: url.as_ref().map(host).unwrap_or_default(),
        dispatch_cloud,
        tls_insecure,
    }
}

/// Reads `TLS`: certificate with key, or none; `true` if certificates of servers are not checked.
fn tls(section: &Section<'_>) -> (Option<TlsFiles>, bool) {
    let tls = section.section("TLS");
    let given = ["Certificate", "Key"].map(|name| {
        let entry = tls.get(name)?;
        let text = entry.secret_text().filter(|text| !text.is_empty())?;
        Some((entry, text))
    });
    let advice = "write PEM, or file:///absolute/path";
    match &given {
        [Some(_), None] => tls.missing("Key", "the private key of TLS.Certificate", advice),
        [None, Some(_)] => tls.missing("Certificate", "the certificate of TLS.Key", advice),
        _ => {}
    }
    let insecure = tls.bool("Insecure", false);
    tls.finish(UnknownKeys::WarnIfSimilar);
    let [certificate, key] = given.map(|given| given.and_then(|(entry, text)| pem(&entry, text)));
    let files = certificate.zip(key);
    (
        files.map(|(certificate, key)| TlsFiles { certificate, key }),
        insecure,
    )
}

fn pem(entry: &Entry<'_>, text: &str) -> Option<Pem> {
    if text.trim_start().starts_with("-----BEGIN ") {
        return Some(Pem::Text(Secret::new(text)));
    }
    match text.strip_prefix("file://") {
        Some(path) if path.starts_with('/') => Some(Pem::File(PathBuf::from(path))),
        _ => {
            let advice = "write three slashes after file:, or the text itself after \"|\"";
            entry.wrong_kind("PEM, or file:///absolute/path", advice);
            None
        }
    }
}

fn internal_urls(dispatch: &Section<'_>) -> Vec<InternalUrl> {
    let mut urls = Vec::new();
    for (text, entry) in dispatch.section("InternalURLs").named() {
        let own = entry.section();
        let listen = own.get("ListenURL");
        own.finish(UnknownKeys::WarnIfSimilar);
        let Some(url) = web_url(&entry, text) else {
            continue;
        };
        // Blank counts as absent.
        let listen = listen.and_then(|e| Some((e.text().filter(|t| !t.is_empty())?, e)));
        let bind = match listen {
            Some((text, entry)) => web_url(&entry, &text),
            None => Some(url.clone()),
        };
        if let Some(bind) = bind {
            urls.push(InternalUrl {
                url: url.to_string(),
                tls: bind.scheme() == "https",
                listen: host_and_port(&bind),
            });
        }
    }
    urls
}

fn log(section: &Section<'_>) -> Log {
    let logs = section.section("SystemLogs");
    let formats = [("json", LogFormat::Json), ("text", LogFormat::Text)];
    let levels = [
        ("panic", LogLevel::Error),
        ("fatal", LogLevel::Error),
        ("error", LogLevel::Error),
        ("warning", LogLevel::Warn),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
    let log = Log {
        format: logs.choice("Format", &formats, LogFormat::Json),
        level: logs.choice("LogLevel", &levels, LogLevel::Info),
    };
    logs.finish(UnknownKeys::WarnIfSimilar);
    log
}

fn api(section: &Section<'_>, max_dispatch_attempts: u32) -> Api {
    let api = section.section("API");
    let concurrent = api.count_above_zero("MaxConcurrentRequests", 64);
    let max_items_per_response = api.count("MaxItemsPerResponse", 1, 1000);
    api.finish(UnknownKeys::WarnIfSimilar);
    Api {
        max_items_per_response,
        concurrency_max: (concurrent.unwrap_or(64) / 4).max(1),
        max_dispatch_attempts,
    }
}

fn queue(section: &Section<'_>, services: &Services) -> Option<BuiltinQueue> {
    let longshore = section.section("Longshore");
    let queue = longshore.get("Queue").map(|entry| {
        let queue = entry.section();
        let database = queue.text("Database", "");
        if database.is_empty() {
            let advice = "write one such as /var/lib/longshore/queue.db, or delete Longshore.Queue";
            queue.missing("Database", "the path of the queue's file", advice);
        }
        let listen = match queue.get("Listen") {
            Some(entry) => entry.text().and_then(|text| listen_address(&entry, text)),
            None => Url::parse(&services.controller_url)
                .ok()
                .map(|url| host_and_port(&url)),
        };
        queue.finish(UnknownKeys::Warn);
        BuiltinQueue {
            database: PathBuf::from(database),
            listen: listen.unwrap_or_default(),
        }
    });
    longshore.finish(UnknownKeys::Warn);
    queue
}

fn listen_address(entry: &Entry<'_>, text: String) -> Option<String> {
    let port = text
        .rsplit_once(':')
        .map(|(host, port)| (host, port.parse::<u16>()));
    if matches!(port, Some((host, Ok(_))) if !host.is_empty()) {
        return Some(text);
    }
    entry.wrong("host:port", "write an address such as 127.0.0.1:9000");
    None
}

/// Parses an absolute http or https URL with a host and without a user. Errors do not show a URL with
/// a user, since it may contain a password.
fn web_url(entry: &Entry<'_>, text: &str) -> Option<Url> {
    const EXPECTED: &str = "a URL such as https://zzzzz.example.com or http://127.0.0.1:9000";
    let url = Url::parse(text).ok();
    let usable = url.filter(|url| {
        matches!(url.scheme(), "http" | "https") && url.has_host() && url.username().is_empty()
    });
    if usable.is_none() || text.contains('@') {
        let found = if text.contains('@') {
            "a URL with a user".to_owned()
        } else {
            format!("{:?}", text.chars().take(60).collect::<String>())
        };
        let advice = "write http:// or https://, a host, and perhaps a port";
        entry.wrong_as(found, EXPECTED, advice);
        return None;
    }
    usable
}

fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

fn host_and_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    format!("{host}:{}", url.port_or_known_default().unwrap_or(443))
}
