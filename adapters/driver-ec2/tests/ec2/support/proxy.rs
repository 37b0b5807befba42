//! Proxy before moto: counts and records calls; rejects, delays or drops selected calls; and adds
//! features absent in moto: idempotency tokens, and correct results of tag and terminate calls for
//! unknown or terminated instances.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

use super::moto;

/// Parameters of a call, including `Action`.
pub(crate) type Params = BTreeMap<String, String>;

/// Effect of a fault on a call.
#[derive(Clone, Debug)]
pub(crate) enum Effect {
    /// Rejects the call with this status, code and message.
    Refuse(u16, String, String),
    /// Rejects the call with a `Retry-After` header.
    RefuseUntil(String, String),
    /// Executes the call and drops the response.
    LoseAnswer,
    /// Drops the call without execution.
    LoseCall,
    /// Executes the call after a delay.
    Delay(Duration),
    /// Executes the call after this receiver turns true or is closed.
    Hold(watch::Receiver<bool>),
    /// Returns this status and text, not in EC2's format.
    Text(u16, String),
    /// Returns this status and these bytes.
    Bytes(u16, Vec<u8>),
    /// Returns a response without instances.
    ShowNothing,
    /// Executes the call normally.
    Pass,
}

struct Fault {
    action: String,
    /// Required value of a parameter.
    with: Option<String>,
    remaining: usize,
    effect: Effect,
}

/// VM provider for emulated instances.
pub(crate) trait VmProvider: Send + Sync {
    /// Starts a VM for a created instance with its id, user data and public key. Returns the
    /// address of the VM.
    fn start_vm(&self, id: &str, user_data: &str, public_key: Option<&str>) -> String;
    /// Stops the VM of a terminated instance.
    fn stop_vm(&self, id: &str);
}

#[derive(Default)]
struct State {
    calls: Vec<Params>,
    /// Access keys in the signatures of calls.
    signers: BTreeSet<String>,
    faults: Vec<Fault>,
    /// Latest successful response by action.
    answers: BTreeMap<String, String>,
    tokens: BTreeMap<String, FirstRequest>,
    keys: BTreeMap<String, String>,
    known: BTreeSet<String>,
    ended: BTreeSet<String>,
    page: Option<u32>,
    /// Address in moto and actual address of instances.
    addresses: BTreeMap<String, String>,
    vms: Option<Arc<dyn VmProvider>>,
}

/// Parameters and response of the first request with a token.
#[derive(Clone)]
struct FirstRequest {
    params: Params,
    answer: String,
    id: String,
}

/// Running proxy, stopped on drop.
pub(crate) struct Proxy {
    pub(crate) url: String,
    state: Arc<Mutex<State>>,
    _stop: oneshot::Sender<()>,
}

impl Proxy {
    pub(crate) async fn start() -> Self {
        Self::with_vms(None).await
    }

