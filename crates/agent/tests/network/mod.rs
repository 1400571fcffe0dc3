//! A network of a test's own, and an instance whose agent lives in it.

use std::fs::{self, File, Permissions};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::cloud::Instance;
use crate::cloud::metadata::Metadata;
use crate::cloud::weather::Weather;
use crate::machine;

/// An account that every Debian has, and that owns nothing.
pub(crate) const ACCOUNT: &str = "games";
const IMDS: &str = "169.254.169.254";

pub(crate) fn quietly(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
}

/// Runs this test as root; whether the caller has to return, for it is not root or there is no program it needs.
pub(crate) fn as_root(test: &str) -> bool {
    if rustix::process::geteuid().is_root() {
        return !["iptables", "ip", "nsenter"].into_iter().all(machine::has);
    }
    if quietly("sudo", &["-n", "true"]) {
        let program = std::env::current_exe().unwrap();
        let status =
            Command::new("sudo").args(["-n", "-E"]).arg(program).args(["--exact", test, "--nocapture"]).status();
        assert!(status.unwrap().success(), "it failed as root");
    } else {
        eprintln!("SKIPPED {test}: it needs root");
    }
    true
}

/// A network with nothing in it but the metadata service and a way to the emulator. It goes with its value.
pub(crate) struct Network {
    name: String,
    metadata: TcpListener,
    aws: TcpListener,
}

impl Network {
    /// `None`, loudly, when the kernel refuses.
    pub(crate) fn make(name: &str) -> Option<Self> {
        let name = format!("runs-fleet-{name}-{}", std::process::id());
        if !quietly("ip", &["netns", "add", &name]) {
            eprintln!("SKIPPED: this kernel makes no network namespace");
            return None;
        }
        for args in [&["link", "set", "lo", "up"][..], &["addr", "add", "169.254.169.254/32", "dev", "lo"]] {
            assert!(quietly("ip", &[&["-n", &name], args].concat()), "{args:?}");
        }
        let (metadata, aws) =
            inside(&name, || (TcpListener::bind((IMDS, 80)).unwrap(), TcpListener::bind("127.0.0.1:0").unwrap()));
        Some(Self { name, metadata, aws })
    }

    /// How nsenter(1) calls it.
    pub(crate) fn argument(&self) -> String {
        format!("--net=/run/netns/{}", self.name)
    }

    /// Makes sockets in it.
    pub(crate) fn inside<T: Send + 'static>(&self, make: impl FnOnce() -> T + Send + 'static) -> T {
        inside(&self.name, make)
    }

    /// Adds an address.
    pub(crate) fn address(&self, address: &str) {
        assert!(quietly("ip", &["-n", &self.name, "addr", "add", address, "dev", "lo"]), "{address}");
    }

    pub(crate) fn rules(&self) -> String {
        let list = |table| {
            let output = Command::new("nsenter").args([&self.argument(), "iptables", "-t", table, "-S"]).output();
            String::from_utf8(output.unwrap().stdout).unwrap()
        };
        list("filter") + &list("mangle")
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        quietly("ip", &["netns", "delete", &self.name]);
    }
}

/// A socket stays in the network of the thread that made it; whoever uses it does not matter.
fn inside<T: Send + 'static>(name: &str, make: impl FnOnce() -> T + Send + 'static) -> T {
    let path = format!("/run/netns/{name}");
    let inside = std::thread::spawn(move || {
        let network = File::open(path).unwrap();
        rustix::thread::move_into_link_name_space(network.as_fd(), None).unwrap();
        make()
    });
    inside.join().unwrap()
}

/// An instance in `network` whose runner is `script` and belongs to the job's account.
pub(crate) fn instance(network: &Network, script: &str) -> Instance {
    let mut instance = Instance::start(emulator::shared(), script);
    instance.metadata = Metadata::serve(&instance.id, network.metadata.try_clone().unwrap());
    instance.weather = Weather::serve(emulator::shared().endpoint(), network.aws.try_clone().unwrap());
    let state = instance.machine.path("state");
    let address = instance.weather.address();
    let instance = instance
        .set("RUNS_FLEET_RUNNER_USER", ACCOUNT)
        .set("AWS_ENDPOINT_URL", &address)
        // The real address.
        .set("AWS_EC2_METADATA_SERVICE_ENDPOINT", "")
        .set("SECRET_OF_THE_AGENT", "hidden-in-the-agents-environment")
        .set("RUNS_FLEET_STATE_DIR", state.to_str().unwrap());
    instance.machine.within(&["nsenter", &network.argument()]);
    for open in ["", "machine"] {
        fs::set_permissions(instance.machine.path(open), Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(instance.machine.path("seen"), Permissions::from_mode(0o777)).unwrap();
    let runner = instance.machine.path("machine/runner");
    assert!(quietly("chown", &["-R", ACCOUNT, runner.to_str().unwrap()]));
    instance.hand_over(&instance.document());
    instance
}
