//! The messages of the cache service, as JSON and as protocol buffers. Pure.
//!
//! Reading is generous (either spelling of a name, numbers as text, fields nobody knows), writing is exact: clients read
//! only one spelling.

use serde_json::{Map, Value};

/// How a request is written; the answer is written likewise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// `application/json`, or no type at all.
    Json,
    /// `application/protobuf`.
    Protobuf,
}

/// A request that says something else than its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    /// It cannot be read at all.
    #[error("the request body cannot be decoded")]
    Malformed,
    /// A field is of another type, or out of range.
    #[error("field {0} has the wrong type or is out of range")]
    Field(&'static str),
}

/// A field of a request: its names and number, and where it goes.
#[derive(Debug, Clone, Copy)]
struct Field {
    name: &'static str,
    camel: &'static str,
    number: u64,
}

const KEY: Field = Field { name: "key", camel: "key", number: 2 };

/// `CreateCacheEntryRequest`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Create {
    /// Primary key.
    pub key: String,
    /// Version.
    pub version: String,
}

/// `FinalizeCacheEntryUploadRequest`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Finalize {
    /// Primary key.
    pub key: String,
    /// Bytes that were uploaded.
    pub size_bytes: u64,
    /// Version.
    pub version: String,
}

/// `GetCacheEntryDownloadURLRequest`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lookup {
    /// Primary key.
    pub key: String,
    /// Beginnings of keys to be content with.
    pub restore_keys: Vec<String>,
    /// Version.
    pub version: String,
}

impl Create {
    /// Reads it.
    ///
    /// # Errors
    /// See [`Undecodable`].
    pub fn decode(encoding: Encoding, body: &[u8]) -> Result<Self, Undecodable> {
        let mut fields = Fields::read(encoding, body)?;
        let version = Field { name: "version", camel: "version", number: 3 };
        Ok(Self { key: fields.text(KEY)?, version: fields.text(version)? })
    }
}

impl Finalize {
    /// Reads it.
    ///
    /// # Errors
    /// See [`Undecodable`].
    pub fn decode(encoding: Encoding, body: &[u8]) -> Result<Self, Undecodable> {
        let mut fields = Fields::read(encoding, body)?;
        let size = Field { name: "size_bytes", camel: "sizeBytes", number: 3 };
        let version = Field { name: "version", camel: "version", number: 4 };
        Ok(Self { key: fields.text(KEY)?, size_bytes: fields.size(size)?, version: fields.text(version)? })
    }
}

impl Lookup {
    /// Reads it.
    ///
    /// # Errors
    /// See [`Undecodable`].
    pub fn decode(encoding: Encoding, body: &[u8]) -> Result<Self, Undecodable> {
        let mut fields = Fields::read(encoding, body)?;
        let restore = Field { name: "restore_keys", camel: "restoreKeys", number: 3 };
        let version = Field { name: "version", camel: "version", number: 4 };
        Ok(Self { key: fields.text(KEY)?, restore_keys: fields.texts(restore)?, version: fields.text(version)? })
    }
}

/// The fields of a message before anybody asked for them.
enum Fields {
    Json(Map<String, Value>),
    Protobuf(Vec<(u64, Wire)>),
}

enum Wire {
    Number(u64),
    Bytes(Vec<u8>),
    Other,
}

impl Fields {
    fn read(encoding: Encoding, body: &[u8]) -> Result<Self, Undecodable> {
        match encoding {
            Encoding::Json if body.is_empty() => Err(Undecodable::Malformed),
            Encoding::Json => {
                if too_deep(body) {
                    return Err(Undecodable::Malformed);
                }
                let value: Value = serde_json::from_slice(body).map_err(|_| Undecodable::Malformed)?;
                if let Value::Object(map) = value { Ok(Self::Json(map)) } else { Err(Undecodable::Malformed) }
            }
            Encoding::Protobuf => Ok(Self::Protobuf(wire(body).ok_or(Undecodable::Malformed)?)),
        }
    }

    fn json(map: &mut Map<String, Value>, field: Field) -> Option<Value> {
        map.remove(field.name).or_else(|| map.remove(field.camel)).filter(|value| !value.is_null())
    }

    fn text(&mut self, field: Field) -> Result<String, Undecodable> {
        // The last one counts, as in any message.
        Ok(self.texts_of(field, false)?.pop().unwrap_or_default())
    }

    fn texts(&mut self, field: Field) -> Result<Vec<String>, Undecodable> {
        self.texts_of(field, true)
    }

