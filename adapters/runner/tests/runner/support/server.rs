//! Containers API for tests, with one container and injected faults.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Instant;

use serde_json::{Map, Value, json};

use super::SOON;

pub(crate) const TOKEN: &str = "v2/zzzzz-gj3su-000000000000000/opensesame";

/// State of the server and faults to inject.
#[derive(Default)]
pub(crate) struct ApiState {
    pub(crate) record: Map<String, Value>,
    /// All accepted updates.
    pub(crate) updates: Vec<Map<String, Value>>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    /// Number of log requests, accepted or not.
    pub(crate) log_requests: usize,
    pub(crate) requests: usize,
    /// The next request is answered 503, with a Retry-After of so many seconds.
    pub(crate) busy_s: Option<u32>,
    /// Connections are closed without a response.
    pub(crate) down: bool,
    /// Methods of requests to be processed without a response, each once.
    pub(crate) lost_answers: Vec<&'static str>,
    /// Gateway address of every update to `Running`, accepted or not.
    pub(crate) start_reports: Vec<Value>,
    /// Every repeated update to `Running` is refused, even from the same runner.
    pub(crate) refuses_repeats: bool,
    /// Gateway address of another runner, whose update to `Running` precedes the next update.
    pub(crate) rival: Option<&'static str>,
    /// Status of the response to every log request.
    pub(crate) log_status: Option<u16>,
    /// Status of the response to an update to `Running`.
    pub(crate) running_status: Option<u16>,
    /// Notice returned by the metadata service of a spot instance.
    pub(crate) spot_notice: Option<Value>,
}

impl ApiState {
    pub(crate) fn state(&self) -> &str {
        self.record["state"].as_str().unwrap_or_default()
    }

    pub(crate) fn get(&self, key: &str) -> Value {
        self.record.get(key).cloned().unwrap_or_default()
    }
}

pub(crate) struct Server {
    shared: Arc<(Mutex<ApiState>, Condvar)>,
    pub(crate) uuid: String,
    pub(crate) url: String,
}

impl Server {
    /// Serves one locked container; `record` adds to and replaces its attributes.
    pub(crate) fn with(record: Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let port = listener.local_addr().unwrap().port();
        let uuid = format!("zzzzz-dz642-{port:05}{:010}", std::process::id());
        let mut world = ApiState::default();
        world.record.insert("uuid".into(), uuid.clone().into());
        world.record.insert("state".into(), "Locked".into());
        // Mark for finding the processes of the container.
        world
            .record
            .insert("environment".into(), json!({"CONTAINER_MARK": uuid}));
        world.record.extend(record.as_object().cloned().unwrap());
        let shared = Arc::new((Mutex::new(world), Condvar::new()));
        let (served, own) = (Arc::clone(&shared), uuid.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (served, own) = (Arc::clone(&served), own.clone());
                thread::spawn(move || serve(&served, &own, stream));
            }
        });
        Self { shared, uuid, url }
    }

    /// Serves one locked container that runs a shell script.
    pub(crate) fn script(script: &str) -> Self {
        Self::with(json!({"command": ["sh", "-c", script]}))
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, ApiState> {
        self.shared.0.lock().unwrap()
    }

    /// Waits until a condition is true.
    pub(crate) fn wait_for(&self, what: &str, condition: impl Fn(&ApiState) -> bool) {
        let deadline = Instant::now() + SOON;
        let mut world = self.world();
        while !condition(&world) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "timeout while waiting for: {what}; the record is {:?}",
                world.record
            );
            world = self.shared.1.wait_timeout(world, left).unwrap().0;
        }
    }

    pub(crate) fn wait_for_state(&self, state: &str) {
        self.wait_for(state, |world| world.state() == state);
    }

    /// Configuration document of a dispatcher.
    pub(crate) fn config(&self) -> Value {
        json!({
            "Env": {
                "ARVADOS_API_HOST": "api.example",
                "ARVADOS_API_TOKEN": TOKEN,
                "LONGSHORE_API_URL": self.url,
                "InstanceType": "{\n    \"Price\": 3600\n}\n",
                "GatewayAddress": "127.0.0.1:0",
                "GatewayAuthSecret": "gatewaysecret",
            },
            "KeepBuffers": 0,
            "EC2SpotCheck": false,
            "Cluster": null,
        })
    }
}

struct Request {
    method: String,
    path: String,
    token: String,
    body: Vec<u8>,
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (mut length, mut token) = (0, String::new());
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().ok()?,
            "authorization" => token = value.strip_prefix("Bearer ")?.to_owned(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request {
        method,
        path,
        token,
        body,
    })
}

