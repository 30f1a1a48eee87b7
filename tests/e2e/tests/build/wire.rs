//! BuildKit's door without any plugin: a small client of our own that speaks the protocol, well and badly.

use crate::common::{Context, id, sh};
use berth_buildkit::grpc::{Call, Channel, Code, HeaderMap, Reply, Status, reply, serve, stream};
use berth_buildkit::proto::control::{
    Definition, DiskUsageResponse, Exporter, ListWorkersResponse, SolveRequest, SolveResponse, StatusRequest,
    StatusResponse,
};
use berth_buildkit::proto::fsutil::{Packet, PacketType, Stat};
use berth_buildkit::proto::gateway;
use berth_buildkit::proto::session::{BytesMessage, FILE_SEND, FILE_SYNC, GetSecretRequest, GetSecretResponse, SECRET};
use berth_buildkit::proto::{Empty, RpcStatus};
use berth_testkit::{Engine, wait_until};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const CONTROL: &str = "/moby.buildkit.v1.Control/";
const GATEWAY: &str = "/moby.buildkit.v1.frontend.LLBBridge/";

/// What the client has, and what it got.
#[derive(Default)]
pub(crate) struct Files {
    /// Packets that list the folder, as they are sent.
    stats: Vec<Stat>,
    contents: BTreeMap<u32, Vec<u8>>,
    secrets: BTreeMap<String, Vec<u8>>,
    /// Contents that were asked for.
    asked: Mutex<Vec<u32>>,
    pub(crate) received: Mutex<Vec<u8>>,
}

impl Files {
    pub(crate) fn of(context: &Context, names: &[&str]) -> Files {
        let mut files = Files::default();
        for (number, name) in names.iter().enumerate() {
            let data = std::fs::read(context.at(name)).unwrap();
            let size = i64::try_from(data.len()).unwrap();
            files.stats.push(Stat { path: (*name).to_owned(), mode: 0o644, size, ..Stat::default() });
            files.contents.insert(u32::try_from(number).unwrap(), data);
        }
        files
    }
}

async fn answer(files: Arc<Files>, mut call: Call) -> Reply {
    match call.path() {
        FILE_SYNC => {
            let only: Vec<String> = call.metadata_all("followpaths").map(str::to_owned).collect();
            stream(|answers| async move {
                // As fsutil numbers them: what is sent has its place in the list, not in the folder.
                let sent: Vec<(usize, &Stat)> = files
                    .stats
                    .iter()
                    .enumerate()
                    .filter(|(_, stat)| only.is_empty() || only.contains(&stat.path))
                    .collect();
                for (_, stat) in &sent {
                    answers.send(Packet { stat: Some((*stat).clone()), ..Packet::new(PacketType::Stat) }).await?;
                }
                answers.send(Packet::new(PacketType::Stat)).await?;
                while let Some(packet) = call.next::<Packet>().await? {
                    match packet.kind() {
                        PacketType::Req => {
                            let file = u32::try_from(sent[packet.id as usize].0).unwrap();
                            files.asked.lock().unwrap().push(file);
                            for part in files.contents[&file].chunks(7) {
                                answers.send(Packet::data(packet.id, part.to_vec().into())).await?;
                            }
                            answers.send(Packet::data(packet.id, bytes::Bytes::new())).await?;
                        }
                        PacketType::Fin => {
                            answers.send(Packet::new(PacketType::Fin)).await?;
                            break;
                        }
                        _ => return Err(Status::internal("what is this?")),
                    }
                }
                Ok(())
            })
        }
        FILE_SEND => stream(|_answers: berth_buildkit::grpc::Answers<BytesMessage>| async move {
            while let Some(message) = call.next::<BytesMessage>().await? {
                files.received.lock().unwrap().extend_from_slice(&message.data);
            }
            Ok(())
        }),
        SECRET => {
            let found = call.only::<GetSecretRequest>().await.and_then(|request| {
                let data = files.secrets.get(&request.id).cloned();
                data.ok_or_else(|| Status::new(Code::NotFound, "secret not found"))
            });
            reply(found.map(|data| GetSecretResponse { data }))
        }
        other => reply::<Empty>(Err(Status::new(Code::Unimplemented, format!("unknown {other}")))),
    }
}

/// Turns a connection to the engine's socket into HTTP/2.
async fn upgrade(engine: &Engine, path: &str, headers: &str) -> Result<UnixStream, String> {
    let mut connection = UnixStream::connect(engine.socket()).await.unwrap();
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n{headers}\r\n");
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(connection.read_u8().await.unwrap());
    }
    let answer = String::from_utf8(answer).unwrap();
    if answer.starts_with("HTTP/1.1 101 ") { Ok(connection) } else { Err(answer) }
}

