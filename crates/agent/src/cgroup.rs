//! A control group for the job, so that nothing it starts can escape its end.
//!
//! A process leaves its session and its environment as it likes; the group it was put into only root takes it out of.
//! Version 2 only. On a machine without it, or where the agent may not make one, sessions have to do.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    dir: PathBuf,
}

impl Cgroup {
    /// The group called `name` below the agent's own, as the files below `proc_root` say.
    pub fn below_ours(proc_root: &Path, name: &str) -> Option<Self> {
        let read = |file: &str| fs::read_to_string(proc_root.join("self").join(file)).ok();
        let root = mount(&read("mountinfo")?)?;
        let ours = read("cgroup")?.lines().find_map(|line| line.strip_prefix("0::").map(str::to_owned))?;
        Some(Self { dir: root.join(ours.trim_start_matches('/')).join(name) })
    }

    /// Makes it; harmless to repeat.
    ///
    /// # Errors
    /// When this machine does not let us.
    pub fn make(&self) -> io::Result<()> {
        match fs::create_dir(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Puts the calling process into the group at `dir`.
    ///
    /// # Errors
    /// When the group does not take it.
    pub fn enter(dir: &Path) -> io::Result<()> {
        fs::write(dir.join("cgroup.procs"), "0")
    }

    /// Kills everything in it and waits until nothing is left, for at most `within`; then removes it. Whether it is
    /// empty.
    pub async fn end(&self, within: Duration) -> bool {
        if !self.dir.exists() {
            return true;
        }
        let deadline = tokio::time::Instant::now() + within;
        loop {
            // Again and again: a process may have been entering.
            let _ = fs::write(self.dir.join("cgroup.kill"), "1");
            let events = fs::read_to_string(self.dir.join("cgroup.events")).unwrap_or_default();
            if events.lines().any(|line| line == "populated 0") {
                let _ = fs::remove_dir(&self.dir);
                return true;
            }
            if tokio::time::Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Where the unified hierarchy is mounted, by proc_pid_mountinfo(5).
fn mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (after.starts_with("cgroup2 ") && root == "/").then(|| PathBuf::from(point))
    })
}

#[cfg(test)]
mod tests {
    use super::mount;

    #[test]
    fn the_unified_hierarchy_is_found() {
        let only = "31 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(mount(only).unwrap().to_str(), Some("/sys/fs/cgroup"));
        let both = "30 23 0:25 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                    31 23 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(mount(both).unwrap().to_str(), Some("/sys/fs/cgroup/unified"));
        assert_eq!(mount("30 23 0:25 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"), None);
    }
}
