//! The runner's output: cut into lines, read for evidence. Pure.

use crate::core::Evidence;

/// Longer lines are passed on in pieces of this many bytes.
pub const PIECE: usize = 64 * 1024;
/// No more different pieces of evidence than this are passed on from one stream.
const MOST_EVIDENCE: usize = 16;

/// Cuts a byte stream into lines, holding back at most one piece.
#[derive(Debug, Default)]
pub struct Lines {
    pending: Vec<u8>,
}

impl Lines {
    /// Takes in what was read and calls `emit` for every line or piece that is complete, without its line end.
    pub fn feed(&mut self, bytes: &[u8], mut emit: impl FnMut(&str)) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (mut text, ended) = match part.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (part, false),
            };
            while self.pending.len() + text.len() > PIECE {
                let (head, tail) = text.split_at(PIECE - self.pending.len());
                self.pending.extend_from_slice(head);
                self.flush(&mut emit);
                text = tail;
            }
            self.pending.extend_from_slice(text);
            if ended {
                if self.pending.last() == Some(&b'\r') {
                    self.pending.pop();
                }
                emit(&String::from_utf8_lossy(&self.pending));
                self.pending.clear();
            }
        }
    }

    /// Calls `emit` for what is left at the end of the stream.
    pub fn end(&mut self, mut emit: impl FnMut(&str)) {
        if !self.pending.is_empty() {
            self.flush(&mut emit);
        }
    }

    fn flush(&mut self, emit: &mut impl FnMut(&str)) {
        emit(&String::from_utf8_lossy(&self.pending));
        self.pending.clear();
    }
}

/// What one line of the runner's standard output says.
pub fn evidence(line: &str) -> Option<Evidence> {
    const UNKNOWN_CODE: &str = "Exiting with unknown error code: ";
    if line.contains("Listening for Jobs") {
        Some(Evidence::Listening)
    } else if line.contains("Running job:") {
        Some(Evidence::JobReceived)
    } else if line.contains("completed with result:") {
        Some(Evidence::JobCompleted)
    } else if line.contains("Runner listener exit with terminated error") {
        Some(Evidence::ListenerFailed(1))
    } else if line.contains("Runner listener exit with Session Conflict error") {
        Some(Evidence::ListenerFailed(5))
    } else if let Some((_, code)) = line.split_once(UNKNOWN_CODE) {
        let digits = code.find(|c: char| !c.is_ascii_digit() && c != '-').map_or(code, |end| &code[..end]);
        digits.parse().ok().map(Evidence::ListenerFailed)
    } else if line.contains("Restarting runner...") {
        Some(Evidence::Retrying)
    } else {
        None
    }
}

/// Passes on each piece of evidence once, so that a chatty job cannot flood its reader.
#[derive(Debug, Default)]
pub struct News {
    seen: Vec<Evidence>,
}

impl News {
    /// The evidence in `line`, if it is new.
    pub fn of(&mut self, line: &str) -> Option<Evidence> {
        let evidence = evidence(line)?;
        if self.seen.contains(&evidence) || self.seen.len() >= MOST_EVIDENCE {
            return None;
        }
        self.seen.push(evidence);
        Some(evidence)
    }
}

#[cfg(test)]
mod tests;
