//! Calls for many instances.

use std::collections::BTreeSet;
use std::mem;
use std::sync::{Mutex, PoisonError};

use longshore_core::ids::InstanceId;
use tokio::sync::oneshot;

use crate::error_codes::{CallFailure, is_about_single_instances};

/// Maximum number of instances in a call: half of EC2's limit, so that the response arrives in
/// time.
const BATCH_MAX: usize = 500;

/// Batches items: items that arrive during a call go together into the next call, without any
/// further delay.
#[derive(Debug)]
pub(crate) struct Batcher<T, A> {
    waiting: Mutex<Vec<(T, oneshot::Sender<A>)>>,
    turn: tokio::sync::Mutex<()>,
}

impl<T, A> Default for Batcher<T, A> {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }
}

impl<T: Send, A: Send> Batcher<T, A> {
    /// Runs `work` with all waiting items, including this item, unless another call takes the item
    /// along. Returns `None` if the other call is cancelled.
    pub(crate) async fn run<F>(&self, item: T, work: impl FnOnce(Vec<T>) -> F) -> Option<A>
    where
        F: Future<Output = Vec<A>>,
    {
        let (sender, mut answer) = oneshot::channel();
        self.waiting().push((item, sender));
        let turn = tokio::select! {
            biased;
            answer = &mut answer => return answer.ok(),
            turn = self.turn.lock() => turn,
        };
        let (items, senders): (Vec<T>, Vec<_>) =
            mem::take(&mut *self.waiting()).into_iter().unzip();
        if !items.is_empty() {
            let answers = work(items).await;
            for (sender, answer) in senders.into_iter().zip(answers) {
                // A cancelled waiter needs no result.
                let _ = sender.send(answer);
            }
        }
        drop(turn);
        answer.await.ok()
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<(T, oneshot::Sender<A>)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes calls for all instances. If EC2 rejects a whole call because of some instances, repeats
/// the call for the others: without the instances named in the error message, or by bisection if
/// none is named. Returns one result per instance, in the same order.
///
/// An error unrelated to single instances, such as a rate limit, fails all remaining instances.
/// Makes at most two calls per instance.
pub(crate) async fn call_in_batches<F>(
    instances: &[InstanceId],
    mut call: impl FnMut(Vec<InstanceId>) -> F,
) -> Vec<Result<(), CallFailure>>
where
    F: Future<Output = Result<(), CallFailure>>,
{
    let mut answers: Vec<Option<Result<(), CallFailure>>> = vec![None; instances.len()];
    let all: Vec<usize> = (0..instances.len()).collect();
    let mut remaining: Vec<Vec<usize>> = all.chunks(BATCH_MAX).map(<[_]>::to_vec).rev().collect();
    while let Some(part) = remaining.pop() {
        // EC2 rejects a call with a repeated id.
        let ids: BTreeSet<&InstanceId> = part.iter().map(|&n| &instances[n]).collect();
        match call(ids.into_iter().cloned().collect()).await {
            Ok(()) => part.iter().for_each(|&n| answers[n] = Some(Ok(()))),
            Err(failure) if is_about_single_instances(&failure) => {
                let is_named = |n: &usize| failure.message.contains(instances[*n].as_str());
                let (mut rejected, mut others): (Vec<_>, Vec<_>) =
                    part.into_iter().partition(is_named);
                if rejected.is_empty() && others.len() > 1 {
                    remaining.push(others.split_off(others.len() / 2));
                } else if rejected.is_empty() {
                    rejected = mem::take(&mut others);
                }
                for n in rejected {
                    answers[n] = Some(Err(failure.clone()));
                }
                if !others.is_empty() {
                    remaining.push(others);
                }
            }
            Err(failure) => {
                let rest = remaining.drain(..).flatten();
                for n in part.into_iter().chain(rest) {
                    answers[n] = Some(Err(failure.clone()));
                }
            }
        }
    }
    // Every index was in a part, and every part has a result.
    answers.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::error_codes::Delivery;

    fn failure(code: &str, message: String) -> CallFailure {
        CallFailure {
            delivery: Delivery::Answered(400),
            code: code.to_owned(),
            message,
            request_id: None,
            retry_at: None,
        }
    }

    fn ids(count: usize) -> Vec<InstanceId> {
        (0..count)
            .map(|n| InstanceId::new(format!("i-{n:05}")))
            .collect()
    }

    /// Destroys instances in a cloud without the instances `missing`, and counts the calls.
    async fn destroy(all: &[InstanceId], missing: &[usize], named: bool) -> (Vec<bool>, usize) {
        let missing: Vec<InstanceId> = missing.iter().map(|&n| all[n].clone()).collect();
        let mut calls = 0;
        let answers = call_in_batches(all, |part| {
            calls += 1;
            let bad: Vec<&InstanceId> = part.iter().filter(|id| missing.contains(id)).collect();
            let message = match named {
                true => format!("The instance IDs '{bad:?}' do not exist"),
                false => "some".to_owned(),
            };
            let answer = match bad.is_empty() {
                true => Ok(()),
                false => Err(failure("InvalidInstanceID.NotFound", message)),
            };
            async { answer }
        })
        .await;
        (answers.iter().map(Result::is_ok).collect(), calls)
    }

    #[tokio::test]
    async fn batches_large_set_needs_few_calls() {
        let all = ids(1200);
        let (succeeded, calls) = destroy(&all, &[], true).await;
        assert_eq!(succeeded, vec![true; 1200]);
        assert_eq!(calls, 3);
    }

    #[tokio::test]
    async fn batches_named_instances_are_excluded() {
        let all = ids(10);
        let (succeeded, calls) = destroy(&all, &[3, 7], true).await;
        let expected: Vec<bool> = (0..10).map(|n| n != 3 && n != 7).collect();
        assert_eq!((succeeded, calls), (expected, 2));
        assert_eq!(destroy(&all[..1], &[0], true).await, (vec![false], 1));
    }

    #[tokio::test]
    async fn batches_unnamed_instance_found_by_bisection() {
        let all = ids(64);
        let (succeeded, calls) = destroy(&all, &[40], false).await;
        let expected: Vec<bool> = (0..64).map(|n| n != 40).collect();
        assert_eq!(succeeded, expected);
        assert_eq!(
            calls, 13,
            "two calls for each of 6 halvings, and the first call"
        );
        let missing: Vec<usize> = (0..64).collect();
        let (succeeded, calls) = destroy(&all, &missing, false).await;
        assert_eq!((succeeded, calls), (vec![false; 64], 127));
    }

    #[tokio::test]
    async fn batches_rate_limit_fails_the_rest() {
        let all = ids(1200);
        let mut calls = 0;
        let answers = call_in_batches(&all, |_| {
            calls += 1;
            let answer = match calls {
                1 => Ok(()),
                _ => Err(failure("RequestLimitExceeded", String::new())),
            };
            async { answer }
        })
        .await;
        assert_eq!(calls, 2);
        let ended = answers.iter().filter(|answer| answer.is_ok()).count();
        assert_eq!((answers.len(), ended), (1200, 500));
    }

    #[tokio::test]
    async fn batches_duplicate_id_is_sent_once() {
        let one = InstanceId::from("i-1");
        let answers = call_in_batches(&[one.clone(), one.clone()], |part| {
            assert_eq!(part, [InstanceId::from("i-1")]);
            async { Ok(()) }
        })
        .await;
        assert_eq!(answers.len(), 2);
    }

    #[tokio::test]
    async fn batcher_joins_items_during_call() {
        let batcher: Arc<Batcher<u32, u32>> = Arc::default();
        let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
        let (release, released) = oneshot::channel::<()>();
        let first = tokio::spawn({
            let (batcher, started) = (Arc::clone(&batcher), started.clone());
            async move {
                let work = |items: Vec<u32>| async move {
                    started.send(items.clone()).unwrap();
                    released.await.unwrap();
                    items
                };
                batcher.run(0, work).await
            }
        });
        assert_eq!(starts.recv().await, Some(vec![0]));
        let later: Vec<_> = (1..=3)
            .map(|n| {
                let (batcher, started) = (Arc::clone(&batcher), started.clone());
                tokio::spawn(async move {
                    let work = |items: Vec<u32>| async move {
                        started.send(items.clone()).unwrap();
                        items.iter().map(|n| n * 10).collect()
                    };
                    batcher.run(n, work).await
                })
            })
            .collect();
        while batcher.waiting().len() < 3 {
            tokio::task::yield_now().await;
        }
        release.send(()).unwrap();
        assert_eq!(first.await.unwrap(), Some(0));
        for (n, answer) in (1..).zip(later) {
            assert_eq!(answer.await.unwrap(), Some(n * 10));
        }
        let mut together = starts.recv().await.unwrap();
        together.sort_unstable();
        assert_eq!(together, [1, 2, 3]);
        assert!(starts.try_recv().is_err());
    }

    #[tokio::test]
    async fn batcher_cancelled_call_releases_waiters() {
        let batcher: Arc<Batcher<u32, u32>> = Arc::default();
        let (started, starts) = oneshot::channel();
        let first = tokio::spawn({
            let batcher = Arc::clone(&batcher);
            async move {
                let work = |_| async move {
                    started.send(()).unwrap();
                    std::future::pending().await
                };
                batcher.run(1, work).await
            }
        });
        starts.await.unwrap();
        first.abort();
        assert!(first.await.is_err());
        let answer = batcher.run(2, |items| async move { items }).await;
        assert_eq!(answer, Some(2));
    }
}
