use std::collections::BTreeSet;

use domain::timings::Timings;

use super::*;

#[test]
fn every_name_leads_to_one_task() {
    let mut names = BTreeSet::new();
    for entry in TABLE {
        for name in [Some(entry.name), entry.alias].into_iter().flatten() {
            assert!(names.insert(name), "{name} twice");
            assert!(!RETIRED.contains(&name), "{name} is retired");
            assert_eq!(Task::named(name), Some(entry.task));
        }
        assert_eq!(entry.task.entry(), entry, "once in the table");
    }
    assert_eq!(Task::named("stale_ssm"), Some(Task::StaleSecrets));
    assert_eq!(Task::named("pool_audit"), None);
    assert_eq!(Task::named("cost_report"), None, "what does not exist is no task");
}

/// Worlds without a scheduler run every sweep of dispatch as a loop; they must not be another system.
#[test]
fn a_sweep_of_dispatch_is_a_loop_or_a_task_and_as_frequent_as_one() {
    let tasks: Vec<_> = TABLE.iter().filter_map(|entry| Some((entry, entry.task.sweep()?))).collect();
    for (entry, sweep) in &tasks {
        assert_eq!(sweep.period(&Timings::PRODUCTION.every), entry.every, "{}", entry.name);
    }
    for sweep in Sweep::ALL {
        let is_task = tasks.iter().filter(|(_, s)| s == sweep).count();
        assert_eq!(is_task + usize::from(Sweep::LOOPS.contains(sweep)), 1, "{sweep:?}");
    }
}
