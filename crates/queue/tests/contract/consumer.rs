//! The consumer loop on the memory queue, in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use queue::{
    Capabilities, Consumer, ConsumerConfig, Delivery, Depth, Disposition, Error, Handle, Handler, MemoryQueues,
    Message, Observer, Outcome, Queue, QueueConfig,
};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{Seeded, TestClock, message};

const MINUTE: Duration = Duration::from_secs(60);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The memory queue, watched, and able to fail.
struct Watched {
    inner: Arc<dyn Queue>,
    /// Since the start: when each receive began, and what it asked for.
    receives: Mutex<Vec<(Instant, usize)>>,
    extends: Mutex<Vec<(Instant, Duration)>>,
    polling: AtomicUsize,
    most_polling: AtomicUsize,
    /// How many of the next calls fail.
    fail_receives: AtomicU32,
    fail_acks: AtomicU32,
    fail_extends: AtomicU32,
    acks: AtomicU32,
    /// How long a receive takes at least, in milliseconds.
    latency: AtomicU64,
    /// Whether receives bring more than was asked for.
    generous: bool,
}

fn failing(counter: &AtomicU32) -> Result<(), Error> {
    let took = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
    if took.is_ok() { Err(Error::Unavailable("test".into())) } else { Ok(()) }
}

#[async_trait]
impl Queue for Watched {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    async fn send(&self, message: Message) -> Result<String, Error> {
        self.inner.send(message).await
    }
    async fn receive(&self, max: usize, wait: Duration, visibility: Duration) -> Result<Vec<Delivery>, Error> {
        struct Polling<'a>(&'a AtomicUsize);
        impl Drop for Polling<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.receives.lock().unwrap().push((Instant::now(), max));
        let polling = self.polling.fetch_add(1, Ordering::Relaxed) + 1;
        let _polling = Polling(&self.polling);
        self.most_polling.fetch_max(polling, Ordering::Relaxed);
        failing(&self.fail_receives)?;
        match self.latency.load(Ordering::Relaxed) {
            0 => {}
            latency => sleep(Duration::from_millis(latency)).await,
        }
        let max = if self.generous { 10 } else { max };
        self.inner.receive(max, wait, visibility).await
    }
    async fn ack(&self, handle: &Handle) -> Result<(), Error> {
        self.acks.fetch_add(1, Ordering::Relaxed);
        failing(&self.fail_acks)?;
        self.inner.ack(handle).await
    }
    async fn extend(&self, handle: &Handle, visibility: Duration) -> Result<(), Error> {
        self.extends.lock().unwrap().push((Instant::now(), visibility));
        failing(&self.fail_extends)?;
        self.inner.extend(handle, visibility).await
    }
    async fn reject(&self, delivery: &Delivery, reason: &str) -> Result<(), Error> {
        self.inner.reject(delivery, reason).await
    }
    async fn ping(&self) -> Result<(), Error> {
        self.inner.ping().await
    }
    async fn depth(&self) -> Result<Depth, Error> {
        self.inner.depth().await
    }
}

/// What an observer heard.
#[derive(Default)]
struct Heard {
    outcomes: Mutex<BTreeMap<String, usize>>,
    inflight: Mutex<Vec<usize>>,
    errors: AtomicU32,
    ack_failed: AtomicU32,
    lost: AtomicU32,
    poison: Mutex<Vec<&'static str>>,
    /// Cancelled as soon as a poll brings something.
    on_receive: Option<CancellationToken>,
}

impl Heard {
    fn count(&self, outcome: Outcome) -> usize {
        self.outcomes.lock().unwrap().get(&format!("{outcome:?}")).copied().unwrap_or(0)
    }
}

impl Observer for Heard {
    fn received(&self, _: &str, _: &[Delivery]) {
        self.on_receive.iter().for_each(CancellationToken::cancel);
    }
    fn receive_error(&self, _: &str, _: &Error) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }
    fn processed(&self, _: &str, outcome: Outcome, _: Duration) {
        *self.outcomes.lock().unwrap().entry(format!("{outcome:?}")).or_default() += 1;
    }
    fn poison(&self, _: &str, reason: &'static str) {
        self.poison.lock().unwrap().push(reason);
    }
    fn visibility_lost(&self, _: &str) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }
    fn ack_failed(&self, _: &str) {
        self.ack_failed.fetch_add(1, Ordering::Relaxed);
    }
    fn inflight(&self, _: &str, tasks: usize) {
        self.inflight.lock().unwrap().push(tasks);
    }
}

