//! What a label set asks for, worked out of its segments.

use std::collections::BTreeSet;

use domain::catalogue::Bounds;
use domain::ids::PoolName;
use domain::launch::{Arch, LaunchSpec};
use serde::{Serialize, Serializer};

use super::fixed::{RunnerName, Size};
use super::keys::{self, Keys};
use super::{Category, LabelError, Source, Warning};

/// How a label set was recognized as ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// `runs-fleet`.
    Bare,
    /// `runs-fleet/…`.
    Slash,
    /// `runs-fleet=<run id>/…`.
    Legacy,
    /// A label that a configured alias rule matched.
    Alias,
}

/// A label set understood. Zero, empty and `None` mean "not asked for"; serialized, `None` is the empty string.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LabelSpec {
    /// How the set was recognized.
    pub form: Form,
    /// The run-id segment of the legacy form, verbatim. Never authoritative: the webhook says which run it is.
    pub run_id: String,
    /// The marker, or the label an alias matched, verbatim.
    pub original_label: String,
    /// The label an alias matched, if one did.
    pub alias_label: String,
    /// The fixed spec's name; with flexible keys its synthetic form, for display only.
    pub runner_spec: String,
    /// `linux` or `windows`.
    pub os: &'static str,
    /// Architecture; `None` is either.
    #[serde(serialize_with = "arch_or_empty")]
    pub arch: Option<Arch>,
    /// Fewest vCPUs; zero for a fixed spec.
    pub cpu_min: u32,
    /// Most vCPUs; zero for a fixed spec.
    pub cpu_max: u32,
    /// Least memory, GiB.
    pub ram_min: f64,
    /// Most memory, GiB; zero is no bound.
    pub ram_max: f64,
    /// Instance families as written, in order of preference.
    pub families: Vec<String>,
    /// Instance generation.
    #[serde(rename = "gen")]
    pub gen_: u32,
    /// Root volume, GiB; zero leaves it to the launch template.
    pub storage_gib: u32,
    /// Warm pool.
    #[serde(serialize_with = "pool_or_empty")]
    pub pool: Option<PoolName>,
    /// Private subnets are required.
    pub private: bool,
    /// A public subnet is preferred; `private` wins.
    pub public: bool,
    /// Spot capacity is acceptable.
    pub spot: bool,
    /// Free text, for tag and message.
    pub region: String,
    /// `dev`, `staging` or `prod`.
    pub environment: String,
    /// `ec2` or `k8s`, when the label overrides the configured one.
    pub backend: String,
    /// First choice: the head of `instance_types`.
    pub instance_type: &'static str,
    /// Every type that will do, in the order a fleet request should offer them. Never empty.
    pub instance_types: Vec<&'static str>,
    /// What was ignored.
    pub warnings: BTreeSet<Warning>,
}

fn arch_or_empty<S: Serializer>(arch: &Option<Arch>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(arch.map_or("", Arch::as_str))
}

fn pool_or_empty<S: Serializer>(pool: &Option<PoolName>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(pool.as_ref().map_or("", PoolName::as_str))
}

impl LabelSpec {
    /// The machine part, as messages, records and the compute port carry it.
    pub fn launch_spec(&self) -> LaunchSpec {
        LaunchSpec {
            instance_type: self.instance_type.to_owned(),
            instance_types: self.instance_types.iter().map(|&name| name.to_owned()).collect(),
            arch: self.arch,
            os: self.os.to_owned(),
            runner_spec: self.runner_spec.clone(),
            pool: self.pool.clone(),
            spot: self.spot,
            private: self.private,
            public: self.public,
            storage_gib: self.storage_gib,
            cpu_min: self.cpu_min,
            cpu_max: self.cpu_max,
            ram_min: self.ram_min,
            ram_max: self.ram_max,
            families: self.families.clone(),
            gen_: self.gen_,
            region: self.region.clone(),
            environment: self.environment.clone(),
            backend: self.backend.clone(),
        }
    }
}

/// Reads the text of one source.
pub(super) fn read(source: &Source<'_>, mut warnings: BTreeSet<Warning>) -> Result<LabelSpec, LabelError> {
    match understand(source, &mut warnings) {
        Ok(spec) => Ok(LabelSpec { warnings, ..spec }),
        Err(category) => Err(LabelError { category, warnings }),
    }
}