    pub(crate) async fn with_vms(vms: Option<Arc<dyn VmProvider>>) -> Self {
        let moto = moto::url();
        let state = State {
            vms,
            ..State::default()
        };
        let state = Arc::new(Mutex::new(state));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let http = reqwest::Client::new();
        let shared = Arc::clone(&state);
        let app = Router::new().fallback(move |headers: HeaderMap, body: Bytes| {
            let (http, state) = (http.clone(), Arc::clone(&shared));
            async move { handle(&http, moto, &state, headers, body).await }
        });
        let server = axum::serve(listener, app).with_graceful_shutdown(async move {
            let _ = stopped.await;
        });
        tokio::spawn(async move { server.await });
        Self {
            url,
            state,
            _stop: stop,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Applies the effect to the next `times` calls of an action; with `with`, only to calls with
    /// this parameter value.
    pub(crate) fn fault(&self, action: &str, with: Option<&str>, count: usize, effect: Effect) {
        self.state().faults.push(Fault {
            action: action.to_owned(),
            with: with.map(str::to_owned),
            remaining: count,
            effect,
        });
    }

    /// Rejects the next call of an action.
    pub(crate) fn refuse(&self, action: &str, code: &str) {
        let effect = Effect::Refuse(400, code.to_owned(), format!("The cloud says {code}."));
        self.fault(action, None, 1, effect);
    }

    /// Holds the next call of an action until `true` is sent to the returned sender.
    pub(crate) fn hold(&self, action: &str, with: Option<&str>) -> watch::Sender<bool> {
        let (gate, opened) = watch::channel(false);
        self.fault(action, with, 1, Effect::Hold(opened));
        gate
    }

    /// Removes all faults.
    pub(crate) fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// Sets the page size in reservations.
    pub(crate) fn page_of(&self, reservations: u32) {
        self.state().page = Some(reservations);
    }

    /// Number of terminated instances.
    pub(crate) fn ended(&self) -> usize {
        self.state().ended.len()
    }

    /// Recorded calls of an action.
    pub(crate) fn calls(&self, action: &str) -> Vec<Params> {
        let of_it = |call: &&Params| call["Action"] == action;
        self.state().calls.iter().filter(of_it).cloned().collect()
    }

    /// Latest successful response to an action.
    pub(crate) fn answer(&self, action: &str) -> String {
        self.state().answers[action].clone()
    }

    /// Access keys in the signatures of calls.
    pub(crate) fn signers(&self) -> Vec<String> {
        self.state().signers.iter().cloned().collect()
    }

    /// All recorded calls.
    pub(crate) fn all_calls(&self) -> Vec<Params> {
        self.state().calls.clone()
    }
}

async fn handle(
    http: &reqwest::Client,
    moto: &str,
    state: &Mutex<State>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let params: Params = form_urlencoded::parse(&body).into_owned().collect();
    let action = params.get("Action").cloned().unwrap_or_default();
    let effect = {
        let mut state = state.lock().unwrap();
        state.calls.push(params.clone());
        state.signers.extend(signer(&headers));
        state.effect(&action, &params)
    };
    match &effect {
        Some(Effect::Refuse(status, code, message)) => return refusal(*status, code, message),
        Some(Effect::RefuseUntil(code, advice)) => {
            let mut answer = refusal(503, code, "Request limit exceeded.");
            let advice = advice.parse().unwrap();
            answer.headers_mut().insert("retry-after", advice);
            return answer;
        }
        Some(Effect::LoseCall) => return broken(),
        Some(Effect::Delay(time)) => tokio::time::sleep(*time).await,
        Some(Effect::Hold(opened)) => {
            let _ = opened.clone().wait_for(|open| *open).await;
        }
        Some(Effect::Text(status, text)) => return response(*status, text.clone()),
        Some(Effect::Bytes(status, bytes)) => return response(*status, bytes.clone()),
        Some(Effect::ShowNothing) => {
            let mut answer = response(200, nothing(&action));
            let id = "req-nothing".parse().unwrap();
            answer.headers_mut().insert("x-amzn-requestid", id);
            return answer;
        }
        Some(Effect::LoseAnswer | Effect::Pass) | None => {}
    }
    let (status, text) = serve(http, moto, state, &headers, &action, params).await;
    match effect {
        Some(Effect::LoseAnswer) => broken(),
        _ => response(status, text),
    }
}

/// Access key in the signature of a call.
fn signer(headers: &HeaderMap) -> Option<String> {
    let signature = headers.get("authorization")?.to_str().ok()?;
    let (_, credential) = signature.split_once("Credential=")?;
    Some(credential.split_once('/')?.0.to_owned())
}

impl State {
    fn effect(&mut self, action: &str, params: &Params) -> Option<Effect> {
        let has = |with: &Option<String>| {
            with.as_ref()
                .is_none_or(|with| params.values().any(|value| value == with))
        };
        let fault = self
            .faults
            .iter_mut()
            .find(|f| f.remaining > 0 && f.action == action && has(&f.with))?;
        fault.remaining -= 1;
        Some(fault.effect.clone())
    }
}

/// Emulates the features absent in moto, and forwards all other calls to moto.
async fn serve(
    http: &reqwest::Client,
    moto: &str,
    state: &Mutex<State>,
    headers: &HeaderMap,
    action: &str,
    mut params: Params,
) -> (u16, String) {
    if let Some(answer) = instead_of_moto(&mut state.lock().unwrap(), action, &mut params) {
        return answer;
    }
    let form = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(&params)
        .finish();
    let mut call = http.post(moto).body(form);
    // moto reads the region from the signature.
    for name in ["authorization", "content-type", "x-amz-date"] {
        if let Some(value) = headers.get(name) {
            call = call.header(name, value);
        }
    }
    let answer = call.send().await.unwrap();
    let status = answer.status().as_u16();
    let mut text = answer.text().await.unwrap();
    let mut state = state.lock().unwrap();
    if status == 200 {
        state.took(action, &params, &text);
    }
    for (theirs, shown) in &state.addresses {
        let element = |address: &str| format!("<privateIpAddress>{address}</privateIpAddress>");
        text = text.replace(&element(theirs), &element(shown));
    }
    if state.vms.is_some() {
        text = on_this_host(&text);
    }
    if action == "RunInstances" && status == 200 {
        state.remember(&params, &text);
    }
    if status == 200 {
        state.answers.insert(action.to_owned(), text.clone());
    }
    (status, text)
}

/// Removes addresses outside of this host: tests must not connect to other hosts.
fn on_this_host(text: &str) -> String {
    let (open, close) = ("<privateIpAddress>", "</privateIpAddress>");
    let mut parts = text.split(open);
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (address, rest) = part.split_once(close).unwrap_or(("", part));
        if address.starts_with("127.") {
            kept.extend([open, address, close]);
        }
        kept.push_str(rest);
    }
    kept
}

fn instead_of_moto(state: &mut State, action: &str, params: &mut Params) -> Option<(u16, String)> {
    match action {
        "RunInstances" => {
            let first = state.tokens.get(params.get("ClientToken")?)?;
            if first.params == *params {
                return Some((200, first.answer.clone()));
            }
            let message = "Arguments on this idempotent request are inconsistent";
            Some((400, error("IdempotentParameterMismatch", message)))
        }
        "DescribeInstances" if params.get("Filter.1.Name")? != "client-token" => {
            if let Some(page) = state.page {
                params.insert("MaxResults".to_owned(), page.to_string());
            }
            None
        }
        "DescribeInstances" => {
            let first = state.tokens.get(params.get("Filter.1.Value.1")?);
            let Some(first) = first else {
                return Some((200, nothing(action)));
            };
            params.retain(|name, _| !name.starts_with("Filter"));
            params.insert("InstanceId.1".to_owned(), first.id.clone());
            None
        }
        "CreateTags" => {
            let id = params.get("ResourceId.1")?;
            let missing = !state.known.contains(id) || state.ended.contains(id);
            missing.then(|| (400, not_found(&[id])))
        }
        "TerminateInstances" => {
            let ids = numbered(params, "InstanceId.");
            let missing: Vec<&String> =
                ids.iter().filter(|id| !state.known.contains(*id)).collect();
            if !missing.is_empty() {
                return Some((400, not_found(&missing)));
            }
            params.retain(|name, _| !name.starts_with("InstanceId."));
            let living = ids.iter().filter(|id| !state.ended.contains(*id));
            for (n, id) in (1..).zip(living) {
                params.insert(format!("InstanceId.{n}"), id.clone());
            }
            let none_left = !params.contains_key("InstanceId.1");
            none_left.then(|| (200, nothing(action)))
        }
        _ => None,
    }
}

impl State {
    fn took(&mut self, action: &str, params: &Params, answer: &str) {
        match action {
            "ImportKeyPair" => {
                let key = STANDARD.decode(&params["PublicKeyMaterial"]).unwrap();
                let key = String::from_utf8(key).unwrap();
                self.keys.insert(params["KeyName"].clone(), key);
            }
            "RunInstances" => {
                let ids = elements(answer, "instanceId");
                self.known.extend(ids.iter().cloned());
                let Some(vms) = self.vms.clone() else {
                    return;
                };
                let user_data = params
                    .get("UserData")
                    .map(|text| STANDARD.decode(text).unwrap());
                let user_data = String::from_utf8(user_data.unwrap_or_default()).unwrap();
                let key = params.get("KeyName").and_then(|name| self.keys.get(name));
                let addresses = elements(answer, "privateIpAddress");
                let address = vms.start_vm(&ids[0], &user_data, key.map(String::as_str));
                self.addresses.insert(addresses[0].clone(), address);
            }
            "TerminateInstances" => {
                for id in numbered(params, "InstanceId.") {
                    if let Some(vms) = &self.vms {
                        vms.stop_vm(&id);
                    }
                    self.ended.insert(id);
                }
            }
            _ => {}
        }
    }

