//! A build from beginning to end.

use super::progress::{Progress, range};
use super::promise::{Asked, Promise};
use super::request::{self, Prepared, check_frontend, unimplemented};
use super::session::Session;
use super::{Door, send};
use crate::build::tag;
use berth_buildkit::grpc::{Code, Status};
use berth_buildkit::proto::control::{Exporter, SolveRequest, SolveResponse};
use berth_buildkit::proto::errdefs;
use berth_engine::builds::build::BuildError;
use berth_engine::builds::{Finished, Message, OutputTo};
use berth_engine::containers::ByteSource;
use berth_types::ErrorKind;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// Builds at the same time, with those that ended a moment ago.
const BUILDS_MAX: usize = 4096;
/// What a client may ask about a build after its end, or before its beginning.
const LINGER: Duration = Duration::from_secs(10);
const REFERENCE_BYTES_MAX: usize = 256;
/// Frontend calls of one build.
const CALLS_MAX: usize = 64;

#[derive(Default)]
pub(super) struct Builds(Arc<All>);

#[derive(Default)]
struct All {
    live: Mutex<BTreeMap<String, Arc<Live>>>,
    came: Notify,
}

/// A build that somebody asked for.
pub(super) struct Live {
    pub(super) progress: Arc<Progress>,
    session: String,
    pub(super) entitlements: Vec<String>,
    /// What the calls of a client that builds by calls will come to.
    calls: Mutex<Vec<Arc<Promise>>>,
    returned: Mutex<Option<oneshot::Sender<Returned>>>,
}

/// How a client's own calls ended.
pub(super) enum Returned {
    /// With what this reference stands for; `None`: with nothing.
    Result(Option<String>),
    Failed(Status),
}

impl Live {
    /// Its client's.
    pub(super) fn session(&self) -> &str {
        &self.session
    }

    /// A name for what `asked` will come to; it is built when that is wanted.
    pub(super) fn promise(&self, door: &Door, asked: Asked) -> Result<Arc<Promise>, Status> {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        if calls.len() >= CALLS_MAX {
            return Err(Status::new(
                Code::ResourceExhausted,
                format!("a build has more than {CALLS_MAX} frontend calls"),
            ));
        }
        let promise = door.promises.make(asked, &self.session, &self.progress);
        calls.push(promise.clone());
        Ok(promise)
    }

    fn promised(&self, name: &str) -> Result<Arc<Promise>, Status> {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls
            .iter()
            .find(|promise| promise.name == name)
            .cloned()
            .ok_or_else(|| Status::new(Code::NotFound, format!("unknown reference {name}")))
    }

    pub(super) fn give_back(&self, returned: Returned) -> Result<(), Status> {
        let sender = self.returned.lock().unwrap_or_else(PoisonError::into_inner).take();
        match sender {
            // A build that has ended meanwhile told its caller why.
            Some(sender) => drop(sender.send(returned)),
            None => return Err(Status::new(Code::FailedPrecondition, "this build has its result already")),
        }
        Ok(())
    }
}

impl Builds {
    fn begin(&self, request: &SolveRequest) -> Result<(Running, oneshot::Receiver<Returned>), Status> {
        let reference = request.reference.as_str();
        if reference.is_empty() || reference.len() > REFERENCE_BYTES_MAX {
            return Err(Status::new(Code::InvalidArgument, "a build needs a reference"));
        }
        let mut live = self.0.live.lock().unwrap_or_else(PoisonError::into_inner);
        if live.contains_key(reference) {
            return Err(Status::new(Code::AlreadyExists, format!("job ID {reference} exists")));
        }
        if live.len() >= BUILDS_MAX {
            return Err(Status::new(Code::ResourceExhausted, format!("{BUILDS_MAX} builds are running already")));
        }
        let (sender, receiver) = oneshot::channel();
        let build = Arc::new(Live {
            progress: Arc::default(),
            session: request.session.clone(),
            entitlements: request.entitlements.clone(),
            calls: Mutex::default(),
            returned: Mutex::new(Some(sender)),
        });
        live.insert(reference.to_owned(), build.clone());
        drop(live);
        self.0.came.notify_waiters();
        Ok((Running { all: self.0.clone(), reference: reference.to_owned(), build }, receiver))
    }

    /// A build, once it is there.
    pub(super) async fn get(&self, reference: &str) -> Result<Arc<Live>, Status> {
        let waiting = async {
            loop {
                let came = self.0.came.notified();
                let found = self.0.live.lock().unwrap_or_else(PoisonError::into_inner).get(reference).cloned();
                match found {
                    Some(build) => return build,
                    None => came.await,
                }
            }
        };
        let missing = |_| Status::new(Code::NotFound, format!("no such job {reference}"));
        tokio::time::timeout(LINGER, waiting).await.map_err(missing)
    }
}

