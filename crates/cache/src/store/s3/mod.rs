//! The store in a bucket.
//!
//! Small calls are tried three times at most, and only after what may pass by itself. Bytes that stream through are
//! sent once: whoever sends them can send them again.
//!
//! Races survived: the answer to a conditional write is lost (the repeated one finds its own content and has won); two
//! conditional writes meet (the bucket refuses one for now, and it is repeated); the process dies during a multipart
//! upload (the parts are nobody's until they are completed, and are removed later, here or by the bucket's own rule).

mod fault;
mod stream;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{Builder, StalledStreamProtectionConfig};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use aws_smithy_runtime_api::client::interceptors::SharedInterceptor;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use aws_types::SdkConfig;
use bytes::Bytes;
use domain::clock::{Clock, Timestamp, since};
use futures::{StreamExt, TryStreamExt};
use tokio::sync::{Semaphore, mpsc};

use self::fault::{Fault, attempts, found};
use self::stream::{Pipe, Source};
use super::{Cut, Error, Incoming, Listed, Object, Outcome, Outgoing, Page, Piece, Store, Tag, When};
use crate::layout::{Key, ROOT};
use crate::plan::{self, Part, Slice};

/// A small call ends within this, a connection is there within that.
const CALL: Duration = Duration::from_secs(15);
const CONNECT: Duration = Duration::from_secs(3);
/// What the bucket does with gigabytes of its own.
const COPY: Duration = Duration::from_secs(600);
/// Bytes may pause for so long before the bucket is given up.
const STALL: Duration = Duration::from_secs(60);
/// Life of a presigned address.
const PRESIGNED: Duration = Duration::from_secs(900);
/// A part of something whose length nobody told us: the only bytes that are held.
const HELD: usize = 8 << 20;
/// A part of something larger than one write can be.
const PART: u64 = 64 << 20;
/// Parts assembled at once, and those of them whose bytes pass through here.
const PARTS: usize = 16;
const STITCHES: usize = 4;
/// Times in the bucket are whole seconds.
const SECOND: Duration = Duration::from_secs(2);

/// See the module.
pub struct S3Store {
    calls: Client,
    copies: Client,
    streams: Client,
    bucket: String,
    clock: Arc<dyn Clock>,
}

fn time(at: Option<&DateTime>) -> Timestamp {
    at.and_then(|at| Timestamp::new(at.secs(), i32::try_from(at.subsec_nanos()).unwrap_or_default()).ok())
        .unwrap_or_default()
}

fn size(length: Option<i64>) -> u64 {
    length.and_then(|length| u64::try_from(length).ok()).unwrap_or_default()
}