/// Does what the body says: `sleep 5`, `panic`, `hang`, `keep 30`, `reject`, anything else is acked.
#[derive(Default)]
struct Obedient {
    started: Mutex<Vec<(Instant, String)>>,
    finished: Mutex<BTreeSet<String>>,
    told_lost: AtomicU32,
}

#[async_trait]
impl Handler for Obedient {
    async fn handle(&self, delivery: &Delivery, lost: CancellationToken) -> Disposition {
        self.started.lock().unwrap().push((Instant::now(), delivery.body.clone()));
        let (word, number) = delivery.body.split_once(' ').unwrap_or((&delivery.body, "0"));
        let number: u64 = number.parse().unwrap_or(0);
        match word {
            "sleep" => sleep(seconds(number)).await,
            "panic" => panic!("as told"),
            "hang" => std::future::pending().await,
            "until-lost" => {
                lost.cancelled().await;
                self.told_lost.fetch_add(1, Ordering::Relaxed);
            }
            "keep" => return Disposition::Keep { after: Some(seconds(number)) },
            "keep-as-is" => return Disposition::Keep { after: None },
            "reject" => return Disposition::Reject("bad_value"),
            _ => {}
        }
        self.finished.lock().unwrap().insert(delivery.body.clone());
        Disposition::Ack
    }
}

impl Obedient {
    fn starts(&self, body: &str) -> Vec<Instant> {
        self.started.lock().unwrap().iter().filter(|(_, b)| b == body).map(|&(at, _)| at).collect()
    }
}

struct Scene {
    queue: Arc<Watched>,
    dead: Arc<dyn Queue>,
    handler: Arc<Obedient>,
    heard: Arc<Heard>,
    shutdown: CancellationToken,
}

impl Scene {
    fn new(generous: bool) -> Self {
        let dead = QueueConfig::fifo("main-dlq");
        let main = QueueConfig::fifo("main").dead_letters(&dead, 50);
        let queues = MemoryQueues::new(TestClock::new(), Seeded::new(7));
        let queue = Watched {
            inner: queues.queue(main),
            receives: Mutex::default(),
            extends: Mutex::default(),
            polling: AtomicUsize::new(0),
            most_polling: AtomicUsize::new(0),
            fail_receives: AtomicU32::new(0),
            fail_acks: AtomicU32::new(0),
            fail_extends: AtomicU32::new(0),
            acks: AtomicU32::new(0),
            latency: AtomicU64::new(0),
            generous,
        };
        Self {
            queue: Arc::new(queue),
            dead: queues.queue(dead),
            handler: Arc::default(),
            heard: Arc::default(),
            shutdown: CancellationToken::new(),
        }
    }

    async fn send(&self, bodies: &[&str]) {
        for (number, body) in bodies.iter().enumerate() {
            let message = Message { dedup: format!("{number}-{body}"), ..message(&number.to_string(), body) };
            self.queue.send(message).await.unwrap();
        }
    }

    fn start(&self, config: ConsumerConfig) -> JoinHandle<()> {
        let (queue, handler, observer) = (self.queue.clone(), self.handler.clone(), self.heard.clone());
        let consumer = Consumer::observed(queue, config, handler, Seeded::new(8), observer);
        tokio::spawn(consumer.run(self.shutdown.clone()))
    }

    async fn left(&self) -> u64 {
        let depth = self.queue.depth().await.unwrap();
        depth.visible.unwrap() + depth.in_flight.unwrap()
    }

    /// Runs the loop for this long, shuts it down and waits for it.
    async fn run(&self, permits: usize, time: Duration) {
        let running = self.start(ConsumerConfig::new(permits));
        sleep(time).await;
        self.shutdown.cancel();
        timeout(seconds(120), running).await.expect("the drain is bounded").unwrap();
    }
}

/// Q35
#[tokio::test(start_paused = true)]
async fn q35_never_more_than_the_permits_and_everything_done() {
    let scene = Scene::new(false);
    scene.queue.latency.store(20, Ordering::Relaxed);
    for number in 0..1000 {
        scene.queue.send(message(&number.to_string(), &format!("sleep {}", number % 5))).await.unwrap();
    }
    scene.run(64, MINUTE * 3).await;
    assert_eq!(scene.left().await, 0);
    assert_eq!(scene.heard.count(Outcome::Acked), 1000);
    let inflight = scene.heard.inflight.lock().unwrap();
    assert_eq!(inflight.iter().max(), Some(&64), "all permits are used, and no more");
    assert_eq!(inflight.last(), Some(&0));
    assert!(scene.queue.receives.lock().unwrap().iter().all(|&(_, max)| (1..=10).contains(&max)));
    assert_eq!(scene.queue.most_polling.load(Ordering::Relaxed), 2);
}

