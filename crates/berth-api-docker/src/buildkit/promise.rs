//! What a frontend call will come to: built when it is wanted, once.
//!
//! Clients that link builds (`target:` in bake, `service:` in Compose) take one call's result as another one's input.
//! They carry it as a definition in LLB that they do not look into: ours has one source, which is the promise's name.

use super::request::{self, Attrs, Prepared, check_frontend, unimplemented};
use super::solve::{failed, plain};
use super::{Door, progress::Progress};
use berth_buildkit::Message as _;
use berth_buildkit::grpc::{Code, Status};
use berth_buildkit::proto::Empty;
use berth_buildkit::proto::control::Definition;
use berth_buildkit::proto::gateway::{Input, Op, SourceOp};
use berth_engine::builds::{Message, OutputTo};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OnceCell;

/// Promises that are kept for whoever may want them; the oldest go first.
const PROMISES_MAX: usize = 4096;
/// Operations of an input's definition that are looked at.
const OPS_MAX: usize = 1024;
const SOURCE: &str = "docker-image://berth.invalid/";

/// A frontend, its options, and its inputs by their names.
#[derive(Clone, Default)]
pub(super) struct Asked {
    pub(super) frontend: String,
    pub(super) attrs: Attrs,
    pub(super) inputs: BTreeMap<String, Arc<Promise>>,
    pub(super) entitlements: Vec<String>,
}

pub(super) struct Promise {
    pub(super) name: String,
    pub(super) asked: Asked,
    session: String,
    progress: Arc<Progress>,
    image: OnceCell<Result<String, Status>>,
}

#[derive(Default)]
pub(super) struct Promises(Mutex<BTreeMap<u64, Arc<Promise>>>);

impl Promises {
    pub(super) fn make(&self, asked: Asked, session: &str, progress: &Arc<Progress>) -> Arc<Promise> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let promise = Arc::new(Promise {
            name: format!("promise-{number}"),
            asked,
            session: session.to_owned(),
            progress: progress.clone(),
            image: OnceCell::new(),
        });
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(number, promise.clone());
        if all.len() > PROMISES_MAX {
            all.pop_first();
        }
        promise
    }

    pub(super) fn get(&self, name: &str) -> Result<Arc<Promise>, Status> {
        let number = name.strip_prefix("promise-").and_then(|number| number.parse().ok());
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = number.and_then(|number: u64| all.get(&number).cloned());
        found.ok_or_else(|| Status::new(Code::NotFound, format!("unknown reference {name}")))
    }

    /// The promises that a call's inputs stand for.
    pub(super) fn inputs(
        &self,
        given: &BTreeMap<String, Definition>,
    ) -> Result<BTreeMap<String, Arc<Promise>>, Status> {
        let one = |(name, definition): (&String, &Definition)| {
            let source = definition.def.iter().take(OPS_MAX).find_map(|op| {
                let identifier = Op::decode(op.as_slice()).ok()?.source?.identifier;
                identifier.strip_prefix(SOURCE).map(str::to_owned)
            });
            let foreign =
                || unimplemented(format!("the input {name} is a definition in LLB, which this builder does not take"));
            Ok((name.clone(), self.get(&source.ok_or_else(foreign)?)?))
        };
        given.iter().map(one).collect()
    }
}

impl Promise {
    pub(super) fn definition(&self) -> Definition {
        let source = SourceOp { identifier: format!("{SOURCE}{}", self.name) };
        let first = Op { inputs: Vec::new(), source: Some(source) }.encode_to_vec();
        let digest = |op: &[u8]| format!("sha256:{}", hex(&Sha256::digest(op)));
        let input = Input { digest: digest(&first), index: 0 };
        let last = Op { inputs: vec![input], source: None }.encode_to_vec();
        let metadata = [&first, &last].map(|op| (digest(op), Empty {})).into();
        Definition { def: vec![first, last], metadata }
    }

    /// Whether somebody wanted it already.
    pub(super) fn is_built(&self) -> bool {
        self.image.get().is_some()
    }

    /// The image that it comes to, as the id that other builds begin with.
    pub(super) async fn image(&self, door: &Door) -> Result<String, Status> {
        // A build of builds: the future would contain itself.
        let build = Box::pin(self.build(door));
        self.image.get_or_init(|| build).await.clone()
    }

    async fn build(&self, door: &Door) -> Result<String, Status> {
        check_frontend(&self.asked.frontend, &self.asked.attrs)?;
        let session = door.sessions.get(&self.session).await?;
        let Prepared { mut request, transfers } =
            request::prepare(door, &session, &self.asked, &self.progress, None).await?;
        request.output = OutputTo::Image;
        let mut stream = door.engine.builds().build(request);
        while let Some(message) = stream.next().await {
            match message {
                Message::Event(event) => self.progress.event(event),
                Message::Note(text) => self.progress.begin(text).done(),
                Message::Archive(_) | Message::Cache(_) => {}
                Message::Failed(error) => return Err(failed(&error, &self.progress)),
                Message::Done(done) => {
                    transfers.into_iter().for_each(request::Open::close);
                    let image = done.image.map(|image| image.hex());
                    return image.ok_or_else(|| plain(&berth_types::Error::internal("the build made no image")));
                }
            }
        }
        Err(Status::internal("the build ended without a result"))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_is_found_again_in_the_definition_that_stands_for_it() {
        let promises = Promises::default();
        let promise = promises.make(Asked::default(), "s", &Arc::default());
        let definition = promise.definition();
        assert_eq!((definition.def.len(), definition.metadata.len()), (2, 2));
        let last = Op::decode(definition.def[1].as_slice()).unwrap();
        assert!(definition.metadata.contains_key(&last.inputs[0].digest));
        let given = BTreeMap::from([("base".to_owned(), definition)]);
        assert_eq!(promises.inputs(&given).unwrap()["base"].name, promise.name);
        let foreign = Definition { def: vec![vec![1, 2, 3]], ..Definition::default() };
        let refused = promises.inputs(&BTreeMap::from([("x".to_owned(), foreign)])).err().unwrap();
        assert_eq!(refused.code, Code::Unimplemented);
        assert!(promises.get("promise-0").is_err() && promises.get("other").is_err());
    }
}
