//! `pools`: warm pools by hand. What they are is in docs/POOLS.md.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use config::{Config, SystemFiles};
use db::Table;
use db::pools::{Pool, PoolConfig, Schedule};
use domain::clock::{Clock, Rng, SystemClock};
use domain::ids::PoolName;
use domain::launch::Arch;
use pools::plan::{Cut, Step};
use pools::{Ports, Preview, Removal, Removed, Settings, Times, WarmPools};
use provider::{Compute, HandOver};
use serde_json::{Value, json};
use telemetry::Metrics;

use crate::cli::{self, complain, say};
use crate::{back_ends, commands};

/// What warm pools are built on.
pub(crate) struct Parts {
    pub(crate) table: Arc<dyn Table>,
    pub(crate) jobs: db::Jobs,
    pub(crate) compute: Arc<dyn Compute>,
    pub(crate) hand_over: Arc<dyn HandOver>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) rng: Arc<dyn Rng>,
    pub(crate) metrics: Metrics,
}

/// Warm pools as configured.
pub(crate) fn build(config: &Config, parts: Parts) -> Arc<WarmPools> {
    let boot = parts.rng.token();
    let settings = Settings {
        owner: format!("{}-{}", config.core.replica_id, &boot[..8]),
        zone: config.tuning.schedule_timezone.clone(),
        hot: config.fleet.as_ref().and_then(|fleet| fleet.hot_pools),
        times: Times::PRODUCTION.divided(config.tuning.time_divisor),
    };
    assemble(settings, parts)
}

fn assemble(settings: Settings, parts: Parts) -> Arc<WarmPools> {
    let Parts { table, jobs, compute, hand_over, clock, rng, metrics } = parts;
    let ports = Ports {
        pools: db::Pools::new(Arc::clone(&table), Arc::clone(&clock)),
        locks: db::Locks::new(Arc::clone(&table), Arc::clone(&clock)),
        claims: db::Claims::new(table, Arc::clone(&clock)),
        jobs,
        compute,
        hand_over,
        clock,
        rng,
        metrics,
    };
    WarmPools::new(ports, settings)
}

/// The sub-command.
pub(crate) fn main(options: &cli::Pools) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match options {
            cli::Pools::List(options) => list(options).await,
            cli::Pools::Show(options) => show(options).await,
            cli::Pools::Set(options) => set(options).await,
            cli::Pools::Delete(options) => delete(options).await,
            cli::Pools::Plan(options) => plan(options).await,
        }
    })
}

fn configured() -> anyhow::Result<Config> {
    let loaded = Config::load(&commands::environment(), &SystemFiles);
    let usable = loaded.ok(false);
    loaded.config.filter(|_| usable).context("the configuration has errors: see `runs-fleet-server check-config`")
}

/// The pools, to look at: those of a `local` run, whose server may run, or those the environment names.
async fn read(dir: Option<&Path>) -> anyhow::Result<db::Pools> {
    #[cfg(feature = "local")]
    if let Some(dir) = dir {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let path = crate::local::Layout::new(dir).store();
        let table = db::Sqlite::open_read_only(&path, Arc::clone(&clock))?;
        return Ok(db::Pools::new(Arc::new(table), clock));
    }
    let _ = dir;
    let back_ends = back_ends::cloud(&configured()?, false, Metrics::new()).await?;
    Ok(db::Pools::new(back_ends.keeps_house.table, Arc::new(SystemClock)))
}

/// The pools with everything around them, to change. The store of a `local` run has one owner at a time: its server must
/// not run.
async fn open(dir: Option<&Path>) -> anyhow::Result<Arc<WarmPools>> {
    #[cfg(feature = "local")]
    if let Some(dir) = dir {
        return local(dir).await;
    }
    let _ = dir;
    let back_ends = back_ends::cloud(&configured()?, false, Metrics::new()).await?;
    back_ends.ports.pools.context("there are no warm pools: RUNS_FLEET_POOLS_TABLE is not set")
}

