use super::*;
use proptest::prelude::*;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[tokio::test(start_paused = true)]
async fn a_burst_then_the_sustained_rate() {
    let start = Instant::now();
    let pace = Pace::new(start);
    for _ in 0..20 {
        assert!(pace.wait(Bucket::Launch, Priority::Launch, start + ms(60_000)).await);
    }
    let took = start.elapsed();
    assert!((ms(4_900)..ms(5_200)).contains(&took), "10 at once, 10 more at 2/s: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_beyond_the_deadline() {
    let start = Instant::now();
    let pace = Pace::new(start);
    for _ in 0..10 {
        pace.wait(Bucket::Launch, Priority::Launch, start).await;
    }
    assert!(!pace.wait(Bucket::Launch, Priority::Launch, start + ms(300)).await);
    assert!(start.elapsed() <= ms(300));
}

#[tokio::test(start_paused = true)]
async fn a_token_taken_ahead_is_not_taken_again() {
    let start = Instant::now();
    let pace = Pace::new(start);
    for _ in 0..10 {
        pace.ahead(start + ms(1)).await;
    }
    assert!(!pace.wait(Bucket::Launch, Priority::Launch, start).await, "the bucket is empty");
    for _ in 0..10 {
        assert!(pace.launch(start + ms(1)).await);
    }
    assert!(!pace.launch(start + ms(1)).await);
}

#[tokio::test(start_paused = true)]
async fn sweeps_leave_room_for_launches() {
    let now = Instant::now();
    let mut tokens = Tokens::new(10.0, 50.0, now);
    while tokens.take(now, Priority::Background).is_ok() {}
    let left = (0..).take_while(|_| tokens.take(now, Priority::Launch).is_ok()).count();
    assert_eq!(left, 12);
}

#[tokio::test(start_paused = true)]
async fn a_complaint_halves_the_rate_and_it_recovers_by_tenths() {
    let now = Instant::now();
    let mut tokens = Tokens::new(2.0, 10.0, now);
    tokens.slow_down(now);
    for (second, rate) in [(0, 1.0), (29, 1.0), (39, 1.0), (40, 1.2), (59, 1.4), (80, 2.0), (500, 2.0)] {
        assert!((tokens.rate(now + ms(second * 1000)) - rate).abs() < 1e-9, "after {second} s");
    }
    for _ in 0..9 {
        tokens.slow_down(now);
    }
    assert!((tokens.rate(now) - 0.5).abs() < 1e-9, "never below");
}

proptest! {
    #[test]
    fn never_more_than_burst_and_rate_allow(steps in proptest::collection::vec((0u64..2_000, any::<bool>()), 1..200)) {
        let start = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async { Instant::now() });
        let mut tokens = Tokens::new(2.0, 10.0, start);
        let (mut now, mut taken) = (start, 0.0);
        for (pause, complaint) in steps {
            now += ms(pause);
            if complaint {
                tokens.slow_down(now);
            }
            while tokens.take(now, Priority::Launch).is_ok() {
                taken += 1.0;
            }
            prop_assert!(taken <= 10.0 + 2.0 * (now - start).as_secs_f64() + 1e-6);
        }
    }
}