/// Q35: one permit, one message at a time, none received before it can be worked on.
#[tokio::test(start_paused = true)]
async fn q35_a_message_is_received_when_work_on_it_can_begin() {
    let scene = Scene::new(false);
    scene.send(&["sleep 50", "sleep 51", "sleep 52"]).await;
    scene.run(1, seconds(160)).await;
    assert_eq!(scene.handler.started.lock().unwrap().len(), 3, "none lapsed while it waited for a permit");
    assert_eq!(scene.heard.inflight.lock().unwrap().iter().max(), Some(&1));
}

/// Q35: an idle queue costs one long poll after the other.
#[tokio::test(start_paused = true)]
async fn q35_idle_means_idle() {
    let scene = Scene::new(false);
    scene.run(64, MINUTE * 10).await;
    let receives = scene.queue.receives.lock().unwrap();
    assert!((30..=31).contains(&receives.len()), "{} polls in 600 s", receives.len());
    assert!(receives.iter().all(|&(_, max)| max == 10));
    assert_eq!(scene.queue.most_polling.load(Ordering::Relaxed), 1);
}

/// Q36
#[tokio::test(start_paused = true)]
async fn q36_a_panic_stays_alone() {
    let scene = Scene::new(false);
    scene.send(&["panic", "sleep 5", "fine"]).await;
    scene.run(10, seconds(130)).await;
    assert_eq!(scene.handler.finished.lock().unwrap().len(), 2);
    let starts = scene.handler.starts("panic");
    assert_eq!(starts.len(), 2, "redelivered");
    assert_eq!(starts[1] - starts[0], seconds(120));
    assert_eq!((scene.heard.count(Outcome::Panicked), scene.left().await), (2, 1));
}

/// Q37
#[tokio::test(start_paused = true)]
async fn q37_the_heartbeat_keeps_a_long_task_alone() {
    let scene = Scene::new(false);
    scene.send(&["sleep 85"]).await;
    let mut config = ConsumerConfig::new(10);
    config.visibility = seconds(40);
    let running = scene.start(config);
    sleep(MINUTE * 5).await;
    assert_eq!(scene.handler.starts("sleep 85").len(), 1);
    assert_eq!(scene.queue.extends.lock().unwrap().len(), 2, "no heartbeat after the task");
    assert_eq!(scene.left().await, 0);
    scene.shutdown.cancel();
    running.await.unwrap();
}

/// Q37: a task that never ends loses its message in bounded time.
#[tokio::test(start_paused = true)]
async fn q37_a_stuck_task_lapses() {
    let scene = Scene::new(false);
    scene.send(&["hang"]).await;
    scene.run(10, seconds(216)).await;
    let starts = scene.handler.starts("hang");
    assert_eq!(starts.len(), 2);
    assert!(starts[1] - starts[0] <= seconds(215));
    assert_eq!(scene.heard.count(Outcome::TimedOut), 2);
    assert_eq!(scene.queue.acks.load(Ordering::Relaxed), 0);
}

/// Q37: so does one that blocks its thread. In real time, a hundred times faster.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn q37_a_blocked_thread_lapses() {
    struct Blocking(AtomicU32);
    #[async_trait]
    impl Handler for Blocking {
        async fn handle(&self, _: &Delivery, _: CancellationToken) -> Disposition {
            if self.0.fetch_add(1, Ordering::Relaxed) == 0 {
                std::thread::sleep(seconds(4));
            }
            Disposition::Ack
        }
    }
    let scene = Scene::new(false);
    scene.send(&["a"]).await;
    let handler = Arc::new(Blocking(AtomicU32::new(0)));
    let config = ConsumerConfig::new(2).divided(100);
    let consumer = Consumer::new(scene.queue.clone(), config, handler.clone(), Seeded::new(8));
    let running = tokio::spawn(consumer.run(scene.shutdown.clone()));
    let second = async {
        while handler.0.load(Ordering::Relaxed) < 2 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_millis(3800), second).await.expect("while the first still blocks");
    scene.shutdown.cancel();
    running.await.unwrap();
    assert_eq!(scene.left().await, 0);
}

