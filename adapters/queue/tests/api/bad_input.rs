//! Invalid input: each case with its status and the path of the error.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{Answer, World, plain};

/// Place of the defect in a plain container, its JSON, and the begin of the answer.
const SPOILT: &str = r#"
/command | [] | container.command: expected a non-empty array of strings
/command | "echo" | container.command: expected a non-empty array of strings
/command | ["echo", 5] | container.command[1]: expected a string, got 5
/command | [""] | container.command[0]: expected the name of a program
/command | ["a\u0000b"] | container.command[0]: expected a string without the character NUL
/environment | [] | container.environment: expected an object, got []
/environment | {"A": 1} | container.environment.A: expected a string, got 1
/environment | {"A=B": "x"} | container.environment: expected names
/environment | {"": "x"} | container.environment: expected names
/cwd | 5 | container.cwd: expected a string, got 5
/name | null | container.name: expected a string, got null
/output_path | {} | container.output_path: expected a string, got {}
/container_image | [] | container.container_image: expected a string
/priority | -1 | container.priority: expected an integer of 0 to 1000, got -1
/priority | 1001 | container.priority: expected an integer of 0 to 1000, got 1001
/priority | 1.5 | container.priority: expected an integer
/priority | "1" | container.priority: expected an integer
/state | "Locked" | container.state: expected "Queued", or no state
/owner | "" | container.owner: expected a name
/lock_count | 0 | container.lock_count: is not known here
/mounts | "x" | container.mounts: expected an object
/mounts | {"tmp": {"kind": "tmp"}} | container.mounts["tmp"]: expected an absolute path
/mounts | {"/tmp": 5} | container.mounts["/tmp"]: expected an object like
/mounts | {"/tmp": {}} | container.mounts["/tmp"].kind: expected the kind
/mounts | {"/tmp": {"kind": "tmp", "capacity": -1}} | container.mounts["/tmp"].capacity: expected an integer of at least 0, got -1
/runtime_constraints | null | container.runtime_constraints: expected an object like
/runtime_constraints | {} | container.runtime_constraints.vcpus: is required
/runtime_constraints/vcpus | -1 | container.runtime_constraints.vcpus: expected an integer of at least 0, got -1
/runtime_constraints/vcpus | 0.5 | container.runtime_constraints.vcpus: expected an integer
/runtime_constraints/vcpus | "two" | container.runtime_constraints.vcpus: expected an integer of at least 0, got "two"
/runtime_constraints/ram | 0 | container.runtime_constraints.ram: expected an integer of at least 1, got 0
/runtime_constraints/ram | 18446744073709551615 | container.runtime_constraints.ram: expected an integer
/runtime_constraints/cpus | 1 | container.runtime_constraints.cpus: is not known here: expected vcpus, ram
/runtime_constraints/keep_cache_ram | -5 | container.runtime_constraints.keep_cache_ram: expected
/runtime_constraints/API | 1 | container.runtime_constraints.API: expected true or false
/runtime_constraints/instance_image_id | 7 | container.runtime_constraints.instance_image_id: expected a string
/runtime_constraints/gpu | 1 | container.runtime_constraints.gpu: expected an object
/runtime_constraints/gpu | {"count": 1} | container.runtime_constraints.gpu.count: is not known here
/runtime_constraints/gpu | {"device_count": "1"} | container.runtime_constraints.gpu.device_count: expected an integer
/runtime_constraints/gpu | {"hardware_target": [1]} | container.runtime_constraints.gpu.hardware_target[0]: expected a string
/scheduling_parameters | [] | container.scheduling_parameters: expected an object
/scheduling_parameters | {"preemptible": "yes"} | container.scheduling_parameters.preemptible: expected true or false
/scheduling_parameters | {"max_run_time": -1} | container.scheduling_parameters.max_run_time: expected
/scheduling_parameters | {"partitions": "x"} | container.scheduling_parameters.partitions: expected an array
/scheduling_parameters | {"nice": 1} | container.scheduling_parameters.nice: is not known here
"#;

