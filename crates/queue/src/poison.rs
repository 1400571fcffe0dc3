//! What becomes of a message that nobody can process; the same on every back end.

use sha2::{Digest, Sha256};

use crate::{Delivery, Message};

/// Lower-case hex SHA-256: the deduplication id of a message by its content.
pub(crate) fn digest(body: &str) -> String {
    hex::encode(Sha256::digest(body))
}

/// The copy that goes to the dead letters. It is recognised by its content, so that a repeated reject adds nothing.
pub(crate) fn copy(delivery: &Delivery, reason: &str) -> Message {
    let mut attributes = delivery.attributes.clone();
    attributes.insert("PoisonReason".into(), reason.into());
    attributes.insert("SourceMessageId".into(), delivery.id.clone());
    Message { body: delivery.body.clone(), group: "poison".into(), dedup: digest(&delivery.body), attributes }
}

/// Says that a message is removed for good. Bodies hold names of repositories and texts of errors, so only their length
/// and digest are told.
pub(crate) fn log_removed(queue: &str, delivery: &Delivery, reason: &str) {
    tracing::error!(
        queue,
        message_id = delivery.id,
        reason,
        body_bytes = delivery.body.len(),
        body_sha256 = digest(&delivery.body),
        "poison message removed: the queue has no dead-letter queue"
    );
}