fn length(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

impl S3Store {
    /// A store in this bucket. `interceptor` sees every call.
    pub fn new(
        sdk: &SdkConfig,
        interceptor: &SharedInterceptor,
        bucket: impl Into<String>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let client = |timeouts: TimeoutConfig| {
            let mut config = Builder::from(sdk)
                .retry_config(RetryConfig::disabled())
                .timeout_config(timeouts)
                .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
            config.push_interceptor(interceptor.clone());
            Client::from_conf(config.build())
        };
        let bounded = TimeoutConfig::builder().connect_timeout(CONNECT).operation_timeout(CALL).build();
        let long = TimeoutConfig::builder().connect_timeout(CONNECT).operation_timeout(COPY).build();
        let open = TimeoutConfig::builder().connect_timeout(CONNECT).build();
        let (calls, copies, streams) = (client(bounded), client(long), client(open));
        Self { calls, copies, streams, bucket: bucket.into(), clock }
    }

    async fn get_object(&self, key: &Key) -> Result<Option<Object>, Error> {
        let (got, _) = attempts(|| self.calls.get_object().bucket(&self.bucket).key(key.as_str()).send()).await;
        let Some(got) = found(got)? else { return Ok(None) };
        let tag = Tag(got.e_tag.unwrap_or_default());
        match tokio::time::timeout(CALL, got.body.collect()).await {
            Ok(Ok(bytes)) => Ok(Some(Object { bytes: bytes.into_bytes(), tag })),
            _ => Err(Error::Unavailable("an object ended early".to_owned())),
        }
    }

    /// Sends bytes while they arrive. `Err`: nothing was stored.
    async fn stream<T, E, F>(
        &self,
        source: &mut Source,
        length: u64,
        send: impl FnOnce(ByteStream) -> F,
    ) -> Result<T, Error>
    where
        E: ProvideErrorMetadata,
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    {
        let (pipe, bytes) = mpsc::channel(1);
        let sending = Box::pin(send(ByteStream::from_body_1_x(Pipe { bytes, left: length })));
        let cut = Mutex::new(None);
        let pump = async {
            let mut left = length;
            while left > 0 {
                let most = usize::try_from(left).unwrap_or(usize::MAX);
                let next = source.next(most).await.and_then(|bytes| bytes.ok_or(Cut::Early));
                left -= next.as_ref().map_or(0, |bytes| bytes.len() as u64);
                let failed = next.as_ref().err().cloned();
                let ended = failed.is_some();
                if ended {
                    *cut.lock().unwrap_or_else(PoisonError::into_inner) = failed;
                }
                if tokio::time::timeout(STALL, pipe.send(next)).await.is_err() || ended {
                    break;
                }
            }
            drop(pipe);
            // The bucket has everything; it may take a moment to say so.
            tokio::time::sleep(STALL).await;
        };
        let sent = tokio::select! {
            sent = sending => sent.map_err(|error| Error::from(Fault::from(error))),
            () = pump => Err(Error::Unavailable("the bucket does not take any more bytes".to_owned())),
        };
        match cut.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(cut) => Err(cut.into()),
            None => sent,
        }
    }

    async fn begin(&self, key: &Key) -> Result<String, Error> {
        let begin = || self.calls.create_multipart_upload().bucket(&self.bucket).key(key.as_str()).send();
        let (begun, _) = attempts(begin).await;
        begun?.upload_id.ok_or_else(|| Error::Unavailable("a multipart upload without an id".to_owned()))
    }

    /// Completes a multipart upload, or aborts it.
    async fn end(&self, key: &Key, id: &str, parts: Result<Vec<CompletedPart>, Error>) -> Result<(), Error> {
        let completed = match parts {
            Ok(mut parts) => {
                parts.sort_by_key(|part| part.part_number);
                let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
                let complete = || {
                    let call = self.copies.complete_multipart_upload().bucket(&self.bucket).key(key.as_str());
                    call.upload_id(id).multipart_upload(parts.clone()).send()
                };
                match attempts(complete).await {
                    (Ok(_), _) => Ok(()),
                    // The answer to an earlier try was lost: the upload is gone because it is complete.
                    (Err(Fault::Missing), true) if self.head(key).await?.is_some() => Ok(()),
                    (Err(fault), _) => Err(fault.into()),
                }
            }
            Err(error) => Err(error),
        };
        if completed.is_err() {
            let abort = self.calls.abort_multipart_upload().bucket(&self.bucket).key(key.as_str()).upload_id(id);
            // What this leaves behind is removed by age.
            let _ = Box::pin(abort.send()).await;
        }
        completed
    }

    async fn upload_part(&self, key: &Key, id: &str, number: i32, bytes: Bytes) -> Result<CompletedPart, Error> {
        let upload = || {
            let call = self.copies.upload_part().bucket(&self.bucket).key(key.as_str()).upload_id(id);
            call.part_number(number).body(bytes.clone().into()).send()
        };
        let (done, _) = attempts(upload).await;
        Ok(CompletedPart::builder().part_number(number).set_e_tag(done?.e_tag).build())
    }

    /// In parts, of which the first is given. `None` for the size: nobody knows how many will come.
    async fn in_parts(&self, key: &Key, size: Option<u64>, first: Bytes, source: &mut Source) -> Result<u64, Error> {
        let id = self.begin(key).await?;
        let part = size.map_or(PART, |size| PART.max(size.div_ceil(9_000)));
        let (mut parts, mut written, mut held) = (Vec::new(), 0, first);
        let sent = async {
            for number in 1.. {
                let done = if let Some(size) = size {
                    let length = part.min(size - written);
                    let upload = |body| {
                        let call = self.streams.upload_part().bucket(&self.bucket).key(key.as_str()).upload_id(&id);
                        call.part_number(number).content_length(self::length(length)).body(body).send()
                    };
                    let done = self.stream(source, length, upload).await?;
                    written += length;
                    CompletedPart::builder().part_number(number).set_e_tag(done.e_tag).build()
                } else {
                    written += held.len() as u64;
                    self.upload_part(key, &id, number, std::mem::take(&mut held)).await?
                };
                parts.push(done);
                match size {
                    Some(size) if written < size => {}
                    Some(_) => break,
                    None => {
                        // Ever larger, so that the number of parts stays within its limit.
                        let next = HELD.max(usize::try_from(written / 200).unwrap_or(HELD));
                        held = source.gather(next).await?;
                        if held.is_empty() {
                            break;
                        }
                    }
                }
            }
            Ok(parts)
        }
        .await;
        self.end(key, &id, sent).await.map(|()| written)
    }

    async fn slice(&self, pieces: &[Piece], slice: Slice) -> Result<Bytes, Error> {
        let piece = &pieces[slice.piece];
        let stream = self.read(&piece.key, slice.start, slice.length).await?;
        let stream = stream.ok_or_else(|| Error::Unavailable("a piece is gone".to_owned()))?;
        let parts: Vec<Bytes> = stream.try_collect().await?;
        Ok(parts.concat().into())
    }

    async fn part(
        &self,
        key: &Key,
        id: &str,
        (number, part): (i32, Part),
        pieces: &[Piece],
        stitching: &Semaphore,
    ) -> Result<CompletedPart, Error> {
        match part {
            Part::Copy(slice) => {
                let source = format!("{}/{}", self.bucket, pieces[slice.piece].key.as_str());
                let range = format!("bytes={}-{}", slice.start, slice.start + slice.length - 1);
                let copy = || {
                    let call = self.copies.upload_part_copy().bucket(&self.bucket).key(key.as_str()).upload_id(id);
                    call.part_number(number).copy_source(&source).copy_source_range(&range).send()
                };
                let (done, _) = attempts(copy).await;
                let etag = done?.copy_part_result.and_then(|result| result.e_tag);
                Ok(CompletedPart::builder().part_number(number).set_e_tag(etag).build())
            }
            Part::Stitch(slices) => {
                let _permit = stitching.acquire().await;
                let mut bytes = bytes::BytesMut::new();
                for slice in slices {
                    bytes.extend_from_slice(&self.slice(pieces, slice).await?);
                }
                self.upload_part(key, id, number, bytes.freeze()).await
            }
        }
    }
}

