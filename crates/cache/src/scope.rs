//! Who may read and write what: repositories and the branch scopes of a token. Pure.

use serde::{Deserialize, Serialize};

use crate::name;

/// The scope of tokens that name none.
pub const WHOLE_REPOSITORY: &str = "_repo";

/// The repository that entries belong to: two names in lower case, because GitHub's are case-insensitive.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository {
    owner: String,
    name: String,
}

impl Repository {
    /// `owner/name`.
    pub fn parse(text: &str) -> Option<Self> {
        let (owner, name) = text.split_once('/')?;
        (is_part(owner) && is_part(name)).then(|| Self { owner: owner.to_lowercase(), name: name.to_lowercase() })
    }

    /// What all repositories of an owner share whose tokens name no repository.
    pub fn of_owner(owner: &str) -> Option<Self> {
        is_part(owner).then(|| Self { owner: owner.to_lowercase(), name: "~org".to_owned() })
    }

    /// What everybody shares where no tokens are asked for.
    pub fn anonymous() -> Self {
        Self { owner: "~anonymous".to_owned(), name: "~all".to_owned() }
    }

    /// Reads what this program wrote: as [`std::fmt::Display`] shows it.
    pub(crate) fn stored(text: &str) -> Option<Self> {
        let (owner, name) = text.split_once('/')?;
        Some(Self { owner: owner.to_owned(), name: name.to_owned() })
    }

    /// Its two stored names, joined by a slash.
    pub fn directory(&self) -> String {
        format!("{}/{}", name::encode(&self.owner), name::encode(&self.name))
    }
}

impl std::fmt::Display for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)
    }
}

fn is_part(part: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=100).contains(&part.len()) && part.bytes().all(legal) && !part.contains("..") && part != "."
}

/// One entry of a token's claim `ac`, as GitHub spells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Grant {
    /// A ref.
    pub scope: String,
    /// Bit 0: read, bit 1: write.
    pub permission: u32,
}

/// May read.
pub const READ: u32 = 1;
/// May write.
pub const WRITE: u32 = 2;

/// The scopes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scopes {
    /// Where it saves; `None`: it must not.
    pub write: Option<String>,
    /// Where it looks, in this order. The writable scope comes first.
    pub read: Vec<String>,
}

impl Scopes {
    /// Everything, in one scope.
    pub fn whole_repository() -> Self {
        Self { write: Some(WHOLE_REPOSITORY.to_owned()), read: vec![WHOLE_REPOSITORY.to_owned()] }
    }

    /// What a token's grants amount to.
    pub fn of(grants: &[Grant]) -> Self {
        let write = grants.iter().find(|grant| grant.permission & WRITE != 0).map(|grant| grant.scope.clone());
        let readable = grants.iter().filter(|grant| grant.permission & READ != 0).map(|grant| &grant.scope);
        let mut read: Vec<String> = Vec::new();
        let own = readable.clone().filter(|scope| Some(*scope) == write.as_ref());
        for scope in own.chain(readable.clone()) {
            if !read.contains(scope) {
                read.push(scope.clone());
            }
        }
        Self { write, read }
    }
}

/// What is known of the workflow run that a token is made for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Run {
    /// Its decimal id.
    pub id: String,
    /// What triggered it; empty when nobody could be asked.
    pub event: String,
    /// The branch or tag it runs on. Of a pull request: the head's branch, perhaps one of a fork.
    pub head_branch: String,
    /// It runs on a tag.
    pub tag: bool,
    /// Of a pull request: its number.
    pub pull_request: Option<u64>,
    /// Of a pull request: the branch it wants to go to.
    pub base_branch: Option<String>,
    /// The head is in this very repository, not in a fork.
    pub same_repository: bool,
    /// The repository's default branch, if known.
    pub default_branch: Option<String>,
}

