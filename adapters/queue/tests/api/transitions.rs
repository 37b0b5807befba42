//! All transitions by all kinds of token, permitted and refused.

use serde_json::{Value, json};

use crate::support::{Answer, World};

const STATES: [&str; 5] = ["Queued", "Locked", "Running", "Complete", "Cancelled"];
const CALLERS: [&str; 6] = ["admin", "holder", "other", "owner", "stranger", "own"];

/// Outcomes: `ok`; `T` wrong transition; `L` cannot lock; `R` started before; `D` locked by a
/// different token; `U` not for users; `P` users lower the priority instead; `A` admins only; `C`
/// not for the container's own token; `-` the token has expired; `x` not found.
///
/// Row: from, to, then the outcome for admin, holder, other dispatcher, owner, stranger, own token.
const PUT_STATE: [[&str; 8]; 25] = [
    ["Queued", "Queued", "ok", "ok", "ok", "ok", "x", "-"],
    ["Queued", "Locked", "ok", "ok", "ok", "U", "x", "-"],
    ["Queued", "Running", "T", "T", "T", "U", "x", "-"],
    ["Queued", "Complete", "T", "T", "T", "U", "x", "-"],
    ["Queued", "Cancelled", "ok", "ok", "ok", "ok", "x", "-"],
    ["Locked", "Queued", "D", "ok", "D", "U", "x", "C"],
    ["Locked", "Locked", "L", "ok", "L", "L", "x", "L"],
    ["Locked", "Running", "D", "ok", "D", "U", "x", "C"],
    ["Locked", "Complete", "T", "T", "T", "U", "x", "C"],
    ["Locked", "Cancelled", "ok", "ok", "D", "P", "x", "C"],
    ["Running", "Queued", "T", "T", "T", "U", "x", "C"],
    ["Running", "Locked", "T", "T", "T", "U", "x", "C"],
    ["Running", "Running", "R", "R", "R", "R", "x", "R"],
    ["Running", "Complete", "D", "ok", "D", "U", "x", "C"],
    ["Running", "Cancelled", "ok", "ok", "ok", "P", "x", "C"],
    ["Complete", "Queued", "T", "T", "T", "U", "x", "-"],
    ["Complete", "Locked", "T", "T", "T", "U", "x", "-"],
    ["Complete", "Running", "T", "T", "T", "U", "x", "-"],
    ["Complete", "Complete", "ok", "ok", "ok", "ok", "x", "-"],
    ["Complete", "Cancelled", "ok", "A", "A", "A", "x", "-"],
    ["Cancelled", "Queued", "T", "T", "T", "U", "x", "-"],
    ["Cancelled", "Locked", "T", "T", "T", "U", "x", "-"],
    ["Cancelled", "Running", "T", "T", "T", "U", "x", "-"],
    ["Cancelled", "Complete", "T", "T", "T", "U", "x", "-"],
    ["Cancelled", "Cancelled", "ok", "ok", "ok", "ok", "x", "-"],
];

fn expected(code: &str, from: &str, to: &str) -> (u16, String) {
    match code {
        "T" => (
            422,
            format!("InvalidStateTransition: cannot change state from {from} to {to}>"),
        ),
        "L" => (422, format!("LockFailed: cannot lock when {from}>")),
        "R" => (422, "a runner has started this container before".to_owned()),
        "D" => (403, "locked by a different token".to_owned()),
        "U" => (
            403,
            "a user may change the priority, or cancel, and nothing else".to_owned(),
        ),
        "P" => (403, "set the priority to 0".to_owned()),
        "A" => (
            403,
            "only an admin may cancel a container that is Complete".to_owned(),
        ),
        "C" => (
            403,
            "a container's own token may report progress".to_owned(),
        ),
        "x" => (404, "not found".to_owned()),
        "-" => (401, "Not logged in".to_owned()),
        other => panic!("unknown code {other}"),
    }
}

struct Cast {
    world: World,
    holder: String,
}

impl Cast {
    async fn new() -> Self {
        let world = World::new().await;
        let (_, holder) = world
            .server
            .tokens()
            .create(longshore_queue::Role::Dispatcher, "one")
            .await
            .unwrap();
        Self {
            world,
            holder: holder.expose().to_owned(),
        }
    }

    fn token(&self, caller: &str, own: Option<&str>) -> String {
        match caller {
            "admin" => self.world.admin.clone(),
            "holder" => self.holder.clone(),
            "other" => self.world.dispatcher.clone(),
            "owner" => self.world.alice.clone(),
            "stranger" => self.world.bob.clone(),
            // A container without a lock so far has no token: an unknown token stands for it.
            _ => own
                .unwrap_or("v2/zzzzz-gj3su-111111111111111/none")
                .to_owned(),
        }
    }

