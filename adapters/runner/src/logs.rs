//! Log streaming: sends the container's output to the API during the run, and copies the output to
//! a local file.
//!
//! The buffer is bounded: if the API is slow or unreachable, the user's process blocks on its
//! output, and the memory use stays constant.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::api::{Api, ApiError, RetryLimit};

/// Maximum delay before pending output is sent.
const BATCH_INTERVAL: Duration = Duration::from_millis(500);
const BATCH_BYTES_MAX: usize = 64 * 1024;
/// Maximum size of pending output per stream.
const BUFFER_BYTES_MAX: usize = 4 * BATCH_BYTES_MAX;

/// Maximum wait for the end of the output after the last process has ended: an unkillable process
/// may keep a stream open.
const DRAIN_MAX: Duration = Duration::from_secs(5);

const STREAMS: [&str; 2] = ["stdout", "stderr"];

/// Opens the container's local log file for appending, in the log directory or else in `fallback`.
pub(crate) fn open_local(dir: &Path, fallback: &Path, uuid: &str) -> io::Result<(PathBuf, File)> {
    let open = |dir: &Path| {
        let path = dir.join(format!("{uuid}.log"));
        let nofollow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
        let mut options = OpenOptions::new();
        let file = options
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(nofollow)
            .open(&path)?;
        Ok((path, file))
    };
    // If the directory cannot be created, `open` returns the error.
    let _ = fs::create_dir_all(dir);
    open(dir).or_else(|_: io::Error| open(fallback))
}

/// Log streaming of one container.
pub(crate) struct Logs(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    pending: [Vec<u8>; 2],
    /// Arrival of the oldest pending byte.
    since: Option<Instant>,
    /// Number of streams not yet at their end.
    open: usize,
    flush: bool,
    /// True if the API refuses logs: all further output is dropped.
    refused: bool,
    sent_all: bool,
}

