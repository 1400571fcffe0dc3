//! The semantics of an embedded queue, as a pure state machine: no clock, no storage, no waiting.
//!
//! Memory and SQLite are both shells around this one [`Broker`], so they cannot differ in meaning. An operation takes
//! the store's time, changes the broker's state and leaves the [`Change`]s a store must make durable before it
//! answers. Bodies never pass through here except on the way in.
//!
//! Properties:
//!
//! * in a FIFO queue at most one message of a group is in flight, and it is the oldest one stored;
//! * a handle works for exactly one delivery, and only while that delivery lasts;
//! * a message leaves a queue only by ack, by reject, or towards the dead letters (too many deliveries, too old);
//! * store time never runs backwards, whatever order operations arrive in.

mod lane;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use domain::clock::{Rng, Timestamp, after, since};

pub(crate) use self::lane::{Entry, InFlight, Lane, Seq};
use crate::poison::{self, digest};
use crate::{DEDUP_WINDOW, Delivery, Depth, Error, Handle, MAX_BODY, Message};

/// The part of a message that only the store keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Payload {
    pub(crate) body: String,
    pub(crate) attributes: BTreeMap<String, String>,
}

/// What a store must write. Made in the order in which it must be written.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Insert {
        queue: String,
        seq: Seq,
        entry: Entry,
        payload: Payload,
    },
    Deliver {
        queue: String,
        seq: Seq,
        count: u32,
        in_flight: Option<InFlight>,
    },
    Remove {
        queue: String,
        seq: Seq,
    },
    /// Takes a message from one queue to the end of another, adding attributes.
    Move {
        from: (String, Seq),
        to: (String, Seq),
        entry: Entry,
        add: Vec<(&'static str, String)>,
    },
    Remember {
        queue: String,
        id: String,
        seq: Seq,
        until: Timestamp,
    },
    Forget {
        queue: String,
        id: String,
    },
}

/// One message that a receive took.
#[derive(Debug, Clone)]
pub(crate) struct Taken {
    pub(crate) seq: Seq,
    pub(crate) handle: Handle,
    pub(crate) entry: Entry,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Broker {
    lanes: HashMap<String, Lane>,
    last: Seq,
    now: Timestamp,
    changes: Vec<Change>,
    woken: Vec<String>,
}

impl Broker {
    /// A broker whose next message comes after `last`.
    pub(crate) fn new(last: Seq) -> Self {
        Self { last, ..Self::default() }
    }

    pub(crate) fn has(&self, queue: &str) -> bool {
        self.lanes.contains_key(queue)
    }

    /// Adds a queue, with what the store kept of it.
    pub(crate) fn open(&mut self, lane: Lane) {
        self.lanes.insert(lane.config.name.clone(), lane);
    }

    #[cfg(all(test, feature = "local"))]
    pub(crate) fn lane(&self, queue: &str) -> &Lane {
        &self.lanes[queue]
    }

    /// The latest time any operation brought.
    pub(crate) fn now(&self) -> Timestamp {
        self.now
    }

    /// Sets the time of the operations that follow.
    pub(crate) fn advance(&mut self, now: Timestamp) {
        self.now = self.now.max(now);
    }

    /// What the operations since the last call must make durable.
    pub(crate) fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// The queues whose waiting receivers must look again, once those changes are durable.
    pub(crate) fn take_woken(&mut self) -> Vec<String> {
        std::mem::take(&mut self.woken)
    }

