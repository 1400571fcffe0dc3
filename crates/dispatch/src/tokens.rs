//! Proof that a report comes from the machine it names.
//!
//! Every machine may write to the queue of reports, and a workflow controls its machine. The token in a hand-over is
//! known to that machine alone; it is derived, so that nobody has to store it.

use domain::handover::Credential;
use domain::ids::{JobId, RunnerKey};
use domain::report::{AgentReport, AgentStatus};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

/// Makes and checks the tokens of reports.
#[derive(Debug, Clone)]
pub struct ReportTokens(SecretString);

/// What a report's token says about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    /// It is the machine's own, or nobody asked for one.
    Fine,
    /// There is none, and there has to be.
    Missing,
    /// It is another machine's, or made up.
    Wrong,
}

impl ReportTokens {
    /// Tokens under this secret.
    pub fn new(secret: SecretString) -> Self {
        Self(secret)
    }

    /// The token of a machine that was handed this job.
    pub(crate) fn token(&self, job: JobId, key: &RunnerKey) -> Credential {
        Credential::new(self.mac(job, key).map(|mac| hex::encode(mac.finalize().into_bytes())).unwrap_or_default())
    }

    fn proves(&self, token: &str, job: JobId, key: &RunnerKey) -> bool {
        match (hex::decode(token), self.mac(job, key)) {
            // In constant time.
            (Ok(bytes), Some(mac)) => mac.verify_slice(&bytes).is_ok(),
            _ => false,
        }
    }

    fn mac(&self, job: JobId, key: &RunnerKey) -> Option<Hmac<Sha256>> {
        // HMAC takes keys of any length.
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.expose_secret().as_bytes()).ok()?;
        mac.update(format!("term:{job}:{key}").as_bytes());
        Some(mac)
    }
}

/// Checks a report. A wrong token is never let through; a missing one is, unless `required`. A machine that found no
/// hand-over has none to show, and can only say so.
pub(crate) fn prove(report: &AgentReport, tokens: Option<&ReportTokens>, required: bool) -> Proof {
    let token = report.token.as_ref().filter(|token| !token.is_empty());
    match (tokens, token, report.job_id) {
        (Some(tokens), Some(token), Some(job)) => {
            if tokens.proves(token.expose(), job, &report.instance_id) {
                Proof::Fine
            } else {
                Proof::Wrong
            }
        }
        (Some(_), Some(_), None) => Proof::Wrong,
        (_, None, None) if report.status == AgentStatus::BootstrapFailed => Proof::Fine,
        (_, None, _) if required => Proof::Missing,
        // Without the secret nothing can be proven either way.
        (None, Some(_), _) if required => Proof::Wrong,
        _ => Proof::Fine,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(status: AgentStatus, job: Option<u64>, token: Option<&str>) -> AgentReport {
        let mut report = AgentReport::new(RunnerKey::new("i-0abc1234def567890"), status);
        report.job_id = job.and_then(JobId::new);
        report.token = token.map(Credential::new);
        report
    }

    #[test]
    fn a_token_is_the_hmac_of_job_and_machine() {
        let tokens = ReportTokens::new(SecretString::from("secret"));
        let made = tokens.token(JobId::new(12345).expect("not zero"), &RunnerKey::new("i-0abc1234def567890"));
        // printf %s term:12345:i-0abc1234def567890 | openssl dgst -sha256 -hmac secret
        assert_eq!(made.expose(), "191d45e7c2a359a56363b1de4c9992df468b96d0d44a69ec57360ec754fb68d9");
    }

    #[test]
    fn a_wrong_token_is_refused_always_and_a_missing_one_when_required() {
        use AgentStatus::{BootstrapFailed, Success};
        let tokens = ReportTokens::new(SecretString::from("secret"));
        let key = RunnerKey::new("i-0abc1234def567890");
        let good = tokens.token(JobId::new(7).expect("not zero"), &key);
        let other = tokens.token(JobId::new(8).expect("not zero"), &key);
        for (what, report, secret, required, expected) in [
            ("right", report(Success, Some(7), Some(good.expose())), true, true, Proof::Fine),
            ("right, not required", report(Success, Some(7), Some(good.expose())), true, false, Proof::Fine),
            ("of another job", report(Success, Some(7), Some(other.expose())), true, false, Proof::Wrong),
            ("no hex", report(Success, Some(7), Some("nonsense")), true, false, Proof::Wrong),
            ("without a job", report(BootstrapFailed, None, Some(good.expose())), true, false, Proof::Wrong),
            ("missing", report(Success, Some(7), None), true, false, Proof::Fine),
            ("empty", report(Success, Some(7), Some("")), true, true, Proof::Missing),
            ("missing, required", report(Success, Some(7), None), true, true, Proof::Missing),
            ("never had one", report(BootstrapFailed, None, None), true, true, Proof::Fine),
            ("had one", report(BootstrapFailed, Some(7), None), true, true, Proof::Missing),
            ("no secret", report(Success, Some(7), Some(good.expose())), false, false, Proof::Fine),
            ("no secret, required", report(Success, Some(7), Some(good.expose())), false, true, Proof::Wrong),
        ] {
            assert_eq!(prove(&report, secret.then_some(&tokens), required), expected, "{what}");
        }
    }
}