/// A client with its session and its calls.
pub(crate) struct Client {
    pub(crate) files: Arc<Files>,
    pub(crate) session: String,
    calls: Channel,
    serving: tokio::task::JoinHandle<()>,
}

impl Client {
    pub(crate) async fn new(engine: &Engine, files: Files) -> Client {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let session = format!("test-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let methods: String = [FILE_SYNC, FILE_SEND, SECRET]
            .iter()
            .map(|method| format!("X-Docker-Expose-Session-Grpc-Method: {method}\r\n"))
            .collect();
        let headers = format!("X-Docker-Expose-Session-Uuid: {session}\r\n{methods}");
        let connection = upgrade(engine, "/session", &headers).await.unwrap();
        let files = Arc::new(files);
        let having = files.clone();
        let service = move |call| answer(having.clone(), call);
        let serving = tokio::spawn(serve(connection, Arc::new(service)));
        let (calls, ended) = Channel::open(upgrade(engine, "/grpc", "").await.unwrap()).await.unwrap();
        tokio::spawn(ended);
        Client { files, session, calls, serving }
    }

    fn request(&self, exporter: &str, name: &str) -> SolveRequest {
        let attrs = BTreeMap::from([("name".to_owned(), name.to_owned())]);
        let exporters = vec![Exporter { kind: exporter.to_owned(), attrs }];
        let reference = format!("build-{}", self.session);
        SolveRequest { reference, session: self.session.clone(), exporters, ..SolveRequest::default() }
    }

    async fn solve(&self, request: &SolveRequest) -> Result<BTreeMap<String, String>, Status> {
        let answer: SolveResponse = self.calls.call(&format!("{CONTROL}Solve"), HeaderMap::new(), request).await?;
        Ok(answer.exporter_response)
    }

    /// The whole progress of a build.
    async fn status(&self, reference: &str) -> StatusResponse {
        let (sending, mut replies) = self.calls.converse(&format!("{CONTROL}Status"), HeaderMap::new());
        sending.send(&StatusRequest { reference: reference.to_owned() }).await.unwrap();
        drop(sending);
        let mut all = StatusResponse::default();
        while let Some(part) = replies.next::<StatusResponse>().await.unwrap() {
            all.vertexes.extend(part.vertexes);
            all.logs.extend(part.logs);
            all.warnings.extend(part.warnings);
        }
        all
    }

    async fn bridge<Q: berth_buildkit::Message, A: berth_buildkit::Message + Default>(
        &self,
        name: &str,
        build: &str,
        request: &Q,
    ) -> Result<A, Status> {
        let mut metadata = HeaderMap::new();
        metadata.insert("buildkit-controlapi-buildid", build.parse().unwrap());
        self.calls.call(&format!("{GATEWAY}{name}"), metadata, request).await
    }
}

pub(crate) fn run<F: Future<Output = ()>>(work: F) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work);
}

#[test]
fn a_build_by_the_gateways_calls_is_told_as_it_goes() {
    let Some(engine) = Engine::start("wire-gateway") else { return };
    let context = Context::new(
        "FROM tiny as made\nCOPY a.txt /\nRUN --mount=type=secret,id=s cat /a.txt /run/secrets/s >/both; echo said\n",
        &[("a.txt", "from the client, in parts"), ("unused", "never sent")],
    );
    let mut files = Files::of(&context, &["Dockerfile", "a.txt", "unused"]);
    files.secrets.insert("s".to_owned(), b"secret".to_vec());
    run(async {
        let client = Client::new(&engine, files).await;
        let request = client.request("moby", "wired:1");
        let build = request.reference.clone();
        let calls = async {
            let pong: gateway::PongResponse = client.bridge("Ping", &build, &Empty {}).await.unwrap();
            assert!(pong.frontend.iter().any(|capability| capability.id == "return" && capability.enabled));
            let frontend = "dockerfile.v0".to_owned();
            let asked = gateway::SolveRequest { frontend, ..gateway::SolveRequest::default() };
            let solved: gateway::SolveResponse = client.bridge("Solve", &build, &asked).await.unwrap();
            let returned = gateway::ReturnRequest { result: solved.result, error: None };
            client.bridge::<_, Empty>("Return", &build, &returned).await.unwrap();
        };
        let (outcome, (), status) = tokio::join!(client.solve(&request), calls, client.status(&build));
        let said = outcome.unwrap();
        assert_eq!(said["image.name"], "docker.io/library/wired:1");
        let image = id(&engine, "wired:1");
        assert_eq!(said["containerimage.digest"], image);
        assert_eq!(said["containerimage.config.digest"], image);
        let named = |name: &str| status.vertexes.iter().rfind(|vertex| vertex.name.contains(name)).unwrap().clone();
        for name in ["load build definition", "load build context", "COPY a.txt", "RUN --mount", "exporting to image"] {
            let vertex = named(name);
            assert!(vertex.completed.is_some() && vertex.error.is_empty(), "{vertex:?}");
        }
        let step = named("RUN --mount").digest;
        let printed: Vec<u8> =
            status.logs.iter().filter(|log| log.vertex == step).flat_map(|log| log.msg.clone()).collect();
        assert_eq!(printed, b"said\n");
        let warning = String::from_utf8(status.warnings[0].short.clone()).unwrap();
        assert!(warning.starts_with("FromAsCasing: "), "{warning}");
        // Asked for when a step looked at it, or read ahead of one that did: the Dockerfile first.
        assert!(client.files.asked.lock().unwrap().contains(&1));
    });
    assert_eq!(sh(&engine, "wired:1", "cat /both"), "from the client, in partssecret");
}

