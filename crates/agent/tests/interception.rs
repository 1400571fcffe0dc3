//! A job whose cache traffic is led to our cache: with a name server, a real host, hosts file and trust store of its own.
//! Needs root, or a `sudo` that does not ask, and a kernel that makes network namespaces.
#![cfg(feature = "aws")]
#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "these tests wait for real processes and say what they skip; what fails here fails the test"
)]

#[allow(dead_code, reason = "shared with tests that need other parts of it")]
mod cloud;
#[allow(dead_code, reason = "shared with tests that need other parts of it")]
mod machine;
#[allow(dead_code, reason = "shared with tests that need other parts of it")]
mod network;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use cache::scope::Grant;
use cache::store::FsStore;
use cache::token::{Claims, Keys};
use cache::{Cache, Settings};
use cloud::Instance;
use domain::clock::{Clock, SystemClock, SystemRng};
use domain::handover::Credential;
use machine::{has, program, until};
use network::{Network, as_root, instance, quietly};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use secrecy::{ExposeSecret, SecretString};

const HOST: &str = "results-receiver.actions.githubusercontent.com";
const NAME_SERVER: &str = "10.53.0.53";
const REAL: [u8; 4] = [10, 53, 0, 9];
/// What every line of ours in a hosts file ends with.
const TAG: &str = "# runs-fleet-cache";

/// Shell functions that do what an action's client does.
const CLIENT: &str = "
set -a; . ./.env; set +a
H=https://results-receiver.actions.githubusercontent.com
ask() { curl -sS -m 30 \"$@\"; }
call() { ask -H 'authorization: Bearer of-the-runner' -H 'content-type: application/json' -d \"$2\" \\
    $H/twirp/github.actions.results.api.v1.CacheService/$1; }
field() { sed 's/.*\"'$1'\":\"\\([^\"]*\\)\".*/\\1/'; }
other() { ask $H/twirp/github.actions.results.api.v1.ArtifactService/ListArtifacts; }
";

/// The world around one machine.
struct World {
    network: Network,
    /// Stand in for the machine's `/etc` and for where authorities are added.
    etc: PathBuf,
    anchors: PathBuf,
    instance: Instance,
}

impl World {
    /// `None`: it cannot be made here.
    fn make(name: &str, script: &str) -> Option<Self> {
        if as_root(name) || !["curl", "unshare", "update-ca-certificates"].into_iter().all(has) {
            return None;
        }
        let network = Network::make("cache")?;
        for address in [NAME_SERVER, "10.53.0.9"] {
            network.address(&format!("{address}/32"));
        }
        let instance = instance(&network, &format!("exec > $FAKE_DIR/probe 2>&1\n{CLIENT}\n{script}"));
        let (etc, anchors) = (instance.machine.path("etc"), instance.machine.path("anchors"));
        assert!(quietly("cp", &["-a", "/etc", etc.to_str().unwrap()]));
        fs::create_dir(&anchors).unwrap();
        fs::write(etc.join("hosts"), "127.0.0.1 localhost\n").unwrap();
        let _ = fs::remove_file(etc.join("resolv.conf"));
        fs::write(etc.join("resolv.conf"), format!("nameserver {NAME_SERVER}\n")).unwrap();
        fs::write(anchors.join("test.crt"), serve_real_host(&network)).unwrap();
        serve_names(&network);
        let setup = format!(
            "set -e
             mount --bind {etc} /etc; mount --bind {anchors} /usr/local/share/ca-certificates
             if [ -d /run/systemd/resolve ]; then mount --bind {etc} /run/systemd/resolve; fi
             update-ca-certificates > /dev/null 2>&1
             exec \"$@\"",
            etc = etc.display(),
            anchors = anchors.display(),
        );
        instance.machine.within(&["nsenter", &network.argument(), "unshare", "--mount", "sh", "-c", &setup, "sh"]);
        Some(Self { network, etc, anchors, instance })
    }

    /// Hands the job over with a cache at this address, and this token.
    fn hand_over(&self, url: &str, token: &str) {
        let mut document = self.instance.document();
        url.clone_into(&mut document.cache_url);
        document.cache_token = Credential::new(token);
        self.instance.hand_over(&document);
    }

    fn probe(&self) -> String {
        fs::read_to_string(self.instance.machine.path("seen/probe")).unwrap_or_default()
    }

    fn pinned(&self) -> bool {
        fs::read_to_string(self.etc.join("hosts")).unwrap().contains(TAG)
    }

    /// The machine is as it was.
    fn assert_undone(&self) {
        until("the machine is as it was", || {
            (!self.pinned() && !self.anchors.join("runs-fleet-cache-ca.crt").exists()).then_some(())
        });
        assert_eq!(fs::read_to_string(self.etc.join("hosts")).unwrap(), "127.0.0.1 localhost\n");
    }

    /// What the completion says about the cache.
    fn told(&self, log: &str) -> String {
        let reports = self.instance.reports();
        let last = reports.last().unwrap_or_else(|| panic!("no report: {log}"));
        assert_eq!(last.status.as_str(), "success", "{log}");
        last.cache_interception.clone().unwrap()
    }
}

/// Answers every question for an IPv4 address with the real host's.
fn serve_names(network: &Network) {
    let socket = network.inside(|| UdpSocket::bind((NAME_SERVER, 53)).unwrap());
    std::thread::spawn(move || {
        let mut message = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut message) {
            let mut answer = message[..length].to_vec();
            answer[2..4].copy_from_slice(&[0x81, 0x80]);
            // Resolvers of the system ask for IPv6 addresses too: there are none.
            if answer.ends_with(&[0, 1, 0, 1]) {
                answer[7] = 1;
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                answer.extend(REAL);
            }
            let _ = socket.send_to(&answer, from);
        }
    });
}

