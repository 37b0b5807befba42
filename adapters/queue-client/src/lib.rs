//! Client of the containers API: the peer's controller or the built-in queue.
//!
//! Each method makes one attempt: retries are decisions of the core. Each method has a timeout that
//! includes the wait for a permit of the limiter.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{StreamExt as _, TryStreamExt as _};
use longshore_core::ids::ContainerId;
use longshore_core::input::{ContainerRecord, ContainerUpdate, QueueError};
use longshore_core::time::Timestamp;
use longshore_secret::Secret;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

mod changes;
mod limiter;
mod record;
mod time;
mod transport;

pub use time::parse_time;
use transport::{Params, Transport, Verb};

/// Rows per page.
const PAGE_ROWS: u32 = 1000;
/// Containers per lookup request: the uuids still fit into a URL.
const BATCH_IDS: usize = 20;
/// Batches in flight at a time; the limiter may allow less.
const BATCHES_AT_ONCE: usize = 8;
const CONTAINERS: &str = "arvados/v1/containers";
const SELECT: &str = r#"["uuid","state","priority","runtime_constraints","container_image","scheduling_parameters","created_at","lock_count","locked_by_uuid"]"#;

/// Connection settings of the API.
#[derive(Clone, Debug)]
pub struct ApiSettings {
    /// `http` or `https` URL of the API; request paths are appended.
    pub base_url: String,
    /// Token sent with each request.
    pub token: Secret,
    /// Disables the verification of certificates.
    pub insecure: bool,
    /// Maximum number of requests in flight; at least 1.
    pub concurrency_max: u32,
    /// Additional trusted certificates, in PEM.
    pub ca_pem: Option<Vec<u8>>,
}

/// Error of the construction of a client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Unusable URL: expected an absolute URL with http or https and a host.
    #[error("the API's URL {0:?} cannot be used: expected one such as https://zzzzz.example.com/")]
    BadUrl(String),
    /// Unusable token: expected letters and digits.
    #[error("the API token has characters that cannot be sent: expected letters and digits")]
    BadToken,
    /// Unusable certificates: expected PEM.
    #[error("the certificates to trust cannot be read: expected PEM: {0}")]
    BadCertificates(reqwest::Error),
    /// TLS of the system cannot be set up: see the message.
    #[error("no HTTP client: {0}")]
    NoClient(reqwest::Error),
}

/// Client of the containers API. Clones share connections, limits and caches.
#[derive(Clone, Debug)]
pub struct ApiClient(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    transport: Transport,
    /// Uuid of the token's record, which marks the dispatcher's own locks; never changes.
    own_uuid: OnceCell<String>,
    /// Total size in bytes of the `tmp` mounts of each container of the last poll; sizes never
    /// change. An error is a sentence for the container's owner.
    tmp_sizes: Mutex<BTreeMap<ContainerId, Result<u64, String>>>,
}

impl ApiClient {
    /// Builds a client; opens no connection yet.
    ///
    /// # Errors
    ///
    /// Unusable settings.
    pub fn new(settings: ApiSettings) -> Result<Self, ClientError> {
        Ok(Self(Arc::new(Inner {
            transport: Transport::new(settings)?,
            own_uuid: OnceCell::new(),
            tmp_sizes: Mutex::default(),
        })))
    }

    /// Returns all containers locked by this dispatcher, and up to `queued_max` Queued containers
    /// with a priority above 0, highest first. Each container appears once, in no particular order.
    /// Records without readable uuid, state or priority are skipped with a warning; other faults of
    /// a record are reported in the demand.
    ///
    /// # Errors
    ///
    /// No response within the timeout, or an invalid response; then nothing is known.
    pub async fn poll(
        &self,
        queued_max: u32,
        timeout: Duration,
    ) -> Result<Vec<ContainerRecord>, QueueError> {
        with_timeout(timeout, self.0.poll(queued_max)).await
    }

    /// Returns the given containers in any state; containers missing from the result do not exist.
    /// Records of final containers lack the size of the mounts.
    ///
    /// # Errors
    ///
    /// No response within the timeout, or an invalid response. Responses with unrequested
    /// containers or unreadable records are invalid.
    pub async fn lookup(
        &self,
        ids: &[ContainerId],
        timeout: Duration,
    ) -> Result<Vec<ContainerRecord>, QueueError> {
        with_timeout(timeout, self.0.lookup(ids)).await
    }

    /// Locks a container for this dispatcher.
    ///
    /// # Errors
    ///
    /// `Refused` if the lock was not taken, `Unavailable` if the lock may have been taken.
    pub async fn lock(
        &self,
        id: ContainerId,
        timeout: Duration,
    ) -> Result<ContainerUpdate, QueueError> {
        let path = format!("{CONTAINERS}/{id}/lock");
        with_timeout(timeout, self.0.update(Verb::Post, &path, Params::new())).await
    }

