use std::collections::BTreeMap;

use domain::testing::at;

use super::*;

const HOUR: i64 = 3600;

#[test]
fn two_clocks_must_agree_before_a_machine_ends() {
    use MachineState::{Pending, Running, ShuttingDown, Stopped, Stopping};
    let machine = |state, hours: i64| Machine {
        key: "i-1".into(),
        state,
        instance_type: String::new(),
        zone: None,
        spot: false,
        arch: None,
        image: None,
        launched_at: at(-hours * HOUR),
        ended_at: None,
        launch_id: None,
        tags: BTreeMap::new(),
    };
    let written = |hours: i64| Config::Written(at(-hours * HOUR));
    let dead = Duration::from_secs(8 * 3600);
    for (what, state, up, config, expected) in [
        ("both say so", Running, 9, written(9), Fate::Terminate),
        ("both, exactly", Running, 8, written(8), Fate::Terminate),
        ("it was started an hour ago", Running, 1, written(9), Fate::Leave),
        ("it was assigned an hour ago", Running, 9, written(1), Fate::Leave),
        ("nobody knows when it was assigned", Running, 9, Config::Undated, Fate::Leave),
        ("there is none", Running, 9, Config::Absent, Fate::Leave),
        ("a stopped one keeps its disk", Stopped, 9, written(9), Fate::Delete),
        ("whenever it was stopped", Stopped, 1, written(9), Fate::Delete),
        ("so does one on its way", Stopping, 1, written(9), Fate::Delete),
        ("or coming up", Pending, 0, written(9), Fate::Delete),
        ("assigned an hour ago, stopped", Stopped, 9, written(1), Fate::Leave),
        ("it ends anyway", ShuttingDown, 9, written(9), Fate::Leave),
    ] {
        assert_eq!(fate(&machine(state, up), config, false, at(0), dead), expected, "{what}");
    }
    let minutes = |minutes: i64| Config::Written(at(-minutes * 60));
    for (what, state, config, expected) in [
        ("a spare that was given back", Stopped, minutes(10), Fate::Delete),
        ("a moment ago: whoever gives it back may be at it", Stopped, minutes(9), Fate::Leave),
        ("one that runs may have read it", Running, minutes(10), Fate::Leave),
    ] {
        assert_eq!(fate(&machine(state, 9), config, true, at(0), dead), expected, "{what}");
    }
}
