//! What is wrong with a pool's configuration, before it is saved. Pure.

use config::HotPoolCaps;
use db::pools::{PoolConfig, Schedule};
use domain::catalogue;

use crate::spec;

#[cfg(test)]
mod tests;

/// Most spares of a kind.
pub const MOST: u32 = 500;
/// The limits that no configuration of hot pools may exceed: minutes, machines.
const CEILING: (u32, u32) = (120, 10);

/// Every problem, each as a sentence without its full stop. Empty: it may be saved.
pub fn problems(config: &PoolConfig, caps: Option<&HotPoolCaps>) -> Vec<String> {
    let mut found = Vec::new();
    let mut check = |fine: bool, problem: &dyn Fn() -> String| {
        if !fine {
            found.push(problem());
        }
    };
    counts(&mut check, "", config.desired_running, config.desired_stopped);
    let (minutes, hot) = caps.map_or(CEILING, |caps| (caps.max_linger_minutes, caps.max_hot));
    for (what, value, most) in [
        ("minutes to linger", config.override_linger_minutes, minutes),
        ("lingering spares", config.override_max_hot, hot),
    ] {
        check(value.is_none_or(|value| value <= most), &|| format!("at most {most} {what} are allowed"));
    }
    let (cpu_min, cpu_max) = (config.cpu_min, config.cpu_max);
    check(cpu_min == 0 || cpu_max == 0 || cpu_min <= cpu_max, &|| {
        format!("there is no number of vCPUs from {cpu_min} to {cpu_max}")
    });
    let (ram_min, ram_max) = (config.ram_min, config.ram_max);
    let memory = ram_min >= 0.0 && ram_max >= 0.0 && (ram_min == 0.0 || ram_max == 0.0 || ram_min <= ram_max);
    check(memory, &|| format!("there is no memory from {ram_min} to {ram_max} GiB"));
    for family in &config.families {
        check(catalogue::is_family(family), &|| format!("no instance family is called {family}"));
    }
    let pinned = &config.instance_type;
    check(pinned.is_empty() || catalogue::lookup(pinned).is_some(), &|| format!("no instance type is called {pinned}"));
    check(!spec::types(config).is_empty(), &|| "no instance type is within these bounds".to_owned());
    for (number, entry) in config.schedules.iter().enumerate() {
        schedule(&mut check, number + 1, entry);
    }
    found
}

fn counts(check: &mut impl FnMut(bool, &dyn Fn() -> String), of: &str, running: u32, stopped: u32) {
    for (kind, count) in [("running", running), ("stopped", stopped)] {
        check(count <= MOST, &|| format!("{of}at most {MOST} {kind} spares are allowed, not {count}"));
    }
}

fn schedule(check: &mut impl FnMut(bool, &dyn Fn() -> String), number: usize, entry: &Schedule) {
    let of = match entry.name.as_str() {
        "" => format!("schedule {number}: "),
        name => format!("schedule {name}: "),
    };
    check(!entry.name.is_empty(), &|| format!("{of}it needs a name"));
    check(entry.start_hour <= 23, &|| format!("{of}it starts at an hour from 0 to 23"));
    check(entry.end_hour <= 24, &|| format!("{of}it ends at an hour from 0 to 24"));
    check(entry.start_hour != entry.end_hour, &|| format!("{of}it ends when it starts, so it would never hold"));
    check(entry.days_of_week.iter().all(|day| *day <= 6), &|| format!("{of}its days are from 0 (Sunday) to 6"));
    counts(check, &of, entry.desired_running, entry.desired_stopped);
}