    fn texts_of(&mut self, field: Field, repeated: bool) -> Result<Vec<String>, Undecodable> {
        let wrong = Undecodable::Field(field.name);
        let text = |value| if let Value::String(text) = value { Ok(text) } else { Err(wrong) };
        match self {
            Self::Json(map) => match Self::json(map, field) {
                None => Ok(Vec::new()),
                Some(Value::Array(list)) if repeated => list.into_iter().map(text).collect(),
                Some(value) if !repeated => Ok(vec![text(value)?]),
                Some(_) => Err(wrong),
            },
            Self::Protobuf(fields) => {
                let ours = fields.iter_mut().filter(|(number, _)| *number == field.number);
                ours.map(|(_, value)| match value {
                    Wire::Bytes(bytes) => String::from_utf8(std::mem::take(bytes)).map_err(|_| wrong),
                    _ => Err(wrong),
                })
                .collect()
            }
        }
    }

    fn size(&mut self, field: Field) -> Result<u64, Undecodable> {
        let wrong = Undecodable::Field(field.name);
        let signed = match self {
            Self::Json(map) => match Self::json(map, field) {
                None => 0,
                Some(Value::Number(number)) => number.as_i64().ok_or(wrong)?,
                Some(Value::String(text)) => text.parse().map_err(|_| wrong)?,
                Some(_) => return Err(wrong),
            },
            Self::Protobuf(fields) => match fields.iter().rfind(|(number, _)| *number == field.number) {
                None => 0,
                Some((_, Wire::Number(number))) => number.cast_signed(),
                Some(_) => return Err(wrong),
            },
        };
        u64::try_from(signed).map_err(|_| wrong)
    }
}

