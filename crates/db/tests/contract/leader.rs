//! The leader lease, and fences.

use std::time::Duration;

use db::leader::{Candidate, LEADER, Lease};
use db::schema::{LOCKS, POOLS};
use db::table::{Cond, Outcome, Update, Value};
use db::{Error, Fence, LeaderLease};
use domain::clock::Clock;

use crate::{BackEnd, back_ends, row};

const LASTS: Duration = Duration::from_secs(60);

fn lease(back: &BackEnd) -> LeaderLease {
    LeaderLease::new(back.table.clone(), back.clock())
}

fn candidate(owner: &str) -> Candidate {
    Candidate { owner: owner.into(), host: "host".into(), version: "1".into() }
}

fn locks_row<const N: usize>(pairs: [(&str, Value); N]) -> db::table::Item {
    let mut item = row(pairs);
    item.insert(LOCKS.key, LEADER.into());
    item
}

#[tokio::test]
async fn one_holder_per_term_and_larger_tokens() {
    for back in back_ends() {
        let (lease, a, b) = (lease(&back), candidate("a#1"), candidate("b#2"));
        let applied = |outcome: Result<Outcome, Error>| outcome.expect("allowed").is_applied();
        let read = async || lease.read().await.expect("an answer").expect("a row");
        assert_eq!(lease.read().await.expect("an answer"), None, "{}", back.name);
        assert!(!applied(lease.renew("a#1", 5, LASTS).await), "{}: there is no term", back.name);
        assert!(!applied(lease.release("a#1", 5).await));
        assert_eq!(lease.read().await.expect("an answer"), None, "{}: neither makes a row", back.name);

        assert!(applied(lease.create(&a, 5, LASTS).await));
        assert!(!applied(lease.create(&b, 6, LASTS).await), "{}: there is a row", back.name);
        let first = read().await;
        let expires = back.clock.now().as_second() + 60;
        let term = Lease { owner: Some("a#1".into()), token: Some(5), seq: Some(0), expires_at: Some(expires) };
        assert_eq!(first, term, "{}", back.name);

        back.clock.advance(20);
        assert!(applied(lease.renew("a#1", 5, LASTS).await));
        assert!(!applied(lease.renew("b#2", 5, LASTS).await) && !applied(lease.renew("a#1", 4, LASTS).await));
        assert_eq!(read().await, Lease { seq: Some(1), expires_at: Some(expires + 20), ..term.clone() });
        assert!(!applied(lease.take(&b, &first, 6, LASTS).await), "{}: it was renewed since", back.name);
        assert!(applied(lease.take(&b, &read().await, 6, LASTS).await));
        assert!(!applied(lease.take(&a, &term, 7, LASTS).await), "{}: that term is over", back.name);
        assert!(!applied(lease.renew("a#1", 5, LASTS).await) && !applied(lease.release("a#1", 5).await));

        assert!(applied(lease.release("b#2", 6).await));
        let released = read().await;
        assert_eq!((released.expires_at, released.seq), (Some(0), Some(1)), "{}", back.name);
        assert!(!applied(lease.renew("b#2", 6, LASTS).await), "{}: a late renewal revives nothing", back.name);
        assert!(applied(lease.take(&a, &released, 7, LASTS).await));
        assert_eq!(read().await.token, Some(7));
    }
}

/// Rows of the Go implementation and damaged ones.
#[tokio::test]
async fn leases_of_others_are_respected_until_they_are_over() {
    for back in back_ends() {
        let (lease, now) = (lease(&back), back.clock.now().as_second());
        let go = locks_row([("owner", "i-1".into()), ("expires_at", (now + 30).into()), ("acquired_at", now.into())]);
        back.restore(&LOCKS, &go);
        let seen = lease.read().await.expect("an answer").expect("a row");
        let wanted = Lease { owner: Some("i-1".into()), expires_at: Some(now + 30), ..Lease::default() };
        assert_eq!(seen, wanted, "{}", back.name);
        assert!(matches!(lease.take(&candidate("a#1"), &seen, 1, LASTS).await, Err(Error::Invalid(_))));
        let create = async || lease.create(&candidate("a#1"), 1, LASTS).await.expect("allowed").is_applied();
        assert!(!create().await, "{}: not over yet", back.name);
        back.clock.advance(31);
        assert!(create().await, "{}", back.name);
        assert_eq!(lease.read().await.expect("an answer").expect("a row").token, Some(1));
    }
    for back in back_ends() {
        let odd = [("owner", 7_i64.into()), ("fencing_token", "5".into()), ("expires_at", "soon".into())];
        back.restore(&LOCKS, &locks_row(odd));
        let lease = lease(&back);
        assert_eq!(lease.read().await.expect("an answer"), Some(Lease::default()), "{}", back.name);
        let created = lease.create(&candidate("a#1"), 1, LASTS).await.expect("allowed");
        assert_eq!(created, Outcome::Lost, "{}: what cannot be read is not overwritten", back.name);
    }
}

#[tokio::test]
async fn a_fenced_row_takes_no_smaller_token() {
    for back in back_ends() {
        let key = Value::from("cpu");
        let write = async |token: i64| {
            let update = Update::default().set("current_running", token);
            let (update, cond) = Fence::guard(Some(Fence::new(token)), update, Cond::Always);
            back.table.update(&POOLS, &key, update, cond).await.expect("allowed").is_applied()
        };
        assert!(write(7).await && write(7).await && write(8).await, "{}", back.name);
        assert!(!write(7).await, "{}", back.name);
        let row = back.table.get(&POOLS, &key).await.expect("an answer").expect("a row");
        assert_eq!((&row["current_running"], &row["leader_fence"]), (&Value::N(8), &Value::N(8)), "{}", back.name);
        assert!(Fence::new(7).is_passed_by(&row) && !Fence::new(8).is_passed_by(&row));
    }
}