#[cfg(feature = "local")]
async fn local(dir: &Path) -> anyhow::Result<Arc<WarmPools>> {
    use domain::clock::SystemRng;
    use provider::local::{FileHandOver, Keep, ProcessCompute};

    let env = commands::environment();
    let (clock, rng): (Arc<dyn Clock>, Arc<dyn Rng>) = (Arc::new(SystemClock), Arc::new(SystemRng));
    let layout = crate::local::Layout::new(dir);
    let table = db::Sqlite::open(&layout.store(), Arc::clone(&clock))
        .context("the store cannot be opened; stop the server that runs on it, or use `list` and `show`")?;
    let table: Arc<dyn Table> = Arc::new(table);
    let machines = provider::local::Settings {
        root: dir.to_owned(),
        program: std::env::current_exe().context("the path of this executable is unknown")?,
        args: vec!["agent".into()],
        env: crate::local::agent_environment(dir, &env),
        keep: Keep::default(),
    };
    let compute = ProcessCompute::open(machines, Arc::clone(&clock)).await?;
    let parts = Parts {
        jobs: db::Jobs::new(Arc::clone(&table), Arc::clone(&clock)),
        table,
        compute: Arc::new(compute),
        hand_over: Arc::new(FileHandOver::new(layout.hand_overs())),
        clock,
        rng,
        metrics: Metrics::new(),
    };
    // A run made without a GitHub of its own is configured by its parent; of that only the zone matters here.
    let config = Config::local(&env, &SystemFiles).config;
    let settings = Settings {
        owner: format!("command-line-{}", &parts.rng.token()[..8]),
        zone: config.map_or(jiff::tz::TimeZone::UTC, |config| config.tuning.schedule_timezone),
        hot: None,
        times: Times::PRODUCTION,
    };
    Ok(assemble(settings, parts))
}

async fn list(options: &cli::ListPools) -> anyhow::Result<ExitCode> {
    let pools = read(options.dir.as_deref()).await?.list().await.context("the store does not answer")?;
    if options.json {
        let pools: Vec<_> = pools.iter().map(pool_json).collect();
        say(&json!({ "pools": pools }).to_string());
        return Ok(ExitCode::SUCCESS);
    }
    say(&format!("{:<24} {:<10} {:>15} {:>15}  LAST PASS", "POOL", "KIND", "RUNNING", "STOPPED"));
    for pool in &pools {
        let seen = pool.observed;
        let of = |now: Option<u32>, aimed: Option<u32>| match (now, aimed) {
            (Some(now), Some(aimed)) => format!("{now} of {aimed}"),
            (Some(now), None) => now.to_string(),
            (None, _) => "–".to_owned(),
        };
        let running = of(seen.map(|seen| seen.running), seen.and_then(|seen| seen.effective_running));
        let stopped = of(seen.map(|seen| seen.stopped), seen.and_then(|seen| seen.effective_stopped));
        let kind = if pool.ephemeral { "ephemeral" } else { "operator's" };
        let result = pool.last_reconcile_result.as_deref().unwrap_or("never");
        say(&format!("{:<24} {kind:<10} {running:>15} {stopped:>15}  {result}", pool.name.as_str()));
    }
    Ok(ExitCode::SUCCESS)
}

fn unknown(name: &PoolName) -> ExitCode {
    complain(&format!("there is no pool {name}"));
    ExitCode::FAILURE
}

async fn show(options: &cli::OnePool) -> anyhow::Result<ExitCode> {
    let pools = read(options.dir.as_deref()).await?;
    let Some(pool) = pools.get(&options.name).await.context("the store does not answer")? else {
        return Ok(unknown(&options.name));
    };
    if options.json {
        say(&pool_json(&pool).to_string());
    } else {
        tell(&pool);
    }
    Ok(ExitCode::SUCCESS)
}

async fn set(options: &cli::SetPool) -> anyhow::Result<ExitCode> {
    let warm = open(options.dir.as_deref()).await?;
    let (pools, name) = (&warm.ports().pools, &options.name);
    let before = pools.get(name).await.context("the store does not answer")?;
    let config = match changed(before.as_ref().map(|pool| pool.config.clone()).unwrap_or_default(), options) {
        Ok(config) => config,
        Err(problem) => return Ok(refused(&[problem])),
    };
    let problems = pools::check::problems(&config, warm.settings().hot.as_ref());
    if !problems.is_empty() {
        return Ok(refused(&problems));
    }
    let saved = match before {
        Some(_) => pools.save(name, &config).await,
        None => pools.create(name, &config).await,
    };
    anyhow::ensure!(saved.context("the store does not answer")?.is_applied(), "somebody changed the pool meanwhile");
    if options.reset_health {
        pools.mend(name).await.context("the store does not answer")?.applied();
    }
    let Some(after) = pools.get(name).await.context("the store does not answer")? else { return Ok(unknown(name)) };
    if options.json {
        say(&pool_json(&after).to_string());
    } else {
        say(if before.is_some() { "changed" } else { "created" });
        tell(&after);
    }
    Ok(ExitCode::SUCCESS)
}

