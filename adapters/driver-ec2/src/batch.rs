//! Many instances in one call.

use std::collections::BTreeSet;
use std::mem;
use std::sync::{Mutex, PoisonError};

use longshore_core::ids::InstanceId;
use tokio::sync::oneshot;

use crate::errors::{Failure, is_about_one_of_many};

/// Instances in one call, half of what EC2 takes, so that its answer comes in time.
const BATCH_MAX: usize = 500;

/// Lets what comes while a call is under way go together in the next one, without waiting for
/// anything else.
#[derive(Debug)]
pub(crate) struct Gate<T, A> {
    waiting: Mutex<Vec<(T, oneshot::Sender<A>)>>,
    turn: tokio::sync::Mutex<()>,
}

impl<T, A> Default for Gate<T, A> {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }
}

impl<T: Send, A: Send> Gate<T, A> {
    /// Lets `work` have all that waits, this item included, unless another call takes it along. No
    /// answer if that call is given up.
    pub(crate) async fn pass<F>(&self, item: T, work: impl FnOnce(Vec<T>) -> F) -> Option<A>
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
                // Whoever has given up waiting does not want it.
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

/// Calls for all instances, and where EC2 refuses a whole call for some of them, for the others
/// again: without those that it names, or else half by half. One answer for each, in their order.
///
/// A refusal that is about none of them, such as a rate limit, ends it for all that are left. At
/// most two calls are made for each instance.
pub(crate) async fn all_of<F>(
    instances: &[InstanceId],
    mut call: impl FnMut(Vec<InstanceId>) -> F,
) -> Vec<Result<(), Failure>>
where
    F: Future<Output = Result<(), Failure>>,
{
    let mut answers: Vec<Option<Result<(), Failure>>> = vec![None; instances.len()];
    let every: Vec<usize> = (0..instances.len()).collect();
    let mut left: Vec<Vec<usize>> = every.chunks(BATCH_MAX).map(<[_]>::to_vec).rev().collect();
    while let Some(part) = left.pop() {
        // EC2 refuses a call that names one twice.
        let ids: BTreeSet<&InstanceId> = part.iter().map(|&n| &instances[n]).collect();
        match call(ids.into_iter().cloned().collect()).await {
            Ok(()) => part.iter().for_each(|&n| answers[n] = Some(Ok(()))),
            Err(failure) if is_about_one_of_many(&failure) => {
                let is_named = |n: &usize| failure.message.contains(instances[*n].as_str());
                let (mut guilty, mut others): (Vec<_>, Vec<_>) =
                    part.into_iter().partition(is_named);
                if guilty.is_empty() && others.len() > 1 {
                    left.push(others.split_off(others.len() / 2));
                } else if guilty.is_empty() {
                    guilty = mem::take(&mut others);
                }
                for n in guilty {
                    answers[n] = Some(Err(failure.clone()));
                }
                if !others.is_empty() {
                    left.push(others);
                }
            }
            Err(failure) => {
                let rest = left.drain(..).flatten();
                for n in part.into_iter().chain(rest) {
                    answers[n] = Some(Err(failure.clone()));
                }
            }
        }
    }
    // Every index was in some part, and every part was answered.
    answers.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::errors::Reach;

    fn refusal(code: &str, message: String) -> Failure {
        Failure {
            reach: Reach::Answered(400),
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

    /// Ends them in a cloud that does not know `missing`, and counts the calls.
    async fn end(all: &[InstanceId], missing: &[usize], named: bool) -> (Vec<bool>, usize) {
        let missing: Vec<InstanceId> = missing.iter().map(|&n| all[n].clone()).collect();
        let mut calls = 0;
        let answers = all_of(all, |part| {
            calls += 1;
            let bad: Vec<&InstanceId> = part.iter().filter(|id| missing.contains(id)).collect();
            let message = match named {
                true => format!("The instance IDs '{bad:?}' do not exist"),
                false => "some".to_owned(),
            };
            let answer = match bad.is_empty() {
                true => Ok(()),
                false => Err(refusal("InvalidInstanceID.NotFound", message)),
            };
            async { answer }
        })
        .await;
        (answers.iter().map(Result::is_ok).collect(), calls)
    }

    #[tokio::test]
    async fn all_go_in_few_calls() {
        let all = ids(1200);
        let (ended, calls) = end(&all, &[], true).await;
        assert_eq!(ended, vec![true; 1200]);
        assert_eq!(calls, 3);
    }

    #[tokio::test]
    async fn those_that_are_named_are_left_out() {
        let all = ids(10);
        let (ended, calls) = end(&all, &[3, 7], true).await;
        let expected: Vec<bool> = (0..10).map(|n| n != 3 && n != 7).collect();
        assert_eq!((ended, calls), (expected, 2));
        assert_eq!(end(&all[..1], &[0], true).await, (vec![false], 1));
    }

    #[tokio::test]
    async fn where_none_is_named_they_are_found_by_halves() {
        let all = ids(64);
        let (ended, calls) = end(&all, &[40], false).await;
        let expected: Vec<bool> = (0..64).map(|n| n != 40).collect();
        assert_eq!(ended, expected);
        assert_eq!(calls, 13, "6 halvings, two calls each, and the first");
        let every: Vec<usize> = (0..64).collect();
        let (ended, calls) = end(&all, &every, false).await;
        assert_eq!((ended, calls), (vec![false; 64], 127));
    }

    #[tokio::test]
    async fn a_rate_limit_ends_it_for_all() {
        let all = ids(1200);
        let mut calls = 0;
        let answers = all_of(&all, |_| {
            calls += 1;
            let answer = match calls {
                1 => Ok(()),
                _ => Err(refusal("RequestLimitExceeded", String::new())),
            };
            async { answer }
        })
        .await;
        assert_eq!(calls, 2);
        let ended = answers.iter().filter(|answer| answer.is_ok()).count();
        assert_eq!((answers.len(), ended), (1200, 500));
    }

    #[tokio::test]
    async fn one_that_comes_twice_is_named_once() {
        let one = InstanceId::from("i-1");
        let answers = all_of(&[one.clone(), one.clone()], |part| {
            assert_eq!(part, [InstanceId::from("i-1")]);
            async { Ok(()) }
        })
        .await;
        assert_eq!(answers.len(), 2);
    }

    #[tokio::test]
    async fn what_comes_during_a_call_goes_together_in_the_next() {
        let gate: Arc<Gate<u32, u32>> = Arc::default();
        let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
        let (go_on, first_goes_on) = oneshot::channel::<()>();
        let first = tokio::spawn({
            let (gate, begun) = (Arc::clone(&gate), begun.clone());
            async move {
                let work = |items: Vec<u32>| async move {
                    begun.send(items.clone()).unwrap();
                    first_goes_on.await.unwrap();
                    items
                };
                gate.pass(0, work).await
            }
        });
        assert_eq!(begins.recv().await, Some(vec![0]));
        let later: Vec<_> = (1..=3)
            .map(|n| {
                let (gate, begun) = (Arc::clone(&gate), begun.clone());
                tokio::spawn(async move {
                    let work = |items: Vec<u32>| async move {
                        begun.send(items.clone()).unwrap();
                        items.iter().map(|n| n * 10).collect()
                    };
                    gate.pass(n, work).await
                })
            })
            .collect();
        while gate.waiting().len() < 3 {
            tokio::task::yield_now().await;
        }
        go_on.send(()).unwrap();
        assert_eq!(first.await.unwrap(), Some(0));
        for (n, answer) in (1..).zip(later) {
            assert_eq!(answer.await.unwrap(), Some(n * 10));
        }
        let mut together = begins.recv().await.unwrap();
        together.sort_unstable();
        assert_eq!(together, [1, 2, 3]);
        assert!(begins.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_call_that_is_given_up_leaves_nobody_waiting() {
        let gate: Arc<Gate<u32, u32>> = Arc::default();
        let (begun, begins) = oneshot::channel();
        let first = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move {
                let work = |_| async move {
                    begun.send(()).unwrap();
                    std::future::pending().await
                };
                gate.pass(1, work).await
            }
        });
        begins.await.unwrap();
        first.abort();
        assert!(first.await.is_err());
        let answer = gate.pass(2, |items| async move { items }).await;
        assert_eq!(answer, Some(2));
    }
}
