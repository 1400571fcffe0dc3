//! Webhooks that arrive as queue messages: an API gateway answered GitHub and put the request on a queue.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use domain::wire::{Poison, Reason};

use super::{QueuedEvent, Secrets, SignatureError, verify};

/// Largest webhook body, in bytes, however it arrives.
pub const MAX_BODY: usize = 1_048_576;

/// The attribute that names the kind of a message on the main queue.
pub(super) const KIND: &str = "RunsFleet-Kind";

/// What a message on the main queue is, told by its attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A job message.
    Job,
    /// GitHub's request as a gateway received it: [`Delivery`].
    RawWebhook,
    /// A [`QueuedEvent`].
    QueuedEvent,
    /// Of a newer release: keep it for a replica that knows it.
    Unknown,
}

impl Kind {
    /// Tells the kind. A message with a webhook's attributes is one whatever else it claims: only that kind has to
    /// prove where it comes from.
    pub fn of(attributes: &BTreeMap<String, String>) -> Self {
        if attribute(attributes, EVENT).is_some() {
            return Self::RawWebhook;
        }
        match attributes.get(KIND) {
            None => Self::Job,
            Some(kind) if QueuedEvent::is_kind(kind) => Self::QueuedEvent,
            Some(_) => Self::Unknown,
        }
    }
}

const EVENT: &str = "X-GitHub-Event";
const SIGNATURE: &str = "X-Hub-Signature-256";
const GUID: &str = "X-GitHub-Delivery";
const ENCODING: &str = "Body-Encoding";

/// A webhook request taken out of a queue message. Nothing in it is believed before [`Delivery::verify`].
#[derive(Clone, PartialEq, Eq)]
pub struct Delivery<'a> {
    /// `X-GitHub-Event`.
    pub event: &'a str,
    /// `X-GitHub-Delivery`; may be empty.
    pub guid: &'a str,
    /// GitHub's request body, byte for byte.
    pub body: Cow<'a, [u8]>,
    signature: &'a str,
}

impl<'a> Delivery<'a> {
    /// Takes the request out of a message's attributes (names in any case, as gateways differ) and body.
    ///
    /// # Errors
    /// [`Poison`] when it can never be a good delivery: no event name, no signature, a body over [`MAX_BODY`] or not
    /// encoded as announced.
    pub fn open(attributes: &'a BTreeMap<String, String>, body: &'a str) -> Result<Self, Poison> {
        let event = attribute(attributes, EVENT).ok_or(Poison::at(Reason::BadValue, EVENT))?;
        let encoded = attribute(attributes, ENCODING).is_some_and(|encoding| encoding.eq_ignore_ascii_case("base64"));
        let body = if encoded {
            STANDARD.decode(body.trim()).map(Cow::Owned).map_err(|_| Poison::at(Reason::Payload, ENCODING))?
        } else {
            Cow::Borrowed(body.as_bytes())
        };
        if body.len() > MAX_BODY {
            return Err(Reason::TooLarge.into());
        }
        let signature = attribute(attributes, SIGNATURE).ok_or(Reason::SignatureFormat)?;
        let guid = attribute(attributes, GUID).unwrap_or_default();
        Ok(Self { event, guid, body, signature })
    }

    /// Whether GitHub signed it.
    ///
    /// # Errors
    /// [`SignatureError::Format`] is poison ([`Reason::SignatureFormat`]); [`SignatureError::Mismatch`] is not: leave
    /// the message to the queue's redrive policy, so that a mis-set secret loses nothing.
    pub fn verify(&self, secrets: &Secrets) -> Result<(), SignatureError> {
        verify(secrets, self.signature, &self.body)
    }
}

impl fmt::Debug for Delivery<'_> {
    /// Without the body: it must not end up in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { event, guid, body, .. } = self;
        write!(f, "Delivery {{ event: {event:?}, guid: {guid:?}, body: {} bytes }}", body.len())
    }
}

/// An attribute by name in any case; empty counts as absent.
fn attribute<'a>(attributes: &'a BTreeMap<String, String>, name: &str) -> Option<&'a str> {
    let found = attributes.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
}