#[async_trait]
impl Store for S3Store {
    async fn get(&self, key: &Key) -> Result<Option<Object>, Error> {
        self.get_object(key).await
    }

    async fn put(&self, key: &Key, bytes: Bytes, when: When) -> Result<Outcome, Error> {
        let put = || {
            let call = self.calls.put_object().bucket(&self.bucket).key(key.as_str()).body(bytes.clone().into());
            match &when {
                When::Always => call,
                When::Absent => call.if_none_match("*"),
                When::Same(tag) => call.if_match(&tag.0),
            }
            .send()
        };
        match attempts(put).await {
            (Ok(_), _) => Ok(Outcome::Done),
            (Err(Fault::Condition | Fault::Missing), repeated) if when != When::Always => {
                let ours = repeated && self.get_object(key).await?.is_some_and(|object| object.bytes == bytes);
                Ok(if ours { Outcome::Done } else { Outcome::Lost })
            }
            (Err(fault), _) => Err(fault.into()),
        }
    }

    async fn publish(&self, key: &Key, bytes: Bytes, _data: &Key) -> Result<Outcome, Error> {
        self.put(key, bytes, When::Absent).await
    }

    async fn head(&self, key: &Key) -> Result<Option<Listed>, Error> {
        let (head, _) = attempts(|| self.calls.head_object().bucket(&self.bucket).key(key.as_str()).send()).await;
        Ok(found(head)?.map(|head| Listed {
            key: key.clone(),
            size: size(head.content_length),
            modified: time(head.last_modified.as_ref()),
        }))
    }

    async fn delete(&self, key: &Key) -> Result<(), Error> {
        let (done, _) = attempts(|| self.calls.delete_object().bucket(&self.bucket).key(key.as_str()).send()).await;
        found(done).map(|_| ())
    }

    async fn list(&self, prefix: &str, after: Option<String>) -> Result<Page, Error> {
        let list = || {
            let call = self.calls.list_objects_v2().bucket(&self.bucket).prefix(prefix);
            call.set_continuation_token(after.clone()).send()
        };
        let (page, _) = attempts(list).await;
        let page = page?;
        let objects = page.contents.unwrap_or_default().into_iter().filter_map(|object| {
            let modified = time(object.last_modified.as_ref());
            Some(Listed { key: Key::listed(object.key?), size: size(object.size), modified })
        });
        Ok(Page { objects: objects.collect(), next: page.next_continuation_token })
    }

