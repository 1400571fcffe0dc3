//! A pool as a row.

use domain::launch::Arch;

use super::{Created, Health, Observed, Pool, PoolConfig, Schedule, Tuning};
use crate::attrs::{self, Row};
use crate::schema::POOLS;
use crate::table::{Item, Value};

/// The operator's attributes.
pub(super) const CONFIG: &[&str] = &[
    "arch",
    "cpu_max",
    "cpu_min",
    "desired_running",
    "desired_stopped",
    "environment",
    "families",
    "gen",
    "idle_timeout_minutes",
    "instance_type",
    "multi_spec",
    "override_linger_minutes",
    "override_max_hot",
    "private",
    "ram_max",
    "ram_min",
    "region",
    "schedules",
];

pub(super) fn encode(config: &PoolConfig) -> Item {
    let mut row = Row::default();
    row.text("instance_type", Some(&config.instance_type));
    row.put("desired_running", config.desired_running);
    row.put("desired_stopped", config.desired_stopped);
    row.count("idle_timeout_minutes", config.idle_timeout_minutes);
    if !config.schedules.is_empty() {
        row.put("schedules", Value::L(config.schedules.iter().map(schedule_value).collect()));
    }
    row.text("arch", config.arch.map(Arch::as_str));
    row.count("cpu_min", config.cpu_min);
    row.count("cpu_max", config.cpu_max);
    for (name, bound) in [("ram_min", config.ram_min), ("ram_max", config.ram_max)] {
        if bound != 0.0 {
            row.put(name, Value::F(bound));
        }
    }
    row.texts("families", &config.families);
    row.count("gen", config.gen_);
    row.flag("private", config.private);
    row.flag("multi_spec", config.multi_spec);
    row.whole("override_linger_minutes", config.override_linger_minutes);
    row.whole("override_max_hot", config.override_max_hot);
    row.text("environment", Some(&config.environment));
    row.text("region", Some(&config.region));
    row.0
}

fn schedule_value(schedule: &Schedule) -> Value {
    let mut row = Row::default();
    row.text("name", Some(&schedule.name));
    row.put("start_hour", schedule.start_hour);
    row.put("end_hour", schedule.end_hour);
    if !schedule.days_of_week.is_empty() {
        row.put("days_of_week", Value::L(schedule.days_of_week.iter().map(|day| Value::from(*day)).collect()));
    }
    row.put("desired_running", schedule.desired_running);
    row.put("desired_stopped", schedule.desired_stopped);
    Value::M(row.0)
}

/// The pool of a row; `None` for reserved rows.
pub(crate) fn decode(item: &Item) -> Option<Pool> {
    let name = attrs::text(item, POOLS.key)?.parse().ok()?;
    let count = |name: &str| attrs::count(item, name).unwrap_or(0);
    let schedules = match item.get("schedules") {
        Some(Value::L(list)) => list.iter().filter_map(schedule).collect(),
        _ => Vec::new(),
    };
    Some(Pool {
        name,
        config: PoolConfig {
            instance_type: attrs::string(item, "instance_type").unwrap_or_default(),
            desired_running: count("desired_running"),
            desired_stopped: count("desired_stopped"),
            idle_timeout_minutes: count("idle_timeout_minutes"),
            schedules,
            arch: attrs::text(item, "arch").and_then(Arch::parse),
            cpu_min: count("cpu_min"),
            cpu_max: count("cpu_max"),
            ram_min: attrs::number(item, "ram_min").unwrap_or(0.0),
            ram_max: attrs::number(item, "ram_max").unwrap_or(0.0),
            families: attrs::texts(item, "families"),
            gen_: count("gen"),
            private: attrs::flag(item, "private"),
            multi_spec: attrs::flag(item, "multi_spec"),
            override_linger_minutes: attrs::count(item, "override_linger_minutes"),
            override_max_hot: attrs::count(item, "override_max_hot"),
            environment: attrs::string(item, "environment").unwrap_or_default(),
            region: attrs::string(item, "region").unwrap_or_default(),
        },
        ephemeral: attrs::flag(item, "ephemeral"),
        last_job_time: attrs::time(item, "last_job_time"),
        observed: attrs::count(item, "current_running").zip(attrs::count(item, "current_stopped")).map(
            |(running, stopped)| Observed {
                running,
                stopped,
                effective_running: attrs::count(item, "effective_desired_running"),
                effective_stopped: attrs::count(item, "effective_desired_stopped"),
            },
        ),
        last_reconcile_at: attrs::time(item, "last_reconcile_at"),
        last_reconcile_result: attrs::string(item, "last_reconcile_result"),
        created: Created {
            at: attrs::seconds(item, "last_create_at"),
            keys: attrs::texts(item, "last_create_ids").into_iter().map(Into::into).collect(),
        },
        health: health(item),
        tuning: tuning(item),
        deleting_at: attrs::seconds(item, "deleting_at"),
    })
}

