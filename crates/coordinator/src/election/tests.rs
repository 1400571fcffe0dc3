use proptest::prelude::*;

use super::*;

const ME: &str = "me#1";
const T: Timings = Timings::PRODUCTION;
/// `2026-01-01T00:00:00Z` in epoch seconds: the wall clock at the start.
const EPOCH: i64 = 1_767_225_600;

/// So many milliseconds after the start. The monotonic clock began earlier.
fn now(ms: u64) -> Now {
    let wall = Timestamp::from_millisecond(EPOCH * 1000 + i64::try_from(ms).expect("small")).expect("in range");
    Now { mono: Duration::from_secs(1000) + Duration::from_millis(ms), wall }
}

fn lease(owner: &str, token: Option<i64>, seq: i64, expires_in: Option<i64>) -> Lease {
    Lease { owner: Some(owner.into()), token, seq: token.map(|_| seq), expires_at: expires_in.map(|s| EPOCH + s) }
}

fn fresh() -> Election {
    Election::new(T, ME.into(), now(0))
}

/// Answers what is due at `ms`, with the request sent and answered in the same moment.
fn answer(election: &mut Election, ms: u64, answer: Answer) -> Option<Change> {
    let Next::Call(call) = election.next(now(ms)) else { panic!("nothing is due at {ms}") };
    election.answered(&call, now(ms).mono, answer, now(ms), 0.5)
}

fn call(election: &Election, ms: u64) -> Call {
    match election.next(now(ms)) {
        Next::Call(call) => call,
        Next::Wait(wait) => panic!("nothing is due at {ms} for {wait:?}"),
    }
}

/// One that leads since the start, with its token.
fn leader() -> (Election, i64) {
    let mut election = fresh();
    assert_eq!(answer(&mut election, 0, Answer::Read(None)), None);
    let Some(Change::Won { token, valid_until }) = answer(&mut election, 0, Answer::Applied) else {
        panic!("the lease was free")
    };
    assert_eq!(valid_until, now(50_000).mono);
    (election, token)
}

#[test]
fn what_a_first_look_leads_to() {
    use Verdict::{Create, Take, Watch};
    let someone = |expires_in| Some(lease("a#1", Some(5), 9, expires_in));
    let released = Lease { expires_at: Some(0), ..lease("a#1", Some(5), 9, None) };
    let table = [
        ("there is no row", None, Create),
        ("of the Go implementation, running", Some(lease("a", None, 0, Some(30))), Watch),
        ("of the Go implementation, over", Some(lease("a", None, 0, Some(-1))), Create),
        ("of the Go implementation, without a date", Some(lease("a", None, 0, None)), Create),
        ("held", someone(Some(30)), Watch),
        ("held, expired a while ago", someone(Some(-60)), Watch),
        ("held, expired just as long ago as clocks may differ", someone(Some(-120)), Watch),
        ("held, expired long ago", someone(Some(-121)), Take),
        ("held, without a date", someone(None), Watch),
        ("released", Some(released), Take),
        ("my own, of a term I do not know of", Some(lease(ME, Some(5), 0, Some(59))), Take),
        ("of my name's earlier boot", Some(lease("me#0", Some(5), 0, Some(59))), Watch),
        ("damaged", Some(Lease::default()), Create),
    ];
    for (what, row, verdict) in table {
        assert_eq!(fresh().observe(row.as_ref(), now(0)), verdict, "{what}");
        let mut election = fresh();
        assert_eq!(answer(&mut election, 0, Answer::Read(row.clone())), None);
        match (verdict, election.next(now(0))) {
            (Create, Next::Call(Call::Create { token })) => assert_eq!(token, EPOCH * 1000, "{what}"),
            (Take, Next::Call(Call::Take { seen, token })) => {
                assert_eq!((Some(seen), token), (row, EPOCH * 1000), "{what}");
            }
            (Watch, Next::Wait(wait)) => assert_eq!(wait, T.watch, "{what}"),
            (_, next) => panic!("{what}: {next:?}"),
        }
    }
}

#[test]
fn tokens_grow_whatever_the_clock_says() {
    let stored = EPOCH * 1000;
    for (what, token, wall_ms, wanted) in [
        ("a small token", 5, stored, stored),
        ("the same moment", stored, stored, stored + 1),
        ("a clock that was set back to 1970", stored, 0, stored + 1),
    ] {
        let at = Now { wall: Timestamp::from_millisecond(wall_ms).expect("in range"), ..now(0) };
        let mut election = fresh();
        let row = Lease { expires_at: Some(0), ..lease("a#1", Some(token), 0, None) };
        election.answered(&Call::Read, at.mono, Answer::Read(Some(row)), at, 0.5);
        assert!(matches!(call(&election, 0), Call::Take { token, .. } if token == wanted), "{what}");
    }
}