    /// Unlocks a container. The response may report a cancelled container, after too many locks.
    ///
    /// # Errors
    ///
    /// As [`Self::lock`].
    pub async fn unlock(
        &self,
        id: ContainerId,
        timeout: Duration,
    ) -> Result<ContainerUpdate, QueueError> {
        let path = format!("{CONTAINERS}/{id}/unlock");
        with_timeout(timeout, self.0.update(Verb::Post, &path, Params::new())).await
    }

    /// Cancels a container locked by this dispatcher, optionally with an error for the owner.
    ///
    /// # Errors
    ///
    /// As [`Self::lock`].
    pub async fn cancel(
        &self,
        id: ContainerId,
        error: Option<&str>,
        timeout: Duration,
    ) -> Result<ContainerUpdate, QueueError> {
        let path = format!("{CONTAINERS}/{id}");
        let changes = match error {
            Some(error) => json!({"state": "Cancelled", "runtime_status": {"error": error}}),
            None => json!({"state": "Cancelled"}),
        };
        let params = Params::from([("container", changes.to_string())]);
        with_timeout(timeout, self.0.update(Verb::Put, &path, params)).await
    }

    /// Requeues a container of a preempted VM, with the reason for the owner. The built-in queue
    /// puts the container into the state Queued. The peer's API has no such call: the container is
    /// cancelled with the reason as the error, and the container request gets another container
    /// within its limit of attempts.
    ///
    /// # Errors
    ///
    /// As [`Self::lock`].
    pub async fn requeue(
        &self,
        id: ContainerId,
        why: &str,
        timeout: Duration,
    ) -> Result<ContainerUpdate, QueueError> {
        let path = format!("{CONTAINERS}/{id}/requeue");
        let params = Params::from([("reason", why.to_owned())]);
        let work = async {
            match self.0.update(Verb::Post, &path, params).await {
                Err(QueueError::Refused(text)) if lacks_call(&path, &text) => {
                    self.cancel(id, Some(why), timeout).await
                }
                done => done,
            }
        };
        with_timeout(timeout, work).await
    }

    /// Time of the last overload response of the API, by this host's clock.
    #[must_use]
    pub fn last_503(&self) -> Option<Timestamp> {
        self.0.transport.last_503()
    }

    /// Calls `hint` on each change notification of the built-in queue; never returns. For an API
    /// without an event stream, retries once a minute. Hints may be lost or spurious: a hint is a
    /// reason to poll early.
    pub async fn changes(&self, hint: impl FnMut() + Send) {
        changes::follow(&self.0.transport, hint).await;
    }
}

/// True if a refusal means that the API has no such call; the container may also be missing.
fn lacks_call(path: &str, refusal: &str) -> bool {
    ["404", "405"]
        .iter()
        .any(|status| refusal.starts_with(&format!("{path}: {status}")))
}

/// Limits the duration of a request.
async fn with_timeout<T>(
    timeout: Duration,
    work: impl Future<Output = Result<T, QueueError>>,
) -> Result<T, QueueError> {
    let timed_out = |_| QueueError::Unavailable(format!("no answer within {timeout:?}"));
    tokio::time::timeout(timeout, work)
        .await
        .map_err(timed_out)?
}

impl Inner {
    async fn poll(&self, queued_max: u32) -> Result<Vec<ContainerRecord>, QueueError> {
        let own_uuid = self.own_uuid().await?;
        let mut found = BTreeMap::new();
        self.fetch_locked(own_uuid, &mut found).await?;
        // Queued containers are fetched second: the later response is newer.
        self.fetch_queued(own_uuid, queued_max, &mut found).await?;
        self.retain_sizes(&found);
        let unknown = self.without_size(found.keys().copied());
        let sizes = self.fetch_tmp_sizes(&unknown, true).await?;
        self.fill_in(&mut found, &sizes);
        Ok(found.into_values().collect())
    }

    async fn lookup(&self, ids: &[ContainerId]) -> Result<Vec<ContainerRecord>, QueueError> {
        let own_uuid = self.own_uuid().await?;
        let ids: BTreeSet<ContainerId> = ids.iter().copied().collect();
        let batch = |batch: Vec<ContainerId>| async move {
            let items = self.fetch_batch(&batch, SELECT).await?;
            let record = |(id, item): (&ContainerId, &Value)| {
                let record = record::container(item, own_uuid);
                let record = record.map_err(|why| {
                    QueueError::Unavailable(format!("the record of {id} cannot be read: {why}"))
                })?;
                Ok((*id, record))
            };
            items.iter().map(record).collect::<Result<Vec<_>, _>>()
        };
        let fetched: Vec<Vec<(ContainerId, ContainerRecord)>> =
            futures_util::stream::iter(in_batches(ids))
                .map(batch)
                .buffer_unordered(BATCHES_AT_ONCE)
                .try_collect()
                .await?;
        let mut found: BTreeMap<_, _> = fetched.into_iter().flatten().collect();
        let open = found.values().filter(|r| !r.state.is_final());
        let unknown = self.without_size(open.map(|r| r.id));
        // Not cached: the cache is for containers of polls.
        let sizes = self.fetch_tmp_sizes(&unknown, false).await?;
        self.fill_in(&mut found, &sizes);
        Ok(found.into_values().collect())
    }