#[test]
fn a_build_without_the_gateway_sends_an_archive_and_fails_with_its_line() {
    let Some(engine) = Engine::start("wire-plain") else { return };
    let context =
        Context::new("FROM tiny AS made\nRUN mkdir /o && echo x >/o/x\nFROM scratch\nCOPY --from=made /o /\n", &[]);
    let bad = Context::new("FROM tiny\nRUN exit 9\n", &[]);
    run(async {
        let client = Client::new(&engine, Files::of(&context, &["Dockerfile"])).await;
        let mut request = client.request("tar", "");
        request.frontend = "dockerfile.v0".to_owned();
        client.solve(&request).await.unwrap();
        let received = client.files.received.lock().unwrap().clone();
        let mut archive = tar::Archive::new(received.as_slice());
        let names: Vec<String> =
            archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect();
        assert_eq!(names, ["x"]);

        let client = Client::new(&engine, Files::of(&bad, &["Dockerfile"])).await;
        let mut request = client.request("moby", "never");
        request.frontend = "dockerfile.v0".to_owned();
        let status = client.solve(&request).await.unwrap_err();
        assert_eq!(status.code, Code::Unknown);
        assert!(status.message.ends_with("did not complete successfully: exit code: 9"), "{}", status.message);
        let source = status.details.iter().find(|any| any.type_url.ends_with("errdefs.Source+json")).unwrap();
        let source: serde_json::Value = serde_json::from_slice(&source.value).unwrap();
        assert_eq!(source["info"]["filename"], "Dockerfile");
        assert_eq!(source["ranges"][0]["start"]["line"], 2);
        assert!(status.details.iter().any(|any| any.type_url.ends_with("errdefs.Vertex+json")));
    });
}