/// The host as GitHub runs it: it tells the path it was asked for. Returns the authority that vouches for it.
fn serve_real_host(network: &Network) -> String {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![HOST.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![leaf.der().clone()], key);
    let config = Arc::new(config.unwrap());
    let listener = network.inside(|| TcpListener::bind((std::net::Ipv4Addr::from(REAL), 443)).unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut tls = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream.unwrap());
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && tls.read(&mut byte).is_ok_and(|read| read == 1) {
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap();
            let body = format!("the real host: {}", head.split(' ').nth(1).unwrap_or_default());
            let answer =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
            let _ = tls.write_all(answer.as_bytes());
            tls.conn.send_close_notify();
            let _ = tls.flush();
        }
    });
    authority
}

/// Our cache, in the network: its address, and a token.
fn serve_cache(network: &Network, dir: PathBuf) -> (String, String) {
    let keys = Keys::new(SecretString::from("a secret of the tests"), None, false);
    let now = SystemClock.now();
    let grants = [Grant { scope: "refs/heads/main".to_owned(), permission: 3 }];
    let claims = Claims {
        job: "7",
        instance: "i-1",
        repo: "o/r",
        grants: &grants,
        issued: now,
        expires: domain::clock::after(now, std::time::Duration::from_hours(1)),
    };
    let token = keys.mint(&claims).expose_secret().to_owned();
    let listener = network.inside(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let url = format!("http://{}/", listener.local_addr().unwrap());
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let settings = Settings {
                base: Some("http://elsewhere".to_owned()),
                max_entry: 1 << 30,
                per_repo: None,
                ttl: None,
                redirect: false,
            };
            let store = Arc::new(FsStore::open(&dir).unwrap());
            let metrics = telemetry::Metrics::new();
            let cache = Cache::new(store, Some(keys), settings, Arc::new(SystemClock), Arc::new(SystemRng), metrics);
            axum::serve(tokio::net::TcpListener::from_std(listener).unwrap(), cache::router(cache)).await.unwrap();
        });
    });
    (url, token)
}

#[test]
fn a_job_saves_and_restores_in_our_cache_and_does_everything_else_at_github() {
    let script = "
        put=$(call CreateCacheEntry '{\"key\":\"k\",\"version\":\"v\"}' | field signed_upload_url)
        echo created $put
        head -c 40000000 /dev/zero > $FAKE_DIR/bytes
        ask -o /dev/null -w 'uploaded %{http_code}\\n' -T $FAKE_DIR/bytes -H 'x-ms-blob-type: BlockBlob' \"$put\"
        echo finalized $(call FinalizeCacheEntryUpload '{\"key\":\"k\",\"version\":\"v\",\"size_bytes\":\"40000000\"}')
        get=$(call GetCacheEntryDownloadURL '{\"key\":\"k\",\"version\":\"v\"}' | field signed_download_url)
        ask \"$get\" | cmp - $FAKE_DIR/bytes && echo restored
        ask --capath /nowhere --cacert $NODE_EXTRA_CA_CERTS -o /dev/null -w 'trusted by itself %{http_code}\\n' \"$get\"
        echo other $(other)
        ls -l $NODE_EXTRA_CA_CERTS
        for process in /proc/[0-9]*; do
            case $(cat $process/comm 2> /dev/null) in runs-fleet-agen*) sed -n 's/^VmHWM:[^0-9]*/peak /p' $process/status;; esac
        done";
    let test = "a_job_saves_and_restores_in_our_cache_and_does_everything_else_at_github";
    let Some(world) = World::make(test, script) else { return };
    let (url, token) = serve_cache(&world.network, world.instance.machine.path("cache"));
    world.hand_over(&url, &token);
    let after = world.instance.machine.run();
    let probe = world.probe();
    let said = format!("{probe}\n{}", after.log);
    for expected in [
        &format!("created https://{HOST}/_rfcache/u/"),
        "uploaded 201",
        "finalized {\"entry_id\":\"",
        "\nrestored\n",
        "trusted by itself 200",
        "other the real host: /twirp/github.actions.results.api.v1.ArtifactService/ListArtifacts",
        "-rw-r--r-- 1 root",
    ] {
        assert!(probe.contains(expected), "{expected}: {said}");
    }
    // Of every agent that runs now: what goes through one does not stay in it. A release build needs less.
    let peaks = probe.lines().filter_map(|line| line.strip_prefix("peak ")?.strip_suffix(" kB")?.parse::<u64>().ok());
    let peak = peaks.max().unwrap_or_else(|| panic!("no agent: {said}"));
    println!("an agent's peak while 40 MB go through it twice: {peak} kB");
    assert!(peak < 30_000, "{peak} kB");
    assert_eq!(world.told(&said), "engaged");
    assert!(!after.log.contains(&token) && !probe.contains(&token), "{said}");
    world.assert_undone();
}

