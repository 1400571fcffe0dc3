use super::*;

fn config() -> PoolConfig {
    PoolConfig { desired_running: 1, desired_stopped: 2, cpu_min: 2, cpu_max: 4, ..PoolConfig::default() }
}

fn entry() -> Schedule {
    Schedule { name: "day".to_owned(), start_hour: 8, end_hour: 24, days_of_week: vec![0, 6], ..Schedule::default() }
}

fn of(config: &PoolConfig) -> Vec<String> {
    problems(config, None)
}

#[test]
fn what_makes_sense_has_no_problems() {
    for fine in [
        PoolConfig::default(),
        config(),
        PoolConfig { schedules: vec![entry()], ..config() },
        PoolConfig { instance_type: "t4g.micro".to_owned(), ..PoolConfig::default() },
        PoolConfig { override_linger_minutes: Some(120), override_max_hot: Some(0), ..config() },
        PoolConfig { ram_min: 3.5, ram_max: 0.0, families: vec!["C8g".to_owned()], ..config() },
    ] {
        assert_eq!(of(&fine), Vec::<String>::new(), "{fine:?}");
    }
}

#[test]
fn every_mistake_is_told_apart() {
    for (wrong, said) in [
        (PoolConfig { desired_running: 501, ..config() }, "at most 500 running spares are allowed, not 501"),
        (PoolConfig { desired_stopped: 501, ..config() }, "at most 500 stopped spares are allowed, not 501"),
        (PoolConfig { override_linger_minutes: Some(121), ..config() }, "at most 120 minutes to linger are allowed"),
        (PoolConfig { override_max_hot: Some(11), ..config() }, "at most 10 lingering spares are allowed"),
        (PoolConfig { ram_min: 9.0, ram_max: 8.0, ..PoolConfig::default() }, "there is no memory from 9 to 8 GiB"),
        (PoolConfig { families: vec!["c8g".into(), "x9".into()], ..config() }, "no instance family is called x9"),
        (PoolConfig { instance_type: "x9.huge".into(), ..config() }, "no instance type is called x9.huge"),
        (PoolConfig { cpu_min: 7, cpu_max: 7, ..config() }, "no instance type is within these bounds"),
        (
            PoolConfig { schedules: vec![Schedule { name: String::new(), ..entry() }], ..config() },
            "schedule 1: it needs a name",
        ),
        (
            PoolConfig { schedules: vec![Schedule { start_hour: 24, ..entry() }], ..config() },
            "schedule day: it starts at an hour from 0 to 23",
        ),
        (
            PoolConfig { schedules: vec![Schedule { end_hour: 25, ..entry() }], ..config() },
            "schedule day: it ends at an hour from 0 to 24",
        ),
        (
            PoolConfig { schedules: vec![Schedule { end_hour: 8, ..entry() }], ..config() },
            "schedule day: it ends when it starts, so it would never hold",
        ),
        (
            PoolConfig { schedules: vec![Schedule { days_of_week: vec![7], ..entry() }], ..config() },
            "schedule day: its days are from 0 (Sunday) to 6",
        ),
        (
            PoolConfig { schedules: vec![Schedule { desired_running: 501, ..entry() }], ..config() },
            "schedule day: at most 500 running spares are allowed, not 501",
        ),
    ] {
        let found = of(&wrong);
        assert!(found.iter().any(|problem| problem == said), "{said}: {found:?}");
    }
    let upside_down = PoolConfig { cpu_min: 8, cpu_max: 4, desired_running: 501, ..config() };
    assert_eq!(of(&upside_down).len(), 3, "all at once: {:?}", of(&upside_down));
}