/// Path, parameter, value, and the begin of the answer.
const PARAMETERS: &str = r#"
containers | filters | [[ | filters: not valid JSON
containers | filters | {} | filters: expected an array
containers | filters | [["nope","=",1]] | filters[0][0]: expected a filterable field
containers | filters | [["uuid","~","x"]] | filters[0][1]: expected one of
containers | filters | [["priority","=","x"]] | filters[0][2]: expected an integer
containers | order | nope desc | order[0]: expected a sortable field
containers | order | ["uuid", 5] | order[1]: expected
containers | select | ["secret"] | select[0]: expected a field
containers | select | 5 | select: expected an array
containers | limit | -1 | limit: expected a whole number
containers | limit | many | limit: expected a whole number
containers | offset | 9223372036854775808 | offset: expected a whole number
containers | count | some | count: expected none or exact
UUID | select | [] | select: expected at least one
UUID/log | stream | stdin | stream: expected stdout or stderr
UUID/log | offset | x | offset: expected
UUID/log | limit | 0 | limit: expected at least 1
UUID/log | follow | maybe | follow: expected true or false
"#;

fn rows<const N: usize>(table: &'static str) -> Vec<[&'static str; N]> {
    let cells = |row: &'static str| row.split(" | ").collect::<Vec<_>>().try_into().unwrap();
    table
        .lines()
        .filter(|row| !row.is_empty())
        .map(cells)
        .collect()
}

#[tokio::test]
async fn new_container_each_wrong_part_is_named() {
    let world = World::new().await;
    for [pointer, value, expected] in rows(SPOILT) {
        let value: Value = serde_json::from_str(value).unwrap();
        let mut attributes = plain();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        attributes.pointer_mut(parent).unwrap()[key] = value;
        let answer = world.create_as(&world.alice, &attributes).await;
        assert_eq!(answer.status, 422, "{attributes}: {}", answer.body);
        assert!(
            answer
                .error()
                .starts_with(&format!("#<Invalid: {expected}")),
            "{}",
            answer.error()
        );
    }
    for name in ["command", "runtime_constraints"] {
        let mut attributes = plain();
        attributes.as_object_mut().unwrap().remove(name);
        world
            .create_as(&world.alice, &attributes)
            .await
            .fails(422, &format!("container.{name}: is required"));
    }
    let list = world.get(&world.admin, "containers", &[]).await.ok();
    assert_eq!(list["items_available"], 0, "nothing was created");
}

#[tokio::test]
async fn huge_valid_sizes_are_accepted() {
    let world = World::new().await;
    let mut attributes = plain();
    attributes["runtime_constraints"] =
        json!({ "vcpus": i64::MAX, "ram": i64::MAX, "keep_cache_disk": i64::MAX });
    let record = world.create_as(&world.alice, &attributes).await.ok();
    assert_eq!(
        record["runtime_constraints"],
        attributes["runtime_constraints"]
    );
    attributes["runtime_constraints"] = json!({ "vcpus": 0, "ram": 1_i64 << 60 });
    world.create_as(&world.alice, &attributes).await.ok();
    attributes["runtime_constraints"] = json!({ "vcpus": 0, "ram": (1_i64 << 60) + 1 });
    world
        .create_as(&world.alice, &attributes)
        .await
        .fails(422, "container.runtime_constraints.ram: expected at most");
}

#[tokio::test]
async fn wrong_updates_are_named() {
    let world = World::new().await;
    let (uuid, _) = world.create_in("Running", &world.dispatcher).await;
    let cases = [
        (
            json!({ "state": "Done" }),
            "container.state: expected Queued, Locked",
        ),
        (json!({ "state": 1 }), "container.state: expected"),
        (
            json!({ "nonsense": 1 }),
            "container.nonsense: there is no such attribute",
        ),
        (
            json!({ "priority": -1 }),
            "container.priority: expected an integer of 0 to",
        ),
        (
            json!({ "cost": "much" }),
            "container.cost: expected a number",
        ),
        (
            json!({ "cost": -0.5 }),
            "container.cost: expected a number of at least 0",
        ),
        (
            json!({ "exit_code": "0" }),
            "container.exit_code: expected an integer or null",
        ),
        (json!({ "log": 5 }), "container.log: expected a string"),
        (
            json!({ "gateway_address": null }),
            "container.gateway_address: expected a string",
        ),
        (
            json!({ "runtime_status": "bad" }),
            "container.runtime_status: expected an object",
        ),
        (
            json!({ "runtime_status": { "error": 5 } }),
            "container.runtime_status.error: expected a string",
        ),
        (
            json!({ "runtime_status": { "activity": "x".repeat(70_000) } }),
            "container.runtime_status: expected at most",
        ),
        (
            json!({ "state": "Complete", "finished_at": "noon" }),
            "container.finished_at: expected a time",
        ),
    ];
    let before = world.record(&uuid).await;
    for (wish, expected) in cases {
        world
            .put(&world.dispatcher, &uuid, &wish)
            .await
            .fails(422, expected);
    }
    assert_eq!(world.record(&uuid).await, before);
}

#[tokio::test]
async fn wrong_parameters_are_named() {
    let world = World::new().await;
    let uuid = world.create(1).await;
    for [path, name, value, expected] in rows(PARAMETERS) {
        let path = path.replace("UUID", &format!("containers/{uuid}"));
        world
            .get(&world.alice, &path, &[(name, value)])
            .await
            .fails(422, expected);
    }
    let empty = world
        .get(&world.alice, "containers", &[("limit", "0")])
        .await
        .ok();
    assert_eq!(
        (&empty["items"], &empty["items_available"]),
        (&json!([]), &json!(1))
    );
}

#[tokio::test]
async fn unreadable_request_gets_api_error() {
    const JSON: &str = "application/json";
    const FORM: &str = "application/x-www-form-urlencoded";
    let world = World::with(|config| config.max_body_bytes = 4096).await;
    let cases: [(&str, &[u8], u16, &str); 10] = [
        (
            JSON,
            b"{\"container\":",
            400,
            "request body: not valid JSON",
        ),
        (JSON, b"[]", 400, "request body: expected a JSON object"),
        (JSON, b"\xff\xfe", 400, "request body: not valid JSON"),
        (JSON, b"{}", 422, "container: is required"),
        (JSON, &[b'['; 3000], 400, "request body: not valid JSON"),
        (FORM, b"container=%7B", 422, "container: not valid JSON"),
        (FORM, b"container=5", 422, "container: expected an object"),
        ("text/xml", b"<a/>", 415, "Content-Type: expected"),
        (JSON, &[b' '; 4097], 413, "larger than 4096 bytes"),
        (JSON, &[b' '; 100_000], 413, "larger than 4096 bytes"),
    ];
    for (kind, body, status, text) in cases {
        let request = world.request(&world.alice, Method::POST, "containers");
        let request = request.header("Content-Type", kind).body(body);
        Answer::of(request).await.fails(status, text);
    }
}

#[tokio::test]
async fn unknown_path_or_method_gets_api_error() {
    let world = World::new().await;
    let send = |method: Method, path: &str| Answer::of(world.request(&world.alice, method, path));
    let wrong = send(Method::DELETE, "containers").await;
    wrong.fails(405, "expected GET or POST, got DELETE");
    let unknown = send(Method::GET, "collections").await;
    unknown.fails(404, "path /arvados/v1/collections not found");
    for name in [
        "zzzzz-dz642-000000000000000",
        "x",
        "%00",
        "zzzzz-dz642-00000000000000%27",
    ] {
        send(Method::GET, &format!("containers/{name}"))
            .await
            .fails(404, "not found");
        send(Method::POST, &format!("containers/{name}/lock"))
            .await
            .fails(404, "not found");
    }
}

#[tokio::test]
async fn container_is_created_from_form_and_json() {
    let world = World::new().await;
    let by_form = world
        .post(
            &world.alice,
            "containers",
            &[("container", &plain().to_string())],
        )
        .await
        .ok();
    let by_json = world.create_as(&world.alice, &plain()).await.ok();
    assert_eq!(by_form["command"], by_json["command"]);
    let as_text = world.request(&world.alice, Method::POST, "containers");
    let as_text =
        Answer::of(as_text.json(&json!({ "container": plain().to_string(), "select": ["state"] })))
            .await;
    assert_eq!(as_text.ok(), json!({ "state": "Queued" }));
}

#[tokio::test]
async fn request_id_harmless_text_is_kept() {
    let world = World::new().await;
    let send = async |id: &str| {
        let request = world
            .request(&world.alice, Method::GET, "nowhere")
            .header("X-Request-Id", id);
        let response = request.send().await.unwrap();
        let shown = response.headers()["x-request-id"]
            .to_str()
            .unwrap()
            .to_owned();
        (shown, Answer::read(response).await)
    };
    let (id, answer) = send("req-abc123").await;
    assert_eq!(id, "req-abc123");
    assert!(
        answer.error().ends_with(" (req-abc123)"),
        "{}",
        answer.error()
    );
    for bad in ["two words", &"x".repeat(65), "a<b>"] {
        let (id, _) = send(bad).await;
        assert!(id.starts_with("req-") && id.len() == 24, "{id}");
    }
}

#[tokio::test]
async fn server_survives_garbage_on_the_socket() {
    let world = World::new().await;
    let line = format!(
        "GET /arvados/v1/containers HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n",
        world.alice
    );
    let garbage: [Vec<u8>; 4] = [
        b"\x16\x03\x01\x02\x00\x01\x00".to_vec(),
        format!("{line}Content-Length: 10\r\n\r\nabc").into_bytes(),
        format!("{line}Transfer-Encoding: chunked\r\n\r\nzz\r\n").into_bytes(),
        [
            line.as_bytes(),
            b"X-Request-Id: \xff\xff\r\nConnection: close\r\n\r\n",
        ]
        .concat(),
    ];
    for bytes in garbage {
        let mut socket = tokio::net::TcpStream::connect(world.server.local_addr())
            .await
            .unwrap();
        socket.write_all(&bytes).await.unwrap();
        socket.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let read =
            tokio::time::timeout(Duration::from_secs(10), socket.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "the server answers or closes");
    }
    assert_eq!(world.get(&world.alice, "containers", &[]).await.status, 200);
}
