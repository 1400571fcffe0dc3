//! The account that jobs run as.
//!
//! An agent that is root never runs a job as itself: the job could read its hand-over, kill it, and keep the machine
//! from ending. Read from the files of the machine, because the static program has no name service.

use std::fs;
use std::io;
use std::os::unix::fs::lchown;
use std::path::{Path, PathBuf};

/// Accounts of machine images, in order, when none is named.
const USUAL: [&str; 2] = ["ec2-user", "runner"];

/// An account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All its groups, the primary one first.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: PathBuf,
    /// Login shell.
    pub shell: PathBuf,
}

impl Account {
    /// The account called `wanted`, or the first usual one, of the machine whose files are below `etc`.
    ///
    /// # Errors
    /// A sentence when there is none.
    pub fn find(wanted: Option<&str>, etc: &Path) -> Result<Self, String> {
        let read = |name: &str| fs::read_to_string(etc.join(name)).map_err(|error| format!("/etc/{name}: {error}"));
        let (passwd, group) = (read("passwd")?, read("group").unwrap_or_default());
        let names = wanted.map_or_else(|| USUAL.to_vec(), |name| vec![name]);
        let found = names.iter().find_map(|name| entry(&passwd, &group, name));
        found.ok_or_else(|| format!("there is no account {} to run the job as", names.join(" or ")))
    }

    /// Gives it a file or a whole tree; links are not followed. Blocking.
    ///
    /// # Errors
    /// The first one.
    pub fn own(&self, path: &Path) -> io::Result<()> {
        lchown(path, Some(self.uid), Some(self.gid))?;
        if fs::symlink_metadata(path)?.is_dir() {
            for entry in fs::read_dir(path)? {
                self.own(&entry?.path())?;
            }
        }
        Ok(())
    }
}

/// One line of passwd(5) and what group(5) adds to it.
fn entry(passwd: &str, group: &str, name: &str) -> Option<Account> {
    let fields: Vec<&str> = passwd.lines().map(|line| line.split(':').collect()).find(|f: &Vec<_>| f[0] == name)?;
    let [_, _, uid, gid, _, home, shell] = fields[..] else { return None };
    let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
    let mut groups = vec![gid];
    for line in group.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let [_, _, id, members] = fields[..] else { continue };
        if let Some(id) = id.parse().ok().filter(|_| members.split(',').any(|member| member == name))
            && !groups.contains(&id)
        {
            groups.push(id);
        }
    }
    Some(Account { name: name.to_owned(), uid, gid, groups, home: home.into(), shell: shell.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nrunner:x:1001:1001::/home/runner:/bin/sh\nodd:x:y\n";
    const GROUP: &str = "docker:x:998:runner,ec2-user\nadm:x:4:someone,runner2\nrunner:x:1001:runner\n";

    #[test]
    fn an_account_is_read_with_its_groups() {
        let runner = entry(PASSWD, GROUP, "runner").unwrap();
        assert_eq!((runner.uid, runner.gid, &runner.groups[..]), (1001, 1001, &[1001, 998][..]));
        assert_eq!((runner.home.to_str(), runner.shell.to_str()), (Some("/home/runner"), Some("/bin/sh")));
        assert_eq!(entry(PASSWD, GROUP, "odd"), None);
        assert_eq!(entry(PASSWD, GROUP, "run"), None);
    }

    #[test]
    fn the_named_account_or_the_usual_one_or_none() {
        let etc = tempfile::tempdir().unwrap();
        fs::write(etc.path().join("passwd"), PASSWD).unwrap();
        assert_eq!(Account::find(None, etc.path()).unwrap().name, "runner");
        assert_eq!(Account::find(Some("root"), etc.path()).unwrap().uid, 0);
        assert!(Account::find(Some("nobody-here"), etc.path()).unwrap_err().contains("nobody-here"));
    }
}