#[test]
fn what_this_builder_does_not_do_is_refused_by_name() {
    let Some(engine) = Engine::start("wire-refused") else { return };
    let context = Context::new("FROM tiny\n", &[]);
    run(async {
        let client = Client::new(&engine, Files::of(&context, &["Dockerfile"])).await;
        let refused = async |change: &dyn Fn(&mut SolveRequest), code: Code, words: &str| {
            let mut request = client.request("moby", "x");
            static NUMBER: AtomicU32 = AtomicU32::new(0);
            request.reference = format!("refused-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
            request.frontend = "dockerfile.v0".to_owned();
            change(&mut request);
            let status = client.solve(&request).await.unwrap_err();
            assert!(status.code == code && status.message.contains(words), "{words}: {status:?}");
        };
        let llb = Definition { def: vec![vec![1]], ..Definition::default() };
        refused(&|request| request.definition = Some(llb.clone()), Code::Unimplemented, "no definitions in LLB").await;
        refused(&|request| request.frontend = "gateway.v0".to_owned(), Code::Unimplemented, "is an image").await;
        refused(&|request| request.exporters[0].kind = "oci".to_owned(), Code::Unimplemented, "no output \"oci\"")
            .await;
        let attr = |key: &'static str, value: &'static str| {
            move |request: &mut SolveRequest| {
                request.frontend_attrs.insert(key.to_owned(), value.to_owned());
            }
        };
        refused(&attr("attest:sbom", ""), Code::Unimplemented, "attestations").await;
        refused(&attr("platform", "linux/amd64,linux/arm64"), Code::Unimplemented, "one platform").await;
        refused(&attr("target", "nowhere"), Code::Unknown, "nowhere").await;
        refused(&attr("filename", "../../etc/passwd"), Code::Unknown, "no such file").await;
        let unknown = client.calls.call::<_, Empty>(&format!("{CONTROL}Nothing"), HeaderMap::new(), &Empty {}).await;
        assert_eq!(unknown.unwrap_err().code, Code::Unimplemented);
        let workers: ListWorkersResponse =
            client.calls.call(&format!("{CONTROL}ListWorkers"), HeaderMap::new(), &Empty {}).await.unwrap();
        assert_eq!(workers.record[0].platforms[0].os, "linux");
        let path = format!("{CONTROL}DiskUsage");
        client.calls.call::<_, DiskUsageResponse>(&path, HeaderMap::new(), &Empty {}).await.unwrap();
        // What the client's own calls came to is the build's end.
        let request = client.request("moby", "x");
        let failed = async {
            let error = Some(RpcStatus { code: 2, message: "my own mistake".to_owned(), details: Vec::new() });
            let returned = gateway::ReturnRequest { result: None, error };
            client.bridge::<_, Empty>("Return", &request.reference, &returned).await.unwrap();
        };
        let (outcome, ()) = tokio::join!(client.solve(&request), failed);
        assert_eq!(outcome.unwrap_err().message, "my own mistake");
    });
}

#[test]
fn a_client_that_lies_about_its_files_gets_no_image() {
    let Some(engine) = Engine::start("wire-lies") else { return };
    let context = Context::new("FROM tiny\nCOPY . /c/\n", &[]);
    let stat = |path: &str, mode: u32, linkname: &str| Stat {
        path: path.to_owned(),
        mode,
        linkname: linkname.to_owned(),
        ..Stat::default()
    };
    const LINK: u32 = 0x0800_01ff;
    run(async {
        for (lie, words) in [
            (vec![stat("../escape", 0o644, "")], "leaves it"),
            (vec![stat("/etc/passwd", 0o644, "")], "leaves it"),
            (vec![stat("x", LINK, "/etc"), stat("x/passwd", 0o644, "")], "outside of any folder"),
            (vec![stat("hard", 0o644, "/etc/passwd")], "no file in it"),
            (vec![stat("Dockerfile", 0o644, "")], "twice"),
        ] {
            let mut files = Files::of(&context, &["Dockerfile"]);
            files.stats.extend(lie);
            let client = Client::new(&engine, files).await;
            let mut request = client.request("moby", "lied");
            request.frontend = "dockerfile.v0".to_owned();
            let status = client.solve(&request).await.unwrap_err();
            assert!(status.message.contains(words), "{words}: {status:?}");
        }
    });
    assert_ne!(engine.docker(["image", "inspect", "lied"]).code, 0);
}

fn sleeping(seconds: &str) -> bool {
    let wanted = format!("sleep\0{seconds}\0");
    let is = |entry: std::fs::DirEntry| {
        std::fs::read(entry.path().join("cmdline")).is_ok_and(|line| line == wanted.as_bytes())
    };
    std::fs::read_dir("/proc").unwrap().flatten().any(is)
}

#[test]
fn whoever_goes_ends_the_build_by_whatever_way() {
    let Some(engine) = Engine::start("wire-gone") else { return };
    let context = Context::new("FROM tiny\nRUN sleep 65432\n", &[]);
    run(async {
        for way in ["the call", "the session"] {
            let client = Client::new(&engine, Files::of(&context, &["Dockerfile"])).await;
            let mut request = client.request("moby", "gone");
            request.frontend = "dockerfile.v0".to_owned();
            let calls = client.calls.clone();
            let solving = tokio::spawn(async move {
                calls.call::<_, SolveResponse>(&format!("{CONTROL}Solve"), HeaderMap::new(), &request).await
            });
            tokio::task::spawn_blocking(|| wait_until("the step runs", || sleeping("65432"))).await.unwrap();
            match way {
                "the call" => solving.abort(),
                _ => {
                    client.serving.abort();
                    assert_eq!(solving.await.unwrap().unwrap_err().code, Code::Cancelled);
                }
            }
            tokio::task::spawn_blocking(|| wait_until("the step has ended", || !sleeping("65432"))).await.unwrap();
        }
        // A session's id is one client's alone, and a door that is not HTTP/2 is none.
        let client = Client::new(&engine, Files::default()).await;
        let again =
            upgrade(&engine, "/session", &format!("X-Docker-Expose-Session-Uuid: {}\r\n", client.session)).await;
        assert!(again.unwrap_err().starts_with("HTTP/1.1 409 "));
        assert!(upgrade(&engine, "/session", "").await.unwrap_err().starts_with("HTTP/1.1 400 "));
        // What is no message ends its call, not the engine.
        let (sending, mut replies) = client.calls.converse(&format!("{CONTROL}Solve"), HeaderMap::new());
        sending.send(&BytesMessage { data: vec![0xff; 100].into() }).await.unwrap();
        drop(sending);
        assert!(replies.next::<SolveResponse>().await.is_err());
    });
    engine.clear();
}
