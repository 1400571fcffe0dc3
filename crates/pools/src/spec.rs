//! What machines a pool has: from its configuration to a launch, and from a job to a configuration. Pure.

use db::pools::PoolConfig;
use domain::catalogue::Bounds;
use domain::ids::PoolName;
use domain::launch::LaunchSpec;

#[cfg(test)]
mod tests;

/// Stopped spares of a new ephemeral pool, and minutes before a running one more than needed is stopped.
const EPHEMERAL: (u32, u32) = (1, 30);
/// vCPUs of a pool that says nothing about them.
const VCPUS: u32 = 2;

/// Every type the pool's machines may have; none when nothing matches.
pub fn types(config: &PoolConfig) -> Vec<String> {
    let pinned = || Some(config.instance_type.clone()).filter(|name| !name.is_empty());
    if config.cpu_min == 0
        && config.cpu_max == 0
        && let Some(name) = pinned()
    {
        return vec![name];
    }
    // As for labels: without an upper bound a machine is at most twice as large as asked for.
    let cpu_min = if config.cpu_min == 0 { VCPUS.min(config.cpu_max.max(1)) } else { config.cpu_min };
    let cpu_min = if config.cpu_min == 0 && config.cpu_max == 0 { VCPUS } else { cpu_min };
    let cpu_max = if config.cpu_max == 0 { cpu_min.saturating_mul(2) } else { config.cpu_max };
    let bounds = Bounds {
        arch: config.arch,
        gen_: config.gen_,
        cpu_min,
        cpu_max,
        ram_min: config.ram_min,
        ram_max: config.ram_max,
        families: &config.families,
    };
    let found: Vec<_> = bounds.resolve().into_iter().map(|known| known.name.clone()).collect();
    if found.is_empty() { pinned().into_iter().collect() } else { found }
}

/// What a machine of the pool is launched as. `None`: no type matches.
pub fn launch_spec(name: &PoolName, config: &PoolConfig) -> Option<LaunchSpec> {
    let instance_types = types(config);
    Some(LaunchSpec {
        instance_type: instance_types.first()?.clone(),
        instance_types,
        arch: config.arch,
        os: "linux".to_owned(),
        pool: Some(name.clone()),
        spot: false,
        private: config.private,
        cpu_min: config.cpu_min,
        cpu_max: config.cpu_max,
        ram_min: config.ram_min,
        ram_max: config.ram_max,
        families: config.families.clone(),
        gen_: config.gen_,
        region: config.region.clone(),
        environment: config.environment.clone(),
        ..LaunchSpec::default()
    })
}

/// The configuration of a pool that a job's label made: what the job asked for stays the pool's for good. A type is
/// pinned only if the label named a fixed size; a flexible one would freeze at its smallest.
pub fn ephemeral(spec: &LaunchSpec) -> PoolConfig {
    let (desired_stopped, idle_timeout_minutes) = EPHEMERAL;
    let fixed = spec.cpu_min == 0 && spec.cpu_max == 0;
    PoolConfig {
        instance_type: if fixed { spec.instance_type.clone() } else { String::new() },
        desired_stopped,
        idle_timeout_minutes,
        arch: spec.arch,
        cpu_min: spec.cpu_min,
        cpu_max: spec.cpu_max,
        ram_min: spec.ram_min,
        ram_max: spec.ram_max,
        families: spec.families.clone(),
        gen_: spec.gen_,
        private: spec.private,
        ..PoolConfig::default()
    }
}