    /// Accepts a message, or recognises it; either way returns the id of the stored one.
    pub(crate) fn send(&mut self, queue: &str, message: Message, sent_at: Timestamp) -> Result<String, Error> {
        let now = self.now;
        let lane = lane(&mut self.lanes, queue)?;
        if message.body.len() > MAX_BODY {
            return Err(Error::TooLarge(message.body.len()));
        }
        if lane.config.fifo && message.group.is_empty() {
            return Err(Error::Invalid("a message on a FIFO queue needs a group".into()));
        }
        for id in lane.forget(now) {
            self.changes.push(Change::Forget { queue: queue.into(), id });
        }
        let id = match message.dedup {
            id if id.is_empty() && lane.config.fifo => digest(&message.body),
            id => id,
        };
        if let Some(seq) = lane.duplicate(&id) {
            return Ok(seq.to_string());
        }
        self.last += 1;
        let seq = self.last;
        if !id.is_empty() {
            let until = after(now, DEDUP_WINDOW);
            lane.remember(id.clone(), seq, until);
            self.changes.push(Change::Remember { queue: queue.into(), id, seq, until });
        }
        let entry = Entry {
            group: message.group.into(),
            sent_at,
            expires: after(now, lane.config.retention),
            count: 0,
            in_flight: None,
        };
        lane.append(seq, entry.clone());
        let payload = Payload { body: message.body, attributes: message.attributes };
        self.changes.push(Change::Insert { queue: queue.into(), seq, entry, payload });
        self.woken.push(queue.into());
        Ok(seq.to_string())
    }

    /// Takes up to `max` messages. Those delivered too often or stored too long go to the dead letters on the way.
    pub(crate) fn receive(
        &mut self,
        queue: &str,
        max: usize,
        visibility: Duration,
        rng: &dyn Rng,
    ) -> Result<Vec<Taken>, Error> {
        self.lapse(queue)?;
        let until = after(self.now, visibility);
        let mut taken = Vec::new();
        while taken.len() < max {
            let lane = lane(&mut self.lanes, queue)?;
            let Some(seq) = lane.next_ready() else { break };
            let limit = lane.config.dead_letters.as_ref().map(|dead| dead.max_receive_count);
            if lane.get(seq).zip(limit).is_some_and(|(entry, limit)| entry.count >= limit) {
                self.bury(queue, seq, None)?;
                continue;
            }
            let delivery = InFlight { nonce: rng.next_u64(), until };
            let count = lane.count(seq);
            lane.deliver(seq, Some(delivery));
            let Some(entry) = lane.get(seq).cloned() else { break };
            self.changes.push(Change::Deliver { queue: queue.into(), seq, count, in_flight: Some(delivery) });
            taken.push(Taken { seq, handle: handle(seq, delivery.nonce), entry });
        }
        Ok(taken)
    }

    /// When a receive that found nothing should look again, if nobody wakes it before.
    pub(crate) fn next_due(&self, queue: &str) -> Option<Timestamp> {
        self.lanes.get(queue).and_then(Lane::next_due)
    }

    /// Removes a message by the handle of its current delivery. Already removed is fine.
    pub(crate) fn ack(&mut self, queue: &str, handle: &Handle) -> Result<(), Error> {
        let Some(seq) = self.owned(queue, handle)? else { return Ok(()) };
        self.remove(queue, seq)
    }

    /// Sets the remaining invisibility of the current delivery; zero ends it.
    pub(crate) fn extend(&mut self, queue: &str, handle: &Handle, visibility: Duration) -> Result<(), Error> {
        let seq = self.owned(queue, handle)?.ok_or(Error::HandleExpired)?;
        let until = after(self.now, visibility);
        let lane = lane(&mut self.lanes, queue)?;
        let Some(entry) = lane.get(seq) else { return Err(Error::HandleExpired) };
        let count = entry.count;
        let delivery = entry.in_flight.filter(|_| visibility > Duration::ZERO);
        let in_flight = delivery.map(|delivery| InFlight { until, ..delivery });
        lane.deliver(seq, in_flight);
        self.changes.push(Change::Deliver { queue: queue.into(), seq, count, in_flight });
        self.woken.push(queue.into());
        Ok(())
    }

    /// Copies the delivery to the dead letters, if there are any, and removes the message.
    pub(crate) fn reject(
        &mut self,
        queue: &str,
        delivery: &Delivery,
        reason: &str,
        sent_at: Timestamp,
    ) -> Result<(), Error> {
        let Some(seq) = self.owned(queue, &delivery.handle)? else { return Ok(()) };
        if let Some(dead) = lane(&mut self.lanes, queue)?.config.dead_letters.clone() {
            self.send(&dead.queue.name, poison::copy(delivery, reason), sent_at)?;
        }
        self.remove(queue, seq)
    }

