//! Items required in the catalogue. An item stays on these lists even if hard to show: a failure
//! impossible here is marked as impossible in `SCENARIOS.md`.

/// Number of pain points in the field.
pub(crate) const PAINS: u32 = 15;

/// Tickets of the peer: failures of the past and suspicious behaviour.
pub(crate) const TICKETS: &[&str] = &[
    "14325", "14828", "14807", "14920", "14977", "6f4e3ff9", "15026", "15295", "15340", "15345",
    "15707", "15759", "15942", "15823", "16219", "957168f0", "16631", "16663", "16723", "16739",
    "16795", "16834", "16636", "16838", "17529", "17776", "18102", "16347", "15370", "17344",
    "18071", "18842", "19702", "19320", "19973", "19972", "19961", "20182", "20188", "20235",
    "20511", "20457", "20601", "20667", "20755", "21603", "20649", "20984", "20978", "21123",
    "22132", "22017", "21314", "22400", "22771", "23044", "23178", "23196", "14922", "22971",
    "20471", "22401",
];

/// Number of suspicious places in the code of the peer.
pub(crate) const SUSPICIONS: u32 = 11;

/// Test scenarios of the peer about dispatching, by file.
pub(crate) const UPSTREAM: &[(&str, &[&str])] = &[
    (
        "dispatcher",
        &[
            "DispatchToStubDriver",
            "Permissions",
            "Disabled",
            "Containers",
            "Instances",
            "CLI",
            "stub runner contract",
        ],
    ),
    (
        "run_queue",
        &[
            "UseIdleWorkers",
            "Pack_NewInstance",
            "Pack_IdleInstance",
            "Pack_TooBig",
            "Pack_SpareResources",
            "Pack_IdleBehaviorHold",
            "Pack_DisabledInConfig",
            "Pack_LimitedInConfig",
            "Pack_InstanceStateUnknown",
            "Pack_Resources",
            "Pack_0VCPUs",
            "ShutdownAtQuota",
            "InstanceCapacity",
            "IdleIn503QuietPeriod",
            "UnlockExcessSupervisors",
            "ExcessSupervisors",
            "SkipSupervisors",
            "EqualPriority",
            "StartWhileCreating",
            "KillNonexistent",
            "ContainersMetrics",
        ],
    ),
    (
        "sync",
        &[
            "forget ended containers",
            "forget priority 0",
            "no cancel while an instance is unknown",
            "cancel once the instance is gone",
        ],
    ),
    (
        "worker",
        &[
            "unknown, both probes fail",
            "unknown, boot fails, container runs",
            "unknown, container gone",
            "unknown, past the timeout",
            "deploy before the run probe",
            "booting, a probe fails",
            "booting, both pass",
            "booting, past the timeout",
            "idle past the probe timeout, probe passes",
            "probe fails past the timeout",
            "running, list empty",
            "starting protects running",
            "nothing to deploy",
        ],
    ),
    (
        "pool",
        &[
            "ResumeAfterRestart",
            "Drain",
            "NodeCreateThrottle",
            "CreateUnallocShutdown",
            "InstanceQuotaGroup",
        ],
    ),
    ("throttle", &["error until the deadline"]),
    (
        "queue",
        &[
            "lock, unlock, cancel",
            "mounts are not kept",
            "no fitting type",
            "invalid mounts",
        ],
    ),
    (
        "node_size",
        &[
            "no types",
            "unsatisfiable",
            "equal price",
            "MaximumPriceFactor",
            "blob buffers",
            "preemptible",
            "image size",
            "GPU",
            "shared VCPU",
        ],
    ),
    (
        "others",
        &["sshexecutor", "loopback", "cloudtest", "crunchrun", "Rails"],
    ),
];

/// Number of rules in each section of the dispatcher's description.
pub(crate) const RULES: &[u32] = &[14, 6, 10, 16, 4, 9, 3, 5];

/// Names of all items, as in the first column of `SCENARIOS.md`.
pub(crate) fn all() -> Vec<String> {
    let pains = (1..=PAINS).map(|n| format!("Pain {n}"));
    let tickets = TICKETS.iter().map(|ticket| format!("Ticket {ticket}"));
    let suspicions = (1..=SUSPICIONS).map(|n| format!("Suspicion {n}"));
    let upstream = UPSTREAM
        .iter()
        .flat_map(|(file, names)| names.iter().map(move |name| format!("{file}: {name}")));
    let rules = (1..).zip(RULES).flat_map(|(section, count)| {
        (1..=*count).map(move |number| format!("Rule {section}.{number}"))
    });
    pains
        .chain(tickets)
        .chain(suspicions)
        .chain(upstream)
        .chain(rules)
        .collect()
}
