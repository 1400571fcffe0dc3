//! Where everything is in the store. Pure.
//!
//! ```text
//! caches/_v2/idx/<owner>/<repo>/<scope>/<version>/<key>               an entry; that it is there makes it one
//! caches/_v2/dat/<owner>/<repo>/<scope>/<version>/<key>/<id>-<nonce>  its bytes
//! caches/_v2/acc/<owner>/<repo>/<scope>/<version>/<key>               when it was last read; one byte: it was evicted
//! caches/_v2/lck/<owner>/<repo>/<scope>/<version>/<key>               who is saving it
//! caches/_v2/up/<id>/…                                                what was uploaded so far
//! ```
//!
//! Scope and version are hashes, the key is [`name::encode`]d: every part is a plain file name. The first four mirror
//! each other, so that sizes, ages and leftovers can be told from listings alone.

use domain::clock::Timestamp;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::name;
use crate::scope::Repository;

/// Everything of the cache is below this; buckets are shared with other things.
pub(crate) const ROOT: &str = "caches/_v2/";
/// One byte in place of none: the entry is gone and its bytes may follow.
pub(crate) const EVICTED: &[u8] = b"-";

/// The name of an object. Only this module makes them, so that nothing a client sends is ever one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(String);

impl Key {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of an object that a store listed.
    pub(crate) fn listed(name: String) -> Self {
        Self(name)
    }

    #[cfg(test)]
    pub(crate) fn test(name: &str) -> Self {
        Self(format!("{ROOT}{name}"))
    }
}

/// Names an upload, and the entry that becomes of it: 1 to 2⁵² − 1, so that JavaScript can count that far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64")]
pub struct UploadId(u64);

impl UploadId {
    const BITS: u32 = 52;

    /// `None` outside of the range.
    pub fn new(number: u64) -> Option<Self> {
        (number > 0 && number >> Self::BITS == 0).then_some(Self(number))
    }

    /// From random bits.
    pub(crate) fn random(bits: u64) -> Self {
        Self((bits >> (u64::BITS - Self::BITS)).max(1))
    }

    /// Decimal digits and nothing else.
    pub fn parse(text: &str) -> Option<Self> {
        let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
        text.parse().ok().filter(|_| plain).and_then(Self::new)
    }

    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl TryFrom<u64> for UploadId {
    type Error = &'static str;
    fn try_from(number: u64) -> Result<Self, Self::Error> {
        Self::new(number).ok_or("an id out of range")
    }
}

impl std::fmt::Display for UploadId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What names an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) repo: &'a Repository,
    pub(crate) scope: &'a str,
    pub(crate) version: &'a str,
    pub(crate) key: &'a str,
}

impl Entry<'_> {
    /// Its place in the mirrored trees.
    pub(crate) fn place(&self) -> Place {
        Place(format!("{}{}", siblings(self.repo, self.scope, self.version), name::encode(self.key)))
    }

    /// A fresh object for its bytes.
    pub(crate) fn data(&self, id: UploadId, nonce: &str) -> Data {
        Data { place: self.place(), id, nonce: nonce.to_owned() }
    }
}

/// `<owner>/<repo>/<scope>/<version>/`
fn siblings(repo: &Repository, scope: &str, version: &str) -> String {
    format!("{}/{}/{}/", repo.directory(), name::digest(scope), name::digest(version))
}

/// Prefix of the entries of one scope and version whose stored names begin so.
pub(crate) fn entries(repo: &Repository, scope: &str, version: &str, prefix: &str) -> String {
    format!("{ROOT}idx/{}{prefix}", siblings(repo, scope, version))
}

/// Prefix of everything of one repository in one of the mirrored trees; of all repositories when there is none.
pub(crate) fn tree(tree: &str, repo: Option<&Repository>) -> String {
    repo.map_or_else(|| format!("{ROOT}{tree}/"), |repo| format!("{ROOT}{tree}/{}/", repo.directory()))
}

/// `<owner>/<repo>/<scope>/<version>/<key>`, all encoded: where an entry is in the mirrored trees.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Place(String);