/// A build while it runs. Dropping it, by whatever way, is its end.
struct Running {
    all: Arc<All>,
    reference: String,
    build: Arc<Live>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.build.progress.end();
        let (all, reference) = (self.all.clone(), std::mem::take(&mut self.reference));
        tokio::spawn(async move {
            tokio::time::sleep(LINGER).await;
            all.live.lock().unwrap_or_else(PoisonError::into_inner).remove(&reference);
        });
    }
}

/// A build that is known, and has not done anything yet.
pub(super) struct Begun {
    running: Running,
    returned: oneshot::Receiver<Returned>,
}

impl Begun {
    pub(super) fn new(door: &Door, request: &SolveRequest) -> Result<Begun, Status> {
        if request.definition.as_ref().is_some_and(|definition| !definition.def.is_empty()) {
            return Err(unimplemented("this builder takes Dockerfiles, no definitions in LLB"));
        }
        let (running, returned) = door.builds.begin(request)?;
        Ok(Begun { running, returned })
    }

    pub(super) fn progress(&self) -> Arc<Progress> {
        self.running.build.progress.clone()
    }

    /// `Control/Solve`; `posted`: the context, where it came with the request. Dropping the future cancels the build.
    pub(super) async fn run(
        self,
        door: &Door,
        request: SolveRequest,
        posted: Option<ByteSource>,
    ) -> Result<SolveResponse, Status> {
        let Begun { running, returned } = self;
        let session = door.sessions.get(&request.session).await?;
        let work = async {
            let progress = &running.build.progress;
            let mut told = progress.clone();
            let asked = match request.frontend.as_str() {
                "" => match returned.await {
                    Ok(Returned::Result(Some(name))) => {
                        let promise = running.build.promised(&name)?;
                        if promise.is_built() {
                            // Its steps were told then; they are all cached now.
                            told = Arc::default();
                        }
                        promise.asked.clone()
                    }
                    Ok(Returned::Result(None)) | Err(_) => return Ok(SolveResponse::default()),
                    Ok(Returned::Failed(status)) => return Err(status),
                },
                frontend => {
                    let (frontend, attrs) = (frontend.to_owned(), request.frontend_attrs.clone());
                    let inputs = door.promises.inputs(&request.frontend_inputs)?;
                    Asked { frontend, attrs, inputs, entitlements: request.entitlements.clone() }
                }
            };
            let exporter_response = build(door, &session, (&told, progress), (asked, posted), &request).await?;
            Ok(SolveResponse { exporter_response })
        };
        tokio::select! {
            outcome = work => outcome,
            () = session.gone() => Err(Status::new(Code::Cancelled, "the build's client has gone")),
        }
    }
}

async fn build(
    door: &Door,
    session: &Arc<Session>,
    (told, progress): (&Arc<Progress>, &Arc<Progress>),
    (asked, posted): (Asked, Option<ByteSource>),
    request: &SolveRequest,
) -> Result<BTreeMap<String, String>, Status> {
    check_frontend(&asked.frontend, &asked.attrs)?;
    let output = Output::of(request)?;
    let elsewhere = super::caches::elsewhere(request.cache.as_ref(), &asked.attrs)?;
    let Prepared { mut request, transfers } = request::prepare(door, session, &asked, told, posted).await?;
    let result = match &output {
        Output::Nothing => OutputTo::Nothing,
        Output::Image { .. } => OutputTo::Image,
        Output::Folder => OutputTo::Tree,
        Output::Archive => OutputTo::Files,
    };
    request.output = result;
    request.elsewhere = elsewhere;
    if let Output::Image { names } = &output {
        request.tags = names.iter().map(|name| tag(name)).collect::<Result<_, _>>().map_err(|error| plain(&error))?;
    }
    let mut stream = door.engine.builds().build(request);
    let mut archive: Option<(send::Archive, super::progress::Step, u64)> = None;
    while let Some(message) = stream.next().await {
        match message {
            Message::Event(event) => told.event(event),
            Message::Note(text) => progress.begin(text).done(),
            // A cache as a folder was not asked for.
            Message::Cache(_) => {}
            Message::Archive(bytes) => {
                let (to, _, sent) = match &mut archive {
                    Some(open) => open,
                    None => archive.insert((
                        send::Archive::begin(session)?,
                        progress.begin("exporting to client tarball"),
                        0,
                    )),
                };
                *sent += bytes.len() as u64;
                to.write(bytes).await?;
            }
            Message::Failed(error) => return Err(failed(&error, told)),
            Message::Done(done) => {
                // Contents are not needed any more.
                transfers.into_iter().for_each(request::Open::close);
                if let Some((to, step, sent)) = archive {
                    to.finish().await?;
                    step.part("sending tarball", sent);
                    step.done();
                }
                return export(session, progress, &output, *done).await;
            }
        }
    }
    Err(Status::internal("the build ended without a result"))
}

/// What becomes of the result.
enum Output {
    Nothing,
    Image { names: Vec<String> },
    Folder,
    Archive,
}

