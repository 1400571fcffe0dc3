//! The broker against a model so simple that it can be read: a list of messages, scanned from the front.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::clock::{Rng, Timestamp, after};
use proptest::prelude::*;

use super::{Broker, Lane};
use crate::{DEDUP_WINDOW, Error, Handle, Message, QueueConfig};

const RETENTION: Duration = Duration::from_secs(900);
const LIMIT: u32 = 3;

#[derive(Default)]
struct Count(AtomicU64);

impl Rng for Count {
    fn next_u64(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

#[derive(Debug, Clone)]
enum Step {
    Pass {
        seconds: u64,
    },
    Send {
        group: u8,
        dedup: u8,
    },
    Receive {
        max: usize,
        visibility: u64,
    },
    /// Of the nth delivery ever made, however old.
    Ack {
        delivery: usize,
    },
    Extend {
        delivery: usize,
        visibility: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (0u64..200).prop_map(|seconds| Step::Pass { seconds }),
        4 => (0u8..4, 0u8..12).prop_map(|(group, dedup)| Step::Send { group, dedup }),
        4 => (1usize..4, 1u64..120).prop_map(|(max, visibility)| Step::Receive { max, visibility }),
        3 => (0usize..40).prop_map(|delivery| Step::Ack { delivery }),
        2 => (0usize..40, prop_oneof![Just(0), 1u64..120])
            .prop_map(|(delivery, visibility)| Step::Extend { delivery, visibility }),
    ];
    prop::collection::vec(step, 1..120)
}

#[derive(Debug, Clone)]
struct Stored {
    number: u64,
    group: String,
    expires: Timestamp,
    count: u32,
    delivery: Option<(usize, Timestamp)>,
}

#[derive(Default)]
struct Model {
    fifo: bool,
    now: Timestamp,
    messages: Vec<Stored>,
    dead: u64,
    ids: HashMap<String, (Timestamp, u64)>,
    /// The message of each delivery ever made.
    deliveries: Vec<u64>,
}

impl Model {
    fn is_head(&self, at: usize) -> bool {
        !self.fifo || !self.messages[..at].iter().any(|earlier| earlier.group == self.messages[at].group)
    }

    fn receive(&mut self, max: usize, visibility: u64) -> Vec<u64> {
        let now = self.now;
        for message in &mut self.messages {
            message.delivery = message.delivery.filter(|(_, until)| *until > now);
        }
        let (old, kept) = self.messages.drain(..).partition(|m| m.delivery.is_none() && m.expires <= now);
        self.messages = kept;
        self.dead += Vec::<Stored>::len(&old) as u64;
        let mut taken = Vec::new();
        while taken.len() < max {
            let free = |at: &usize| self.is_head(*at) && self.messages[*at].delivery.is_none();
            let Some(at) = (0..self.messages.len()).find(free) else { break };
            if self.messages[at].count >= LIMIT {
                self.messages.remove(at);
                self.dead += 1;
                continue;
            }
            let message = &mut self.messages[at];
            message.count += 1;
            message.delivery = Some((self.deliveries.len(), after(now, Duration::from_secs(visibility))));
            self.deliveries.push(message.number);
            taken.push(message.number);
        }
        taken
    }

    /// Where the message of a live delivery is; `Err(true)` when it is gone, `Err(false)` when it has moved on.
    fn find(&self, delivery: usize) -> Result<usize, bool> {
        let number = self.deliveries[delivery];
        let Some(at) = self.messages.iter().position(|message| message.number == number) else { return Err(true) };
        match self.messages[at].delivery {
            Some((current, until)) if current == delivery && until > self.now => Ok(at),
            _ => Err(false),
        }
    }
}

fn run(fifo: bool, steps: Vec<Step>) {
    let dead = QueueConfig::fifo("dead");
    let queue = if fifo { QueueConfig::fifo("q") } else { QueueConfig::standard("q") };
    let mut broker = Broker::new(0);
    broker.open(Lane::new(Arc::new(dead.clone())));
    broker.open(Lane::new(Arc::new(queue.retention(RETENTION).dead_letters(&dead, LIMIT))));
    let mut model = Model { fifo, ..Model::default() };
    let (rng, mut handles, mut sent) = (Count::default(), Vec::<Handle>::new(), 0);
    for step in steps {
        broker.advance(model.now);
        match step {
            Step::Pass { seconds } => model.now = after(model.now, Duration::from_secs(seconds)),
            Step::Send { group, dedup } => {
                let (group, dedup, now) = (group.to_string(), format!("id-{dedup}"), model.now);
                let message = Message {
                    body: sent.to_string(),
                    group: group.clone(),
                    dedup: dedup.clone(),
                    ..Message::default()
                };
                let id = broker.send("q", message, now).unwrap();
                let known = model.ids.get(&dedup).filter(|(until, _)| *until > now).map(|&(_, number)| number);
                let number: u64 = id.parse().unwrap();
                if let Some(known) = known {
                    assert_eq!(number, known, "a duplicate is the message it duplicates");
                    continue;
                }
                sent += 1;
                model.ids.insert(dedup, (after(now, DEDUP_WINDOW), number));
                let expires = after(now, RETENTION);
                model.messages.push(Stored { number, group, expires, count: 0, delivery: None });
            }
            Step::Receive { max, visibility } => {
                let taken = broker.receive("q", max, Duration::from_secs(visibility), &rng).unwrap();
                let numbers: Vec<_> = taken.iter().map(|taken| taken.seq).collect();
                assert_eq!(numbers, model.receive(max, visibility));
                handles.extend(taken.into_iter().map(|taken| taken.handle));
            }
            Step::Ack { delivery } if delivery < handles.len() => {
                match (broker.ack("q", &handles[delivery]), model.find(delivery)) {
                    (Ok(()), Ok(at)) => drop(model.messages.remove(at)),
                    (Ok(()), Err(true)) | (Err(Error::HandleExpired), Err(false)) => {}
                    (broker, model) => panic!("ack: broker {broker:?}, model {model:?}"),
                }
            }
            Step::Extend { delivery, visibility } if delivery < handles.len() => {
                let by = Duration::from_secs(visibility);
                match (broker.extend("q", &handles[delivery], by), model.find(delivery)) {
                    (Ok(()), Ok(at)) => model.messages[at].delivery = Some((delivery, after(model.now, by))),
                    (Err(Error::HandleExpired), Err(_)) => {}
                    (broker, model) => panic!("extend: broker {broker:?}, model {model:?}"),
                }
            }
            Step::Ack { .. } | Step::Extend { .. } => {}
        }
    }
    broker.advance(model.now);
    let depth = broker.depth("q", model.now).unwrap();
    let dead = broker.depth("dead", model.now).unwrap();
    model.receive(0, 0);
    assert_eq!(depth.visible.unwrap() + depth.in_flight.unwrap(), model.messages.len() as u64);
    assert_eq!(dead.visible.unwrap(), model.dead, "what left without an ack is with the dead letters");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_fifo_queue_behaves_like_the_model(steps in steps()) {
        run(true, steps);
    }

    #[test]
    fn a_standard_queue_behaves_like_the_model(steps in steps()) {
        run(false, steps);
    }
}
