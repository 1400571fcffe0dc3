//! One request before it knows its credential.

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;

use super::operation::{Operation, Priority};

/// RFC 3986 "unreserved" stays as it is.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) operation: Operation,
    pub(super) priority: Priority,
    /// Path and query, relative to the base URL.
    pub(super) target: String,
    pub(super) body: Option<Bytes>,
}

impl Call {
    /// Fills the placeholders of the operation's path, in order.
    pub(super) fn new(operation: Operation, arguments: &[&str]) -> Self {
        let mut arguments = arguments.iter();
        let mut target = String::new();
        for segment in operation.template().split('/').skip(1) {
            let segment =
                if segment.starts_with('{') { arguments.next().copied().unwrap_or_default() } else { segment };
            target.push('/');
            target.extend(utf8_percent_encode(segment, SEGMENT));
        }
        debug_assert!(arguments.next().is_none(), "{} has fewer placeholders", operation.template());
        Self { operation, priority: Priority::Dispatch, target, body: None }
    }

    pub(super) fn query(mut self, name: &str, value: &str) -> Self {
        self.target.push(if self.target.contains('?') { '&' } else { '?' });
        self.target.push_str(name);
        self.target.push('=');
        self.target.extend(utf8_percent_encode(value, SEGMENT));
        self
    }

    pub(super) fn json(mut self, body: &impl Serialize) -> Self {
        // Only our own structs of strings and numbers come here: they always serialise.
        self.body = serde_json::to_vec(body).ok().map(Bytes::from);
        self
    }

    pub(super) fn at(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }
}
