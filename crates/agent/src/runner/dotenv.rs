//! The runner's `.env`: variables its listener gives to every job.

use std::io;
use std::path::Path;

/// Merges our variables into the file; what an image put there stays. Mode 0600, whole or untouched.
pub(super) fn write(path: &Path, cache_url: Option<&str>, tool_cache: &Path) -> io::Result<()> {
    let tool_cache = tool_cache.is_dir().then(|| tool_cache.to_string_lossy().into_owned());
    change(path, |before| merged(before, cache_url, tool_cache.as_deref()))
}

/// Adds one more variable.
pub(super) fn add(path: &Path, name: &str, value: &str) -> io::Result<()> {
    change(path, |before| {
        let mut lines = Lines::of(before);
        lines.set(name, value, false);
        lines.text()
    })
}

fn change(path: &Path, new: impl FnOnce(&str) -> String) -> io::Result<()> {
    let before = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        text => text?,
    };
    provider::files::swap(path, new(&before).as_bytes())
}

struct Lines(Vec<String>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(text.lines().map(str::to_owned).collect())
    }

    fn set(&mut self, name: &str, value: &str, keep: bool) {
        let prefix = format!("{name}=");
        // A line break in a value would be another variable.
        if value.contains(['\0', '\r', '\n']) || (keep && self.0.iter().any(|line| line.starts_with(&prefix))) {
            return;
        }
        self.0.retain(|line| !line.starts_with(&prefix));
        self.0.push(format!("{prefix}{value}"));
    }

    fn text(&self) -> String {
        self.0.join("\n") + "\n"
    }
}

fn merged(before: &str, cache_url: Option<&str>, tool_cache: Option<&str>) -> String {
    let mut lines = Lines::of(before);
    lines.set("RUNNER_ALLOW_RUNASROOT", "1", false);
    if let Some(url) = cache_url {
        lines.set("ACTIONS_CACHE_URL", url, false);
    }
    if let Some(dir) = tool_cache {
        lines.set("AGENT_TOOLSDIRECTORY", dir, true);
        lines.set("RUNNER_TOOL_CACHE", dir, true);
    }
    lines.text()
}

#[cfg(test)]
mod tests {
    use super::merged;

    #[test]
    fn baked_variables_survive_and_ours_win() {
        let before = "LANG=C.UTF-8\nACTIONS_CACHE_URL=http://old\nAGENT_TOOLSDIRECTORY=/baked\n";
        let after = merged(before, Some("http://new"), Some("/tools"));
        let expected = "LANG=C.UTF-8\nAGENT_TOOLSDIRECTORY=/baked\nRUNNER_ALLOW_RUNASROOT=1\n\
                        ACTIONS_CACHE_URL=http://new\nRUNNER_TOOL_CACHE=/tools\n";
        assert_eq!(after, expected);
        assert_eq!(merged(&after, Some("http://new"), Some("/tools")).len(), after.len(), "repeatable");
    }

    #[test]
    fn a_value_cannot_smuggle_in_a_variable() {
        assert_eq!(merged("", Some("http://x\nPATH=/evil"), None), "RUNNER_ALLOW_RUNASROOT=1\n");
    }
}