/// A message that was redelivered is never acked by its former task, which is told.
#[tokio::test(start_paused = true)]
async fn a_lost_message_is_not_acked() {
    let scene = Scene::new(false);
    scene.send(&["until-lost"]).await;
    scene.queue.fail_extends.store(2, Ordering::Relaxed);
    let mut config = ConsumerConfig::new(10);
    // Two heartbeats fail, and then too little is left.
    config.visibility = seconds(100);
    let running = scene.start(config);
    sleep(seconds(61)).await;
    assert_eq!(scene.handler.told_lost.load(Ordering::Relaxed), 1);
    assert_eq!((scene.heard.count(Outcome::Lost), scene.heard.lost.load(Ordering::Relaxed)), (1, 1));
    assert_eq!((scene.queue.acks.load(Ordering::Relaxed), scene.left().await), (0, 1));
    scene.shutdown.cancel();
    running.await.unwrap();
}

/// The same when the queue says so.
#[tokio::test(start_paused = true)]
async fn an_expired_handle_is_the_end_of_it() {
    let scene = Scene::new(false);
    scene.send(&["until-lost"]).await;
    let mut config = ConsumerConfig::new(10);
    config.visibility = seconds(20);
    let running = scene.start(config);
    sleep(seconds(31)).await;
    assert_eq!(scene.handler.told_lost.load(Ordering::Relaxed), 1);
    assert_eq!(scene.queue.acks.load(Ordering::Relaxed), 0);
    scene.shutdown.cancel();
    running.await.unwrap();
}

/// Two failed heartbeats alone are not a loss while much is left.
#[tokio::test(start_paused = true)]
async fn one_good_heartbeat_forgives() {
    let scene = Scene::new(false);
    scene.send(&["sleep 85"]).await;
    scene.queue.fail_extends.store(1, Ordering::Relaxed);
    scene.run(10, seconds(100)).await;
    assert_eq!((scene.heard.count(Outcome::Acked), scene.left().await), (1, 0));
}

/// Q38
#[tokio::test(start_paused = true)]
async fn q38_shutdown_finishes_what_was_begun_and_receives_no_more() {
    let scene = Scene::new(false);
    scene.send(&["sleep 60"]).await;
    let running = scene.start(ConsumerConfig::new(10));
    sleep(seconds(1)).await;
    scene.shutdown.cancel();
    sleep(seconds(1)).await;
    let receives = scene.queue.receives.lock().unwrap().len();
    scene.queue.send(message("late", "late")).await.unwrap();
    assert!(!running.is_finished());
    let from = Instant::now();
    running.await.unwrap();
    assert_eq!(from.elapsed(), seconds(58));
    assert_eq!(scene.queue.receives.lock().unwrap().len(), receives);
    assert_eq!(scene.handler.finished.lock().unwrap().len(), 1);
    assert_eq!(scene.left().await, 1);
}

/// Q38: received, and shut down before the work began.
#[tokio::test(start_paused = true)]
async fn q38_what_was_not_begun_is_visible_at_once() {
    let mut scene = Scene::new(false);
    scene.heard = Arc::new(Heard { on_receive: Some(scene.shutdown.clone()), ..Heard::default() });
    scene.send(&["a", "b", "c"]).await;
    let running = scene.start(ConsumerConfig::new(10));
    timeout(seconds(1), running).await.unwrap().unwrap();
    assert_eq!(scene.handler.started.lock().unwrap().len(), 0);
    assert_eq!(scene.queue.receive(10, Duration::ZERO, MINUTE).await.unwrap().len(), 3);
}

/// A back end that brings more than was asked for gets the excess back.
#[tokio::test(start_paused = true)]
async fn an_excess_is_given_back() {
    let scene = Scene::new(true);
    scene.send(&["sleep 50", "sleep 51", "sleep 52", "sleep 53"]).await;
    scene.run(2, seconds(110)).await;
    assert_eq!((scene.heard.count(Outcome::Acked), scene.left().await), (4, 0));
    assert_eq!(scene.heard.inflight.lock().unwrap().iter().max(), Some(&2));
}

