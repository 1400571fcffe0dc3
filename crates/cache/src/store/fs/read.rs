//! Bytes on their way out of a file.
//!
//! What the kernel has in memory is read on the spot, without the detour over another thread; what it would have to
//! fetch from the disk is read where waiting harms nobody. Buffers are used again: fresh memory costs more than copying.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::StreamExt;

use super::joined;
use crate::store::{Error, Outgoing};

/// Bytes read at once. Small enough to stay in the processor's cache on the way to the socket.
const CHUNK: usize = 256 << 10;
/// Buffers kept for later.
const SPARE: usize = 4;

type Spare = Arc<Mutex<Vec<Vec<u8>>>>;

/// A buffer that goes back when its bytes were sent.
struct Lent {
    buffer: Vec<u8>,
    length: usize,
    spare: Spare,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE {
            spare.push(std::mem::take(&mut self.buffer));
        }
    }
}

struct Reading {
    file: File,
    at: u64,
    left: u64,
    spare: Spare,
}

impl Reading {
    async fn next(mut self) -> (Result<Bytes, Error>, Option<Self>) {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffer = spare.unwrap_or_else(|| vec![0; CHUNK]);
        let most = usize::try_from(self.left).unwrap_or(CHUNK).min(CHUNK);
        let length = match at_once(&self.file, &mut buffer[..most], self.at) {
            Some(length) => length,
            None => {
                let (file, at) = (self.file, self.at);
                let waited = tokio::task::spawn_blocking(move || {
                    let length = file.read_at(&mut buffer[..most], at)?;
                    if length == 0 { Err(ErrorKind::UnexpectedEof.into()) } else { Ok((file, buffer, length)) }
                });
                match joined(waited).await {
                    Ok((file, read, length)) => {
                        (self.file, buffer) = (file, read);
                        length
                    }
                    Err(error) => return (Err(error), None),
                }
            }
        };
        self.at += length as u64;
        self.left -= length as u64;
        let bytes = Bytes::from_owner(Lent { buffer, length, spare: Arc::clone(&self.spare) });
        (Ok(bytes), Some(self).filter(|reading| reading.left > 0))
    }
}

/// What can be read without waiting; `None`: nothing, or nobody can tell.
#[cfg(target_os = "linux")]
fn at_once(file: &File, buffer: &mut [u8], at: u64) -> Option<usize> {
    use rustix::io::{ReadWriteFlags, preadv2};
    let read = preadv2(file, &mut [std::io::IoSliceMut::new(buffer)], at, ReadWriteFlags::NOWAIT);
    read.ok().filter(|length| *length > 0)
}

#[cfg(not(target_os = "linux"))]
fn at_once(_: &File, _: &mut [u8], _: u64) -> Option<usize> {
    None
}

/// `length` bytes from `start`.
pub(super) fn outgoing(file: File, start: u64, length: u64) -> Outgoing {
    let reading = Reading { file, at: start, left: length, spare: Spare::default() };
    let first = Some(reading).filter(|reading| reading.left > 0);
    futures::stream::unfold(first, |state| async move { Some(state?.next().await) }).boxed()
}