    fn remember(&mut self, params: &Params, answer: &str) {
        if let Some(token) = params.get("ClientToken") {
            let request = FirstRequest {
                params: params.clone(),
                answer: answer.to_owned(),
                id: elements(answer, "instanceId")[0].clone(),
            };
            self.tokens.insert(token.clone(), request);
        }
    }
}

fn numbered(params: &Params, prefix: &str) -> Vec<String> {
    let of_it = params.iter().filter(|(name, _)| name.starts_with(prefix));
    of_it.map(|(_, value)| value.clone()).collect()
}

/// Texts of all elements with this name.
fn elements(xml: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let parts = xml.split(&open).skip(1);
    let mut texts: Vec<String> = parts
        .filter_map(|part| Some(part.split_once(&close)?.0.to_owned()))
        .collect();
    let mut once = BTreeSet::new();
    texts.retain(|text| once.insert(text.clone()));
    texts
}

fn not_found(ids: &[&String]) -> String {
    let ids: Vec<&str> = ids.iter().map(|id| id.as_str()).collect();
    let message = format!("The instance IDs '{}' do not exist", ids.join(", "));
    error("InvalidInstanceID.NotFound", &message)
}

fn nothing(action: &str) -> String {
    let set = match action {
        "DescribeInstances" => "<reservationSet/>",
        "RunInstances" | "TerminateInstances" => "<instancesSet/>",
        _ => "",
    };
    format!(
        "<?xml version=\"1.0\"?><{action}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">\
         <requestId>req-nothing</requestId>{set}</{action}Response>"
    )
}

fn error(code: &str, message: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?><Response><Errors><Error><Code>{code}</Code>\
         <Message>{message}</Message></Error></Errors><RequestID>req-of-proxy</RequestID></Response>"
    )
}

fn refusal(status: u16, code: &str, message: &str) -> Response {
    response(status, error(code, message))
}

fn response(status: u16, body: impl Into<Body>) -> Response {
    let mut answer = Response::new(body.into());
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    let xml = "text/xml;charset=UTF-8".parse().unwrap();
    answer.headers_mut().insert("content-type", xml);
    answer
}

/// Response with a connection closed in the middle of the body.
fn broken() -> Response {
    let reset = Err::<Bytes, _>(io::Error::from(io::ErrorKind::ConnectionReset));
    Response::new(Body::from_stream(futures_util::stream::iter([reset])))
}
