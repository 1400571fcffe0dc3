use std::io::Read as _;
use std::sync::Arc;

use db::table::{Cond, Item, Value};
use db::{Jobs, Memory, Table};
use domain::clock::Clock;
use domain::testing::at;

use super::*;

struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        at(0)
    }
}

struct Counting(std::sync::atomic::AtomicU64);

impl Rng for Counting {
    fn next_u64(&self) -> u64 {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    }
}

async fn old(rows: &[(i64, &str)]) -> Vec<OldJob> {
    let table = Arc::new(Memory::new(Arc::new(Still)));
    for (id, completed_at) in rows {
        let row = Item::from([
            ("job_id".to_owned(), Value::N(*id)),
            ("status".to_owned(), Value::from("success")),
            ("created_at".to_owned(), Value::from("2025-11-01T00:00:00Z")),
            ("completed_at".to_owned(), Value::from(*completed_at)),
            ("of another release".to_owned(), Value::F(1.5)),
        ]);
        assert!(table.put(&db::schema::JOBS, row, Cond::Always).await.unwrap().is_applied());
    }
    Jobs::new(table as Arc<dyn Table>, Arc::new(Still)).ended_before(at(0), 100).await.unwrap()
}

#[tokio::test]
async fn records_are_packed_by_the_day_they_ended_with_all_they_say() {
    let jobs = old(&[(1, "2025-12-01T23:59:59Z"), (2, "2025-12-02T00:00:00Z"), (3, "2025-12-01T01:00:00+01:00")]).await;
    let days = by_day(&jobs);
    let ids = |day: &str| days[day].iter().map(|job| job.id()).collect::<Vec<_>>();
    assert_eq!(days.keys().collect::<Vec<_>>(), ["2025-12-01", "2025-12-02"]);
    assert_eq!(ids("2025-12-01"), ["3", "1"]);
    let mut text = String::new();
    flate2::read::GzDecoder::new(&*packed(&days["2025-12-01"]).unwrap()).read_to_string(&mut text).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(
        lines[1],
        serde_json::json!({
            "job_id": 1, "status": "success", "created_at": "2025-11-01T00:00:00Z",
            "completed_at": "2025-12-01T23:59:59Z", "of another release": 1.5,
        })
    );
}

#[test]
fn names_are_new_and_in_the_order_of_time() {
    let rng = Counting(0.into());
    let (first, second, later) = (ulid(at(0), &rng), ulid(at(0), &rng), ulid(at(1), &rng));
    assert!(first < second && second < later, "{first} {second} {later}");
    assert_eq!(first.len(), 26);
    assert_eq!(ulid(Timestamp::from_millisecond(1_469_918_176_385).unwrap(), &Counting(0.into()))[..10], *"01ARYZ6S41");
}