    async fn update(
        &self,
        verb: Verb,
        path: &str,
        params: Params,
    ) -> Result<ContainerUpdate, QueueError> {
        // Fetched first, so that the response to the update can be interpreted.
        let own_uuid = self.own_uuid().await?;
        let answer = self.transport.call(verb, path, &params).await?;
        record::update(&answer, own_uuid)
            .map_err(|why| QueueError::Unavailable(format!("{path}: {why}")))
    }

    async fn own_uuid(&self) -> Result<&str, QueueError> {
        const PATH: &str = "arvados/v1/api_client_authorizations/current";
        let fetch = || async {
            let answer = self.transport.call(Verb::Get, PATH, &Params::new()).await?;
            let uuid = answer.get("uuid").and_then(Value::as_str);
            let missing = || QueueError::Unavailable(format!("{PATH}: an answer without uuid"));
            uuid.map(str::to_owned).ok_or_else(missing)
        };
        Ok(self.own_uuid.get_or_try_init(fetch).await?)
    }

    /// Fetches all containers locked by this dispatcher, page by page by uuid, until an empty page:
    /// a short page is not the last page.
    async fn fetch_locked(
        &self,
        own_uuid: &str,
        found: &mut BTreeMap<ContainerId, ContainerRecord>,
    ) -> Result<(), QueueError> {
        let mut last = String::new();
        loop {
            let mut filters = vec![json!(["locked_by_uuid", "=", own_uuid])];
            if !last.is_empty() {
                filters.push(json!(["uuid", ">", last]));
            }
            let mut params = list_params(&filters, "uuid", SELECT);
            params.insert("limit", PAGE_ROWS.to_string());
            let items = self.fetch_page(&params).await?;
            let uuids = items.iter().filter_map(|item| item.get("uuid")?.as_str());
            match uuids.max() {
                None if items.is_empty() => return Ok(()),
                Some(newest) if newest > last.as_str() => last = newest.to_owned(),
                _ => return Err(paging_does_not_advance()),
            }
            insert_readable(&items, own_uuid, found);
        }
    }

    /// Fetches Queued containers by priority, page by page, until `queued_max` rows or an empty
    /// page. Rows may move between pages; a later poll or lookup returns missed rows.
    async fn fetch_queued(
        &self,
        own_uuid: &str,
        queued_max: u32,
        found: &mut BTreeMap<ContainerId, ContainerRecord>,
    ) -> Result<(), QueueError> {
        let filters = [
            json!(["state", "=", "Queued"]),
            json!(["priority", ">", "0"]),
        ];
        let mut rows = 0;
        while rows < queued_max {
            let mut params = list_params(&filters, "priority desc", SELECT);
            let limit = PAGE_ROWS.min(queued_max - rows);
            params.insert("limit", limit.to_string());
            if rows > 0 {
                params.insert("offset", rows.to_string());
            }
            let mut items = self.fetch_page(&params).await?;
            if items.is_empty() {
                break;
            }
            items.truncate(limit as usize);
            insert_readable(&items, own_uuid, found);
            rows = rows.saturating_add(u32::try_from(items.len()).unwrap_or(u32::MAX));
        }
        Ok(())
    }