fn refused(problems: &[String]) -> ExitCode {
    problems.iter().for_each(|problem| complain(problem));
    ExitCode::FAILURE
}

/// The configuration with what the options say.
fn changed(mut config: PoolConfig, options: &cli::SetPool) -> Result<PoolConfig, String> {
    let put = |to: &mut u32, value: Option<u32>| *to = value.unwrap_or(*to);
    put(&mut config.desired_running, options.running);
    put(&mut config.desired_stopped, options.stopped);
    put(&mut config.idle_timeout_minutes, options.idle_timeout);
    put(&mut config.gen_, options.generation);
    if let Some((min, max)) = options.cpu {
        (config.cpu_min, config.cpu_max) = (min, max);
    }
    if let Some((min, max)) = options.ram {
        (config.ram_min, config.ram_max) = (min, max);
    }
    if let Some(arch) = &options.arch {
        config.arch = match arch.as_str() {
            "any" => None,
            word => {
                Some(Arch::parse(word).ok_or_else(|| format!("an architecture is arm64, amd64 or any, not {word}"))?)
            }
        };
    }
    if let Some(families) = &options.families {
        config.families = families.iter().filter(|family| !family.is_empty()).cloned().collect();
    }
    if let Some(instance_type) = &options.instance_type {
        config.instance_type.clone_from(instance_type);
    }
    config.private = options.private.unwrap_or(config.private);
    if let Some(cli::Override(minutes)) = options.linger {
        config.override_linger_minutes = minutes;
    }
    if let Some(cli::Override(most)) = options.max_hot {
        config.override_max_hot = most;
    }
    if let Some(schedules) = &options.schedules {
        config.schedules = schedules_of(schedules)?;
    }
    Ok(config)
}

/// Schedules as JSON, in the words of the store.
fn schedules_of(text: &str) -> Result<Vec<Schedule>, String> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Entry {
        name: String,
        start_hour: u32,
        end_hour: u32,
        #[serde(default)]
        days_of_week: Vec<u32>,
        #[serde(default)]
        desired_running: u32,
        #[serde(default)]
        desired_stopped: u32,
    }
    let entries: Vec<Entry> =
        serde_json::from_str(text).map_err(|error| format!("the schedules are no list: {error}"))?;
    let schedule = |entry: Entry| Schedule {
        name: entry.name,
        start_hour: entry.start_hour,
        end_hour: entry.end_hour,
        days_of_week: entry.days_of_week,
        desired_running: entry.desired_running,
        desired_stopped: entry.desired_stopped,
    };
    Ok(entries.into_iter().map(schedule).collect())
}