/// A failing back end is asked again after 1, 2, 4 … 30 s, and used again at once when it answers.
#[tokio::test(start_paused = true)]
async fn errors_back_off() {
    let scene = Scene::new(false);
    scene.queue.fail_receives.store(7, Ordering::Relaxed);
    scene.send(&["a"]).await;
    scene.run(10, MINUTE * 3).await;
    assert_eq!(scene.heard.errors.load(Ordering::Relaxed), 7);
    let at: Vec<_> = scene.queue.receives.lock().unwrap().iter().map(|&(at, _)| at).collect();
    for (pause, pair) in [1u64, 2, 4, 8, 16, 30, 30].into_iter().zip(at.windows(2)) {
        let took = (pair[1] - pair[0]).as_secs_f64() / seconds(pause).as_secs_f64();
        assert!((0.79..=1.21).contains(&took), "pause of {pause} s was {took} of that");
    }
    assert_eq!((scene.heard.count(Outcome::Acked), scene.left().await), (1, 0));
}

/// An ack is tried three times, within its own budget.
#[tokio::test(start_paused = true)]
async fn an_ack_is_tried_three_times() {
    let scene = Scene::new(false);
    scene.send(&["a"]).await;
    scene.queue.fail_acks.store(2, Ordering::Relaxed);
    scene.run(10, seconds(10)).await;
    assert_eq!((scene.queue.acks.load(Ordering::Relaxed), scene.left().await), (3, 0));
    assert_eq!(scene.heard.ack_failed.load(Ordering::Relaxed), 0);

    let scene = Scene::new(false);
    scene.send(&["a"]).await;
    scene.queue.fail_acks.store(3, Ordering::Relaxed);
    scene.run(10, seconds(10)).await;
    assert_eq!((scene.queue.acks.load(Ordering::Relaxed), scene.left().await), (3, 1));
    assert_eq!(scene.heard.ack_failed.load(Ordering::Relaxed), 1);
}

/// Each disposition does to the message what it says.
#[tokio::test(start_paused = true)]
async fn dispositions() {
    let scene = Scene::new(false);
    scene.send(&["keep 30", "keep-as-is", "reject", "keep 0"]).await;
    let running = scene.start(ConsumerConfig { permits: 4, ..ConsumerConfig::new(4) });
    sleep(seconds(31)).await;
    let starts = scene.handler.starts("keep 30");
    assert_eq!(starts[1] - starts[0], seconds(30));
    assert_eq!(scene.handler.starts("keep-as-is").len(), 1);
    assert_eq!(*scene.heard.poison.lock().unwrap(), ["bad_value"]);
    assert_eq!(scene.dead.depth().await.unwrap().visible, Some(2), "the rejected one, and the one kept 50 times");
    scene.shutdown.cancel();
    running.await.unwrap();
}

/// Without a handle nothing can be done about a message, so nothing is.
#[tokio::test(start_paused = true)]
async fn a_delivery_without_a_handle_is_skipped() {
    struct Bare(AtomicU32);
    #[async_trait]
    impl Queue for Bare {
        fn name(&self) -> &str {
            "bare"
        }
        fn capabilities(&self) -> Capabilities {
            Capabilities { fifo: false, max_visibility: MINUTE }
        }
        async fn send(&self, _: Message) -> Result<String, Error> {
            Ok(String::new())
        }
        async fn receive(&self, _: usize, wait: Duration, visibility: Duration) -> Result<Vec<Delivery>, Error> {
            sleep(wait).await;
            Ok(vec![Delivery {
                id: String::new(),
                body: "a".into(),
                handle: Handle(String::new()),
                attributes: BTreeMap::new(),
                sent_at: None,
                receive_count: None,
                group: None,
                deadline: Instant::now() + visibility,
            }])
        }
        async fn ack(&self, _: &Handle) -> Result<(), Error> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
        async fn extend(&self, _: &Handle, _: Duration) -> Result<(), Error> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
        async fn reject(&self, _: &Delivery, _: &str) -> Result<(), Error> {
            Ok(())
        }
        async fn ping(&self) -> Result<(), Error> {
            Ok(())
        }
        async fn depth(&self) -> Result<Depth, Error> {
            Ok(Depth::default())
        }
    }
    let (queue, handler) = (Arc::new(Bare(AtomicU32::new(0))), Arc::new(Obedient::default()));
    let shutdown = CancellationToken::new();
    let consumer = Consumer::new(queue.clone(), ConsumerConfig::new(2), handler.clone(), Seeded::new(8));
    let running = tokio::spawn(consumer.run(shutdown.clone()));
    sleep(MINUTE).await;
    shutdown.cancel();
    running.await.unwrap();
    assert!(handler.started.lock().unwrap().is_empty());
    assert_eq!(queue.0.load(Ordering::Relaxed), 0);
}
