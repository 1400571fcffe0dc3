//! Bytes on their way into the bucket.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::StreamExt;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

use crate::store::{Cut, Incoming};

/// A body that is written on one side and sent on the other.
pub(super) struct Pipe {
    pub(super) bytes: mpsc::Receiver<Result<Bytes, Cut>>,
    pub(super) left: u64,
}

impl Body for Pipe {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        self.bytes.poll_recv(cx).map(|next| {
            next.map(|bytes| {
                let bytes = bytes?;
                self.left = self.left.saturating_sub(bytes.len() as u64);
                Ok(Frame::data(bytes))
            })
        })
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Bytes that arrive, cut into pieces of our choosing.
pub(super) struct Source {
    bytes: Incoming,
    rest: Bytes,
}

impl Source {
    pub(super) fn new(bytes: Incoming) -> Self {
        Self { bytes, rest: Bytes::new() }
    }

    /// At least one byte and at most so many; `None` at the end.
    pub(super) async fn next(&mut self, most: usize) -> Result<Option<Bytes>, Cut> {
        while self.rest.is_empty() {
            match self.bytes.next().await.transpose()? {
                Some(bytes) => self.rest = bytes,
                None => return Ok(None),
            }
        }
        Ok(Some(self.rest.split_to(most.min(self.rest.len()))))
    }

    /// Up to so many bytes at once.
    pub(super) async fn gather(&mut self, most: usize) -> Result<Bytes, Cut> {
        let mut gathered = bytes::BytesMut::new();
        while gathered.len() < most
            && let Some(bytes) = self.next(most - gathered.len()).await?
        {
            gathered.extend_from_slice(&bytes);
        }
        Ok(gathered.freeze())
    }
}
