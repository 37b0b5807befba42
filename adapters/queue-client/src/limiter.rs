//! Adaptive concurrency limit: halved on overload, raised by a tenth after successful requests.

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::lock;

const START: u32 = 8;
/// Duration without new requests after an overload, and the minimum between two cuts of the limit.
const OVERLOAD_PAUSE: Duration = Duration::from_secs(1);

/// Concurrency limit and current number of requests.
#[derive(Debug)]
pub(super) struct Limiter {
    state: Mutex<State>,
    changed: Notify,
    ceiling: u32,
}

#[derive(Debug)]
struct State {
    limit: u32,
    in_flight: u32,
    paused_until: Option<Instant>,
    last_503: Option<SystemTime>,
}

/// Permit for one request; returned when dropped.
#[derive(Debug)]
pub(super) struct Permit<'a>(&'a Limiter);

impl Limiter {
    pub(super) fn new(ceiling: u32) -> Self {
        let ceiling = ceiling.max(1);
        Self {
            state: Mutex::new(State {
                limit: START.min(ceiling),
                in_flight: 0,
                paused_until: None,
                last_503: None,
            }),
            changed: Notify::new(),
            ceiling,
        }
    }

    /// Waits for a permit.
    pub(super) async fn enter(&self) -> Permit<'_> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Registered before the check of the state, so that no change is missed.
            changed.as_mut().enable();
            let paused_until = {
                let mut state = lock(&self.state);
                let paused_until = state.paused_until.filter(|until| *until > Instant::now());
                if paused_until.is_none() && state.in_flight < state.limit {
                    state.in_flight += 1;
                    return Permit(self);
                }
                paused_until
            };
            match paused_until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => changed.await,
            }
        }
    }

    /// Time of the last overload of the API.
    pub(super) fn last_503(&self) -> Option<SystemTime> {
        lock(&self.state).last_503
    }
}

impl Permit<'_> {
    /// Reports an overload of the API.
    pub(super) fn overloaded(&self) {
        let now = Instant::now();
        let mut state = lock(&self.0.state);
        state.last_503 = Some(SystemTime::now());
        if state.paused_until.is_none_or(|until| until <= now) {
            state.limit = (state.limit / 2).max(1);
            state.paused_until = Some(now + OVERLOAD_PAUSE);
        }
    }

    /// Reports a success: raises the limit by a tenth, but not above twice the number of requests
    /// in flight.
    pub(super) fn succeeded(&self) {
        let mut state = lock(&self.0.state);
        let more = state.limit.saturating_add((state.limit / 10).max(1));
        let useful = state.in_flight.saturating_mul(2).min(self.0.ceiling);
        if useful > state.limit {
            state.limit = more.min(useful);
            drop(state);
            self.0.changed.notify_waiters();
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).in_flight -= 1;
        self.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(limiter: &Limiter) -> u32 {
        lock(&limiter.state).limit
    }

    async fn enter_all(limiter: &Limiter, count: u32) -> Vec<Permit<'_>> {
        let mut permits = Vec::new();
        for _ in 0..count {
            permits.push(limiter.enter().await);
        }
        permits
    }

    async fn must_wait(limiter: &Limiter) -> bool {
        let entered = tokio::time::timeout(Duration::from_millis(900), limiter.enter());
        entered.await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn initial_limit_is_eight() {
        let limiter = Limiter::new(16);
        let mut permits = enter_all(&limiter, 8).await;
        assert!(must_wait(&limiter).await);
        permits.pop();
        assert!(!must_wait(&limiter).await);
    }

    #[tokio::test(start_paused = true)]
    async fn waiter_is_woken_by_end_or_raise() {
        let limiter = Limiter::new(16);
        let mut permits = enter_all(&limiter, 8).await;
        let long = Duration::from_secs(3600);
        let woken = tokio::time::timeout(long, limiter.enter());
        let (woken, ()) = tokio::join!(woken, async { drop(permits.pop()) });
        permits.extend(woken);
        assert_eq!(permits.len(), 8);
        let woken = tokio::time::timeout(long, limiter.enter());
        let (woken, ()) = tokio::join!(woken, async { permits[0].succeeded() });
        assert!(woken.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn overload_halves_limit_and_pauses_requests() {
        let limiter = Limiter::new(16);
        let permits = enter_all(&limiter, 3).await;
        permits[0].overloaded();
        permits[1].overloaded();
        assert_eq!(limit(&limiter), 4);
        assert!(limiter.last_503().is_some());
        assert!(must_wait(&limiter).await);
        tokio::time::advance(Duration::from_millis(200)).await;
        assert!(!must_wait(&limiter).await);
        for _ in 0..9 {
            permits[0].overloaded();
            tokio::time::advance(OVERLOAD_PAUSE).await;
        }
        assert_eq!(limit(&limiter), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn limit_grows_to_twice_use_or_ceiling() {
        let limiter = Limiter::new(11);
        let mut permits = enter_all(&limiter, 5).await;
        for _ in 0..9 {
            permits[0].succeeded();
        }
        assert_eq!(limit(&limiter), 10);
        permits.push(limiter.enter().await);
        for _ in 0..9 {
            permits[0].succeeded();
        }
        assert_eq!(limit(&limiter), 11);
        permits.clear();
        limiter.enter().await.succeeded();
        assert_eq!(limit(&limiter), 11, "little use does not lower the limit");
        assert_eq!(limit(&Limiter::new(0)), 1);
    }
}