impl Output {
    fn of(request: &SolveRequest) -> Result<Output, Status> {
        let old = Exporter { kind: request.exporter.clone(), attrs: request.exporter_attrs.clone() };
        let exporter = match request.exporters.as_slice() {
            [] if old.kind.is_empty() => return Ok(Output::Nothing),
            [] => &old,
            [one] => one,
            _ => return Err(unimplemented("this builder has one output a build")),
        };
        match exporter.kind.as_str() {
            "moby" | "image" => {
                let names = exporter.attrs.get("name").map(String::as_str).unwrap_or_default();
                let names = names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
                Ok(Output::Image { names })
            }
            "local" => Ok(Output::Folder),
            "tar" => Ok(Output::Archive),
            other => Err(unimplemented(format!("this builder has no output {other:?}: image, local or tar"))),
        }
    }
}

/// What is left to do after the last step, and what the client is told.
async fn export(
    session: &Session,
    progress: &Arc<Progress>,
    output: &Output,
    done: Finished,
) -> Result<BTreeMap<String, String>, Status> {
    let mut said = BTreeMap::new();
    match output {
        Output::Nothing | Output::Archive => {}
        Output::Image { names } => {
            let step = progress.begin("exporting to image");
            let image = done.image.ok_or_else(|| Status::internal("the build made no image"))?.to_string();
            step.part("exporting layers", 0);
            step.part(&format!("writing image {image}"), 0);
            let full: Vec<String> = names.iter().filter_map(|name| Some(tag(name).ok()?.to_string())).collect();
            full.iter().for_each(|name| step.part(&format!("naming to {name}"), 0));
            step.done();
            said.insert("containerimage.config.digest".to_owned(), image.clone());
            said.insert("containerimage.digest".to_owned(), image);
            if !full.is_empty() {
                said.insert("image.name".to_owned(), full.join(","));
            }
        }
        Output::Folder => {
            let step = progress.begin("exporting to client directory");
            let files = done.files.ok_or_else(|| Status::internal("the build gave no files"))?;
            match send::folder(session, files).await {
                Ok(bytes) => step.part("copying files", bytes),
                Err(status) => {
                    step.failed(&status.message);
                    return Err(status);
                }
            }
            step.done();
        }
    }
    Ok(said)
}

pub(super) fn plain(error: &berth_types::Error) -> Status {
    let code = match error.kind {
        ErrorKind::Cancelled => Code::Cancelled,
        ErrorKind::NotImplemented => Code::Unimplemented,
        // Clients print every other code before the text, as if it were news.
        _ => Code::Unknown,
    };
    let hint = error.hint.as_ref().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
    Status::new(code, format!("{error}{hint}"))
}

/// A failed build: the client shows the lines and the step by what is sent along.
pub(super) fn failed(error: &BuildError, progress: &Progress) -> Status {
    let mut told = error.error.clone();
    // The step's output was shown already.
    told.causes.retain(|cause| !cause.starts_with("last output:\n"));
    let mut status = plain(&told);
    if let Some(digest) = error.step.and_then(|step| progress.digest_of(step)) {
        status.details.push(errdefs::vertex(&digest));
    }
    match (error.lines, progress.definition()) {
        (Some(lines), Some(info)) => status.details.push(errdefs::source(&info, &[range(lines.first, lines.last)])),
        _ if !error.snippet.is_empty() => status.message.push_str(&format!("\n{}", error.snippet)),
        _ => {}
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_read_of_old_and_new_clients() {
        let exporter = |kind: &str| Exporter {
            kind: kind.to_owned(),
            attrs: BTreeMap::from([("name".to_owned(), "a:1,b".to_owned())]),
        };
        let of = |request: SolveRequest| Output::of(&request);
        assert!(matches!(of(SolveRequest::default()), Ok(Output::Nothing)));
        let old = SolveRequest { exporter: "local".to_owned(), ..SolveRequest::default() };
        assert!(matches!(of(old), Ok(Output::Folder)));
        let new = SolveRequest { exporters: vec![exporter("moby")], ..SolveRequest::default() };
        assert!(matches!(of(new), Ok(Output::Image { names }) if names == ["a:1", "b"]));
        for bad in [vec![exporter("oci")], vec![exporter("tar"), exporter("local")]] {
            let request = SolveRequest { exporters: bad, ..SolveRequest::default() };
            assert_eq!(Output::of(&request).err().map(|status| status.code), Some(Code::Unimplemented));
        }
    }

    #[tokio::test]
    async fn a_reference_is_one_builds_alone_and_its_end_is_heard_afterwards() {
        let builds = Builds::default();
        let request = SolveRequest { reference: "a".to_owned(), ..SolveRequest::default() };
        let (running, _returned) = builds.begin(&request).unwrap();
        assert_eq!(builds.begin(&request).err().map(|status| status.code), Some(Code::AlreadyExists));
        let live = builds.get("a").await.unwrap();
        assert!(live.promised("other").is_err());
        live.give_back(Returned::Result(None)).unwrap();
        assert!(live.give_back(Returned::Result(None)).is_err());
        drop(running);
        assert!(builds.get("a").await.is_ok());
    }
}