impl Logs {
    /// Starts the streaming threads. Calls `say` once if the API refuses logs.
    pub(crate) fn start(
        sources: [Box<dyn Read + Send>; 2],
        local: Option<&File>,
        api: &Api,
        uuid: &str,
        say: impl Fn(&str) + Send + 'static,
    ) -> io::Result<Self> {
        let state = State {
            open: sources.len(),
            ..State::default()
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        for (index, source) in sources.into_iter().enumerate() {
            let shared = Arc::clone(&shared);
            let local = local.map(File::try_clone).transpose()?;
            let name = STREAMS[index].to_owned();
            std::thread::Builder::new()
                .name(name)
                .spawn(move || shared.read(index, source, local))?;
        }
        let (sender, api, uuid) = (Arc::clone(&shared), api.clone(), uuid.to_owned());
        std::thread::Builder::new()
            .name("logs".to_owned())
            .spawn(move || sender.send(&api, &uuid, &say))?;
        Ok(Self(shared))
    }

    /// Sends all pending output at once.
    pub(crate) fn flush(&self) {
        self.0.lock().flush = true;
        self.0.changed.notify_all();
    }

    /// Waits until all output is sent or dropped. All processes writing to the streams must have
    /// ended.
    pub(crate) fn finish(&self) {
        let deadline = Instant::now() + DRAIN_MAX;
        let mut state = self.0.lock();
        while state.open > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.open = 0;
            } else {
                state = self.0.wait(state, left);
            }
        }
        self.0.changed.notify_all();
        while !state.sent_all {
            state = self.0.wait(state, DRAIN_MAX);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, within: Duration) -> MutexGuard<'a, State> {
        self.changed
            .wait_timeout(state, within)
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }

    fn read(&self, index: usize, mut source: Box<dyn Read + Send>, mut local: Option<File>) {
        let mut chunk = vec![0; 16 * 1024];
        loop {
            let count = match source.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            // A full disk must not stop the container: only the local copy ends.
            if local
                .as_mut()
                .is_some_and(|file| file.write_all(&chunk[..count]).is_err())
            {
                local = None;
            }
            let mut state = self.lock();
            while !state.refused && state.pending[index].len() + count > BUFFER_BYTES_MAX {
                state = self.wait(state, DRAIN_MAX);
            }
            if !state.refused {
                state.pending[index].extend_from_slice(&chunk[..count]);
                state.since.get_or_insert_with(Instant::now);
                self.changed.notify_all();
            }
        }
        let mut state = self.lock();
        state.open = state.open.saturating_sub(1);
        self.changed.notify_all();
    }

    fn send(&self, api: &Api, uuid: &str, say: &dyn Fn(&str)) {
        let mut positions = [0; STREAMS.len()];
        while let Some(batch) = self.next_batch() {
            for ((stream, position), bytes) in STREAMS
                .iter()
                .zip(&mut positions)
                .zip(&batch)
                .filter(|(_, bytes)| !bytes.is_empty())
            {
                let Err(error) = api.append(uuid, stream, *position, bytes, RetryLimit::RESULT)
                else {
                    *position += bytes.len() as u64;
                    continue;
                };
                match error {
                    ApiError::Rejected {
                        status: 404 | 405, ..
                    } => {
                        say(
                            "the API takes no logs while a container runs: the logs stay on this VM",
                        );
                    }
                    error => say(&format!("logs are no longer sent: {error}")),
                }
                let mut state = self.lock();
                state.refused = true;
                state.pending.iter_mut().for_each(Vec::clear);
                self.changed.notify_all();
                break;
            }
        }
    }

    /// Waits until a batch is large enough or old enough. Returns `None` after the last batch.
    fn next_batch(&self) -> Option<[Vec<u8>; 2]> {
        let mut state = self.lock();
        loop {
            let waiting: usize = state.pending.iter().map(Vec::len).sum();
            let age = state.since.map_or(Duration::ZERO, |since| since.elapsed());
            if waiting == 0 {
                (state.since, state.flush) = (None, false);
                if state.open == 0 {
                    state.sent_all = true;
                    self.changed.notify_all();
                    return None;
                }
                state = self.wait(state, DRAIN_MAX);
            } else if waiting >= BATCH_BYTES_MAX
                || age >= BATCH_INTERVAL
                || state.flush
                || state.open == 0
            {
                let batch = state.pending.each_mut().map(|bytes| {
                    let rest = bytes.split_off(bytes.len().min(BATCH_BYTES_MAX));
                    std::mem::replace(bytes, rest)
                });
                if state.pending.iter().all(Vec::is_empty) {
                    (state.since, state.flush) = (None, false);
                }
                self.changed.notify_all();
                return Some(batch);
            } else {
                state = self.wait(state, BATCH_INTERVAL.saturating_sub(age));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(state: State) -> Shared {
        Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    #[test]
    fn flush_sends_before_interval() {
        let pending = [b"out".to_vec(), Vec::new()];
        let began = Instant::now();
        let state = State {
            pending,
            since: Some(began),
            open: 2,
            flush: true,
            ..State::default()
        };
        assert_eq!(
            shared(state).next_batch(),
            Some([b"out".to_vec(), Vec::new()])
        );
        assert!(began.elapsed() < BATCH_INTERVAL);
    }

    #[test]
    fn batch_is_bounded_and_ordered() {
        let bytes: Vec<u8> = (0..=255).cycle().take(BATCH_BYTES_MAX + 10).collect();
        let pending = [bytes.clone(), b"err".to_vec()];
        let shared = shared(State {
            pending,
            since: Some(Instant::now()),
            ..State::default()
        });
        let first = shared.next_batch().unwrap_or_default();
        let second = shared.next_batch().unwrap_or_default();
        assert_eq!(
            (first[0].len(), first[1].as_slice()),
            (BATCH_BYTES_MAX, b"err".as_slice())
        );
        assert_eq!([first[0].clone(), second[0].clone()].concat(), bytes);
        assert_eq!(shared.next_batch(), None);
        assert!(shared.lock().sent_all);
    }
}