#[test]
fn a_holder_is_gone_when_nothing_moved_for_a_term_and_more() {
    let (mut election, mut seq) = (fresh(), 9);
    let mut ms = 0;
    // It dies after a renewal at 30 s, which moves the number but says nothing else that is believed.
    let taken = loop {
        if ms >= 30_000 {
            seq = 10;
        }
        match election.next(now(ms)) {
            Next::Call(Call::Read) => {
                answer(&mut election, ms, Answer::Read(Some(lease("a#1", Some(5), seq, Some(5)))));
            }
            Next::Call(other) => break other,
            Next::Wait(wait) => ms += u64::try_from(wait.as_millis()).expect("small"),
        }
    };
    assert!((92_000..92_600).contains(&ms), "a term and two seconds after it moved last: {ms}");
    assert!(matches!(taken, Call::Take { seen, .. } if seen.seq == Some(10)), "what was seen is what is taken over");
}

#[test]
fn an_answer_that_comes_too_late_makes_no_leader() {
    for (ms, leads) in [(0, true), (49_999, true), (50_000, false), (55_000, false)] {
        let mut election = fresh();
        answer(&mut election, 0, Answer::Read(None));
        let create = call(&election, 0);
        let change = election.answered(&create, now(0).mono, Answer::Applied, now(ms), 0.5);
        let until = now(50_000).mono;
        let wanted = leads.then_some(Change::Won { token: EPOCH * 1000, valid_until: until });
        assert_eq!(change, wanted, "after {ms} ms: counted from the sending");
    }
}

#[test]
fn an_unknown_answer_makes_no_leader_and_its_own_name_tells() {
    for unknown in [Answer::Failed, Answer::Lost] {
        let mut election = fresh();
        answer(&mut election, 0, Answer::Read(None));
        assert_eq!(answer(&mut election, 0, unknown), None);
        assert_eq!(election.next(now(0)), Next::Wait(T.watch), "looks again, but not without a pause");
        let token = EPOCH * 1000;
        answer(&mut election, 500, Answer::Read(Some(lease(ME, Some(token), 0, Some(60)))));
        assert!(matches!(call(&election, 500), Call::Take { token: new, .. } if new > token));
    }
}

#[test]
fn a_refused_renewal_ends_the_term_at_once() {
    let (mut election, token) = leader();
    assert_eq!(call(&election, 20_000), Call::Renew { token });
    assert_eq!(answer(&mut election, 20_000, Answer::Lost), Some(Change::Ended(Ending::Deposed)));
    assert_eq!(call(&election, 20_000), Call::Read, "and the term is not renewed again");
}

#[test]
fn renewals_may_fail_while_the_term_lasts() {
    let (mut election, token) = leader();
    for ms in [20_000, 25_500] {
        assert_eq!(answer(&mut election, ms, Answer::Failed), None, "a failure is no defeat");
        assert!(matches!(election.next(now(ms)), Next::Wait(pause) if pause <= Duration::from_secs(1)));
    }
    let renewed = answer(&mut election, 38_000, Answer::Applied);
    assert_eq!(renewed, Some(Change::Renewed { valid_until: now(88_000).mono }));
    assert_eq!(call(&election, 58_000), Call::Renew { token });
}

#[test]
fn a_term_lapses_by_the_clock_and_stays_over() {
    let (mut election, token) = leader();
    assert_eq!(election.tick(now(49_999)), None);
    assert_eq!(election.next(now(49_999)), Next::Call(Call::Renew { token }), "tried to the end");
    assert_eq!(election.patience(now(49_000)), Duration::from_secs(1), "and no longer");
    let mut blocked = Election { role: election.role.clone(), next: election.next.clone(), ..fresh() };
    assert_eq!(election.tick(now(50_000)), Some(Change::Ended(Ending::Lapsed)));
    assert_eq!(election.tick(now(50_001)), None, "once");
    assert_eq!(call(&election, 50_000), Call::Read);

    let renew = Call::Renew { token };
    let late = blocked.answered(&renew, now(49_000).mono, Answer::Applied, now(50_000), 0.5);
    assert_eq!(late, Some(Change::Ended(Ending::Lapsed)), "work under it was told that it is over");
}

#[test]
fn one_that_gave_up_lets_others_try() {
    let (mut election, _) = leader();
    election.ended(Ending::Voluntary, now(10_000));
    let released = Lease { expires_at: Some(0), ..lease(ME, Some(EPOCH * 1000), 1, None) };
    let mut ms = 10_000;
    loop {
        match election.next(now(ms)) {
            Next::Call(Call::Read) => {
                answer(&mut election, ms, Answer::Read(Some(released.clone())));
            }
            Next::Call(_) => break,
            Next::Wait(wait) => ms += u64::try_from(wait.as_millis()).expect("small"),
        }
    }
    assert!((70_000..71_000).contains(&ms), "for a minute, then somebody has to: {ms}");
}

