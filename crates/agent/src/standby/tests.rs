use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use domain::clock::{Rng, SystemClock};
use domain::handover::HandOver as Document;
use domain::ids::RunnerKey;
use provider::handover::{Error, HandOver};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Outcome, Until, wait};
use crate::claim::fingerprint;
use crate::environment::Standby;
use crate::log::Log;

/// Answers from a script that maps the seconds since its start to an answer, and counts the questions.
struct Store<F> {
    begun: Instant,
    answer: F,
    polls: Mutex<Vec<Duration>>,
}

#[async_trait]
impl<F: Fn(u64) -> Result<Option<Document>, Error> + Send + Sync + 'static> HandOver for Store<F> {
    async fn put(&self, _: &RunnerKey, _: &Document) -> Result<(), Error> {
        unreachable!("the agent only reads")
    }
    async fn get(&self, _: &RunnerKey) -> Result<Option<Document>, Error> {
        let elapsed = self.begun.elapsed();
        self.polls.lock().unwrap().push(elapsed);
        (self.answer)(elapsed.as_secs())
    }
    async fn delete(&self, _: &RunnerKey) -> Result<(), Error> {
        unreachable!("the agent only reads")
    }
    async fn list(&self) -> Result<Vec<RunnerKey>, Error> {
        unreachable!("the agent only reads")
    }
}

struct Half;

impl Rng for Half {
    fn next_u64(&self) -> u64 {
        u64::MAX / 2
    }
}

async fn standby(
    consumed: &[String],
    answer: impl Fn(u64) -> Result<Option<Document>, Error> + Send + Sync + 'static,
) -> (Outcome, Vec<Duration>) {
    let begun = Instant::now();
    let store = Store { begun, answer, polls: Mutex::default() };
    let cadence = Standby {
        deadline: Duration::from_secs(100),
        fast_polls: 3,
        fast: Duration::from_secs(1),
        slow: Duration::from_secs(5),
    };
    let log = Log::new(Arc::new(SystemClock));
    let key = "i-1".into();
    let stale = |document: &Document, print: &str| crate::claim::stale(document, print, &key, consumed);
    let ring = Notify::new();
    let until = Until { deadline: begun + cadence.deadline, ring: &ring };
    let outcome = wait(&store, &key, &stale, cadence, until, &Half, &log).await;
    let polls = store.polls.lock().unwrap().clone();
    (outcome, polls)
}

fn document(id: &str) -> Document {
    Document { dispatch_id: id.to_owned(), ..Document::default() }
}

#[tokio::test(start_paused = true)]
async fn polls_quickly_then_slowly_then_once_more_at_the_deadline() {
    let (outcome, polls) = standby(&[], |_| Ok(None)).await;
    assert!(matches!(outcome, Outcome::NobodyCame));
    let seconds: Vec<u64> = polls.iter().map(Duration::as_secs).collect();
    assert_eq!(seconds[..6], [0, 1, 2, 3, 8, 13]);
    assert_eq!(seconds.last(), Some(&100));
    let (outcome, _) = standby(&[], |now| Ok((now >= 100).then(|| document("late")))).await;
    assert!(matches!(outcome, Outcome::Found(..)), "the last look decides");
}

#[tokio::test(start_paused = true)]
async fn faults_never_end_the_wait() {
    let (outcome, _) = standby(&[], |now| match now {
        0..90 if now % 2 == 0 => Err(Error::Transient("down".to_owned())),
        0..90 => Err(Error::Deployment("denied".to_owned())),
        _ => Ok(Some(document("a"))),
    })
    .await;
    assert!(matches!(outcome, Outcome::Found(..)));
}

#[tokio::test(start_paused = true)]
async fn used_hand_overs_are_waited_out() {
    let used = document("used");
    let consumed = [fingerprint(&used)];
    let (outcome, _) =
        standby(&consumed, move |now| Ok(Some(if now < 50 { used.clone() } else { document("new") }))).await;
    match outcome {
        Outcome::Found(found, print) => {
            assert_eq!((found.dispatch_id.as_str(), print), ("new", fingerprint(&document("new"))));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn unreadable_content_is_believed_the_third_time() {
    let broken = || Err(Error::Invalid("line 1".to_owned()));
    let (outcome, polls) = standby(&[], move |_| broken()).await;
    assert!(matches!(outcome, Outcome::Unreadable(reason) if reason == "line 1"));
    assert_eq!(polls.len(), 3);
    let (outcome, _) = standby(&[], move |now| if now < 2 { broken() } else { Ok(Some(document("a"))) }).await;
    assert!(matches!(outcome, Outcome::Found(..)), "a writer may still be at it");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_counts_only_as_the_last_word() {
    let denied = || Err(Error::Deployment("denied (AccessDeniedException)".to_owned()));
    let (outcome, _) = standby(&[], move |_| denied()).await;
    assert!(matches!(outcome, Outcome::Denied(reason) if reason == "denied (AccessDeniedException)"));
    let (outcome, _) = standby(&[], move |now| if now < 50 { denied() } else { Ok(None) }).await;
    assert!(matches!(outcome, Outcome::NobodyCame), "access was given, and nothing was there");
    let down = || Err(Error::Transient("down".to_owned()));
    let (outcome, _) = standby(&[], move |now| if now < 50 { denied() } else { down() }).await;
    assert!(matches!(outcome, Outcome::Denied(_)), "what does not answer takes nothing back");
    let (outcome, _) = standby(&[], move |now| if now < 50 { denied() } else { Ok(Some(document("a"))) }).await;
    assert!(matches!(outcome, Outcome::Found(..)), "it was not there yet");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_is_asked_less_and_less() {
    let (_, polls) = standby(&[], |_| Err(Error::Transient("throttled".to_owned()))).await;
    let millis: Vec<u128> = polls.iter().map(Duration::as_millis).collect();
    assert_eq!(millis[..5], [0, 1_000, 2_000, 4_000, 9_000], "never below the cadence, never above five seconds");
}