impl Place {
    pub(crate) fn manifest(&self) -> Key {
        Key(format!("{ROOT}idx/{}", self.0))
    }

    pub(crate) fn access(&self) -> Key {
        Key(format!("{ROOT}acc/{}", self.0))
    }

    pub(crate) fn lease(&self) -> Key {
        Key(format!("{ROOT}lck/{}", self.0))
    }

    /// Of a listed object of a tree.
    pub(crate) fn listed(tree: &str, name: &str) -> Option<Self> {
        let place = name.strip_prefix(ROOT)?.strip_prefix(tree)?.strip_prefix('/')?;
        is_place(place).then(|| Self(place.to_owned()))
    }

    /// `owner/repo`, as people read it.
    pub(crate) fn repo(&self) -> String {
        let end = self.0.match_indices('/').nth(1).map_or(self.0.len(), |(at, _)| at);
        percent_decode_str(&self.0[..end]).decode_utf8_lossy().into_owned()
    }
}

/// The object with an entry's bytes, or with what may become one's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Data {
    place: Place,
    id: UploadId,
    nonce: String,
}

impl Data {
    /// Reads [`Data::relative`]. Nothing but what this module made passes.
    pub(crate) fn parse(relative: &str) -> Option<Self> {
        let (place, name) = relative.rsplit_once('/')?;
        let (id, nonce) = name.split_once('-')?;
        let hex = nonce.len() == 32 && nonce.bytes().all(|b| b.is_ascii_hexdigit());
        let data = Self { place: Place(place.to_owned()), id: UploadId::parse(id)?, nonce: nonce.to_owned() };
        (hex && is_place(place)).then_some(data)
    }

    pub(crate) fn relative(&self) -> String {
        format!("{}/{}-{}", self.place.0, self.id, self.nonce)
    }

    pub(crate) fn key(&self) -> Key {
        Key(format!("{ROOT}dat/{}", self.relative()))
    }

    pub(crate) fn listed(name: &str) -> Option<Self> {
        Self::parse(name.strip_prefix(ROOT)?.strip_prefix("dat/")?)
    }

    pub(crate) fn id(&self) -> UploadId {
        self.id
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }
}

impl Serialize for Data {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.relative())
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("not the name of an entry's bytes"))
    }
}

fn is_place(text: &str) -> bool {
    let plain = |part: &str| {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"-_.%~".contains(&b);
        !part.is_empty() && !part.starts_with('.') && part.bytes().all(legal)
    };
    text.split('/').count() == 5 && text.split('/').all(plain)
}

/// The objects of an upload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Upload(pub(crate) UploadId);

impl Upload {
    pub(crate) fn reservation(self) -> Key {
        Key(format!("{ROOT}up/{}/res.json", self.0))
    }

    /// What it amounts to so far.
    pub(crate) fn current(self) -> Key {
        Key(format!("{ROOT}up/{}/cur.json", self.0))
    }

    /// What its last list was assembled to.
    pub(crate) fn assembled(self) -> Key {
        Key(format!("{ROOT}up/{}/asm.json", self.0))
    }

    /// Prefix of its blocks.
    pub(crate) fn blocks(self) -> String {
        format!("{ROOT}up/{}/b/", self.0)
    }

    pub(crate) fn block(self, id: &[u8]) -> Key {
        Key(format!("{}{}", self.blocks(), hex::encode(Sha256::digest(id))))
    }

    /// Prefix of its chunks.
    pub(crate) fn chunks(self) -> String {
        format!("{ROOT}up/{}/c/", self.0)
    }

    /// The chunk from `start` to `end`, both inclusive.
    pub(crate) fn chunk(self, start: u64, end: u64) -> Key {
        Key(format!("{}{start:020}-{end:020}", self.chunks()))
    }

    /// Prefix of everything of it.
    pub(crate) fn everything(self) -> String {
        format!("{ROOT}up/{}/", self.0)
    }