    async fn write(&self, key: &Key, size: Option<u64>, bytes: Incoming) -> Result<u64, Error> {
        let mut source = Source::new(bytes);
        match size {
            Some(size) if size > plan::MAX => self.in_parts(key, Some(size), Bytes::new(), &mut source).await,
            Some(size) if size > 0 => {
                let put = |body| {
                    let call = self.streams.put_object().bucket(&self.bucket).key(key.as_str());
                    call.content_length(length(size)).body(body).send()
                };
                self.stream(&mut source, size, put).await?;
                Ok(size)
            }
            _ => {
                let first = source.gather(HELD).await?;
                if first.len() < HELD {
                    let size = first.len() as u64;
                    let _ = self.put(key, first, When::Always).await?;
                    return Ok(size);
                }
                self.in_parts(key, None, first, &mut source).await
            }
        }
    }

    async fn read(&self, key: &Key, start: u64, length: u64) -> Result<Option<Outgoing>, Error> {
        if length == 0 {
            return Ok(self.head(key).await?.map(|_| futures::stream::empty().boxed()));
        }
        let range = format!("bytes={start}-{}", start + length - 1);
        let (got, _) =
            attempts(|| self.calls.get_object().bucket(&self.bucket).key(key.as_str()).range(&range).send()).await;
        let Some(got) = found(got)? else { return Ok(None) };
        let short = || Error::Unavailable("an object ended early".to_owned());
        let stream = futures::stream::unfold(Some((got.body, length)), move |state| async move {
            let (mut body, left) = state?;
            match tokio::time::timeout(STALL, body.next()).await {
                Ok(Some(Ok(bytes))) if bytes.len() as u64 <= left => {
                    let left = left - bytes.len() as u64;
                    Some((Ok(bytes), Some((body, left))))
                }
                Ok(None) if left == 0 => None,
                _ => Some((Err(short()), None)),
            }
        });
        Ok(Some(stream.boxed()))
    }

    async fn assemble(&self, key: &Key, pieces: &[Piece]) -> Result<(), Error> {
        let total: u64 = pieces.iter().map(|piece| piece.size).sum();
        if total == 0 {
            return self.put(key, Bytes::new(), When::Always).await.map(|_| ());
        }
        if let [piece] = pieces
            && total <= plan::MAX
        {
            let source = format!("{}/{}", self.bucket, piece.key.as_str());
            let copy = || self.copies.copy_object().bucket(&self.bucket).key(key.as_str()).copy_source(&source).send();
            let (copied, _) = attempts(copy).await;
            copied?;
        } else {
            let sizes: Vec<u64> = pieces.iter().map(|piece| piece.size).collect();
            let id = self.begin(key).await?;
            let stitching = Semaphore::new(STITCHES);
            let numbered = (1..).zip(plan::parts(&sizes));
            let parts = futures::stream::iter(numbered.map(|part| self.part(key, &id, part, pieces, &stitching)));
            let parts = parts.buffer_unordered(PARTS).try_collect().await;
            self.end(key, &id, parts).await?;
        }
        match self.head(key).await? {
            Some(object) if object.size == total => Ok(()),
            _ => Err(Error::Unavailable("the pieces were not what they should have been".to_owned())),
        }
    }

    async fn presign(&self, key: &Key) -> Result<Option<String>, Error> {
        let presigned = PresigningConfig::expires_in(PRESIGNED).map_err(|e| Error::Unavailable(e.to_string()))?;
        let request = self.calls.get_object().bucket(&self.bucket).key(key.as_str()).presigned(presigned);
        let request = Box::pin(request).await.map_err(|error| Error::from(Fault::from(error)))?;
        Ok(Some(request.uri().to_owned()))
    }

    async fn clear_unfinished(&self, older: Duration) -> Result<usize, Error> {
        let list = || self.calls.list_multipart_uploads().bucket(&self.bucket).prefix(ROOT).send();
        let (page, _) = attempts(list).await;
        let (now, mut removed) = (self.clock.now(), 0);
        for upload in page?.uploads.unwrap_or_default() {
            let (Some(key), Some(id)) = (upload.key, upload.upload_id) else { continue };
            if since(now, time(upload.initiated.as_ref())) > older {
                let abort = || self.calls.abort_multipart_upload().bucket(&self.bucket).key(&key).upload_id(&id).send();
                found(attempts(abort).await.0)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn granularity(&self) -> Duration {
        SECOND
    }
}
