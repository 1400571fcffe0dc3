//! The real agent with its hand-over in a stand-in for Vault.

#[path = "../../../provider/src/vault/double.rs"]
#[allow(dead_code, reason = "shared with the tests of the client")]
mod double;

use std::time::Duration;

use double::Double;
use tokio::runtime::Runtime;

use crate::SERVE;
use crate::machine::{KEY, Machine, document, files, runner_tree, until};

const TOKEN: &str = "hvs.the-token-of-the-agent";

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn machine(double: &Double) -> Machine {
    let machine = Machine::bare().set("RUNS_FLEET_SECRETS_BACKEND", "vault").set("VAULT_ADDR", &double.address);
    runner_tree(&machine.path("machine/runner"), &format!("env > $FAKE_DIR/env; {SERVE}"));
    machine
}

fn hand_over(double: &Double) {
    let document = serde_json::to_value(document()).unwrap();
    double.model().secrets.insert(format!("runs-fleet/runners/{KEY}"), document);
}

#[test]
fn a_hand_over_in_vault_is_waited_for_and_the_token_is_seen_nowhere() {
    let runtime = runtime();
    let double = runtime.block_on(Double::start(2));
    double.model().tokens.insert(TOKEN.to_owned(), None);
    // Vault is not up yet, or not yet unsealed.
    double.model().weather.push_back(400);
    let machine = machine(&double).set("VAULT_AUTH_METHOD", "token").set("VAULT_TOKEN", TOKEN);
    let agent = machine.start();
    let looked = format!("GET secret/data/runs-fleet/runners/{KEY}");
    until("a look", || double.model().seen.iter().any(|seen| seen.line == looked).then_some(()));
    hand_over(&double);
    let after = machine.wait(agent);
    assert_eq!(after.told(), ["started", "success"], "{}", after.log);
    assert!(after.log.contains("config_unavailable"), "what failed first was told: {}", after.log);
    let env = machine.seen("env");
    assert!(!env.contains("VAULT_") && !env.contains(TOKEN), "{env}");
    assert!(!after.log.contains(TOKEN), "{}", after.log);
    for (path, content) in files(&machine.path("machine")) {
        assert!(!content.contains(TOKEN), "{} holds the token", path.display());
    }
}

#[test]
fn a_machine_proves_who_it_is_by_its_identity_of_aws() {
    let runtime = runtime();
    let double = runtime.block_on(Double::start(1));
    // As a policy that lets a machine read nothing but what is its own.
    double.model().forbidden = vec!["secret/config", "secret/metadata"];
    double.model().lease = Duration::from_secs(3600);
    hand_over(&double);
    let machine = machine(&double)
        .set("VAULT_AWS_ROLE", "runs-fleet-runner")
        .set("VAULT_NAMESPACE", "team")
        .set("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE");
    let after = machine.run();
    assert_eq!(after.told(), ["started", "success"], "{}", after.log);
    let seen = double.model().seen.clone();
    assert_eq!((seen[0].line.as_str(), &seen[0].body["role"]), ("POST auth/aws/login", &"runs-fleet-runner".into()));
    assert!(seen.iter().all(|seen| seen.namespace.as_deref() == Some("team")));
    assert_eq!(seen.iter().filter(|seen| seen.line.ends_with("/login")).count(), 1);
    assert_eq!(seen.last().and_then(|seen| seen.token.clone()).as_deref(), Some("hvs.login-1"));
}
