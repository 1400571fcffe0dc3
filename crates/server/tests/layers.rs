//! The map of the workspace, enforced: which crates exist, in which row each stands, and what may know what.
//!
//! The picture, and what every crate is for, is in `docs/ARCHITECTURE.md`. All kinds of dependencies follow the rows,
//! those of tests too: a test that needs more of the system belongs to a crate that stands higher. The exceptions are the
//! worlds outside: any crate may be tested in the simulation, and the emulator of AWS is for nothing but tests.

#![allow(clippy::expect_used, reason = "tests")]

use std::fs;
use std::process::Command;

use cargo_metadata::camino::{Utf8Path, Utf8PathBuf};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// Every crate that may exist, by its folder's name, from the bottom up. A new one needs a row, and a reason.
const ROWS: [&[&str]; 8] = [
    &["domain", "emulator"],
    &["config", "telemetry"],
    &["db", "queue", "provider"],
    &["fleet", "github", "coordinator"],
    &["pools", "cache", "cost"],
    &["dispatch"],
    &["housekeeping", "admin"],
    &["server", "simulation", "agent"],
];

/// The arrows within a row. `local` mode is the reason for all of them: it brings its own GitHub and its own agents.
const SIDEWAYS: [(&str, &str); 3] = [("server", "simulation"), ("server", "agent"), ("simulation", "agent")];

fn metadata() -> Metadata {
    MetadataCommand::new().no_deps().exec().expect("cargo metadata answers")
}

/// Programs carry the product's name in front of the crate's.
fn short(package: &str) -> &str {
    package.strip_prefix("runs-fleet-").unwrap_or(package)
}

fn row(name: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&name))
}

fn allowed(from: &str, to: &str) -> bool {
    row(from) > row(to) || SIDEWAYS.contains(&(from, to))
}

fn folder(package: &Package) -> &Utf8Path {
    package.manifest_path.parent().expect("a manifest is in a folder")
}

/// Cargo's answer to a question about the graph.
fn cargo(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).args(args).output().expect("cargo can be started");
    assert!(output.status.success(), "cargo {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo answers in UTF-8")
}

/// Names of everything that is compiled into a program built with these flags.
fn compiled(package: &str, features: &[&str]) -> Vec<String> {
    let args = ["tree", "--locked", "-p", package, "--edges", "normal,build", "--prefix", "none", "--format", "{p}"];
    let lines = cargo(&[&args, features].concat());
    lines.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

fn of_a_cloud(name: &str) -> bool {
    name.starts_with("aws-sdk-") || ["aws-config", "kube", "k8s-openapi"].contains(&name) || name.starts_with("kube-")
}

#[test]
fn every_crate_is_on_the_map() {
    let metadata = metadata();
    let packages = metadata.workspace_packages();
    assert!(!packages.is_empty(), "the workspace has crates");
    for package in packages {
        let name = short(&package.name);
        assert!(row(name).is_some(), "{name} is on no row of the map");
        assert_eq!(folder(package).file_name(), Some(name), "{} lives in a folder of its own name", package.name);
    }
}

#[test]
fn dependencies_point_down() {
    let metadata = metadata();
    let mut arrows = 0;
    for package in metadata.workspace_packages() {
        for dependency in package.dependencies.iter().filter(|dependency| dependency.path.is_some()) {
            let (from, to) = (short(&package.name), short(&dependency.name));
            let a_test_s_world = dependency.kind == DependencyKind::Development && to == "simulation";
            assert!(to != "emulator" || dependency.kind == DependencyKind::Development, "{from} ships an emulator");
            assert!(a_test_s_world || allowed(from, to), "{from} must not know {to}: see the rows");
            arrows += 1;
        }
    }
    assert!(arrows > 0, "crates depend on each other by path");
}

#[test]
fn arrows_up_and_sideways_are_refused() {
    for (from, to) in [("domain", "config"), ("db", "queue"), ("github", "dispatch"), ("agent", "server")] {
        assert!(!allowed(from, to), "{from} -> {to}");
    }
    for (from, to) in [("dispatch", "github"), ("admin", "domain"), ("server", "agent")] {
        assert!(allowed(from, to), "{from} -> {to}");
    }
}

#[test]
fn the_vocabulary_does_nothing() {
    let pure = compiled("domain", &[]);
    assert!(pure.iter().any(|name| name == "serde"), "the graph was read: {pure:?}");
    for effect in ["tokio", "futures", "hyper", "reqwest", "rusqlite", "tracing"] {
        assert!(!pure.iter().any(|name| name == effect), "domain has no async, no I/O and no logging: {effect}");
    }
}

#[test]
fn the_local_build_knows_no_cloud() {
    assert!(["aws-sdk-ec2", "aws-config", "kube", "kube-client"].into_iter().all(of_a_cloud));
    let local = compiled("runs-fleet-server", &["--no-default-features", "--features", "local"]);
    assert!(local.iter().any(|name| name == "rusqlite"), "the graph was read: {local:?}");
    let clouds: Vec<_> = local.into_iter().filter(|name| of_a_cloud(name)).collect();
    assert!(clouds.is_empty(), "the newcomer's build must stay quick: {clouds:?}");
}

#[test]
fn the_agent_knows_no_cloud_sdk() {
    let agent = compiled("runs-fleet-agent", &["--all-features"]);
    assert!(agent.iter().any(|name| name == "domain"), "the graph was read: {agent:?}");
    let clouds: Vec<_> = agent.into_iter().filter(|name| of_a_cloud(name)).collect();
    assert!(clouds.is_empty(), "the agent shares the machine with a job and signs its few calls itself: {clouds:?}");
}

#[test]
fn one_crate_pays_for_the_ec2_sdk() {
    let payers: Vec<_> = metadata()
        .workspace_packages()
        .iter()
        .filter(|package| package.dependencies.iter().any(|dependency| dependency.name == "aws-sdk-ec2"))
        .map(|package| package.name.to_string())
        .collect();
    assert_eq!(payers, ["fleet"], "it takes minutes to compile");
}

#[test]
fn every_front_door_says_what_the_crate_is_for() {
    for package in metadata().workspace_packages() {
        let roots = package.targets.iter().filter(|target| target.is_lib() || target.is_bin());
        for root in roots {
            let source = fs::read_to_string(&root.src_path).expect("the crate's root can be read");
            let lines = source.lines().map_while(|line| line.strip_prefix("//! "));
            let paragraph = lines.collect::<Vec<_>>().join(" ");
            assert!(paragraph.ends_with('.'), "{} begins with a sentence about its purpose", root.src_path);
        }
    }
}

#[test]
fn every_crate_obeys_the_lints_of_the_workspace() {
    for package in metadata().workspace_packages() {
        let manifest = fs::read_to_string(&package.manifest_path).expect("the manifest can be read");
        assert!(manifest.contains("[lints]\nworkspace = true\n"), "{} inherits the lints", package.name);
    }
}

#[test]
fn nothing_is_called_miscellaneous() {
    for package in metadata().workspace_packages() {
        let mut folders: Vec<Utf8PathBuf> = vec![folder(package).join("src")];
        while let Some(folder) = folders.pop() {
            for entry in folder.read_dir_utf8().expect("sources can be listed") {
                let path = entry.expect("sources can be listed").into_path();
                let stem = path.file_stem().unwrap_or_default();
                let vague = ["util", "utils", "common", "helper", "helpers", "misc", "shared"].contains(&stem);
                assert!(!vague, "{path}: a function without a home is in the wrong shape");
                if path.is_dir() {
                    folders.push(path);
                }
            }
        }
    }
}