fn schedule(value: &Value) -> Option<Schedule> {
    let Value::M(map) = value else { return None };
    let count = |name: &str| attrs::count(map, name).unwrap_or(0);
    // What is no hour and no day stays that: it must not be taken for the first one, nor for every day.
    let odd = |value: &Value| match value {
        Value::N(number) => u32::try_from(*number).unwrap_or(u32::MAX),
        _ => u32::MAX,
    };
    let hour = |name: &str| map.get(name).map_or(0, odd);
    let days_of_week = match map.get("days_of_week") {
        Some(Value::L(days)) => days.iter().map(odd).collect(),
        _ => Vec::new(),
    };
    Some(Schedule {
        name: attrs::string(map, "name").unwrap_or_default(),
        start_hour: hour("start_hour"),
        end_hour: hour("end_hour"),
        days_of_week,
        desired_running: count("desired_running"),
        desired_stopped: count("desired_stopped"),
    })
}

pub(super) fn health_value(health: Health) -> Value {
    let mut row = Row::default();
    row.text("state", Some(if health.retry_at.is_some() { "degraded" } else { "ok" }));
    row.put("failures", health.failures);
    row.seconds("retry_at", health.retry_at);
    Value::M(row.0)
}

fn health(item: &Item) -> Health {
    let Some(Value::M(map)) = item.get("pool_health") else { return Health::default() };
    Health {
        failures: attrs::count(map, "failures").unwrap_or(0),
        retry_at: attrs::seconds(map, "retry_at").filter(|_| attrs::text(map, "state") == Some("degraded")),
    }
}

pub(super) fn tuning_value(tuning: &Tuning) -> Value {
    let mut row = Row::default();
    for (name, number) in [
        ("recommended_linger_minutes", tuning.linger_minutes),
        ("recommended_max_hot", tuning.max_hot),
        ("window_days", tuning.window_days),
        ("job_count", tuning.jobs),
        ("burst_count", tuning.bursts),
        ("p90_intra_burst_gap_seconds", tuning.p90_gap_seconds),
        ("peak_concurrency", tuning.peak),
    ] {
        row.put(name, number);
    }
    row.text("reason", Some(&tuning.reason));
    row.time("tuned_at", Some(tuning.at));
    Value::M(row.0)
}

fn tuning(item: &Item) -> Option<Tuning> {
    let Some(Value::M(map)) = item.get("auto_tune") else { return None };
    let count = |name: &str| attrs::count(map, name).unwrap_or(0);
    Some(Tuning {
        linger_minutes: count("recommended_linger_minutes"),
        max_hot: count("recommended_max_hot"),
        window_days: count("window_days"),
        jobs: count("job_count"),
        bursts: count("burst_count"),
        // Another writer may have kept the fraction.
        p90_gap_seconds: attrs::number(map, "p90_intra_burst_gap_seconds").map_or(0, |gap| gap as u32),
        peak: count("peak_concurrency"),
        reason: attrs::string(map, "reason").unwrap_or_default(),
        at: attrs::time(map, "tuned_at")?,
    })
}
