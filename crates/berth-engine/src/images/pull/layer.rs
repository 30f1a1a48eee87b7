//! One layer on its way in, shared by all pulls that want it.
//!
//! ```text
//! registry ──> BlobReader ──> channel ──> Ingest: hash, unfinished blob on the disk     a blocking thread
//!              (async)                       └ Follower ──> unpack ──> staged layer      another one, and unpack's own
//! ```
//!
//! The blob stays unfinished on the disk until the image is recorded: a cut, a cancelled pull or a killed engine goes on
//! where it was. Nobody left who wants the layer: the job is aborted, what was unpacked goes, the blob's bytes stay.

use super::super::shared::Shared;
use crate::full;
use berth_content::{ContentError, Ingest};
use berth_image::UnpackError;
use berth_registry::{Descriptor, Notice, RegistryError, Repository, Sources};
use berth_snapshot::StagedLayer;
use berth_types::{Digest, Error, ErrorKind, Result};
use bytes::Bytes;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};

/// Pieces between the network and the disk.
const PIECES_MAX: usize = 8;
/// Somebody else writes the same blob: a build, or the rest of a job that was just given up.
const BUSY_TRIES: u32 = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// Of bytes that are no layer so little is fetched all the same, to know whether they are the right ones.
const LITTLE_BYTES: u64 = 4 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// For its turn.
    Waiting,
    Downloading,
    /// All bytes are here and right.
    Extracting,
    Done,
    Failed(Error),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    pub step: Step,
    /// Bytes of the packed layer.
    pub downloaded: u64,
    pub unpacked: u64,
    /// The registry asks for time: nothing happens before.
    pub waits_until: Option<Instant>,
    /// Mirrors that failed on the way, and why.
    pub passed_over: Vec<String>,
}

/// A layer that is being fetched; dropping the last one ends the work.
pub(in super::super) struct LayerJob {
    state: watch::Receiver<State>,
    staged: Arc<Mutex<Option<StagedLayer>>>,
    task: AbortHandle,
}

impl Drop for LayerJob {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the work needs.
struct Work {
    shared: Arc<Shared>,
    repository: Repository,
    descriptor: Descriptor,
    diff_id: Digest,
    state: Arc<watch::Sender<State>>,
}

/// One try that failed.
enum Failure {
    /// Bytes of an earlier try were wrong.
    Stale,
    /// A mirror's were, and it is not asked again.
    Blamed,
    For(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::For(error)
    }
}

impl LayerJob {
    /// The job that fetches this layer, begun where there is none.
    pub(super) fn get(
        shared: &Arc<Shared>,
        repository: &Repository,
        descriptor: &Descriptor,
        diff_id: Digest,
    ) -> Arc<LayerJob> {
        let mut jobs = shared.registries.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.retain(|_, job| job.strong_count() > 0);
        let key = (descriptor.digest, diff_id);
        let running = jobs.get(&key).and_then(std::sync::Weak::upgrade);
        if let Some(job) = running
            && !matches!(job.state.borrow().step, Step::Failed(_))
        {
            return job;
        }
        let (sender, state) = watch::channel(State {
            step: Step::Waiting,
            downloaded: 0,
            unpacked: 0,
            waits_until: None,
            passed_over: Vec::new(),
        });
        let sender = Arc::new(sender);
        let told = sender.clone();
        // Whoever shares this work is told, not only the pull that began it.
        let repository = repository.telling(Arc::new(move |notice| {
            told.send_modify(|state| match notice {
                Notice::Waits { wait, .. } => state.waits_until = Some(Instant::now() + wait),
                Notice::Mirror { .. } => state.passed_over.push(notice.to_string()),
            });
        }));
        let work = Work { shared: shared.clone(), repository, descriptor: descriptor.clone(), diff_id, state: sender };
        let staged = Arc::new(Mutex::new(None));
        let result = staged.clone();
        let task = tokio::spawn(async move {
            let step = match work.run().await {
                Ok(layer) => {
                    *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(layer);
                    Step::Done
                }
                Err(error) => Step::Failed(error),
            };
            work.state.send_modify(|state| state.step = step);
        });
        let job = Arc::new(LayerJob { state, staged, task: task.abort_handle() });
        jobs.insert(key, Arc::downgrade(&job));
        job
    }

