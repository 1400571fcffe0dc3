//! The leader lease: one row, and the four ways to write it. When to write which is decided in the crate `coordinator`.
//!
//! A term begins with [`create`](LeaderLease::create) or [`take`](LeaderLease::take) and has a token larger than that of
//! every term before: the write is conditioned on the very state that was read, so of any number of replicas that saw
//! that state one succeeds. Its holder may then only [`renew`](LeaderLease::renew) and
//! [`release`](LeaderLease::release) that same term. A renewal that arrives after the release is refused, so that it
//! cannot bring a finished term back to life.
//!
//! `expires_at` is for people, for a fleet that was down for long, and for the zero that means "released": whether the
//! holder lives is seen from the sequence number, which every renewal moves.

use std::sync::Arc;
use std::time::Duration;

use domain::clock::{Clock, after};

use crate::attrs;
use crate::schema::LOCKS;
use crate::table::{Cond, Error, Item, Outcome, Table, Update, Value};

/// Key of the row.
pub const LEADER: &str = "runs-fleet-leader";

const OWNER: &str = "owner";
const TOKEN: &str = "fencing_token";
const SEQ: &str = "heartbeat_seq";
const EXPIRES: &str = "expires_at";

/// What the row says. What is missing or of another kind is absent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lease {
    /// The boot that holds or last held it.
    pub owner: Option<String>,
    /// The term. The Go implementation wrote none.
    pub token: Option<i64>,
    /// Moved by every write.
    pub seq: Option<i64>,
    /// Epoch seconds by the holder's clock; zero: released.
    pub expires_at: Option<i64>,
}

/// Who asks for the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Unique to this boot of this replica.
    pub owner: String,
    /// For people: its machine.
    pub host: String,
    /// For people: its release.
    pub version: String,
}

/// See the module.
#[derive(Clone)]
pub struct LeaderLease {
    table: Arc<dyn Table>,
    clock: Arc<dyn Clock>,
}

impl LeaderLease {
    /// A store on `table`; `clock` stamps what people read.
    pub fn new(table: Arc<dyn Table>, clock: Arc<dyn Clock>) -> Self {
        Self { table, clock }
    }

    /// The row, strongly consistent.
    pub async fn read(&self) -> Result<Option<Lease>, Error> {
        Ok(self.table.get(&LOCKS, &key()).await?.as_ref().map(decode))
    }

    /// Begins the first term. Lost: there is a row already, unless the Go implementation left it and it is over.
    pub async fn create(&self, who: &Candidate, token: i64, lasts: Duration) -> Result<Outcome, Error> {
        let over = Cond::absent(EXPIRES).or(Cond::lt(EXPIRES, self.clock.now().as_second()));
        let free = Cond::absent(LOCKS.key).or(Cond::absent(TOKEN).and(over));
        self.update(self.term(who, token, lasts), free).await
    }

    /// Begins the term after the one that was `seen`. Lost: the row is not as it was then.
    pub async fn take(&self, who: &Candidate, seen: &Lease, token: i64, lasts: Duration) -> Result<Outcome, Error> {
        let Some(term) = seen.token else {
            return Err(Error::Invalid("only a term with a token can be taken over".to_owned()));
        };
        let mut as_seen = Cond::eq(TOKEN, term).and(match seen.seq {
            Some(seq) => Cond::eq(SEQ, seq),
            None => Cond::absent(SEQ),
        });
        if seen.expires_at == Some(0) {
            as_seen = as_seen.and(Cond::eq(EXPIRES, 0_i64));
        }
        self.update(self.term(who, token, lasts), as_seen).await
    }

    /// Shows that the holder of the term lives. Lost: the term is over.
    pub async fn renew(&self, owner: &str, token: i64, lasts: Duration) -> Result<Outcome, Error> {
        let not_released = Cond::Gt(EXPIRES.into(), Value::N(0));
        let update = Update::default()
            .set(EXPIRES, self.until(lasts))
            .set("heartbeat_at", self.clock.now().as_millisecond())
            .add(SEQ, 1_i64);
        self.update(update, held_by(owner, token).and(not_released)).await
    }

    /// Ends the term, so that a successor need not wait. Lost: it is over already.
    pub async fn release(&self, owner: &str, token: i64) -> Result<Outcome, Error> {
        let update = Update::default().set(EXPIRES, 0_i64).add(SEQ, 1_i64);
        self.update(update, held_by(owner, token)).await
    }

    fn term(&self, who: &Candidate, token: i64, lasts: Duration) -> Update {
        let now = self.clock.now();
        Update::default()
            .set(OWNER, who.owner.as_str())
            .set(TOKEN, token)
            .set(SEQ, 0_i64)
            .set(EXPIRES, self.until(lasts))
            .set("acquired_at", now.as_second())
            .set("heartbeat_at", now.as_millisecond())
            .set("host", who.host.as_str())
            .set("version", who.version.as_str())
    }

    async fn update(&self, update: Update, cond: Cond) -> Result<Outcome, Error> {
        Ok(self.table.update(&LOCKS, &key(), update, cond).await?.map(|_| ()))
    }

    /// Never zero, whatever the clock says: that would mean "released".
    fn until(&self, lasts: Duration) -> i64 {
        after(self.clock.now(), lasts).as_second().max(1)
    }
}

fn key() -> Value {
    Value::from(LEADER)
}

fn held_by(owner: &str, token: i64) -> Cond {
    Cond::eq(OWNER, owner).and(Cond::eq(TOKEN, token))
}

fn decode(row: &Item) -> Lease {
    Lease {
        owner: attrs::string(row, OWNER),
        token: attrs::whole(row, TOKEN),
        seq: attrs::whole(row, SEQ),
        expires_at: attrs::whole(row, EXPIRES),
    }
}