/// Nothing we are sent is nested; this bounds what a parser may be made to do.
fn too_deep(body: &[u8]) -> bool {
    const DEEPEST: usize = 32;
    let (mut depth, mut inside, mut escaped) = (0usize, false, false);
    for byte in body {
        match (inside, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => inside = !inside,
            (false, b'{' | b'[') => depth += 1,
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEEPEST {
            return true;
        }
    }
    false
}

/// The fields of a protocol buffer; `None` when it is not one.
fn wire(mut body: &[u8]) -> Option<Vec<(u64, Wire)>> {
    let mut fields = Vec::new();
    while !body.is_empty() {
        let tag = varint(&mut body)?;
        let number = tag >> 3;
        let value = match tag & 7 {
            0 => Wire::Number(varint(&mut body)?),
            1 => take(&mut body, 8).map(|_| Wire::Other)?,
            2 => {
                let length = usize::try_from(varint(&mut body)?).ok()?;
                Wire::Bytes(take(&mut body, length)?.to_vec())
            }
            5 => take(&mut body, 4).map(|_| Wire::Other)?,
            _ => return None,
        };
        if number == 0 {
            return None;
        }
        fields.push((number, value));
    }
    Some(fields)
}

fn varint(body: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = take(body, 1)?[0];
        let bits = u64::from(byte & 0x7f);
        // The tenth byte has room for one bit.
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(body: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = body.split_at_checked(count)?;
    *body = rest;
    Some(taken)
}

/// A field of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A truth value.
    Bool(bool),
    /// Text.
    Text(String),
    /// A 64-bit number.
    Int64(u64),
}

/// Writes an answer: fields with their names and numbers, what is empty or zero left out, but for `ok` in JSON.
pub fn encode(encoding: Encoding, fields: &[(&'static str, u8, Answer)]) -> Vec<u8> {
    match encoding {
        Encoding::Json => {
            let map: Map<String, Value> = fields
                .iter()
                .filter(|(_, _, value)| !matches!(value, Answer::Text(text) if text.is_empty()))
                .map(|(name, _, value)| {
                    let value = match value {
                        Answer::Bool(value) => Value::Bool(*value),
                        Answer::Text(text) => Value::String(text.clone()),
                        // JavaScript cannot count to 2⁶⁴.
                        Answer::Int64(number) => Value::String(number.to_string()),
                    };
                    ((*name).to_owned(), value)
                })
                .collect();
            Value::Object(map).to_string().into_bytes()
        }
        Encoding::Protobuf => {
            let mut bytes = Vec::new();
            for (_, number, value) in fields {
                match value {
                    Answer::Bool(false) | Answer::Int64(0) => {}
                    Answer::Bool(true) => bytes.extend([number << 3, 1]),
                    Answer::Int64(value) => {
                        bytes.push(number << 3);
                        put_varint(&mut bytes, *value);
                    }
                    Answer::Text(text) if text.is_empty() => {}
                    Answer::Text(text) => {
                        bytes.push((number << 3) | 2);
                        put_varint(&mut bytes, text.len() as u64);
                        bytes.extend(text.as_bytes());
                    }
                }
            }
            bytes
        }
    }
}

fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(u8::try_from(value & 0x7f).unwrap_or_default() | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_spellings_and_both_kinds_of_numbers_are_read() {
        let json = |body: &str| Finalize::decode(Encoding::Json, body.as_bytes());
        let expected = Finalize { key: "k".into(), size_bytes: 12, version: "v".into() };
        for body in [
            r#"{"key":"k","size_bytes":"12","version":"v"}"#,
            r#"{"key":"k","sizeBytes":12,"version":"v","metadata":{"scope":[{"scope":"x"}]},"new":null}"#,
        ] {
            assert_eq!(json(body), Ok(expected.clone()), "{body}");
        }
        assert_eq!(json("{}"), Ok(Finalize::default()));
        let lookup = |body: &str| Lookup::decode(Encoding::Json, body.as_bytes()).map(|l| l.restore_keys);
        assert_eq!(lookup(r#"{"restoreKeys":["a","b"]}"#), Ok(vec!["a".into(), "b".into()]));
        assert_eq!(lookup(r#"{"restore_keys":["a"]}"#), Ok(vec!["a".into()]));
    }

    #[test]
    fn what_is_of_another_type_is_refused() {
        use Undecodable::{Field, Malformed};
        let json = |body: &str| Finalize::decode(Encoding::Json, body.as_bytes()).err();
        for (body, why) in [
            ("", Malformed),
            ("[]", Malformed),
            ("{", Malformed),
            (r#"{"key":1}"#, Field("key")),
            (r#"{"key":["a"]}"#, Field("key")),
            (r#"{"size_bytes":"x"}"#, Field("size_bytes")),
            (r#"{"size_bytes":-1}"#, Field("size_bytes")),
            (r#"{"size_bytes":"-1"}"#, Field("size_bytes")),
            (r#"{"size_bytes":1.5}"#, Field("size_bytes")),
            (r#"{"size_bytes":"99999999999999999999"}"#, Field("size_bytes")),
        ] {
            assert_eq!(json(body), Some(why), "{body}");
        }
        let deep = format!(r#"{{"metadata":{}1{}}}"#, "[".repeat(40), "]".repeat(40));
        assert_eq!(json(&deep), Some(Malformed));
        assert_eq!(
            json(r#"{"key":"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\"[["}"#),
            None,
            "brackets in text are text"
        );
        assert_eq!(Lookup::decode(Encoding::Json, br#"{"restore_keys":"a"}"#), Err(Field("restore_keys")));
    }

    #[test]
    fn protocol_buffers_are_read_and_written() {
        // metadata (1) a message, key (2), size_bytes (3), version (4), and a field of the future.
        let body = b"\x0a\x02\x08\x01\x12\x01k\x18\xac\x02\x22\x01v\x2d\x00\x00\x00\x00";
        let expected = Finalize { key: "k".into(), size_bytes: 300, version: "v".into() };
        assert_eq!(Finalize::decode(Encoding::Protobuf, body), Ok(expected));
        assert_eq!(Create::decode(Encoding::Protobuf, b""), Ok(Create::default()));
        for bad in [&b"\x12\x05k"[..], b"\x12", b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x13", b"\x00\x00"] {
            assert_eq!(Finalize::decode(Encoding::Protobuf, bad), Err(Undecodable::Malformed), "{bad:?}");
        }
        assert_eq!(Create::decode(Encoding::Protobuf, b"\x10\x01"), Err(Undecodable::Field("key")));
        let negative = b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
        assert_eq!(Finalize::decode(Encoding::Protobuf, negative), Err(Undecodable::Field("size_bytes")));

        let answer = [
            ("ok", 1, Answer::Bool(true)),
            ("entry_id", 2, Answer::Int64(300)),
            ("message", 3, Answer::Text(String::new())),
        ];
        assert_eq!(encode(Encoding::Protobuf, &answer), b"\x08\x01\x10\xac\x02");
        assert_eq!(encode(Encoding::Json, &answer), br#"{"entry_id":"300","ok":true}"#);
        assert_eq!(encode(Encoding::Protobuf, &[("ok", 1, Answer::Bool(false))]), b"");
        assert_eq!(encode(Encoding::Json, &[("ok", 1, Answer::Bool(false))]), br#"{"ok":false}"#);
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_an_error(body in prop::collection::vec(any::<u8>(), 0..64)) {
            for encoding in [Encoding::Json, Encoding::Protobuf] {
                let _ = (Create::decode(encoding, &body), Finalize::decode(encoding, &body), Lookup::decode(encoding, &body));
            }
        }
    }
}
