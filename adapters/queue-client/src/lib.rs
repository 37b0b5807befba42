//! Client of the containers API: the peer's controller or the built-in queue.
//!
//! One method, one answer: nothing is tried again here, the core decides. Every method takes the
//! time it may last altogether, waiting for its turn included.

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

/// Rows asked for at a time.
const PAGE_ROWS: u32 = 1000;
/// Containers asked for by name at a time: the names still fit into a URL.
const BATCH_IDS: usize = 20;
/// Batches under way at a time; the limiter may allow less.
const BATCHES_AT_ONCE: usize = 8;
const CONTAINERS: &str = "arvados/v1/containers";
const SELECT: &str = r#"["uuid","state","priority","runtime_constraints","container_image","scheduling_parameters","created_at","lock_count","locked_by_uuid"]"#;

/// Where the API is and how to speak to it.
#[derive(Clone, Debug)]
pub struct ApiSettings {
    /// `http` or `https` URL of the API; paths are put behind it.
    pub base_url: String,
    /// Sent with each call.
    pub token: Secret,
    /// Certificates are not checked.
    pub insecure: bool,
    /// Calls under way at a time, at most; at least 1.
    pub concurrency_max: u32,
    /// Further certificates to trust, in PEM.
    pub ca_pem: Option<Vec<u8>>,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL cannot be used: write an absolute one with http or https and a host.
    #[error("the API's URL {0:?} cannot be used: expected one such as https://zzzzz.example.com/")]
    BadUrl(String),
    /// The token cannot be sent: write one of letters and digits.
    #[error("the API token has characters that cannot be sent: expected letters and digits")]
    BadToken,
    /// The certificates cannot be read: write PEM.
    #[error("the certificates to trust cannot be read: expected PEM: {0}")]
    BadCertificates(reqwest::Error),
    /// The system's encryption cannot be set up: see the message.
    #[error("no HTTP client: {0}")]
    NoClient(reqwest::Error),
}

/// A client of the containers API. Clones share connections, limits and memory.
#[derive(Clone, Debug)]
pub struct ApiClient(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    transport: Transport,
    /// The uuid of our token's record, by which locks are ours; it never changes.
    own_uuid: OnceCell<String>,
    /// Bytes of the `tmp` mounts of the containers of the last poll, which never change. An error is
    /// a sentence for the owner.
    tmp_sizes: Mutex<BTreeMap<ContainerId, Result<u64, String>>>,
}

impl ApiClient {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// Settings that cannot work.
    pub fn new(settings: ApiSettings) -> Result<Self, ClientError> {
        Ok(Self(Arc::new(Inner {
            transport: Transport::new(settings)?,
            own_uuid: OnceCell::new(),
            tmp_sizes: Mutex::default(),
        })))
    }

    /// All containers that we have locked, and the Queued ones with a priority above 0, highest
    /// first, at most `queued_max` of them. Each appears once, in no particular order. A record
    /// without readable uuid, state or priority is left out with a warning; one with other faults
    /// has them in its demand.
    ///
    /// # Errors
    /// No answer `within` that time, or a wrong one; then nothing is known.
    pub async fn poll(
        &self,
        queued_max: u32,
        within: Duration,
    ) -> Result<Vec<ContainerRecord>, QueueError> {
        deadline(within, self.0.poll(queued_max)).await
    }

    /// These containers, whatever their state; those that are missing from the answer do not exist.
    /// Final ones come without the size of their mounts.
    ///
    /// # Errors
    /// No answer `within` that time, or a wrong one; an answer with a container that was not asked
    /// for, or with one that cannot be read, is wrong.
    pub async fn lookup(
        &self,
        ids: &[ContainerId],
        within: Duration,
    ) -> Result<Vec<ContainerRecord>, QueueError> {
        deadline(within, self.0.lookup(ids)).await
    }

    /// Locks a container for us.
    ///
    /// # Errors
    /// `Refused` where it was not done, `Unavailable` where it may have been.
    pub async fn lock(
        &self,
        id: ContainerId,
        within: Duration,
    ) -> Result<ContainerUpdate, QueueError> {
        let path = format!("{CONTAINERS}/{id}/lock");
        deadline(within, self.0.update(Verb::Post, &path, Params::new())).await
    }

    /// Gives a container back. The answer may be that it was cancelled: it had been locked too often.
    ///
    /// # Errors
    /// As [`Self::lock`].
    pub async fn unlock(
        &self,
        id: ContainerId,
        within: Duration,
    ) -> Result<ContainerUpdate, QueueError> {
        let path = format!("{CONTAINERS}/{id}/unlock");
        deadline(within, self.0.update(Verb::Post, &path, Params::new())).await
    }

    /// Ends a container for good, with an error for its owner if there is one. It must be locked by
    /// us for that.
    ///
    /// # Errors
    /// As [`Self::lock`].
    pub async fn cancel(
        &self,
        id: ContainerId,
        error: Option<&str>,
        within: Duration,
    ) -> Result<ContainerUpdate, QueueError> {
        let path = format!("{CONTAINERS}/{id}");
        let changes = match error {
            Some(error) => json!({"state": "Cancelled", "runtime_status": {"error": error}}),
            None => json!({"state": "Cancelled"}),
        };
        let params = Params::from([("container", changes.to_string())]);
        deadline(within, self.0.update(Verb::Put, &path, params)).await
    }