#[test]
fn failures_are_answered_with_growing_pauses() {
    let pause = |election: &Election, at: Duration| election.due.saturating_sub(at);
    let (mut election, mut longest) = (fresh(), Duration::ZERO);
    for turn in 0..12 {
        let at = Now { mono: election.due, ..now(0) };
        election.answered(&Call::Read, at.mono, Answer::Failed, at, 0.999);
        assert!(pause(&election, at.mono) >= longest || turn > 5, "{turn}");
        longest = longest.max(pause(&election, at.mono));
    }
    assert!((T.retry..T.retry + 2 * T.watch).contains(&longest), "{longest:?}");
    let at = Now { mono: election.due, ..now(0) };
    election.answered(&Call::Read, at.mono, Answer::Read(Some(lease("a#1", Some(5), 9, Some(30)))), at, 0.5);
    assert_eq!(pause(&election, at.mono), T.watch, "an answer ends them");
    // Nobody's date is old while the wall clock stands still here.
    let at = Now { mono: election.due, ..now(0) };
    election.answered(&Call::Read, at.mono, Answer::Failed, at, 0.0);
    assert!(pause(&election, at.mono) < T.watch, "full jitter: replicas do not come back in step");

    let (mut election, token) = leader();
    let renew = Call::Renew { token };
    let mut at = now(20_000);
    let pauses: Vec<_> = (0..6)
        .map(|_| {
            election.answered(&renew, at.mono, Answer::Failed, at, 0.5);
            let pause = pause(&election, at.mono);
            at.mono += pause;
            pause.as_millis()
        })
        .collect();
    assert_eq!(pauses, [250, 500, 1000, 2000, 2000, 2000]);
}

/// The clock is looked at every second, for it may have jumped over the end of the term.
#[test]
fn no_wait_is_longer_than_a_second() {
    let (election, _) = leader();
    assert_eq!(election.next(now(0)), Next::Wait(LOOK));
    let mut election = fresh();
    for _ in 0..8 {
        let at = Now { mono: election.due, ..now(0) };
        election.answered(&Call::Read, at.mono, Answer::Failed, at, 0.9);
    }
    assert_eq!(election.next(Now { mono: election.due - T.retry / 2, ..now(0) }), Next::Wait(LOOK));
}

#[derive(Debug, Clone)]
enum Fate {
    Read(Option<(bool, i64, i64, i64)>),
    Applied,
    Lost,
    Failed,
}

fn fate() -> impl Strategy<Value = Fate> {
    let row = (any::<bool>(), 1..4_i64, 0..3_i64, -200..60_i64);
    prop_oneof![
        3 => prop::option::of(row).prop_map(Fate::Read),
        4 => Just(Fate::Applied),
        1 => Just(Fate::Lost),
        2 => Just(Fate::Failed),
    ]
}

proptest! {
    /// Whatever is answered, and however long it takes: a term that ended is not renewed, tokens grow, belief never
    /// reaches further than a request that was sent, and terms begin and end in turn.
    #[test]
    fn terms_are_begun_renewed_and_ended_in_turn(
        steps in prop::collection::vec((fate(), 0_u64..70_000, 0_u64..20_000, 0.0..1.0), 1..200),
    ) {
        let (mut election, mut ms) = (fresh(), 0);
        let (mut term, mut last): (Option<(i64, Duration)>, i64) = (None, 0);
        for (fate, takes, idle, chance) in steps {
            ms += idle;
            if let Some(change) = election.tick(now(ms)) {
                prop_assert_eq!(change, Change::Ended(Ending::Lapsed));
                prop_assert!(term.take().is_some_and(|(_, until)| now(ms).mono >= until));
            }
            let Next::Call(call) = election.next(now(ms)) else { continue };
            let sent = now(ms).mono;
            if let Call::Renew { token } = &call {
                prop_assert_eq!(Some(*token), term.map(|(token, _)| token), "renews nothing but its own term");
            } else {
                prop_assert!(term.is_none(), "a leader only renews");
            }
            let answer = match (&call, fate) {
                (Call::Read, Fate::Read(row)) => Answer::Read(row.map(|(mine, ahead, seq, expires)| {
                    lease(if mine { ME } else { "a#1" }, Some(last + ahead), seq, Some(expires))
                })),
                (Call::Read, _) | (_, Fate::Read(_) | Fate::Failed) => Answer::Failed,
                (_, Fate::Applied) => Answer::Applied,
                (_, Fate::Lost) => Answer::Lost,
            };
            let patience = u64::try_from(election.patience(now(ms)).as_millis()).expect("small");
            let answer = if takes > patience { Answer::Failed } else { answer };
            ms += takes.min(patience);
            match election.answered(&call, sent, answer, now(ms), chance) {
                Some(Change::Won { token, valid_until }) => {
                    prop_assert!(term.is_none() && token > last && valid_until == sent + T.validity());
                    (term, last) = (Some((token, valid_until)), token);
                }
                Some(Change::Renewed { valid_until }) => {
                    prop_assert!(valid_until == sent + T.validity() && now(ms).mono < valid_until);
                    term = term.map(|(token, _)| (token, valid_until));
                }
                Some(Change::Ended(_)) => prop_assert!(term.take().is_some()),
                None => {}
            }
        }
    }
}
