//! What a key and a version may look like, and how a key becomes a file name. Pure.
//!
//! A stored name is at most 213 bytes and holds nothing but letters, digits, `-`, `_`, `.`, `%` and `~`, never with a
//! dot in front: no key can name a place of its own choosing, on a disk or in a bucket. Different keys have different
//! names, and the names of keys with a common beginning begin alike, so that a listing by prefix finds them.

use sha2::{Digest, Sha256};

/// Characters of a key.
const KEY_CHARS: usize = 512;
/// Bytes of a version.
const VERSION_BYTES: usize = 512;
/// Bytes of a stored name in front of its hash.
const HEAD: usize = 180;
/// Hex digits of a hash in a stored name.
const HASH: usize = 32;

/// Why a key or a version is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// There is none.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// It is longer than clients may make it.
    #[error("{0} is longer than 512 characters")]
    Long(&'static str),
    /// It contains something that no client sends.
    #[error("{0} contains a character or a part that is not allowed")]
    Characters(&'static str),
}

/// Checks a key, or the beginning of one to look for.
///
/// # Errors
/// Everything but the listed faults is a legal key, byte for byte.
pub fn check_key(key: &str) -> Result<(), BadName> {
    const WHAT: &str = "cache key";
    if key.is_empty() {
        return Err(BadName::Empty(WHAT));
    }
    if key.chars().count() > KEY_CHARS {
        return Err(BadName::Long(WHAT));
    }
    let climbs = key.split(['/', '\\']).any(|part| part == "..");
    if climbs || key.starts_with('/') || key.contains([',', '\u{7f}']) || key.chars().any(|c| c < ' ') {
        return Err(BadName::Characters(WHAT));
    }
    Ok(())
}

/// Checks a version: a hash in practice, but clients may send anything.
///
/// # Errors
/// See [`BadName`].
pub fn check_version(version: &str) -> Result<(), BadName> {
    const WHAT: &str = "cache version";
    if version.is_empty() {
        return Err(BadName::Empty(WHAT));
    }
    if version.len() > VERSION_BYTES {
        return Err(BadName::Long(WHAT));
    }
    let controls = version.chars().any(char::is_control);
    if controls || version.contains("..") || version.contains('\\') || version.starts_with('/') {
        return Err(BadName::Characters(WHAT));
    }
    Ok(())
}

/// The first 32 hex digits of a SHA-256: the stored name of a scope or a version.
pub fn digest(text: &str) -> String {
    let mut hex = hex::encode(Sha256::digest(text.as_bytes()));
    hex.truncate(HASH);
    hex
}

/// The stored name of a key.
pub fn encode(key: &str) -> String {
    let whole = escaped(key);
    if whole.len() <= HEAD { whole } else { format!("{}~{}", head(&whole), digest(key)) }
}

/// The beginning that the stored names of all keys with a common beginning share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix {
    /// The common beginning.
    pub text: String,
    /// It says less than what was asked for: every candidate's key has to be looked at.
    pub cut: bool,
}

/// See [`Prefix`].
pub fn prefix(key: &str) -> Prefix {
    let whole = escaped(key);
    if whole.len() <= HEAD {
        Prefix { text: whole, cut: false }
    } else {
        Prefix { text: head(&whole).to_owned(), cut: true }
    }
}

fn escaped(key: &str) -> String {
    let mut name = String::with_capacity(key.len() + 8);
    for (at, byte) in key.bytes().enumerate() {
        match byte {
            b'.' if at == 0 => name.push_str("%2E"),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => name.push(char::from(byte)),
            _ => {
                const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                name.push('%');
                name.push(char::from(DIGITS[usize::from(byte >> 4)]));
                name.push(char::from(DIGITS[usize::from(byte & 15)]));
            }
        }
    }
    name
}

/// As much as fits, never a part of an escape.
fn head(escaped: &str) -> &str {
    let bytes = escaped.as_bytes();
    let end = (HEAD - 2..HEAD).find(|&at| bytes[at] == b'%').unwrap_or(HEAD);
    &escaped[..end]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_of_real_workflows_are_legal_and_climbing_is_not() {
        for good in
            ["npm-1", "a..b/c d%2F", "ключ-キー", "dir/", "a+b#c?d", r"C:\x", "~", "...", "a/...", &"x".repeat(512)]
        {
            assert_eq!(check_key(good), Ok(()), "{good}");
        }
        for bad in ["", "a,b", "/a", "..", "a/../b", r"a\..", "../x", "a\u{0}", "a\nb", "a\u{7f}", &"x".repeat(513)] {
            assert!(check_key(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "a..b", r"a\b", "/a", "a\u{0}", "a\u{85}", &"x".repeat(513)] {
            assert!(check_version(bad).is_err(), "{bad:?}");
        }
        assert_eq!(check_version("3ad75f27293d65a135214b8c82b296080f911dc107e52f1e7ec871a2eda46e69"), Ok(()));
    }

    #[test]
    fn names_are_readable_where_they_can_be() {
        for (key, name) in
            [("npm-1", "npm-1"), (".a.b", "%2Ea.b"), ("a/b c", "a%2Fb%20c"), ("é~", "%C3%A9%7E"), ("..", "%2E.")]
        {
            assert_eq!(encode(key), name);
        }
        let long = format!("{}é{}", "x".repeat(179), "y".repeat(100));
        assert_eq!(encode(&long), format!("{}~{}", "x".repeat(179), digest(&long)), "no half escape");
    }

    proptest! {
        #[test]
        fn a_name_is_a_safe_and_short_file_name(key in ".{0,300}") {
            let name = encode(&key);
            prop_assert!(name.len() <= HEAD + 1 + HASH && !name.starts_with('.'));
            prop_assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.%~".contains(&b)));
        }

        #[test]
        fn what_begins_alike_is_found_by_its_beginning(key in ".{1,300}", at in 0usize..300) {
            let begin: String = key.chars().take(at.max(1)).collect();
            let Prefix { text, cut } = prefix(&begin);
            prop_assert!(encode(&key).starts_with(&text), "{} {}", encode(&key), text);
            prop_assert_eq!(cut, text != escaped(&begin));
        }

        #[test]
        fn different_keys_have_different_names(a in "[ab./%é]{0,90}", b in "[ab./%é]{0,90}") {
            prop_assert_eq!(a == b, encode(&a) == encode(&b));
        }
    }
}
