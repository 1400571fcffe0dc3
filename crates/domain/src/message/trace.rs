//! W3C trace context as text, and the pair of ids the Go implementation's first revision sent instead.

/// Whether `value` is a valid `traceparent` (W3C Trace Context): lower-case hex, ids not all zero, version not `ff`;
/// a later version than `00` may carry more fields behind the four.
pub fn is_valid(value: &str) -> bool {
    let mut parts = value.splitn(5, '-');
    let mut next = |len| parts.next().filter(|part| is_hex(part, len));
    let (Some(version), Some(trace), Some(span), Some(_flags)) = (next(2), next(32), next(16), next(2)) else {
        return false;
    };
    match version {
        "ff" => false,
        "00" if parts.next().is_some() => false,
        _ => !is_zero(trace) && !is_zero(span),
    }
}

/// The `traceparent` that says the same as the old pair, with the sampled flag set.
pub fn from_ids(trace_id: &str, span_id: &str) -> Option<String> {
    let value = format!("00-{trace_id}-{span_id}-01");
    is_valid(&value).then_some(value)
}

fn is_hex(part: &str, len: usize) -> bool {
    part.len() == len && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_zero(part: &str) -> bool {
    part.bytes().all(|b| b == b'0')
}