#[test]
fn a_cache_that_does_not_answer_is_a_miss() {
    let script = "echo looked up $(call GetCacheEntryDownloadURL '{\"key\":\"k\",\"version\":\"v\"}')
        echo created $(call CreateCacheEntry '{\"key\":\"k\",\"version\":\"v\"}')
        echo other $(other)";
    let Some(world) = World::make("a_cache_that_does_not_answer_is_a_miss", script) else { return };
    world.hand_over("http://127.0.0.1:9/", "t");
    let after = world.instance.machine.run();
    let probe = world.probe();
    let said = format!("{probe}\n{}", after.log);
    for expected in ["looked up {\"ok\":false}", "created {\"ok\":false}", "other the real host: "] {
        assert!(probe.contains(expected), "{expected}: {said}");
    }
    assert_eq!(world.told(&said), "engaged");
    world.assert_undone();
}

#[test]
fn a_killed_agent_leaves_the_name_to_github() {
    let script = "other > /dev/null; echo up > $FAKE_DIR/up
        while [ ! -e $FAKE_DIR/go ]; do sleep 0.01; done
        echo other $(other); echo done > $FAKE_DIR/done";
    let Some(world) = World::make("a_killed_agent_leaves_the_name_to_github", script) else { return };
    world.hand_over("http://127.0.0.1:9/", "t");
    let mut agent = world.instance.machine.start();
    world.instance.machine.seen("up");
    assert!(world.pinned());
    machine::signal(&agent, rustix::process::Signal::KILL);
    agent.wait().unwrap();
    world.assert_undone();
    fs::write(world.instance.machine.path("seen/go"), "").unwrap();
    world.instance.machine.seen("done");
    let probe = world.probe();
    assert!(probe.contains("other the real host: "), "{probe}");
    // What is left of the job ends with a successor.
    let after = world.instance.machine.run();
    assert!(after.status.success(), "{}", after.log);
}

#[test]
fn a_machine_that_does_not_trust_the_listener_is_left_alone() {
    let script = "grep -c runs-fleet-cache /etc/hosts; echo other $(other)";
    let Some(world) = World::make("a_machine_that_does_not_trust_the_listener_is_left_alone", script) else { return };
    // It works once, when the world is made; then it says that it did, and does nothing.
    let stub = world.instance.machine.path("stub");
    fs::create_dir(&stub).unwrap();
    let once = stub.join("once");
    let script = format!("[ -e {0} ] && exit; touch {0}; exec /usr/sbin/update-ca-certificates", once.display());
    program(&stub.join("update-ca-certificates"), &script);
    let path = format!("{}:{}", stub.display(), std::env::var("PATH").unwrap());
    world.instance.machine.set_later("PATH", &path);
    world.hand_over("http://127.0.0.1:9/", "t");
    let after = world.instance.machine.run();
    let said = format!("{}\n{}", world.probe(), after.log);
    assert!(world.probe().starts_with("0\nother the real host: "), "{said}");
    assert!(after.log.contains("does not trust"), "{said}");
    assert_eq!(world.told(&said), "failed");
    world.assert_undone();
}

#[test]
fn the_next_boot_undoes_what_nobody_did() {
    let Some(world) = World::make("the_next_boot_undoes_what_nobody_did", "") else { return };
    fs::write(world.etc.join("hosts"), format!("127.0.0.1 localhost\n127.0.0.1 {HOST} {TAG}\n")).unwrap();
    fs::write(world.anchors.join("runs-fleet-cache-ca.crt"), "").unwrap();
    let setup = format!(
        "mount --bind {} /etc; mount --bind {} /usr/local/share/ca-certificates; exec \"$@\"",
        world.etc.display(),
        world.anchors.display()
    );
    let status = Command::new("unshare")
        .args(["--mount", "sh", "-c", &setup, "sh", env!("CARGO_BIN_EXE_runs-fleet-agent"), "cache-off"])
        .stdin(std::process::Stdio::null())
        .status();
    assert!(status.unwrap().success());
    world.assert_undone();
}
