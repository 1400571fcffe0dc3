//! The small sub-commands.

use std::collections::BTreeMap;
use std::io::{BufRead, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use config::{
    Code, Config, Loaded, Problem, SystemFiles, parse_env_file, reference_markdown, render_json, render_text,
};
use github::labels::{self, Aliases, LabelError, LabelSpec};

use crate::cli::{self, Format, say};

const ALIASES: &str = "RUNS_FLEET_LABEL_ALIASES";

/// The environment, without what is not UTF-8: no variable of ours may be that.
pub(crate) fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Checks that span crates: what an alias expands to is the label parser's knowledge, not the configuration's.
pub(crate) fn check_aliases(loaded: &mut Loaded, env: &BTreeMap<String, String>) {
    let Some(json) = env.get(ALIASES).filter(|json| !json.trim().is_empty()) else { return };
    // A value that is not even the right shape has been reported already.
    if loaded.problems.iter().any(|p| p.code.is_error() && p.variables.iter().any(|v| v == ALIASES)) {
        return;
    }
    if let Err(error) = Aliases::parse(json) {
        loaded.add([Problem::new(Code::Invalid, &[ALIASES], error.to_string())]);
    }
}

/// `check-config`.
pub(crate) fn check_config(options: &cli::CheckConfig) -> anyhow::Result<ExitCode> {
    if options.print_reference {
        say(&reference_markdown());
        return Ok(ExitCode::SUCCESS);
    }
    let env = match &options.env_file {
        None => environment(),
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            parse_env_file(&text).with_context(|| format!("cannot read {}", path.display()))?
        }
    };
    let mut loaded = Config::load(&env, &SystemFiles);
    check_aliases(&mut loaded, &env);
    match options.format {
        Format::Text => say(render_text(&loaded, options.strict).trim_end()),
        Format::Json => say(&render_json(&loaded, options.strict).to_string()),
    }
    Ok(if loaded.ok(options.strict) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `labels`.
pub(crate) fn labels(options: &cli::Labels) -> anyhow::Result<ExitCode> {
    let aliases = match environment().get(ALIASES).filter(|json| !json.trim().is_empty()) {
        Some(json) => Aliases::parse(json)?,
        None => Aliases::none(),
    };
    if !options.json {
        let parsed = labels::parse(&options.labels, &aliases);
        explain(&options.labels, &parsed);
        return Ok(if parsed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let mut out = std::io::stdout().lock();
    // Lines as bytes: whatever one of them holds, every line gets its answer.
    for line in std::io::stdin().lock().split(b'\n') {
        let answer = match serde_json::from_slice::<Vec<String>>(&line?) {
            Ok(labels) => labels::to_json(&labels::parse(&labels, &aliases)),
            Err(_) => r#"{"error":"invalid_input","warnings":[]}"#.to_owned(),
        };
        writeln!(out, "{answer}")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn explain(set: &[String], parsed: &Result<LabelSpec, LabelError>) {
    let spec = match parsed {
        Ok(spec) => spec,
        Err(error) => {
            say(&format!("{}: {error}", set.join(" ")));
            for warning in &error.warnings {
                say(&format!("  warning  {warning}"));
            }
            return;
        }
    };
    let range = |min: String, max: String| if min == max { min } else { format!("{min} to {max}") };
    let arch = spec.arch.map_or("either", domain::launch::Arch::as_str);
    let mut rows = vec![
        ("label", spec.original_label.clone()),
        ("machine", spec.runner_spec.clone()),
        ("arch", arch.to_owned()),
        ("capacity", if spec.spot { "spot, on-demand when there is none" } else { "on-demand" }.to_owned()),
    ];
    if spec.cpu_max > 0 {
        rows.push(("vCPU", range(spec.cpu_min.to_string(), spec.cpu_max.to_string())));
    }
    if spec.ram_min > 0.0 || spec.ram_max > 0.0 {
        let most = if spec.ram_max > 0.0 { spec.ram_max.to_string() } else { "any".to_owned() };
        rows.push(("memory GiB", range(spec.ram_min.to_string(), most)));
    }
    if let Some(pool) = &spec.pool {
        rows.push(("pool", pool.to_string()));
    }
    if spec.storage_gib > 0 {
        rows.push(("disk GiB", spec.storage_gib.to_string()));
    }
    rows.push(("candidates", spec.instance_types.join(", ")));
    for (name, value) in rows {
        say(&format!("{name:<11} {value}"));
    }
    for warning in &spec.warnings {
        say(&format!("warning     {warning}"));
    }
}

/// `healthcheck`: one plain request, no client needed.
pub(crate) fn healthcheck() -> anyhow::Result<ExitCode> {
    const LIMIT: Duration = Duration::from_secs(2);
    let listen = environment().get("RUNS_FLEET_LISTEN_ADDR").filter(|v| !v.trim().is_empty()).cloned();
    let listen = listen.unwrap_or_else(|| "0.0.0.0:8080".to_owned());
    let (host, port) = listen.rsplit_once(':').context("RUNS_FLEET_LISTEN_ADDR has no port")?;
    let host = match host.trim_matches(['[', ']']) {
        "" | "0.0.0.0" | "::" => "127.0.0.1",
        host => host,
    };
    let port: u16 = port.parse().context("RUNS_FLEET_LISTEN_ADDR has no port")?;
    let address = (host, port).to_socket_addrs()?.next().context("no address to ask")?;
    let mut stream =
        TcpStream::connect_timeout(&address, LIMIT).with_context(|| format!("nobody answers on {address}"))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(4096).read_to_string(&mut answer)?;
    let healthy = answer.starts_with("HTTP/1.1 200");
    say(if healthy { "healthy" } else { "unhealthy" });
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `why`.
pub(crate) fn why(options: &cli::Why) -> anyhow::Result<ExitCode> {
    #[cfg(feature = "local")]
    {
        let dir = options.dir.clone().map_or_else(crate::local::latest, Ok)?;
        crate::local::why(&dir, options.job, options.json)
    }
    #[cfg(not(feature = "local"))]
    {
        let _ = options;
        anyhow::bail!("this build has no store to ask")
    }
}
