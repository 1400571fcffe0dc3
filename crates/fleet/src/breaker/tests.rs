use super::*;
use crate::ec2::Override;
use domain::testing::at;
use simulation::chance::SeededRng;

struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        at(0)
    }
}

/// A store that answers what it is told to.
#[derive(Default)]
struct Told {
    answers: BTreeMap<CircuitKey, Admission>,
    reads: Mutex<u32>,
    reserved: Mutex<Vec<CircuitKey>>,
    broken: bool,
}

#[async_trait]
impl Store for Told {
    async fn admissions(
        &self,
        keys: &[CircuitKey],
        _: Timestamp,
    ) -> Result<BTreeMap<CircuitKey, Admission>, db::Error> {
        *lock(&self.reads) += 1;
        if self.broken {
            return Err(db::Error::Unavailable("no such table".to_owned()));
        }
        let answer = |key: &CircuitKey| (key.clone(), self.answers.get(key).copied().unwrap_or(Admission::Free));
        Ok(keys.iter().map(answer).collect())
    }
    async fn reserve(&self, key: &CircuitKey, _: u32, _: Timestamp) -> Result<bool, db::Error> {
        lock(&self.reserved).push(key.clone());
        Ok(true)
    }
    async fn interrupted(
        &self,
        _: &str,
        _: Option<&str>,
        _: &RunnerKey,
        _: Timestamp,
    ) -> Result<Vec<CircuitKey>, db::Error> {
        Ok(Vec::new())
    }
}

fn group(pairs: &[(&str, &str)]) -> Vec<(Arch, Vec<Candidate>)> {
    let candidate = |(name, zone): &(&str, &str)| Candidate {
        request: Override {
            instance_type: (*name).to_owned(),
            subnet: Some(format!("subnet-{zone}")),
            priority: None,
            volume: None,
        },
        zone: Some((*zone).to_owned()),
    };
    vec![(Arch::Arm64, pairs.iter().map(candidate).collect())]
}

fn shown(groups: &[(Arch, Vec<Candidate>)]) -> String {
    let all = groups.iter().flat_map(|(_, list)| list);
    all.map(|c| format!("{}@{} ", c.request.instance_type, c.zone.as_deref().unwrap_or_default())).collect()
}

fn breaker(answers: &[(&str, Option<&str>, Admission)]) -> (Arc<Told>, Breaker) {
    let key = |(name, zone): (&str, Option<&str>)| match zone {
        Some(zone) => CircuitKey::in_zone(name, zone),
        None => CircuitKey::of_type(name),
    };
    let answers = answers.iter().map(|(name, zone, answer)| (key((name, *zone)), *answer)).collect();
    with(Told { answers, ..Told::default() })
}

fn with(told: Told) -> (Arc<Told>, Breaker) {
    let told = Arc::new(told);
    (Arc::clone(&told), Breaker::new(told, Arc::new(Still), Metrics::new()))
}

const ALL: &[(&str, &str)] = &[("c7g.large", "1a"), ("c7g.large", "1c"), ("m7g.large", "1a")];

#[tokio::test]
async fn each_override_is_judged_by_its_type_and_its_zone() {
    let (_, zone) = breaker(&[("c7g.large", Some("1a"), Admission::Blocked)]);
    assert_eq!(shown(&zone.admit(&group(ALL), 1).await), "c7g.large@1c m7g.large@1a ");
    let (_, of_type) = breaker(&[("c7g.large", None, Admission::Blocked)]);
    assert_eq!(shown(&of_type.admit(&group(ALL), 1).await), "m7g.large@1a ");
}

#[tokio::test]
async fn a_small_request_reserves_one_probe_and_a_large_one_none() {
    let half = [("c7g.large", Some("1a"), Admission::Probe(2)), ("m7g.large", Some("1a"), Admission::Probe(2))];
    let (told, small) = breaker(&half);
    assert_eq!(shown(&small.admit(&group(ALL), 2).await), "c7g.large@1a c7g.large@1c ");
    assert_eq!(lock(&told.reserved).len(), 1);
    let (told, large) = breaker(&half);
    assert_eq!(shown(&large.admit(&group(ALL), 3).await), "c7g.large@1c ");
    assert!(lock(&told.reserved).is_empty());
}

#[tokio::test]
async fn a_store_that_fails_stops_nothing() {
    let (_, broken) = with(Told { broken: true, ..Told::default() });
    assert_eq!(broken.admit(&group(ALL), 1).await, group(ALL));
}

#[tokio::test(start_paused = true)]
async fn answers_are_remembered_for_a_minute_also_that_there_is_nothing() {
    let (told, breaker) = breaker(&[]);
    for _ in 0..50 {
        breaker.admit(&group(ALL), 1).await;
    }
    assert_eq!(*lock(&told.reads), 1);
    breaker.interrupted("c7g.large", Some("1a"), &"i-1".into(), at(1)).await;
    breaker.admit(&group(ALL), 1).await;
    assert_eq!(*lock(&told.reads), 2, "an interruption is seen at once");
    tokio::time::advance(REMEMBERED).await;
    breaker.admit(&group(ALL), 1).await;
    assert_eq!(*lock(&told.reads), 3);
}

#[tokio::test]
async fn three_interruptions_in_a_zone_close_it_to_us_on_the_real_store() {
    let store = db::Circuits::new(Arc::new(db::Memory::new(Arc::new(Still))), Arc::new(SeededRng::new(1)));
    let breaker = Breaker::new(Arc::new(store), Arc::new(Still), Metrics::new());
    for n in 0..3 {
        breaker.interrupted("c7g.large", Some("1a"), &format!("i-{n}").as_str().into(), at(0)).await;
    }
    assert_eq!(shown(&breaker.admit(&group(ALL), 1).await), "c7g.large@1c m7g.large@1a ");
}