    /// Which upload a listed object is of.
    pub(crate) fn listed(name: &str) -> Option<Self> {
        let (id, _) = name.strip_prefix(ROOT)?.strip_prefix("up/")?.split_once('/')?;
        UploadId::parse(id).map(Self)
    }
}

/// Start and end (inclusive) of a listed chunk.
pub(crate) fn chunk_range(name: &str) -> Option<(u64, u64)> {
    let (start, end) = name.rsplit_once('/')?.1.split_once('-')?;
    start.parse().ok().zip(end.parse().ok())
}

/// An entry, as stored. That it is there, makes it one; it never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) entry_id: UploadId,
    pub(crate) repo: String,
    pub(crate) scope: String,
    pub(crate) version: String,
    pub(crate) key: String,
    pub(crate) size: u64,
    pub(crate) data: Data,
    pub(crate) created_at: Timestamp,
    /// The job that saved it.
    pub(crate) sub: Option<String>,
}

/// A promise to somebody to save an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reservation {
    pub(crate) id: UploadId,
    pub(crate) repo: String,
    pub(crate) scope: String,
    pub(crate) version: String,
    pub(crate) key: String,
    pub(crate) sub: Option<String>,
    pub(crate) created_at: Timestamp,
    /// It is an entry now, of this size.
    #[serde(default)]
    pub(crate) committed: Option<u64>,
}

/// Who is saving an entry, until when nobody else may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    pub(crate) upload_id: UploadId,
    pub(crate) owner_sub: Option<String>,
    pub(crate) expires_at: Timestamp,
}

/// A stored piece of an upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Piece {
    pub(crate) name: String,
    pub(crate) size: u64,
}

/// What an upload amounts to: the last whole blob, or the last list of blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Current {
    Blob(Stored),
    List { nonce: String, pieces: Vec<Piece> },
}

/// Bytes that may become an entry's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub(crate) data: Data,
    pub(crate) size: u64,
}

/// What a list was assembled to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Assembled {
    /// The list's.
    pub(crate) nonce: String,
    pub(crate) stored: Stored,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_made_here_is_read_back() {
        let repo = Repository::parse("a/b").expect("good");
        let entry = Entry { repo: &repo, scope: "refs/heads/main", version: "v", key: "x/../y" };
        let data = entry.data(UploadId::new(9).expect("good"), "00112233445566778899aabbccddeeff");
        assert_eq!(Data::parse(&data.relative()), Some(data.clone()));
        assert_eq!(Data::listed(data.key().as_str()), Some(data.clone()));
        assert_eq!(data.place().repo(), "a/b");
        for bad in [
            "",
            "a/b",
            "../../x/y/z/1-00112233445566778899aabbccddeeff",
            "a/b/c/d/..%2f/0-00",
            "a/b/c/d/e/f/1-0",
            "a/b/c/d/e/1-0011223344556677889900112233445",
            "a/b/c//e/1-00112233445566778899aabbccddeeff",
            "a/b/c/d/e\\/1-00112233445566778899aabbccddeeff",
        ] {
            assert_eq!(Data::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn names_cannot_slide_between_the_parts() {
        let repo = Repository::parse("a/b").expect("good");
        let one = Entry { repo: &repo, scope: "s", version: "v", key: "a/k" };
        let other = Entry { repo: &repo, scope: "s", version: "v/a", key: "k" };
        assert_ne!(one.place(), other.place());
    }

    #[test]
    fn ids_are_numbers_that_javascript_can_hold() {
        for good in ["1", "4503599627370495"] {
            assert_eq!(UploadId::parse(good).map(|id| id.to_string()).as_deref(), Some(good));
        }
        for bad in ["", "0", "-1", "+1", "01", "4503599627370496", "99999999999999999999", "1.0", "0x1", "../1", "1/2"]
        {
            assert_eq!(UploadId::parse(bad), None, "{bad}");
        }
        assert_eq!(UploadId::random(0).get(), 1);
        assert_eq!(UploadId::random(u64::MAX).get(), (1 << 52) - 1);
    }
}