fn serve(shared: &(Mutex<ApiState>, Condvar), uuid: &str, mut stream: TcpStream) {
    let Some(request) = read(&stream) else { return };
    let mut world = shared.0.lock().unwrap();
    world.requests += 1;
    let busy = world.busy_s.take();
    let answer = match busy {
        _ if world.down => None,
        Some(_) => Some((503, String::new())),
        None => {
            let answer = answer(&mut world, uuid, &request);
            let lost = &mut world.lost_answers;
            let place = lost.iter().position(|method| *method == request.method);
            match place.filter(|_| answer.0 == 200) {
                Some(place) => {
                    lost.remove(place);
                    None
                }
                None => Some(answer),
            }
        }
    };
    drop(world);
    shared.1.notify_all();
    let Some((status, body)) = answer else { return };
    let rest = busy.map_or_else(String::new, |seconds| format!("Retry-After: {seconds}\r\n"));
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} X\r\n{rest}Content-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    // The runner may have closed the connection.
    let _ = stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(body.as_bytes()));
}

fn answer(world: &mut ApiState, uuid: &str, request: &Request) -> (u16, String) {
    let error = |status: u16, text: &str| (status, json!({"errors": [text]}).to_string());
    let own = format!("/arvados/v1/containers/{uuid}");
    match (request.method.as_str(), request.path.as_str()) {
        ("PUT", "/latest/api/token") => return (200, "imds-token".to_owned()),
        ("GET", "/latest/meta-data/spot/instance-action") => {
            return world
                .spot_notice
                .as_ref()
                .map_or((404, String::new()), |notice| (200, notice.to_string()));
        }
        _ if request.token != TOKEN => return error(401, "Not logged in"),
        _ => {}
    }
    let Some(rest) = request.path.strip_prefix(&own) else {
        return error(404, "no such container");
    };
    match (request.method.as_str(), rest) {
        ("GET", "") => (200, json!(world.record).to_string()),
        ("GET", "/auth") => (
            200,
            json!({"uuid": "zzzzz-gj3su-999999999999999", "api_token": "own"}).to_string(),
        ),
        ("POST", rest) => match rest.strip_prefix("/log?stream=") {
            Some(place) => append(world, place, &request.body),
            None => error(404, "no such route"),
        },
        ("PUT", "") => update(world, &request.body),
        _ => error(404, "no such route"),
    }
}

/// Appends new bytes to a log: `place` is the stream and the position.
fn append(world: &mut ApiState, place: &str, body: &[u8]) -> (u16, String) {
    world.log_requests += 1;
    if let Some(status) = world.log_status {
        return (status, json!({"errors": ["no logs"]}).to_string());
    }
    let (stream, position) = place.split_once("&position=").unwrap();
    let log = match stream {
        "stdout" => &mut world.stdout,
        "stderr" => &mut world.stderr,
        _ => panic!("no such stream: {stream}"),
    };
    let Some(known) = log.len().checked_sub(position.parse().unwrap()) else {
        return (422, json!({"errors": ["there is a gap"]}).to_string());
    };
    log.extend(body.iter().skip(known));
    (200, "{}".to_owned())
}

fn update(world: &mut ApiState, body: &[u8]) -> (u16, String) {
    let form = String::from_utf8_lossy(body).into_owned();
    let value = form
        .split('&')
        .find_map(|pair| pair.strip_prefix("container="))
        .unwrap_or_default();
    let change: Map<String, Value> = serde_json::from_str(&form_decode(value)).unwrap();
    let starts = change.get("state").is_some_and(|state| state == "Running");
    if starts {
        let address = change.get("gateway_address").cloned().unwrap_or_default();
        world.start_reports.push(address);
        if let Some(rival) = world.rival.take() {
            world.record.insert("state".into(), "Running".into());
            world.record.insert("gateway_address".into(), rival.into());
        }
    }
    let old = world.state().to_owned();
    let new = change
        .get("state")
        .and_then(Value::as_str)
        .unwrap_or(&old)
        .to_owned();
    if let Some(status) = world.running_status.filter(|_| new == "Running") {
        return (status, json!({"errors": ["update refused"]}).to_string());
    }
    let legal = match (old.as_str(), new.as_str()) {
        ("Running", "Running") if starts => {
            let address = change.get("gateway_address").and_then(Value::as_str);
            let known = address
                .is_some_and(|text| !text.is_empty() && world.get("gateway_address") == text);
            known && !world.refuses_repeats
        }
        ("Locked", "Queued" | "Running" | "Cancelled")
        | ("Running", "Running" | "Complete" | "Cancelled") => true,
        _ => false,
    };
    if !legal {
        return (
            422,
            json!({"errors": [format!("cannot change from {old} to {new}")]}).to_string(),
        );
    }
    world.record.extend(change.clone());
    world.updates.push(change);
    (200, json!({"uuid": world.record["uuid"]}).to_string())
}

fn form_decode(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            byte => byte,
        });
    }
    String::from_utf8(out).unwrap()
}