    pub(super) fn watch(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// The layer, for whoever makes it visible; `None` where somebody else did.
    pub(super) fn take(&self) -> Option<StagedLayer> {
        self.staged.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Runs on a thread that may block; a panic there is an error.
fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    tokio::task::spawn_blocking(work)
}

async fn joined<T>(handle: &mut JoinHandle<T>) -> Result<T> {
    handle.await.map_err(|cause| Error::internal(format!("work on a layer ended early: {cause}")))
}

impl Work {
    async fn run(&self) -> Result<StagedLayer> {
        let turns = self.shared.registries.downloads.clone();
        let _turn = turns.acquire_owned().await.map_err(|_| Error::internal("the engine is closing"))?;
        let mut was_stale = false;
        loop {
            match self.attempt().await {
                Ok(layer) => return Ok(layer),
                // There are only so many mirrors.
                Err(Failure::Blamed) => {}
                Err(Failure::Stale) if !was_stale => {
                    was_stale = true;
                    tracing::warn!(digest = %self.descriptor.digest, "what was there of a blob was damaged: fetched again");
                }
                Err(Failure::Stale) => {
                    let what = format!("blob {} is damaged on the disk", self.descriptor.digest.short());
                    return Err(Error::new(ErrorKind::DataLoss, what));
                }
                Err(Failure::For(error)) => return Err(error),
            }
        }
    }

    async fn attempt(&self) -> Result<StagedLayer, Failure> {
        let ingest = self.ingest().await?;
        let offset = ingest.offset();
        self.state.send_modify(|state| (state.step, state.downloaded, state.unpacked) = (Step::Downloading, offset, 0));
        let follower = ingest.follow().map_err(|cause| content_failed(&self.descriptor, &cause))?;
        let counted = Counted { inner: follower, state: self.state.clone() };
        let (shared, diff_id) = (self.shared.clone(), self.diff_id);
        let mut unpacking = on_thread(move || berth_image::unpack(shared.disk.snapshots(), counted, Some(&diff_id)));
        let written = self.download(ingest, offset, &mut unpacking).await;
        let checked = match written {
            Ok(written) => {
                let Written { ingest, sources, no_layer } = written;
                let mut checking = on_thread(move || ingest.park());
                match joined(&mut checking).await? {
                    // The right bytes, and no layer.
                    Ok(()) => no_layer.map_or(Ok(()), |error| {
                        self.forget();
                        Err(error.into())
                    }),
                    Err(cause) => Err(self.wrong(&cause, &sources)),
                }
            }
            Err(failure) => Err(failure),
        };
        if checked.is_ok() {
            self.state.send_modify(|state| state.step = Step::Extracting);
        }
        // Its reader has ended either way; a failed download's own error says more than what came of it.
        let unpacked =
            if unpacking.is_finished() && checked.is_err() { None } else { Some(joined(&mut unpacking).await?) };
        checked?;
        match unpacked {
            Some(Ok(unpacked)) => Ok(unpacked.layer),
            Some(Err(cause)) => {
                // Right bytes that are no layer, or no room for it: they are not wanted again.
                self.forget();
                Err(unpack_failed(&self.descriptor, &cause).into())
            }
            None => Err(Error::internal("unpacking ended twice").into()),
        }
    }

    /// What it means that all bytes are there and are not the layer.
    fn wrong(&self, cause: &ContentError, sources: &Sources) -> Failure {
        let ContentError::Digest { found, resumed, .. } = cause else {
            return content_failed(&self.descriptor, cause).into();
        };
        if self.repository.blame(sources, &self.descriptor, *found) {
            return Failure::Blamed;
        }
        if *resumed {
            return Failure::Stale;
        }
        wrong_bytes(&self.descriptor, &self.repository.wrong_blob(sources, &self.descriptor, *found)).into()
    }

    async fn ingest(&self) -> Result<Ingest, Failure> {
        let (digest, size) = (self.descriptor.digest, self.descriptor.size);
        for _ in 0..BUSY_TRIES {
            let shared = self.shared.clone();
            let mut beginning = on_thread(move || shared.disk.blobs().ingest(&digest, Some(size)));
            match joined(&mut beginning).await? {
                Ok(ingest) => return Ok(ingest),
                Err(ContentError::Busy(_)) => tokio::time::sleep(BUSY_PAUSE).await,
                Err(cause) => return Err(content_failed(&self.descriptor, &cause).into()),
            }
        }
        Err(content_failed(&self.descriptor, &ContentError::Busy(digest)).into())
    }

    /// Brings the blob's bytes to the disk, until they are all there.
    async fn download(
        &self,
        mut ingest: Ingest,
        offset: u64,
        unpacking: &mut JoinHandle<Result<berth_image::Unpacked, UnpackError>>,
    ) -> Result<Written, Failure> {
        let (pieces, mut arriving) = mpsc::channel::<Bytes>(PIECES_MAX);
        let mut writing = on_thread(move || {
            while let Some(piece) = arriving.blocking_recv() {
                ingest.write(&piece)?;
            }
            Ok::<Ingest, ContentError>(ingest)
        });
        let mut reader = self.repository.blob(&self.descriptor, offset);
        let mut no_layer = None;
        let fetched: Result<(), Failure> = loop {
            tokio::select! {
                piece = reader.next() => match piece {
                    Ok(Some(piece)) => {
                        // The writer has failed: its own error comes below.
                        if pieces.send(piece).await.is_err() {
                            break Ok(());
                        }
                        self.state.send_modify(|state| {
                            (state.downloaded, state.waits_until) = (reader.position(), None);
                        });
                    }
                    Ok(None) => break Ok(()),
                    Err(cause) => break Err(fetch_failed(&self.descriptor, &cause).into()),
                },
                // It cannot be done before the bytes are.
                ended = &mut *unpacking, if no_layer.is_none() => match ended {
                    // The digest, when all bytes are here, says whose fault it is: a mirror's may be better elsewhere.
                    Ok(Err(cause)) if cause.is_archive() && (reader.is_of_mirror() || reader.left() <= LITTLE_BYTES) => {
                        no_layer = Some(unpack_failed(&self.descriptor, &cause));
                    }
                    Ok(Err(cause)) => break Err(unpack_failed(&self.descriptor, &cause).into()),
                    Ok(Ok(_)) => break Err(Error::internal("a layer was unpacked before it was there").into()),
                    Err(cause) => break Err(Error::internal(format!("unpacking ended early: {cause}")).into()),
                },
            }
        };
        drop(pieces);
        let written = joined(&mut writing).await?;
        match (fetched, written) {
            (Ok(()), Ok(ingest)) => Ok(Written { ingest, sources: reader.sources(), no_layer }),
            (Err(failure), Ok(ingest)) => {
                drop(ingest);
                if let Failure::For(error) = &failure
                    && (full::is_told(error) || error.kind == ErrorKind::DataLoss)
                {
                    self.forget();
                }
                Err(failure)
            }
            (_, Err(cause)) => {
                // Half a blob on a full disk helps nobody.
                if full::is_behind(&cause) {
                    self.forget();
                }
                Err(content_failed(&self.descriptor, &cause).into())
            }
        }
    }

    /// Lets go of the unfinished blob.
    fn forget(&self) {
        if let Err(cause) = self.shared.disk.blobs().remove(&self.descriptor.digest) {
            tracing::warn!(%cause, digest = %self.descriptor.digest, "an unfinished blob is still on the disk");
        }
    }
}

/// All bytes of a blob, not yet checked.
struct Written {
    ingest: Ingest,
    sources: Sources,
    /// Why they could not be unpacked, where that is so: `unpacking` has been joined then.
    no_layer: Option<Error>,
}

fn fetch_failed(descriptor: &Descriptor, cause: &RegistryError) -> Error {
    let kind = match cause {
        RegistryError::Damaged { .. } | RegistryError::WrongDigest { .. } => ErrorKind::DataLoss,
        cause if cause.is_not_found() => ErrorKind::NotFound,
        cause if cause.is_denied() => ErrorKind::Forbidden,
        _ => ErrorKind::Unavailable,
    };
    Error::because(kind, format!("cannot fetch layer {}", descriptor.digest.short()), cause)
}

fn content_failed(descriptor: &Descriptor, cause: &ContentError) -> Error {
    let action = format!("cannot store layer {}", descriptor.digest.short());
    match cause {
        ContentError::Digest { .. } | ContentError::Size { .. } => wrong_bytes(descriptor, cause),
        cause => full::or_here(ErrorKind::Internal, action, cause),
    }
}

/// Docker's words.
fn wrong_bytes(descriptor: &Descriptor, cause: &(dyn std::error::Error + 'static)) -> Error {
    let what = format!("filesystem layer verification failed for digest {}", descriptor.digest);
    Error::because(ErrorKind::DataLoss, what, cause)
}

fn unpack_failed(descriptor: &Descriptor, cause: &UnpackError) -> Error {
    let action = format!("failed to register layer {}", descriptor.digest.short());
    let kind = if cause.is_archive() { ErrorKind::DataLoss } else { ErrorKind::Internal };
    full::or_here(kind, action, cause)
}

/// Tells how far unpacking is.
struct Counted<R> {
    inner: R,
    state: Arc<watch::Sender<State>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.state.send_modify(|state| state.unpacked += count as u64);
        Ok(count)
    }
}