fn understand(source: &Source<'_>, warnings: &mut BTreeSet<Warning>) -> Result<LabelSpec, Category> {
    let keys = Keys::split(source.text, warnings);

    // Whatever only warns comes first, so that an error can not hide a warning.
    let asked_arch = keys.arch.and_then(|text| keys::arch(text, warnings));
    let pool = pool(source, keys.pool, warnings);
    let private = keys.private.is_some_and(|text| keys::exact_bool(text, false, warnings));
    let public = keys.public.is_some_and(|text| keys::lenient_bool(text, warnings));
    let spot = keys.spot.is_none_or(|text| keys::exact_bool(text, true, warnings));
    let environment = environment(keys.env, warnings);
    let runner = keys.runner.map(RunnerName);
    if runner.is_some_and(|name| !name.known()) {
        warnings.insert(Warning::UnknownRunnerSpec);
    }

    let (cpu_min, cpu_max) = keys.cpu.map_or(Some((0, 0)), keys::cpu).ok_or(Category::InvalidCpu)?;
    let (ram_min, ram_max) = keys.ram.map_or(Some((0.0, 0.0)), keys::ram).ok_or(Category::InvalidRam)?;
    let gen_ = number(keys.gen_, 5, 1..=10).ok_or(Category::InvalidGen)?;
    let storage_gib = number(keys.disk, 6, 1..=16_384).ok_or(Category::InvalidDisk)?;
    let backend = match keys.backend {
        None => "",
        Some(name @ ("ec2" | "k8s")) => name,
        Some(_) => return Err(Category::InvalidBackend),
    };
    let windows = runner.is_some_and(RunnerName::windows);
    let arm64 = asked_arch == Some(Arch::Arm64) || runner.is_some_and(RunnerName::names_arm64);
    if windows && (keys.flexible() || arm64) {
        return Err(Category::OsConflict);
    }
    let named_arch = runner.and_then(RunnerName::arch);
    if named_arch.is_some() && asked_arch.is_some() && named_arch != asked_arch {
        return Err(Category::ArchConflict);
    }

    let mut spec = LabelSpec {
        form: source.form,
        run_id: source.run_id.to_owned(),
        original_label: source.label.to_owned(),
        alias_label: if source.form == Form::Alias { source.label.to_owned() } else { String::new() },
        runner_spec: keys.runner.unwrap_or_default().to_owned(),
        os: if windows { "windows" } else { "linux" },
        arch: asked_arch.or(named_arch),
        cpu_min,
        cpu_max,
        ram_min,
        ram_max,
        families: keys.family.map(keys::families).unwrap_or_default(),
        gen_,
        storage_gib,
        pool,
        private,
        public,
        spot,
        region: keys.region.unwrap_or_default().to_owned(),
        environment: environment.to_owned(),
        backend: backend.to_owned(),
        instance_type: "",
        instance_types: Vec::new(),
        warnings: BTreeSet::new(),
    };
    let fixed = if keys.flexible() { None } else { runner.map(|name| name.size(spec.arch)) };
    match fixed {
        Some(Size::Types(types)) => spec.instance_types = types.to_vec(),
        Some(Size::Cpu(cpus)) => {
            (spec.cpu_min, spec.cpu_max) = (cpus, cpus);
            spec.runner_spec = resolve(&mut spec, false)?;
        }
        None => spec.runner_spec = resolve(&mut spec, cpu_max > 0)?,
    }
    spec.instance_type = spec.instance_types.first().copied().unwrap_or_default();
    Ok(spec)
}

/// Completes the bounds, finds the types within them, and returns the synthetic runner spec. A machine asked for by
/// its smallest size only may be twice as large, not the largest there is.
fn resolve(spec: &mut LabelSpec, show_max: bool) -> Result<String, Category> {
    if spec.cpu_min == 0 {
        spec.cpu_min = 2;
    }
    if spec.cpu_max == 0 {
        spec.cpu_max = 2 * spec.cpu_min;
    }
    if spec.cpu_min > spec.cpu_max {
        return Err(Category::InvalidCpu);
    }
    let bounds = Bounds {
        arch: spec.arch,
        gen_: spec.gen_,
        cpu_min: spec.cpu_min,
        cpu_max: spec.cpu_max,
        ram_min: spec.ram_min,
        ram_max: spec.ram_max,
        families: &spec.families,
    };
    spec.instance_types = bounds.resolve().into_iter().map(|found| found.name.as_str()).collect();
    if spec.instance_types.is_empty() {
        return Err(Category::NoMatchingInstance);
    }
    let max = if show_max { format!("-{}", spec.cpu_max) } else { String::new() };
    let arch = spec.arch.map_or(String::new(), |arch| format!("-{}", arch.as_str()));
    Ok(format!("{}{max}cpu-linux{arch}", spec.cpu_min))
}

/// A bounded number; zero when absent, `None` when bad.
fn number(text: Option<&str>, most_digits: usize, allowed: std::ops::RangeInclusive<u32>) -> Option<u32> {
    match text {
        None => Some(0),
        Some(text) => keys::digits(text, most_digits).filter(|n| allowed.contains(n)),
    }
}

/// The pool asked for. A label served through an alias gets a pool of its own name unless the rule says otherwise,
/// so that migrated workflows keep warm machines without being touched.
fn pool(source: &Source<'_>, asked: Option<&str>, warnings: &mut BTreeSet<Warning>) -> Option<PoolName> {
    match asked {
        None if source.form == Form::Alias => source.label.parse().ok(),
        None => None,
        Some(name) => {
            let pool = name.parse().ok();
            if pool.is_none() {
                warnings.insert(Warning::InvalidPool);
            }
            pool
        }
    }
}

fn environment<'a>(asked: Option<&'a str>, warnings: &mut BTreeSet<Warning>) -> &'a str {
    match asked {
        None => "",
        Some(name @ ("dev" | "staging" | "prod")) => name,
        Some(_) => {
            warnings.insert(Warning::UnknownEnv);
            ""
        }
    }
}
