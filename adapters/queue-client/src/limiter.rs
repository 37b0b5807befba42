//! How many calls may be under way at a time: half as many after each cry of overload, slowly more
//! while all goes well.

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::lock;

const START: u32 = 8;
/// After an overload no call begins for so long, and no second one halves the limit again.
const BAR: Duration = Duration::from_secs(1);

/// The limit and who is within it.
#[derive(Debug)]
pub(super) struct Limiter {
    state: Mutex<State>,
    changed: Notify,
    ceiling: u32,
}

#[derive(Debug)]
struct State {
    limit: u32,
    under_way: u32,
    barred_until: Option<Instant>,
    last_503: Option<SystemTime>,
}

/// The right to make one call; given back when dropped.
#[derive(Debug)]
pub(super) struct Permit<'a>(&'a Limiter);

impl Limiter {
    pub(super) fn new(ceiling: u32) -> Self {
        let ceiling = ceiling.max(1);
        Self {
            state: Mutex::new(State {
                limit: START.min(ceiling),
                under_way: 0,
                barred_until: None,
                last_503: None,
            }),
            changed: Notify::new(),
            ceiling,
        }
    }

    /// Waits for a turn.
    pub(super) async fn enter(&self) -> Permit<'_> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Before the look at the state, so that no change slips between both.
            changed.as_mut().enable();
            let barred_until = {
                let mut state = lock(&self.state);
                let barred_until = state.barred_until.filter(|until| *until > Instant::now());
                if barred_until.is_none() && state.under_way < state.limit {
                    state.under_way += 1;
                    return Permit(self);
                }
                barred_until
            };
            match barred_until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => changed.await,
            }
        }
    }

    /// When the API was last overloaded.
    pub(super) fn last_503(&self) -> Option<SystemTime> {
        lock(&self.state).last_503
    }
}

impl Permit<'_> {
    /// The API is overloaded.
    pub(super) fn overloaded(&self) {
        let now = Instant::now();
        let mut state = lock(&self.0.state);
        state.last_503 = Some(SystemTime::now());
        if state.barred_until.is_none_or(|until| until <= now) {
            state.limit = (state.limit / 2).max(1);
            state.barred_until = Some(now + BAR);
        }
    }

    /// The call went well: a tenth more, but not beyond twice of what is used.
    pub(super) fn went_well(&self) {
        let mut state = lock(&self.0.state);
        let more = state.limit.saturating_add((state.limit / 10).max(1));
        let useful = state.under_way.saturating_mul(2).min(self.0.ceiling);
        if useful > state.limit {
            state.limit = more.min(useful);
            drop(state);
            self.0.changed.notify_waiters();
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).under_way -= 1;
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
    async fn eight_may_begin_and_the_ninth_waits_for_one_to_end() {
        let limiter = Limiter::new(16);
        let mut permits = enter_all(&limiter, 8).await;
        assert!(must_wait(&limiter).await);
        permits.pop();
        assert!(!must_wait(&limiter).await);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_woken_by_an_end_and_by_a_raised_limit() {
        let limiter = Limiter::new(16);
        let mut permits = enter_all(&limiter, 8).await;
        let long = Duration::from_secs(3600);
        let woken = tokio::time::timeout(long, limiter.enter());
        let (woken, ()) = tokio::join!(woken, async { drop(permits.pop()) });
        permits.extend(woken);
        assert_eq!(permits.len(), 8);
        let woken = tokio::time::timeout(long, limiter.enter());
        let (woken, ()) = tokio::join!(woken, async { permits[0].went_well() });
        assert!(woken.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_overload_halves_the_limit_once_a_second_and_bars_new_calls() {
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
            tokio::time::advance(BAR).await;
        }
        assert_eq!(limit(&limiter), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_grows_to_twice_the_use_and_never_beyond_the_ceiling() {
        let limiter = Limiter::new(11);
        let mut permits = enter_all(&limiter, 5).await;
        for _ in 0..9 {
            permits[0].went_well();
        }
        assert_eq!(limit(&limiter), 10);
        permits.push(limiter.enter().await);
        for _ in 0..9 {
            permits[0].went_well();
        }
        assert_eq!(limit(&limiter), 11);
        permits.clear();
        limiter.enter().await.went_well();
        assert_eq!(limit(&limiter), 11, "little use is no reason to shrink");
        assert_eq!(limit(&Limiter::new(0)), 1);
    }
}