    /// Fetches mount sizes. A container costs a fraction of a request: the peer's dispatcher
    /// fetches mounts one by one, and so is slow to load long queues; a batch of 20 is rarely
    /// larger than a single large record. Vanished containers are missing from the result.
    async fn fetch_tmp_sizes(
        &self,
        ids: &BTreeSet<ContainerId>,
        remember: bool,
    ) -> Result<BTreeMap<ContainerId, Result<u64, String>>, QueueError> {
        let batch = |batch: Vec<ContainerId>| async move {
            let items = self.fetch_batch(&batch, r#"["uuid","mounts"]"#).await?;
            let size = |(id, item): (&ContainerId, &Value)| (*id, record::tmp_size(item));
            let sizes: BTreeMap<_, _> = items.iter().map(size).collect();
            if remember {
                // Cached at once, so that a poll after a timeout needs fewer requests.
                lock(&self.tmp_sizes).extend(sizes.clone());
            }
            Ok::<_, QueueError>(sizes)
        };
        let all: Vec<BTreeMap<_, _>> = futures_util::stream::iter(in_batches(ids.clone()))
            .map(batch)
            .buffer_unordered(BATCHES_AT_ONCE)
            .try_collect()
            .await?;
        Ok(all.into_iter().flatten().collect())
    }

    /// Fetches at most [`BATCH_IDS`] containers by uuid, until all are found or a page is empty.
    async fn fetch_batch(
        &self,
        ids: &[ContainerId],
        select: &str,
    ) -> Result<BTreeMap<ContainerId, Value>, QueueError> {
        let mut found = BTreeMap::new();
        let mut last: Option<ContainerId> = None;
        while found.len() < ids.len() {
            let mut filters = vec![json!(["uuid", "in", ids])];
            if let Some(last) = last {
                filters.push(json!(["uuid", ">", last]));
            }
            let items = self
                .fetch_page(&list_params(&filters, "uuid", select))
                .await?;
            if items.is_empty() {
                break;
            }
            for item in items {
                let id = requested_id(&item, ids)?;
                if last.is_some_and(|last| id <= last) {
                    return Err(paging_does_not_advance());
                }
                last = Some(id);
                found.insert(id, item);
            }
        }
        Ok(found)
    }

    async fn fetch_page(&self, params: &Params) -> Result<Vec<Value>, QueueError> {
        let mut answer = self.transport.call(Verb::Get, CONTAINERS, params).await?;
        match answer.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => Ok(items),
            _ => Err(QueueError::Unavailable(format!(
                "{CONTAINERS}: an answer without items"
            ))),
        }
    }

    /// Forgets the sizes of other containers.
    fn retain_sizes(&self, found: &BTreeMap<ContainerId, ContainerRecord>) {
        lock(&self.tmp_sizes).retain(|id, _| found.contains_key(id));
    }

    fn without_size(&self, ids: impl Iterator<Item = ContainerId>) -> BTreeSet<ContainerId> {
        let known = lock(&self.tmp_sizes);
        ids.filter(|id| !known.contains_key(id)).collect()
    }

    /// Adds sizes to demands. Open containers without a size have vanished meanwhile.
    fn fill_in(
        &self,
        found: &mut BTreeMap<ContainerId, ContainerRecord>,
        fetched: &BTreeMap<ContainerId, Result<u64, String>>,
    ) {
        let known = lock(&self.tmp_sizes);
        found.retain(|id, record| {
            match (
                fetched.get(id).or_else(|| known.get(id)),
                &mut record.demand,
            ) {
                (Some(Ok(size)), Ok(demand)) => demand.tmp = *size,
                (Some(Err(why)), Ok(_)) => record.demand = Err(why.clone()),
                (Some(_), Err(_)) => {}
                (None, _) => return record.state.is_final(),
            }
            true
        });
    }
}

fn list_params(filters: &[Value], order: &str, select: &str) -> Params {
    Params::from([
        ("count", "none".to_owned()),
        ("filters", json!(filters).to_string()),
        ("order", order.to_owned()),
        ("select", select.to_owned()),
    ])
}

fn insert_readable(
    items: &[Value],
    own_uuid: &str,
    found: &mut BTreeMap<ContainerId, ContainerRecord>,
) {
    for item in items {
        match record::container(item, own_uuid) {
            Ok(record) => {
                found.insert(record.id, record);
            }
            Err(why) => {
                let uuid = item.get("uuid").and_then(Value::as_str).unwrap_or("?");
                tracing::warn!(container = uuid, reason = %why, "skipped an unreadable record");
            }
        }
    }
}

/// Container of a row; an unrequested container is an error, since the API has ignored the filter.
fn requested_id(item: &Value, ids: &[ContainerId]) -> Result<ContainerId, QueueError> {
    let uuid = item.get("uuid").and_then(Value::as_str).unwrap_or_default();
    let id = uuid.parse().ok().filter(|id| ids.contains(id));
    id.ok_or_else(|| {
        let shown: String = uuid.chars().take(40).collect();
        QueueError::Unavailable(format!(
            "{CONTAINERS}: the answer holds {shown:?}, which was not asked for"
        ))
    })
}

fn paging_does_not_advance() -> QueueError {
    QueueError::Unavailable(format!(
        "{CONTAINERS}: a page that does not follow the last"
    ))
}

fn in_batches(ids: BTreeSet<ContainerId>) -> Vec<Vec<ContainerId>> {
    let ids: Vec<ContainerId> = ids.into_iter().collect();
    ids.chunks(BATCH_IDS).map(<[_]>::to_vec).collect()
}

/// Locks a mutex; poisoning is ignored, since each write is atomic.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