    fn check(&self, answer: &Answer, code: &str, from: &str, to: &str, label: &str) {
        if code == "ok" {
            assert_eq!(answer.status, 200, "{label}: {}", answer.body);
        } else {
            let (status, text) = expected(code, from, to);
            assert_eq!(answer.status, status, "{label}: {}", answer.body);
            assert!(
                answer.error().contains(&text),
                "{label}: {}",
                answer.error()
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn put_state_follows_the_transition_table() {
    let cast = Cast::new().await;
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    for row in PUT_STATE {
        let (from, to) = (row[0], row[1]);
        pairs.push((from, to));
        for (caller, code) in CALLERS.iter().zip(&row[2..]) {
            let label = format!("{caller}: {from} to {to}");
            let (uuid, own) = cast.world.create_in(from, &cast.holder).await;
            let before = cast.world.record(&uuid).await;
            let token = cast.token(caller, own.as_deref());
            let answer = cast.world.put(&token, &uuid, &json!({ "state": to })).await;
            cast.check(&answer, code, from, to, &label);
            let after = cast.world.record(&uuid).await;
            if *code == "ok" && from != to {
                assert_eq!(answer.body, after, "{label}: the answer is the record");
                check_consequences(&after, to, &label);
            } else {
                assert_eq!(before, after, "{label}: nothing changes");
            }
        }
    }
    let all = STATES
        .iter()
        .flat_map(|from| STATES.iter().map(move |to| (*from, *to)));
    assert!(all.into_iter().eq(pairs), "the table has every pair once");
}

fn check_consequences(after: &Value, to: &str, label: &str) {
    assert_eq!(after["state"], to, "{label}");
    let is_held = matches!(to, "Locked" | "Running");
    assert_eq!(after["locked_by_uuid"].is_string(), is_held, "{label}");
    assert_eq!(after["auth_uuid"].is_string(), is_held, "{label}");
    let is_final = matches!(to, "Complete" | "Cancelled");
    assert_eq!(after["finished_at"].is_string(), is_final, "{label}");
    if matches!(to, "Running" | "Complete") {
        assert!(after["started_at"].is_string(), "{label}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lock_and_unlock_follow_state_and_caller() {
    let cast = Cast::new().await;
    // From, action, then admin, holder, other dispatcher, owner, stranger, own token.
    let rows = [
        ["Queued", "lock", "ok", "ok", "ok", "role", "x", "-"],
        [
            "Locked", "lock", "state", "state", "state", "role", "x", "role",
        ],
        [
            "Running", "lock", "state", "state", "state", "role", "x", "role",
        ],
        [
            "Complete", "lock", "state", "state", "state", "role", "x", "-",
        ],
        [
            "Cancelled",
            "lock",
            "state",
            "state",
            "state",
            "role",
            "x",
            "-",
        ],
        [
            "Queued", "unlock", "state", "state", "state", "role", "x", "-",
        ],
        ["Locked", "unlock", "D", "ok", "D", "role", "x", "role"],
        [
            "Running", "unlock", "state", "state", "state", "role", "x", "role",
        ],
        [
            "Complete", "unlock", "state", "state", "state", "role", "x", "-",
        ],
        [
            "Cancelled",
            "unlock",
            "state",
            "state",
            "state",
            "role",
            "x",
            "-",
        ],
    ];
    for row in rows {
        let (from, action) = (row[0], row[1]);
        for (caller, code) in CALLERS.iter().zip(&row[2..]) {
            let label = format!("{caller}: {action} when {from}");
            let (uuid, own) = cast.world.create_in(from, &cast.holder).await;
            let token = cast.token(caller, own.as_deref());
            let answer = cast
                .world
                .post(&token, &format!("containers/{uuid}/{action}"), &[])
                .await;
            match *code {
                "state" => answer.fails(422, &format!("LockFailed: cannot {action} when {from}>")),
                "role" => answer.fails(403, &format!("only a dispatcher or an admin may {action}")),
                code => cast.check(&answer, code, from, from, &label),
            }
            if *code == "ok" {
                let to = if action == "lock" { "Locked" } else { "Queued" };
                assert_eq!(answer.body["state"], to, "{label}");
                let keys: Vec<&String> = answer.body.as_object().unwrap().keys().collect();
                for key in ["uuid", "state", "priority", "auth_uuid", "locked_by_uuid"] {
                    assert!(keys.iter().any(|k| *k == key), "{label}: {key} is missing");
                }
            }
        }
    }
}

#[tokio::test]
async fn lock_is_refused_at_priority_zero() {
    let world = World::new().await;
    let uuid = world.create(0).await;
    world
        .lock(&world.dispatcher, &uuid)
        .await
        .fails(422, "LockFailed: cannot lock when priority<=0>");
    let by_put = world
        .put(&world.dispatcher, &uuid, &json!({ "state": "Locked" }))
        .await;
    by_put.fails(422, "cannot lock when priority<=0");
    let raised = json!({ "state": "Locked", "priority": 3 });
    let locked = world.put(&world.dispatcher, &uuid, &raised).await.ok();
    assert_eq!(
        (&locked["lock_count"], &locked["priority"]),
        (&json!(1), &json!(3))
    );
    assert_eq!(
        locked["locked_by_uuid"],
        world.token_uuid(&world.dispatcher).await
    );
}

#[tokio::test]
async fn unlock_after_last_attempt_cancels_with_reason() {
    let world = World::with(|config| config.max_dispatch_attempts = 3).await;
    let uuid = world.create(1).await;
    for attempt in 1..=3 {
        let locked = world.lock(&world.dispatcher, &uuid).await.ok();
        assert_eq!(locked["lock_count"], attempt);
        let status = json!({ "runtime_status": { "warning": "no luck" } });
        world.put(&world.dispatcher, &uuid, &status).await.ok();
        let unlocked = world.unlock(&world.dispatcher, &uuid).await.ok();
        assert_eq!(unlocked["lock_count"], attempt, "the count is kept");
        if attempt < 3 {
            assert_eq!(unlocked["state"], "Queued");
            assert_eq!(
                unlocked["runtime_status"],
                json!({}),
                "the status is cleared"
            );
        } else {
            assert_eq!(unlocked["state"], "Cancelled");
        }
    }
    let record = world.record(&uuid).await;
    assert_eq!(
        record["runtime_status"]["error"],
        "Failed to start container.  Cancelled after exceeding 'Containers.MaxDispatchAttempts' (lock_count=3)"
    );
    assert!(record["finished_at"].is_string());
    world
        .lock(&world.dispatcher, &uuid)
        .await
        .fails(422, "cannot lock when Cancelled");
}

#[tokio::test]
async fn attempts_by_put_and_post_count_equally() {
    let world = World::with(|config| config.max_dispatch_attempts = 1).await;
    let uuid = world.create(1).await;
    world
        .put(&world.dispatcher, &uuid, &json!({ "state": "Locked" }))
        .await
        .ok();
    let unlocked = world
        .put(&world.dispatcher, &uuid, &json!({ "state": "Queued" }))
        .await
        .ok();
    assert_eq!(unlocked["state"], "Cancelled");
}

#[tokio::test]
async fn start_report_may_be_repeated_by_same_runner() {
    let world = World::new().await;
    let (uuid, _) = world.create_in("Locked", &world.dispatcher).await;
    let start = json!({ "state": "Running", "gateway_address": "10.0.0.1:12345", "log": "l" });
    let first = world.put(&world.dispatcher, &uuid, &start).await.ok();
    let again = world.put(&world.dispatcher, &uuid, &start).await.ok();
    assert_eq!(first, again);
    let rival = json!({ "state": "Running", "gateway_address": "10.0.0.2:12345", "log": "l" });
    world
        .put(&world.dispatcher, &uuid, &rival)
        .await
        .fails(422, "a runner has started");
    assert_eq!(
        world.record(&uuid).await["gateway_address"],
        "10.0.0.1:12345"
    );
}

/// From, to, and the attributes writable by the holder in the same request.
const WRITABLE: [(&str, &str, &[&str]); 11] = [
    ("Queued", "Queued", &["priority"]),
    ("Locked", "Locked", &["priority", "runtime_status", "log"]),
    ("Locked", "Queued", &["priority"]),
    ("Queued", "Locked", &["priority", "runtime_status", "log"]),
    (
        "Locked",
        "Running",
        &[
            "priority",
            "runtime_status",
            "log",
            "gateway_address",
            "cost",
            "output",
            "exit_code",
        ],
    ),
    (
        "Running",
        "Running",
        &[
            "priority",
            "runtime_status",
            "log",
            "gateway_address",
            "cost",
            "output",
            "exit_code",
        ],
    ),
    (
        "Running",
        "Complete",
        &[
            "runtime_status",
            "log",
            "cost",
            "output",
            "exit_code",
            "finished_at",
        ],
    ),
    (
        "Running",
        "Cancelled",
        &[
            "priority",
            "runtime_status",
            "log",
            "cost",
            "output",
            "exit_code",
            "finished_at",
        ],
    ),
    (
        "Locked",
        "Cancelled",
        &["priority", "runtime_status", "log", "cost", "finished_at"],
    ),
    ("Complete", "Complete", &[]),
    ("Cancelled", "Cancelled", &[]),
];

#[tokio::test(flavor = "multi_thread")]
async fn attributes_are_writable_in_their_states_only() {
    let cast = Cast::new().await;
    let values = json!({
        "priority": 7, "runtime_status": { "error": "e" }, "log": "pdh", "gateway_address": "h:1",
        "cost": 1.5, "output": "out", "exit_code": 3, "finished_at": "2026-08-07T00:00:00.000000000Z",
        "command": ["rm"], "uuid": "zzzzz-dz642-000000000000000", "owner": "bob", "lock_count": 0.5,
        "locked_by_uuid": "x", "created_at": "2026-08-07T00:00:00.000000000Z",
    });
    for (from, to, names) in WRITABLE {
        for (name, value) in values.as_object().unwrap() {
            let label = format!("{name}: {from} to {to}");
            let (uuid, _) = cast.world.create_in(from, &cast.holder).await;
            let mut wish = json!({ name: value });
            if from != to {
                wish["state"] = json!(to);
            }
            let answer = cast.world.put(&cast.holder, &uuid, &wish).await;
            let after = cast.world.record(&uuid).await;
            if names.contains(&name.as_str()) {
                assert_eq!(answer.status, 200, "{label}: {}", answer.body);
                assert_eq!(&after[name], value, "{label}");
                assert_eq!(after["state"], to, "{label}");
            } else {
                answer.fails(422, &format!("container.{name}: cannot be changed when"));
                assert_eq!(after["state"], from, "{label}: refused as a whole");
            }
        }
    }
}

#[tokio::test]
async fn progress_report_requires_holder_or_container() {
    let cast = Cast::new().await;
    for state in ["Locked", "Running"] {
        let (uuid, own) = cast.world.create_in(state, &cast.holder).await;
        let status = |text: &str| json!({ "runtime_status": { "activity": text } });
        cast.world
            .put(&cast.holder, &uuid, &status("holder"))
            .await
            .ok();
        cast.world
            .put(&own.unwrap(), &uuid, &status("own"))
            .await
            .ok();
        for caller in ["admin", "other"] {
            let answer = cast
                .world
                .put(&cast.token(caller, None), &uuid, &status(caller))
                .await;
            answer.fails(403, "locked by a different token");
        }
        let answer = cast
            .world
            .put(&cast.world.alice, &uuid, &status("owner"))
            .await;
        answer.fails(403, "a user may change the priority");
        assert_eq!(
            cast.world.record(&uuid).await["runtime_status"]["activity"],
            "own"
        );
    }
}

#[tokio::test]
async fn cancel_may_carry_a_reason() {
    let world = World::new().await;
    for state in ["Queued", "Locked", "Running"] {
        let (uuid, _) = world.create_in(state, &world.dispatcher).await;
        let wish = json!({ "state": "Cancelled", "runtime_status": { "error": "no type fits" } });
        let record = world.put(&world.dispatcher, &uuid, &wish).await.ok();
        assert_eq!(record["state"], "Cancelled");
        assert_eq!(record["runtime_status"]["error"], "no type fits");
    }
    let uuid = world.create(0).await;
    let cancelled = world
        .put(&world.admin, &uuid, &json!({ "state": "Cancelled" }))
        .await
        .ok();
    assert_eq!(
        cancelled["state"], "Cancelled",
        "priority 0 can be cancelled when Queued"
    );
}

#[tokio::test]
async fn full_container_life_is_recorded() {
    let world = World::new().await;
    let (uuid, own) = world.create_in("Running", &world.dispatcher).await;
    let status =
        json!({ "cost": 0.25, "exit_code": 0, "output": "o", "log": "l", "state": "Complete" });
    let record = world.put(&world.dispatcher, &uuid, &status).await.ok();
    let order =
        ["created_at", "started_at", "finished_at"].map(|n| record[n].as_str().unwrap().to_owned());
    assert!(order.is_sorted(), "{order:?}");
    assert!(
        order.iter().all(|at| at.len() == 30 && at.ends_with('Z')),
        "{order:?}"
    );
    assert_eq!(
        (&record["cost"], &record["exit_code"]),
        (&json!(0.25), &json!(0))
    );
    let own = own.unwrap();
    world
        .get(&own, "api_client_authorizations/current", &[])
        .await
        .fails(401, "Not logged in");
}
