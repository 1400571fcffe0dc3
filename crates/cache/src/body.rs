//! A request's body on its way to the store: bounded, and checked before its last bytes are let through.
//!
//! The last bytes are held back until everything announced about the body has proven true. A store that was told a
//! length takes the object for complete the moment it has that many bytes; so it must never get them from a body that
//! is wrong.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt;
use md5::{Digest, Md5};

use crate::store::{Cut, Incoming};

/// A body may pause for so long.
pub(crate) const IDLE: Duration = Duration::from_secs(60);

/// What is known of a body before it arrives.
#[derive(Debug, Clone, Default)]
pub(crate) struct Announced {
    /// Its exact length.
    pub(crate) length: Option<u64>,
    /// The most it may have.
    pub(crate) most: u64,
    /// `Content-MD5`.
    pub(crate) md5: Option<Vec<u8>>,
    /// `x-ms-content-crc64`, in the order it is sent in.
    pub(crate) crc64: Option<[u8; 8]>,
}

struct Reading {
    body: axum::body::BodyDataStream,
    announced: Announced,
    seen: u64,
    md5: Option<Md5>,
    crc64: Option<crc64fast_nvme::Digest>,
    held: Option<Bytes>,
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Bytes>, Cut> {
        loop {
            let Ok(next) = tokio::time::timeout(IDLE, self.body.next()).await else { return Err(Cut::Early) };
            match next {
                Some(Ok(bytes)) if bytes.is_empty() => {}
                Some(Ok(bytes)) => {
                    self.seen += bytes.len() as u64;
                    if self.announced.length.is_some_and(|length| self.seen > length) {
                        return Err(Cut::Late);
                    }
                    if self.seen > self.announced.most {
                        return Err(Cut::TooLarge);
                    }
                    if let Some(md5) = &mut self.md5 {
                        md5.update(&bytes);
                    }
                    if let Some(crc64) = &mut self.crc64 {
                        crc64.write(&bytes);
                    }
                    if let Some(ready) = self.held.replace(bytes) {
                        return Ok(Some(ready));
                    }
                }
                Some(Err(_)) => return Err(Cut::Early),
                None => {
                    let Some(last) = self.held.take() else {
                        // Nothing at all arrived, or everything was let through already.
                        return if self.seen == 0 { self.verify().map(|()| None) } else { Ok(None) };
                    };
                    self.verify()?;
                    return Ok(Some(last));
                }
            }
        }
    }

    fn verify(&mut self) -> Result<(), Cut> {
        if self.announced.length.is_some_and(|length| self.seen < length) {
            return Err(Cut::Early);
        }
        if self.md5.take().map(|md5| md5.finalize().to_vec()) != self.announced.md5 {
            return Err(Cut::Md5);
        }
        if self.crc64.take().map(|crc64| crc64.sum64().to_le_bytes()) != self.announced.crc64 {
            return Err(Cut::Crc64);
        }
        Ok(())
    }
}

/// The body as a store takes it.
pub(crate) fn incoming(body: Body, announced: Announced) -> Incoming {
    let reading = Reading {
        body: body.into_data_stream(),
        md5: announced.md5.is_some().then(Md5::new),
        crc64: announced.crc64.is_some().then(crc64fast_nvme::Digest::new),
        announced,
        seen: 0,
        held: None,
    };
    // After an error the stream is over: the body cannot be trusted any further.
    futures::stream::unfold(Some(reading), |state| async move {
        let mut reading = state?;
        match reading.next().await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some(reading))),
            Ok(None) => None,
            Err(cut) => Some((Err(cut), None)),
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;

    use super::*;

    async fn through(chunks: &[&'static str], announced: Announced) -> (Vec<u8>, Option<Cut>) {
        let parts: Vec<Result<_, std::io::Error>> =
            chunks.iter().map(|c| Ok(Bytes::from_static(c.as_bytes()))).collect();
        let mut stream = incoming(Body::from_stream(futures::stream::iter(parts)), announced);
        let mut seen = Vec::new();
        loop {
            match stream.try_next().await {
                Ok(Some(bytes)) => seen.extend_from_slice(&bytes),
                Ok(None) => return (seen, None),
                Err(cut) => return (seen, Some(cut)),
            }
        }
    }

    fn exactly(length: u64) -> Announced {
        Announced { length: Some(length), most: 100, ..Announced::default() }
    }

    #[tokio::test]
    async fn nothing_wrong_is_ever_complete() {
        let md5 = |hex: &str| Announced { md5: Some(hex::decode(hex).expect("hex")), ..exactly(6) };
        let crc = |crc: u64| Announced { crc64: Some(crc.to_le_bytes()), ..exactly(6) };
        let mut digest = crc64fast_nvme::Digest::new();
        digest.write(b"foobar");
        let sum = digest.sum64();
        let good = [
            exactly(6),
            md5("3858f62230ac3c915f300c664312c63f"),
            crc(sum),
            Announced { most: 6, ..Announced::default() },
        ];
        for announced in good {
            assert_eq!(through(&["foo", "", "bar"], announced).await, (b"foobar".to_vec(), None));
        }
        for (announced, cut) in [
            (exactly(7), Cut::Early),
            (exactly(5), Cut::Late),
            (Announced { most: 5, ..Announced::default() }, Cut::TooLarge),
            (md5("00000000000000000000000000000000"), Cut::Md5),
            (crc(sum ^ 1), Cut::Crc64),
        ] {
            let (seen, result) = through(&["foo", "bar"], announced).await;
            assert_eq!(result, Some(cut));
            assert!(seen.len() < 5, "the last bytes were held back");
        }
        assert_eq!(through(&[], exactly(0)).await, (Vec::new(), None));
        assert_eq!(through(&[], exactly(1)).await, (Vec::new(), Some(Cut::Early)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stalls_is_given_up() {
        let stalled = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(incoming(stalled, exactly(5)).next().await, Some(Err(Cut::Early)));
    }
}
