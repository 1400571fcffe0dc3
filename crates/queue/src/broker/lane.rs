//! One queue's messages and the indexes that make every operation logarithmic. No bodies: those stay with the store.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use domain::clock::Timestamp;

use crate::QueueConfig;

/// Position of a message in its store, over all queues; never reused while a message is stored. Send order.
pub(crate) type Seq = u64;

/// What the broker knows of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) group: Arc<str>,
    /// Wall time of the send, as delivered.
    pub(crate) sent_at: Timestamp,
    /// Store time at which it is too old.
    pub(crate) expires: Timestamp,
    /// Deliveries so far.
    pub(crate) count: u32,
    pub(crate) in_flight: Option<InFlight>,
}

/// A delivery that is neither acked nor over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InFlight {
    /// Tells this delivery from earlier and later ones.
    pub(crate) nonce: u64,
    /// Store time at which the message becomes visible again.
    pub(crate) until: Timestamp,
}

impl Entry {
    /// When something happens to the message by itself.
    fn due(&self) -> Timestamp {
        self.in_flight.map_or(self.expires, |delivery| delivery.until)
    }
}

/// One queue.
#[derive(Debug, PartialEq)]
pub(crate) struct Lane {
    pub(crate) config: Arc<QueueConfig>,
    entries: BTreeMap<Seq, Entry>,
    /// Every message of a FIFO queue by group: the first of a group is its head.
    groups: BTreeSet<(Arc<str>, Seq)>,
    /// Heads that are not in flight: what a receive may take, oldest first.
    ready: BTreeSet<Seq>,
    /// Every message exactly once, by [`Entry::due`].
    due: BTreeSet<(Timestamp, Seq)>,
    in_flight: usize,
    dedup: HashMap<String, Seq>,
    /// The ids of `dedup` in the order in which they are forgotten.
    dedup_until: VecDeque<(Timestamp, String)>,
}

impl Lane {
    pub(crate) fn new(config: Arc<QueueConfig>) -> Self {
        Self {
            config,
            entries: BTreeMap::new(),
            groups: BTreeSet::new(),
            ready: BTreeSet::new(),
            due: BTreeSet::new(),
            in_flight: 0,
            dedup: HashMap::new(),
            dedup_until: VecDeque::new(),
        }
    }

    /// Appends a message: `seq` is above every other one's, so it is a head only in an empty group.
    pub(crate) fn append(&mut self, seq: Seq, entry: Entry) {
        self.due.insert((entry.due(), seq));
        let head = !self.config.fifo || self.head(&entry.group).is_none();
        if self.config.fifo {
            self.groups.insert((Arc::clone(&entry.group), seq));
        }
        if entry.in_flight.is_some() {
            self.in_flight += 1;
        } else if head {
            self.ready.insert(seq);
        }
        self.entries.insert(seq, entry);
    }

    /// Takes a message out; the next of its group becomes the head.
    pub(crate) fn remove(&mut self, seq: Seq) -> Option<Entry> {
        let entry = self.entries.remove(&seq)?;
        self.due.remove(&(entry.due(), seq));
        self.ready.remove(&seq);
        self.in_flight -= usize::from(entry.in_flight.is_some());
        if self.config.fifo {
            self.groups.remove(&(Arc::clone(&entry.group), seq));
            if let Some(head) = self.head(&entry.group)
                && self.entries.get(&head).is_some_and(|entry| entry.in_flight.is_none())
            {
                self.ready.insert(head);
            }
        }
        Some(entry)
    }

    /// Starts, moves or ends a delivery of a head.
    pub(crate) fn deliver(&mut self, seq: Seq, delivery: Option<InFlight>) {
        let Some(entry) = self.entries.get_mut(&seq) else { return };
        self.due.remove(&(entry.due(), seq));
        self.in_flight -= usize::from(entry.in_flight.is_some());
        entry.in_flight = delivery;
        self.due.insert((entry.due(), seq));
        if delivery.is_some() {
            self.in_flight += 1;
            self.ready.remove(&seq);
        } else {
            self.ready.insert(seq);
        }
    }

    /// Counts a delivery and returns how many there were.
    pub(crate) fn count(&mut self, seq: Seq) -> u32 {
        self.entries.get_mut(&seq).map_or(0, |entry| {
            entry.count += 1;
            entry.count
        })
    }

    /// Makes the deliveries that are over by `now` visible, and names the messages that are too old. A message in
    /// flight is never too old: its consumer may be finishing.
    pub(crate) fn lapse(&mut self, now: Timestamp) -> Vec<Seq> {
        let mut old = Vec::new();
        while let Some(&(at, seq)) = self.due.first()
            && at <= now
        {
            if self.entries.get(&seq).is_some_and(|entry| entry.in_flight.is_some()) {
                self.deliver(seq, None);
            } else {
                // Removing it from the index ends the loop; the caller removes the rest of it.
                self.due.pop_first();
                old.push(seq);
            }
        }
        old
    }

    pub(crate) fn get(&self, seq: Seq) -> Option<&Entry> {
        self.entries.get(&seq)
    }

    /// The oldest message that may be delivered now.
    pub(crate) fn next_ready(&self) -> Option<Seq> {
        self.ready.first().copied()
    }

    /// When the lane changes by itself next.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.due.first().map(|&(at, _)| at)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(crate) fn oldest(&self) -> Option<Timestamp> {
        self.entries.first_key_value().map(|(_, entry)| entry.sent_at)
    }

    /// The message that an id accepted before stands for.
    pub(crate) fn duplicate(&self, id: &str) -> Option<Seq> {
        self.dedup.get(id).copied()
    }

    /// Remembers an id. `until` never decreases from call to call.
    pub(crate) fn remember(&mut self, id: String, seq: Seq, until: Timestamp) {
        self.dedup.insert(id.clone(), seq);
        self.dedup_until.push_back((until, id));
    }

    /// Forgets the ids whose time is over and names them.
    pub(crate) fn forget(&mut self, now: Timestamp) -> Vec<String> {
        let over = self.dedup_until.iter().take_while(|(until, _)| *until <= now).count();
        let ids: Vec<_> = self.dedup_until.drain(..over).map(|(_, id)| id).collect();
        for id in &ids {
            self.dedup.remove(id);
        }
        ids
    }

    fn head(&self, group: &Arc<str>) -> Option<Seq> {
        let mut members = self.groups.range((Arc::clone(group), Seq::MIN)..=(Arc::clone(group), Seq::MAX));
        members.next().map(|&(_, seq)| seq)
    }
}