async fn delete(options: &cli::DeletePool) -> anyhow::Result<ExitCode> {
    let warm = open(options.dir.as_deref()).await?;
    let name = &options.name;
    let Some(pool) = warm.ports().pools.get(name).await.context("the store does not answer")? else {
        return Ok(unknown(name));
    };
    if !pool.ephemeral && !options.force {
        return Ok(refused(&[format!("{name} is an operator's pool: set its targets to 0 and use --force")]));
    }
    let removed = warm.remove(name, Removal::Asked).await.context("something could not be read; the pool stays")?;
    let (gone, why) = match removed {
        Removed::Gone => (true, None),
        Removed::NotFound => return Ok(unknown(name)),
        Removed::Kept(why) => (false, Some(why)),
    };
    if options.json {
        say(&json!({ "pool": name, "deleted": gone, "kept": why }).to_string());
    } else {
        match &why {
            None => say(&format!("{name} is gone, with its machines")),
            Some(why) => complain(&format!("{name} stays: {why}")),
        }
    }
    Ok(if gone { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn plan(options: &cli::OnePool) -> anyhow::Result<ExitCode> {
    let warm = open(options.dir.as_deref()).await?;
    let preview = warm.preview(&options.name).await;
    let Some(preview) = preview.context("something could not be read; a pass would do nothing")? else {
        return Ok(unknown(&options.name));
    };
    if options.json {
        say(&preview_json(&preview).to_string());
        return Ok(ExitCode::SUCCESS);
    }
    let Preview { target, .. } = &preview;
    let why = if target.lingering { ", as a job came lately" } else { "" };
    say(&format!("should have {} running and {} stopped spares{why}", target.running, target.stopped));
    if let Some(seconds) = preview.paused_seconds {
        say(&format!("makes no machine for {seconds} s: new ones keep failing"));
    }
    for (member, kept) in &preview.members {
        let machine = &member.machine;
        let class = member.class.map_or("not the pool's concern", pools::plan::Class::as_str);
        let kept = match kept {
            _ if preview.handed.contains(&machine.key) => {
                "  a hand-over waits for it, or cannot be read: it is a job's".to_owned()
            }
            Some(why) => format!("  stays for now: {why}"),
            None => String::new(),
        };
        say(&format!("  {:<20} {:<14} {class}{kept}", machine.key.as_str(), machine.instance_type));
    }
    if preview.steps.is_empty() {
        say("would do nothing");
    }
    for step in &preview.steps {
        say(&format!("would {}", sentence(step)));
    }
    Ok(ExitCode::SUCCESS)
}

fn sentence(step: &Step) -> String {
    let cuts = |word: &str, cuts: &[Cut]| {
        let cuts: Vec<_> = cuts.iter().map(|(key, reason)| format!("{key} ({})", reason.as_str())).collect();
        format!("{word} {}", cuts.join(", "))
    };
    match step {
        Step::Probe(key) => format!("look for a hand-over for {key}"),
        Step::Start(keys, reason) => {
            let keys: Vec<_> = keys.iter().map(domain::ids::RunnerKey::as_str).collect();
            format!("start {} ({})", keys.join(", "), reason.as_str())
        }
        Step::Create(count, reason) => format!("make {count} ({})", reason.as_str()),
        Step::Stop(list) => cuts("stop", list),
        Step::Terminate(list) => cuts("end", list),
    }
}

fn tell(pool: &Pool) {
    let config = &pool.config;
    let range = |min: String, max: String| match (min.as_str(), max.as_str()) {
        ("0", "0") => String::new(),
        (_, "0") => format!("from {min}"),
        _ => format!("{min} to {max}"),
    };
    let overridden = |value: Option<u32>| value.map_or_else(|| "as recommended".to_owned(), |value| value.to_string());
    let seen = pool.observed;
    let mut rows = vec![
        ("pool", pool.name.to_string()),
        ("kind", if pool.ephemeral { "ephemeral: made by a job's label" } else { "an operator's" }.to_owned()),
        ("wanted", format!("{} running, {} stopped", config.desired_running, config.desired_stopped)),
    ];
    if let Some((running, stopped)) = seen.and_then(|seen| seen.effective_running.zip(seen.effective_stopped)) {
        rows.push(("aimed at", format!("{running} running, {stopped} stopped")));
    }
    rows.extend(seen.map(|seen| ("seen", format!("{} running, {} stopped", seen.running, seen.stopped))));
    let mut types = pools::spec::types(config);
    let more = types.len().saturating_sub(6);
    types.truncate(6);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    rows.push(("machines", format!("{}{more}", types.join(", "))));
    rows.push(("arch", config.arch.map_or("either", Arch::as_str).to_owned()));
    rows.push(("vCPU", range(config.cpu_min.to_string(), config.cpu_max.to_string())));
    rows.push(("memory GiB", range(config.ram_min.to_string(), config.ram_max.to_string())));
    rows.push(("idle minutes", config.idle_timeout_minutes.to_string()));
    rows.push(("linger", overridden(config.override_linger_minutes)));
    rows.push(("lingering", overridden(config.override_max_hot)));
    rows.extend(pool.last_job_time.map(|at| ("last job", at.to_string())));
    rows.extend(pool.last_reconcile_at.map(|at| ("last pass", at.to_string())));
    rows.extend(pool.last_reconcile_result.clone().map(|result| ("its result", result)));
    rows.extend(pool.health.retry_at.map(|at| ("degraded", format!("makes no machine before {at}"))));
    rows.extend(pool.deleting_at.map(|at| ("deleted", format!("is being removed since {at}"))));
    for (name, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
        say(&format!("{name:<13} {value}"));
    }
    for entry in &config.schedules {
        let days: Vec<_> = entry.days_of_week.iter().map(ToString::to_string).collect();
        let days = if days.is_empty() { "every day".to_owned() } else { format!("days {}", days.join(",")) };
        say(&format!(
            "schedule      {}: {} to {}, {days}: {} running, {} stopped",
            entry.name, entry.start_hour, entry.end_hour, entry.desired_running, entry.desired_stopped
        ));
    }
}

/// Configured and effective targets side by side, never mixed. What was not observed is null.
fn pool_json(pool: &Pool) -> Value {
    let config = &pool.config;
    let schedules: Vec<_> = config
        .schedules
        .iter()
        .map(|entry| {
            json!({
                "name": entry.name,
                "start_hour": entry.start_hour,
                "end_hour": entry.end_hour,
                "days_of_week": entry.days_of_week,
                "desired_running": entry.desired_running,
                "desired_stopped": entry.desired_stopped,
            })
        })
        .collect();
    let tuning = pool.tuning.as_ref().map(|tuning| {
        json!({
            "recommended_linger_minutes": tuning.linger_minutes,
            "recommended_max_hot": tuning.max_hot,
            "job_count": tuning.jobs,
            "burst_count": tuning.bursts,
            "peak_concurrency": tuning.peak,
            "reason": tuning.reason,
            "tuned_at": tuning.at,
        })
    });
    json!({
        "pool_name": pool.name,
        "ephemeral": pool.ephemeral,
        "desired_running": config.desired_running,
        "desired_stopped": config.desired_stopped,
        "effective_desired_running": pool.observed.and_then(|seen| seen.effective_running),
        "effective_desired_stopped": pool.observed.and_then(|seen| seen.effective_stopped),
        "current_running": pool.observed.map(|seen| seen.running),
        "current_stopped": pool.observed.map(|seen| seen.stopped),
        "idle_timeout_minutes": config.idle_timeout_minutes,
        "instance_type": config.instance_type,
        "instance_types": pools::spec::types(config),
        "arch": config.arch.map(Arch::as_str),
        "cpu_min": config.cpu_min,
        "cpu_max": config.cpu_max,
        "ram_min": config.ram_min,
        "ram_max": config.ram_max,
        "families": config.families,
        "gen": config.gen_,
        "private": config.private,
        "override_linger_minutes": config.override_linger_minutes,
        "override_max_hot": config.override_max_hot,
        "schedules": schedules,
        "auto_tune": tuning,
        "last_job_time": pool.last_job_time,
        "last_reconcile_at": pool.last_reconcile_at,
        "last_reconcile_result": pool.last_reconcile_result,
        "degraded_until": pool.health.retry_at,
        "deleting_at": pool.deleting_at,
    })
}

fn preview_json(preview: &Preview) -> Value {
    let members: Vec<_> = preview
        .members
        .iter()
        .map(|(member, kept)| {
            json!({
                "instance_id": member.machine.key,
                "instance_type": member.machine.instance_type,
                "state": member.machine.state.as_str(),
                "class": member.class.map(pools::plan::Class::as_str),
                "handed_over": preview.handed.contains(&member.machine.key),
                "kept": kept,
            })
        })
        .collect();
    let cuts = |action: &str, cuts: &[Cut]| -> Vec<Value> {
        let cut = |(key, reason): &Cut| json!({ "action": action, "instance_id": key, "reason": reason.as_str() });
        cuts.iter().map(cut).collect()
    };
    let actions: Vec<_> = preview
        .steps
        .iter()
        .flat_map(|step| match step {
            Step::Probe(_) => Vec::new(),
            Step::Start(keys, reason) => keys
                .iter()
                .map(|key| json!({ "action": "start", "instance_id": key, "reason": reason.as_str() }))
                .collect(),
            Step::Create(count, reason) => {
                vec![json!({ "action": "create", "count": count, "reason": reason.as_str() })]
            }
            Step::Stop(list) => cuts("stop", list),
            Step::Terminate(list) => cuts("terminate", list),
        })
        .collect();
    json!({
        "pool_name": preview.pool.name,
        "effective_desired_running": preview.target.running,
        "effective_desired_stopped": preview.target.stopped,
        "lingering": preview.target.lingering,
        "paused_seconds": preview.paused_seconds,
        "instances": members,
        "actions": actions,
    })
}
