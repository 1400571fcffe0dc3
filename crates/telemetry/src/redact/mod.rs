//! Keeps secrets out of everything the process writes.
//!
//! Types come first: a secret lives in a type that prints as `<redacted>`. This module is what stands behind them when
//! a secret nevertheless reaches a text, for instance inside another program's error message:
//!
//! * **Known values.** Whoever resolves or mints a secret registers it. Every registered value is found in any text, as
//!   it is and in the forms texts carry it in: base64 at any alignment, percent-encoded, escaped as in a debug print,
//!   and line by line.
//! * **Patterns.** Credentials give themselves away by their form: GitHub and Vault tokens, AWS key ids, private keys,
//!   bearer headers, presigned URLs, JWTs.
//!
//! A registered value is looked up by its first eight bytes, at every position of the text. That costs one hash per
//! byte whatever the number of values, and, unlike an automaton, needs no rebuilding when a token is minted or expires.
//! Of a long value only the beginning and the length are kept: thousands of them fit in a few megabytes, and the set
//! itself holds no whole key.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, LazyLock, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use domain::clock::{Clock, Timestamp, after};
use regex::{Captures, Regex};
use zeroize::Zeroizing;

/// Shorter values are not registered: they would redact ordinary words.
pub const MIN_LEN: usize = 8;
/// How much of a form is kept and compared.
const HEAD: usize = 64;
/// How many values with a time to live are remembered; beyond it the oldest is forgotten.
pub const MINTED_CAP: usize = 4096;

/// What a registered value is replaced with.
const KNOWN: &str = "<redacted:known>";

/// The pattern of each kind of credential, by the word shown in its place.
const PATTERNS: [(&str, &str); 9] = [
    ("private_key", r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z ]*PRIVATE KEY-----|\z)"),
    ("github_token", r"gh[pousr]_[A-Za-z0-9_.-]{20,}"),
    ("github_pat", r"github_pat_[A-Za-z0-9_]+"),
    ("aws_key", r"(?:AKIA|ASIA)[A-Z0-9]{16}"),
    ("bearer", r"[Bb]earer\s+\S+"),
    ("presigned", r"X-Amz-(?:Signature|Credential|Security-Token)=[^&\s]+"),
    ("vault", r"hvs\.\S+"),
    ("jwt", r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"),
    ("userinfo", r"://[^/\s:@]*:[^/\s@]+@"),
];

static PATTERN: LazyLock<Regex> = LazyLock::new(|| {
    let any: Vec<String> = PATTERNS.iter().map(|(kind, pattern)| format!("(?P<{kind}>{pattern})")).collect();
    #[allow(clippy::expect_used, reason = "a constant, compiled by every test")]
    Regex::new(&any.join("|")).expect("a valid pattern")
});

static INSTALLED: OnceLock<Redactor> = OnceLock::new();

/// `text` without credentials, for error texts that go into records and answers. Knows the registered values once
/// [`Redactor::install`] was called; the patterns always.
pub fn redact(text: &str) -> String {
    match INSTALLED.get() {
        Some(redactor) => redactor.redact(text),
        None => without_patterns(text),
    }
}

/// Registers a secret that is learnt while the process runs with the installed set, if there is one.
pub fn hide(secret: &str, ttl: Option<Duration>) {
    if let Some(redactor) = INSTALLED.get() {
        redactor.register(secret, ttl);
    }
}

fn without_patterns(text: &str) -> String {
    PATTERN
        .replace_all(text, |found: &Captures<'_>| {
            let kind = PATTERNS.iter().map(|(kind, _)| *kind).find(|kind| found.name(kind).is_some());
            let shown = format!("<redacted:{}>", kind.unwrap_or("secret"));
            if kind == Some("userinfo") { format!("://{shown}@") } else { shown }
        })
        .into_owned()
}

/// The registered values. A clone is the same set.
#[derive(Clone)]
pub struct Redactor {
    clock: Arc<dyn Clock>,
    known: Arc<RwLock<Known>>,
}

impl Redactor {
    /// Knows nothing yet. The clock decides when minted values are forgotten.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, known: Arc::default() }
    }

    /// Makes [`redact()`] use this set. The first call wins, since there is one set per process.
    pub fn install(&self) {
        let _ = INSTALLED.set(self.clone());
    }

    /// Registers a secret: for the life of the process, or for `ttl` when it was minted and will expire. Values of
    /// fewer than [`MIN_LEN`] bytes are ignored.
    pub fn register(&self, secret: &str, ttl: Option<Duration>) {
        let secret = secret.trim_ascii();
        if secret.len() < MIN_LEN {
            return;
        }
        let now = self.clock.now();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.forget_expired(now);
        known.insert(secret, ttl.map(|ttl| after(now, ttl)));
    }

    /// `text` without registered values and without credentials that give themselves away.
    pub fn redact(&self, text: &str) -> String {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        match known.replace(text) {
            Some(text) => without_patterns(&text),
            None => without_patterns(text),
        }
    }
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redactor").finish_non_exhaustive()
    }
}

type Prefix = [u8; MIN_LEN];

#[derive(Default)]
struct Known {
    next: u64,
    /// Registered values by age.
    entries: BTreeMap<u64, Entry>,
    /// Registered values by hash.
    by_value: HashMap<u64, u64>,
    hash: RandomState,
    /// Forms by their first bytes.
    index: HashMap<Prefix, Vec<(u64, usize)>>,
    minted: usize,
}

