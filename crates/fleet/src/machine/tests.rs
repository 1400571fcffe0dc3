use super::*;

fn instance(state: &str, transition: &str) -> Instance {
    Instance {
        id: "i-1".to_owned(),
        state: state.to_owned(),
        instance_type: "c7g.large".to_owned(),
        zone: None,
        spot: false,
        arch: Some("x86_64".to_owned()),
        image: Some("ami-1".to_owned()),
        profile: None,
        launched_at: None,
        transition: Some(transition.to_owned()),
        tags: Default::default(),
    }
}

#[test]
fn the_time_of_an_end_is_in_its_reason() {
    let now = domain::testing::at(0);
    let reason = "User initiated (2026-01-31 10:23:34 GMT)";
    let ended = |state, reason| machine(instance(state, reason), now).ended_at;
    assert_eq!(ended("terminated", reason), "2026-01-31T10:23:34Z".parse().ok());
    assert_eq!(ended("shutting-down", reason), "2026-01-31T10:23:34Z".parse().ok());
    assert_eq!(ended("stopped", reason), None, "it has not ended");
    for unreadable in
        ["", "Server.SpotInstanceTermination", "User initiated", "User initiated (yesterday GMT)", "( GMT)"]
    {
        assert_eq!(ended("terminated", unreadable), None, "{unreadable}");
    }
}

#[test]
fn what_is_not_said_makes_no_machine_old_or_gone() {
    let now = domain::testing::at(0);
    let shown = machine(instance("on-fire", ""), now);
    assert_eq!((shown.launched_at, shown.state), (now, MachineState::Pending));
    assert_eq!((shown.arch, shown.image.as_deref()), (Some(Arch::Amd64), Some("ami-1")));
}

#[test]
fn filters_are_put_in_ec2s_words() {
    let names = |filter: &Filter, profile| {
        let found = criteria(filter, profile)?;
        Some(
            found
                .into_iter()
                .map(|(name, values)| format!("{name}={}", values.join(",")))
                .collect::<Vec<_>>()
                .join(" "),
        )
    };
    let pool = Filter { pool: "fast".parse().ok(), ..Filter::default() };
    let alive = "instance-state-name=pending,running,stopping,stopped";
    assert_eq!(names(&pool, None), Some(format!("tag:runs-fleet:managed=true {alive} tag:runs-fleet:pool=fast")));
    let builders = Filter { which: Which::Builders, ..Filter::default() };
    assert_eq!(names(&builders, None), Some(format!("tag:created-by=runs-fleet-packer {alive}")));
    let unmarked = Filter { which: Which::Unmarked, ..Filter::default() };
    assert_eq!(names(&unmarked, Some("arn:p")), Some(format!("iam-instance-profile.arn=arn:p {alive}")));
    assert_eq!(names(&unmarked, None), None, "nothing is known to look for");
}