/// The scopes of a run, by GitHub's rule: it reads its own ref, for a pull request the base branch, and always the
/// default branch. What nobody trusts (a fork's pull request) writes where nobody else reads.
pub fn grants(run: &Run) -> Vec<Grant> {
    let branch = |name: &str| format!("refs/heads/{name}");
    let own = format!("refs/run/{}", run.id);
    let mut reads = Vec::new();
    let write = match (run.event.as_str(), run.pull_request) {
        ("push" | "schedule" | "workflow_dispatch" | "repository_dispatch" | "workflow_run", _)
            if !run.head_branch.is_empty() && run.same_repository =>
        {
            Some(if run.tag { format!("refs/tags/{}", run.head_branch) } else { branch(&run.head_branch) })
        }
        ("pull_request" | "pull_request_review", Some(number)) => {
            if run.same_repository && !run.head_branch.is_empty() {
                reads.push(branch(&run.head_branch));
            }
            Some(format!("refs/pull/{number}/merge"))
        }
        ("pull_request_target" | "issue_comment" | "issues", _) => None,
        ("merge_group", _) if !run.head_branch.is_empty() => Some(branch(&run.head_branch)),
        _ => Some(own),
    };
    reads.extend(run.base_branch.as_deref().map(branch));
    reads.extend(run.default_branch.as_deref().map(branch));
    let mut grants: Vec<Grant> = write.into_iter().map(|scope| Grant { scope, permission: READ | WRITE }).collect();
    for scope in reads {
        if grants.iter().all(|grant| grant.scope != scope) {
            grants.push(Grant { scope, permission: READ });
        }
    }
    grants
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_two_plain_names_in_any_case() {
        let same = Repository::parse("Octo/App");
        assert!(same.is_some());
        assert_eq!(same, Repository::parse("octo/app"));
        for bad in ["", "octo", "octo/", "/app", "a/b/c", "../etc", "a/..", "a/.", r"a\b/c", "a/b\0", "a/b c", "~x/y"] {
            assert_eq!(Repository::parse(bad), None, "{bad}");
        }
        assert_eq!(Repository::anonymous().directory(), "%7Eanonymous/%7Eall");
    }

    #[test]
    fn the_writable_scope_is_read_first() {
        let grant = |scope: &str, permission| Grant { scope: scope.to_owned(), permission };
        let scopes = Scopes::of(&[grant("main", 1), grant("feature", 3), grant("main", 1), grant("drop", 2)]);
        assert_eq!(scopes.write.as_deref(), Some("feature"));
        assert_eq!(scopes.read, ["feature", "main"]);
        let blind = Scopes::of(&[grant("drop", 2)]);
        assert_eq!((blind.write.as_deref(), blind.read.len()), (Some("drop"), 0));
        assert_eq!(Scopes::of(&[]), Scopes { write: None, read: Vec::new() });
    }

    #[test]
    fn a_fork_s_pull_request_writes_where_nobody_else_reads() {
        let run = Run {
            id: "9".into(),
            event: "pull_request".into(),
            head_branch: "main".into(),
            pull_request: Some(7),
            base_branch: Some("release".into()),
            same_repository: false,
            default_branch: Some("main".into()),
            ..Run::default()
        };
        let shown = |run: &Run| grants(run).into_iter().map(|g| (g.scope, g.permission)).collect::<Vec<_>>();
        let own = |scope: &str| (scope.to_owned(), 3);
        let read = |scope: &str| (scope.to_owned(), 1);
        let (main, release) = (read("refs/heads/main"), read("refs/heads/release"));
        assert_eq!(shown(&run), [own("refs/pull/7/merge"), release.clone(), main.clone()]);
        let same = Run { same_repository: true, head_branch: "topic".into(), ..run };
        assert_eq!(shown(&same), [own("refs/pull/7/merge"), read("refs/heads/topic"), release, main.clone()]);
        let push = Run { event: "push".into(), pull_request: None, base_branch: None, ..same };
        assert_eq!(shown(&push), [own("refs/heads/topic"), main.clone()]);
        assert_eq!(shown(&Run { head_branch: "main".into(), ..push.clone() }), [own("refs/heads/main")]);
        assert_eq!(
            shown(&Run { tag: true, head_branch: "v1".into(), ..push.clone() }),
            [own("refs/tags/v1"), main.clone()]
        );
        assert_eq!(shown(&Run { event: "issue_comment".into(), ..push.clone() }), std::slice::from_ref(&main));
        assert_eq!(shown(&Run { event: String::new(), ..push }), [own("refs/run/9"), main]);
    }
}