    /// How full a queue is. `wall` ages the oldest message.
    pub(crate) fn depth(&mut self, queue: &str, wall: Timestamp) -> Result<Depth, Error> {
        self.lapse(queue)?;
        let lane = lane(&mut self.lanes, queue)?;
        let in_flight = lane.in_flight();
        Ok(Depth {
            visible: Some((lane.len() - in_flight) as u64),
            in_flight: Some(in_flight as u64),
            oldest: lane.oldest().map(|sent_at| since(wall, sent_at)),
        })
    }

    fn remove(&mut self, queue: &str, seq: Seq) -> Result<(), Error> {
        let lane = lane(&mut self.lanes, queue)?;
        lane.remove(seq);
        // The next message of its group may have become ready; nothing else changes for those who wait.
        let ready = lane.next_ready().is_some();
        self.changes.push(Change::Remove { queue: queue.into(), seq });
        if ready {
            self.woken.push(queue.into());
        }
        Ok(())
    }

    fn lapse(&mut self, queue: &str) -> Result<(), Error> {
        for seq in lane(&mut self.lanes, queue)?.lapse(self.now) {
            self.bury(queue, seq, Some("expired"))?;
        }
        Ok(())
    }

    /// Moves a message to the end of the dead letters: appending keeps the rule that only a new message can be last.
    fn bury(&mut self, queue: &str, seq: Seq, reason: Option<&'static str>) -> Result<(), Error> {
        let source = lane(&mut self.lanes, queue)?;
        let Some(dead) = source.config.dead_letters.clone() else {
            tracing::error!(queue, message_id = seq, reason, "message removed: the queue has no dead-letter queue");
            return self.remove(queue, seq);
        };
        let Some(entry) = source.remove(seq) else { return Ok(()) };
        self.last += 1;
        let target = lane(&mut self.lanes, &dead.queue.name)?;
        let entry = Entry { expires: after(self.now, dead.queue.retention), count: 0, in_flight: None, ..entry };
        target.append(self.last, entry.clone());
        let add = reason.map_or_else(Vec::new, |reason| {
            vec![("PoisonReason", reason.to_owned()), ("SourceMessageId", seq.to_string())]
        });
        let to = (dead.queue.name.clone(), self.last);
        self.changes.push(Change::Move { from: (queue.into(), seq), to, entry, add });
        self.woken.extend([queue.to_owned(), dead.queue.name.clone()]);
        Ok(())
    }

    /// The message a handle speaks for: `None` when it is gone, an error when the delivery is over.
    fn owned(&mut self, queue: &str, handle: &Handle) -> Result<Option<Seq>, Error> {
        let (seq, nonce) = parse(handle).ok_or_else(|| Error::Invalid("not a handle of this queue".into()))?;
        let now = self.now;
        match lane(&mut self.lanes, queue)?.get(seq).map(|entry| entry.in_flight) {
            None => Ok(None),
            Some(Some(delivery)) if delivery.nonce == nonce && delivery.until > now => Ok(Some(seq)),
            Some(_) => Err(Error::HandleExpired),
        }
    }
}

fn lane<'a>(lanes: &'a mut HashMap<String, Lane>, queue: &str) -> Result<&'a mut Lane, Error> {
    lanes.get_mut(queue).ok_or_else(|| Error::NotFound(queue.into()))
}

fn handle(seq: Seq, nonce: u64) -> Handle {
    Handle(format!("{seq}.{nonce:016x}"))
}

fn parse(handle: &Handle) -> Option<(Seq, u64)> {
    let (seq, nonce) = handle.0.split_once('.')?;
    Some((seq.parse().ok()?, u64::from_str_radix(nonce, 16).ok()?))
}

#[cfg(test)]
mod tests;
