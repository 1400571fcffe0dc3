//! What all queue messages have in common: how their JSON is read, and what makes one of them poison.
//!
//! A message may have been written by an older release, a newer one, the Go implementation, or anybody with the
//! right to send. So reading is strict about the shape (one object, bounded size and depth) and generous about
//! content (unknown fields are kept aside, the last of two equal keys wins, `null` means absent). What can never
//! succeed is named with a [`Reason`] and goes to the dead-letter queue; it must not be received again and again.

use std::borrow::Cow;
use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::clock::Timestamp;

#[cfg(test)]
mod tests;

/// Largest message body, in bytes (the limit of SQS).
pub const MAX_BODY: usize = 262_144;
/// Deepest nesting of arrays and objects; the message itself is level 1.
pub const MAX_DEPTH: usize = 32;

/// Why a message can never succeed: the code in the attribute `PoisonReason`, in logs and in metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Nothing but white space.
    EmptyBody,
    /// Not exactly one JSON value, too deep, or too long.
    InvalidJson,
    /// JSON, but not an object.
    NotObject,
    /// A known field of the wrong type, or a number out of its type's range.
    BadType,
    /// A known field of the right type with an impossible value.
    BadValue,
    /// Nothing says which job is meant.
    MissingJobId,
    /// Nothing says where the runner should register.
    MissingRepo,
    /// Nothing says under which label the runner should register.
    NoLabel,
    /// Nothing says what machine is wanted.
    NoLaunchSpec,
    /// Nothing says which machine speaks.
    MissingInstanceId,
    /// Nothing says what happened.
    MissingStatus,
    /// A webhook without a signature of the right form.
    SignatureFormat,
    /// A webhook whose body is not what its signature promises: bad encoding, no JSON, wrong shape.
    Payload,
    /// A webhook over the size limit.
    TooLarge,
}

impl Reason {
    /// The code.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EmptyBody => "empty_body",
            Self::InvalidJson => "invalid_json",
            Self::NotObject => "not_object",
            Self::BadType => "bad_type",
            Self::BadValue => "bad_value",
            Self::MissingJobId => "missing_job_id",
            Self::MissingRepo => "missing_repo",
            Self::NoLabel => "no_label",
            Self::NoLaunchSpec => "no_launch_spec",
            Self::MissingInstanceId => "missing_instance_id",
            Self::MissingStatus => "missing_status",
            Self::SignatureFormat => "signature_format",
            Self::Payload => "payload",
            Self::TooLarge => "too_large",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A message that can never succeed: reject it. Names the field at fault, never its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poison {
    /// What is wrong.
    pub reason: Reason,
    /// Where, if it is a field.
    pub field: Option<Cow<'static, str>>,
}

impl Poison {
    /// Poison in a field.
    pub const fn at(reason: Reason, field: &'static str) -> Self {
        Self { reason, field: Some(Cow::Borrowed(field)) }
    }
}

impl From<Reason> for Poison {
    fn from(reason: Reason) -> Self {
        Self { reason, field: None }
    }
}

impl fmt::Display for Poison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.field {
            Some(field) => write!(f, "poison message: {} ({field})", self.reason),
            None => write!(f, "poison message: {}", self.reason),
        }
    }
}

impl std::error::Error for Poison {}

/// The fields of a message.
pub type Fields = Map<String, Value>;

/// Reads a body: one JSON object within [`MAX_BODY`] and [`MAX_DEPTH`], white space around it allowed.
///
/// # Errors
/// [`Reason::EmptyBody`], [`Reason::InvalidJson`], [`Reason::NotObject`].
pub fn parse(body: &str) -> Result<Fields, Poison> {
    let text = body.trim_matches([' ', '\t', '\r', '\n']);
    if text.is_empty() {
        return Err(Reason::EmptyBody.into());
    }
    if body.len() > MAX_BODY {
        return Err(Reason::InvalidJson.into());
    }
    // `Value` keeps the last of two equal keys, which a derived struct would refuse.
    match serde_json::from_str(text) {
        Ok(value) if depth(&value) > MAX_DEPTH => Err(Reason::InvalidJson.into()),
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(Reason::NotObject.into()),
        Err(_) => Err(Reason::InvalidJson.into()),
    }
}

/// Reads all fields into `T`, a struct whose every field has a default. `null` is absent.
///
/// # Errors
/// [`Reason::BadType`] with the name of a field at fault.
pub fn read<T: DeserializeOwned>(mut fields: Fields) -> Result<T, Poison> {
    fields.retain(|_, value| !value.is_null());
    let whole = Value::Object(fields);
    T::deserialize(&whole).map_err(|_| {
        // Serde does not say where it stopped, so each field is tried alone. Only known ones can fail.
        let fails = |(name, value): (&String, &Value)| {
            let alone = Value::Object(Fields::from_iter([(name.clone(), value.clone())]));
            serde_json::from_value::<T>(alone).is_err().then(|| name.clone())
        };
        let field = whole.as_object().into_iter().flatten().find_map(fails);
        Poison { reason: Reason::BadType, field: field.map(Into::into) }
    })
}

/// [`parse`] and [`read`] in one. A body without `null`, repeated or unknown fields, as `plain` says of what was read of
/// it, is read in one pass; that is every body of ours.
///
/// # Errors
/// Those of both.
pub fn read_body<T: DeserializeOwned>(body: &str, plain: impl FnOnce(&T) -> bool) -> Result<T, Poison> {
    if body.len() <= MAX_BODY
        && let Ok(read) = serde_json::from_str(body)
        && plain(&read)
    {
        return Ok(read);
    }
    read(parse(body)?)
}

/// Takes one field that is not worth losing the message for: absent and `null` give the default, and so does a value
/// of the wrong type, whose name is then added to `warnings`.
pub fn take<T: DeserializeOwned + Default>(
    fields: &mut Fields,
    name: &'static str,
    warnings: &mut Vec<&'static str>,
) -> T {
    match fields.remove(name) {
        None | Some(Value::Null) => T::default(),
        Some(value) => serde_json::from_value(value).unwrap_or_else(|_| {
            warnings.push(name);
            T::default()
        }),
    }
}

/// `serde_json` refuses to read deeper than 128 levels, which bounds the recursion here.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Go's zero time, which its encoder writes for "never".
pub const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// Reads an RFC 3339 instant of any offset. Empty text and [`ZERO_TIME`] are `Ok(None)`; anything else that is no
/// instant is an error.
pub fn instant(text: &str) -> Result<Option<Timestamp>, jiff::Error> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let at: Timestamp = text.parse()?;
    let zero: Timestamp = ZERO_TIME.parse()?;
    Ok((at != zero).then_some(at))
}

/// Lower-case hex SHA-256 of `text`: deduplication ids.
pub fn sha256_hex(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}
