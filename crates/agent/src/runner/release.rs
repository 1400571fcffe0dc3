//! Looking up the latest release of the Actions runner, with its checksum: nothing unverified is ever unpacked.

use std::env::consts::ARCH;
use std::time::Duration;

use serde_json::Value;

/// Limit of one look-up.
const CALL: Duration = Duration::from_secs(15);

/// A tarball that can be verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Release {
    pub(super) version: String,
    pub(super) url: String,
    /// SHA-256, hex.
    pub(super) sha256: String,
}

/// What GitHub calls this architecture.
pub(super) fn architecture() -> Result<&'static str, String> {
    match ARCH {
        "x86_64" => Ok("x64"),
        "aarch64" => Ok("arm64"),
        other => Err(format!("unsupported architecture {other}")),
    }
}

/// The latest release that `url` describes; whether asking again may help when there is none.
pub(super) async fn latest(client: &reqwest::Client, url: &str) -> Result<Release, (String, bool)> {
    let request = client.get(url).header("user-agent", "runs-fleet-agent").header("accept", "application/json");
    let response = request.timeout(CALL).send().await;
    let response = response.map_err(|error| (error.without_url().to_string(), true))?;
    let status = response.status();
    let limited = response.headers().get("x-ratelimit-remaining").is_some_and(|left| left == "0");
    if !status.is_success() {
        let again = status.is_server_error() || status.as_u16() == 429 || limited;
        return Err((format!("the list of releases answered {}", status.as_u16()), again));
    }
    let body = response.bytes().await.map_err(|error| (error.without_url().to_string(), true))?;
    let release: Value = serde_json::from_slice(&body).map_err(|_| ("the release is not JSON".to_owned(), true))?;
    read(&release, architecture().map_err(|error| (error, false))?).map_err(|error| (error, false))
}

/// What a release's JSON says about the runner of an architecture ("Get the latest release").
fn read(release: &Value, architecture: &str) -> Result<Release, String> {
    let tag = release["tag_name"].as_str().unwrap_or_default();
    let version = tag.strip_prefix('v').unwrap_or(tag);
    let name = format!("actions-runner-linux-{architecture}-{version}.tar.gz");
    let assets = release["assets"].as_array().map(Vec::as_slice).unwrap_or_default();
    let asset = assets.iter().find(|asset| asset["name"] == *name).ok_or_else(|| format!("no asset {name}"))?;
    let url = asset["browser_download_url"].as_str().ok_or_else(|| format!("{name} has no address"))?;
    let digest = asset["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:"));
    let marked = || {
        let body = release["body"].as_str()?;
        body.split_once(&format!("BEGIN SHA linux-{architecture} -->"))?.1.trim_start().get(..64)
    };
    let sha256 = digest.or_else(marked).filter(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()));
    let sha256 = sha256.ok_or("checksum unavailable")?;
    Ok(Release { version: version.to_owned(), url: url.to_owned(), sha256: sha256.to_owned() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_release_names_its_tarball_and_its_checksum_or_is_refused() {
        let (a, b) = ("a".repeat(64), "B".repeat(64));
        let release = |tag: &str, digest: Option<&str>, body: &str| {
            let name = "actions-runner-linux-arm64-2.330.0.tar.gz";
            let asset = json!({"name": name, "browser_download_url": "https://x/y", "digest": digest});
            json!({"tag_name": tag, "assets": [asset], "body": body})
        };
        let found = |release: &Value| read(release, "arm64").map(|release| release.sha256);
        let marker = format!("<!-- BEGIN SHA linux-x64 -->{a}<!-- BEGIN SHA linux-arm64 -->{b}<!-- END -->");
        let digest = format!("sha256:{a}");
        assert_eq!(found(&release("v2.330.0", Some(&digest), "")), Ok(a.clone()));
        assert_eq!(found(&release("2.330.0", Some(&digest), &marker)), Ok(a), "without the letter");
        assert_eq!(found(&release("v2.330.0", None, &marker)), Ok(b));
        assert_eq!(found(&release("v2.330.0", None, "")), Err("checksum unavailable".to_owned()));
        assert_eq!(found(&release("v2.330.0", Some("md5:00"), "")), Err("checksum unavailable".to_owned()));
        assert!(found(&release("v9", Some(&digest), "")).unwrap_err().starts_with("no asset"));
        assert!(found(&json!([])).is_err());
    }
}