    /// Gives back a container whose VM the cloud has taken away, with the reason for its owner. The
    /// built-in queue puts it into the line again. The peer's API has no such call: there it is
    /// cancelled with the reason as its error, and its request gets another container as often as it
    /// may.
    ///
    /// # Errors
    /// As [`Self::lock`].
    pub async fn requeue(
        &self,
        id: ContainerId,
        why: &str,
        within: Duration,
    ) -> Result<ContainerUpdate, QueueError> {
        let path = format!("{CONTAINERS}/{id}/requeue");
        let params = Params::from([("reason", why.to_owned())]);
        let work = async {
            match self.0.update(Verb::Post, &path, params).await {
                Err(QueueError::Refused(text)) if lacks_call(&path, &text) => {
                    self.cancel(id, Some(why), within).await
                }
                done => done,
            }
        };
        deadline(within, work).await
    }

    /// When the API last said that it was overloaded, by this host's clock.
    #[must_use]
    pub fn last_503(&self) -> Option<Timestamp> {
        self.0.transport.last_503()
    }

    /// Calls `hint` whenever the built-in queue says that something changed; never returns. Where
    /// the API has no such stream it asks again once a minute. A hint may be lost or unfounded: it
    /// is a reason to poll soon, nothing more.
    pub async fn changes(&self, hint: impl FnMut() + Send) {
        changes::follow(&self.0.transport, hint).await;
    }
}

/// Whether a refusal says that the API has no such call; it may also lack the container.
fn lacks_call(path: &str, refusal: &str) -> bool {
    ["404", "405"]
        .iter()
        .any(|status| refusal.starts_with(&format!("{path}: {status}")))
}

/// Gives up when the time is over.
async fn deadline<T>(
    within: Duration,
    work: impl Future<Output = Result<T, QueueError>>,
) -> Result<T, QueueError> {
    let timed_out = |_| QueueError::Unavailable(format!("no answer within {within:?}"));
    tokio::time::timeout(within, work)
        .await
        .map_err(timed_out)?
}

impl Inner {
    async fn poll(&self, queued_max: u32) -> Result<Vec<ContainerRecord>, QueueError> {
        let own_uuid = self.own_uuid().await?;
        let mut found = BTreeMap::new();
        self.fetch_locked(own_uuid, &mut found).await?;
        // What changed between both was seen here later, and this is the newer truth.
        self.fetch_queued(own_uuid, queued_max, &mut found).await?;
        self.keep_sizes_of(&found);
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
        // Not remembered: the memory is for what polls show.
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
        // First, so that a change is never made without our understanding the answer.
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

    /// All that are locked by us, page by page in the order of their uuids, until a page is empty: a
    /// short page is not the last one.
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
                _ => return Err(paging_stands_still()),
            }
            take_readable(&items, own_uuid, found);
        }
    }

    /// Queued ones in the order of their priority, page by page, until there are enough or a page is
    /// empty. Rows may move between pages; a later poll or a lookup shows those that slip through.
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
            take_readable(&items, own_uuid, found);
            rows = rows.saturating_add(u32::try_from(items.len()).unwrap_or(u32::MAX));
        }
        Ok(())
    }

    /// Sizes of these containers' mounts. A container costs a fraction of a call: the peer fetches
    /// mounts one by one, which made long queues slow to load; a batch of 20 is no larger than many a
    /// single one, since mounts are only large for few. Those that are gone are missing.
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
                // At once, so that a poll that runs out of time makes the next one shorter.
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

    /// At most [`BATCH_IDS`] containers by name, until all are there or a page is empty.
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
                let id = named_in(&item, ids)?;
                if last.is_some_and(|last| id <= last) {
                    return Err(paging_stands_still());
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

    /// Forgets all containers but these.
    fn keep_sizes_of(&self, found: &BTreeMap<ContainerId, ContainerRecord>) {
        lock(&self.tmp_sizes).retain(|id, _| found.contains_key(id));
    }

    fn without_size(&self, ids: impl Iterator<Item = ContainerId>) -> BTreeSet<ContainerId> {
        let known = lock(&self.tmp_sizes);
        ids.filter(|id| !known.contains_key(id)).collect()
    }

    /// Puts sizes into demands. An open container whose size is not there vanished meanwhile.
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

fn take_readable(
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

/// Which of these it is; any other is an error, since then the filter was not understood.
fn named_in(item: &Value, ids: &[ContainerId]) -> Result<ContainerId, QueueError> {
    let uuid = item.get("uuid").and_then(Value::as_str).unwrap_or_default();
    let id = uuid.parse().ok().filter(|id| ids.contains(id));
    id.ok_or_else(|| {
        let shown: String = uuid.chars().take(40).collect();
        QueueError::Unavailable(format!(
            "{CONTAINERS}: the answer holds {shown:?}, which was not asked for"
        ))
    })
}

fn paging_stands_still() -> QueueError {
    QueueError::Unavailable(format!(
        "{CONTAINERS}: a page that does not follow the last"
    ))
}

fn in_batches(ids: BTreeSet<ContainerId>) -> Vec<Vec<ContainerId>> {
    let ids: Vec<ContainerId> = ids.into_iter().collect();
    ids.chunks(BATCH_IDS).map(<[_]>::to_vec).collect()
}

/// What a panicked task left behind is as good as before: each write is whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