struct Entry {
    value: u64,
    forms: Vec<Form>,
    expires: Option<Timestamp>,
}

/// A form to search for: its first bytes, and how many follow.
struct Form {
    head: Zeroizing<String>,
    len: usize,
}

fn prefix(form: &[u8]) -> Option<Prefix> {
    form.first_chunk().copied()
}

impl Known {
    fn insert(&mut self, secret: &str, expires: Option<Timestamp>) {
        let value = self.hash.hash_one(secret);
        if let Some(entry) = self.by_value.get(&value).and_then(|id| self.entries.get_mut(id)) {
            // A value registered twice lives as long as the longer of both.
            match (entry.expires, expires) {
                (Some(_), None) => {
                    entry.expires = None;
                    self.minted -= 1;
                }
                (Some(old), Some(new)) => entry.expires = Some(old.max(new)),
                (None, _) => {}
            }
            return;
        }
        if expires.is_some() {
            if self.minted >= MINTED_CAP
                && let Some(oldest) = self.entries.iter().find(|(_, e)| e.expires.is_some()).map(|(id, _)| *id)
            {
                self.remove(oldest);
            }
            self.minted += 1;
        }
        let id = self.next;
        self.next += 1;
        let forms = forms(secret);
        for (n, form) in forms.iter().enumerate() {
            if let Some(prefix) = prefix(form.head.as_bytes()) {
                self.index.entry(prefix).or_default().push((id, n));
            }
        }
        self.by_value.insert(value, id);
        self.entries.insert(id, Entry { value, forms, expires });
    }

    fn remove(&mut self, id: u64) {
        let Some(entry) = self.entries.remove(&id) else {
            return;
        };
        if entry.expires.is_some() {
            self.minted -= 1;
        }
        self.by_value.remove(&entry.value);
        for prefix in entry.forms.iter().filter_map(|form| prefix(form.head.as_bytes())) {
            if let Some(ids) = self.index.get_mut(&prefix) {
                ids.retain(|(other, _)| *other != id);
                if ids.is_empty() {
                    self.index.remove(&prefix);
                }
            }
        }
    }

    fn forget_expired(&mut self, now: Timestamp) {
        let expired = |e: &Entry| e.expires.is_some_and(|at| at <= now);
        let gone: Vec<u64> = self.entries.iter().filter(|(_, e)| expired(e)).map(|(id, _)| *id).collect();
        for id in gone {
            self.remove(id);
        }
    }

    /// `None`: nothing found.
    fn replace(&self, text: &str) -> Option<String> {
        if self.index.is_empty() {
            return None;
        }
        let bytes = text.as_bytes();
        let mut clean = String::new();
        let (mut from, mut at) = (0, 0);
        while let Some(window) = bytes.get(at..).and_then(prefix) {
            let here = self.index.get(&window).and_then(|candidates| {
                let forms = candidates.iter().filter_map(|(id, n)| self.entries.get(id)?.forms.get(*n));
                forms.filter(|form| bytes[at..].starts_with(form.head.as_bytes())).map(|form| form.len).max()
            });
            match here {
                // A head is valid UTF-8, so it begins between characters; the end may be another text's.
                Some(len) => {
                    clean.push_str(&text[from..at]);
                    clean.push_str(KNOWN);
                    at = text.ceil_char_boundary(at.saturating_add(len));
                    from = at;
                }
                None => at += 1,
            }
        }
        (from > 0).then(|| clean + &text[from..])
    }
}

/// The ways a secret appears in a text.
fn forms(secret: &str) -> Vec<Form> {
    let mut forms = vec![secret.to_owned(), secret.escape_debug().to_string(), escaped_json(secret)];
    forms.push(percent_encoding::utf8_percent_encode(secret, percent_encoding::NON_ALPHANUMERIC).to_string());
    // In base64 a value looks different at each of three alignments; the characters it shares with its neighbours are
    // cut off.
    for shift in 0..3 {
        let shifted = Zeroizing::new([&[0; 2][..shift], secret.as_bytes()].concat());
        let shared_before = (shift * 8).div_ceil(6);
        let whole = (shifted.len() * 8) / 6;
        for engine in [STANDARD, URL_SAFE] {
            forms.push(engine.encode(&*shifted)[shared_before..whole].to_owned());
        }
    }
    // The inner lines of a key are as telling as the whole.
    forms.extend(secret.lines().skip(1).filter(|l| l.len() >= 16 && !l.starts_with("-----")).map(str::to_owned));
    let mut unique: Vec<Zeroizing<String>> = Vec::with_capacity(forms.len());
    for form in forms.into_iter().map(Zeroizing::new) {
        if form.len() >= MIN_LEN && !unique.contains(&form) {
            unique.push(form);
        }
    }
    let form = |text: &Zeroizing<String>| {
        let head = text[..text.floor_char_boundary(HEAD)].to_owned();
        Form { head: head.into(), len: text.len() }
    };
    unique.iter().map(form).collect()
}

fn escaped_json(secret: &str) -> String {
    let quoted = serde_json::Value::from(secret).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

#[cfg(test)]
mod tests;
