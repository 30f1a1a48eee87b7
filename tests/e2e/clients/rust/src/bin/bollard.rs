//! bollard: the client of Rust's programs.

use bollard::Docker;
use bollard::container::{AttachContainerResults, LogOutput};
use bollard::errors::Error;
use bollard::exec::StartExecResults;
use bollard::models::{
    ContainerCreateBody, ContainerUpdateBody, ExecConfig, HostConfig, NetworkConnectRequest, NetworkCreateRequest,
    NetworkDisconnectRequest, PortBinding, VolumeCreateRequest,
};
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, BuildImageOptionsBuilder, BuilderVersion, CommitContainerOptionsBuilder,
    CreateContainerOptionsBuilder, DownloadFromContainerOptionsBuilder, EventsOptionsBuilder,
    ImportImageOptionsBuilder, InspectContainerOptions, InspectNetworkOptions, ListContainersOptionsBuilder,
    ListImagesOptions, LogsOptionsBuilder, RemoveContainerOptionsBuilder, RemoveImageOptions, RemoveVolumeOptions,
    RenameContainerOptionsBuilder, RestartContainerOptionsBuilder, StartContainerOptions, StatsOptionsBuilder,
    StopContainerOptionsBuilder, TagImageOptionsBuilder, TopOptions, UploadToContainerOptionsBuilder,
    WaitContainerOptions,
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use std::collections::HashMap;
use tokio::io::AsyncWriteExt;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn words(text: &[&str]) -> Option<Vec<String>> {
    Some(text.iter().map(|word| (*word).to_owned()).collect())
}

fn body(command: &[&str]) -> ContainerCreateBody {
    ContainerCreateBody { image: Some("tiny".to_owned()), cmd: words(command), ..Default::default() }
}

async fn create(docker: &Docker, name: &str, body: ContainerCreateBody) -> Outcome<String> {
    Ok(docker.create_container(Some(CreateContainerOptionsBuilder::new().name(name).build()), body).await?.id)
}

async fn start(docker: &Docker, name: &str) -> Outcome<()> {
    Ok(docker.start_container(name, None::<StartContainerOptions>).await?)
}

fn archive(files: &[(&str, &str)]) -> Outcome<Bytes> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, text.as_bytes())?;
    }
    Ok(archive.into_inner()?.into())
}

fn told(parts: &[LogOutput]) -> (String, String) {
    let (mut out, mut err) = (String::new(), String::new());
    for part in parts {
        match part {
            LogOutput::StdOut { message } => out.push_str(&String::from_utf8_lossy(message)),
            LogOutput::StdErr { message } => err.push_str(&String::from_utf8_lossy(message)),
            _ => panic!("neither output nor errors: {part:?}"),
        }
    }
    (out, err)
}

/// A life from create to remove; both streams told apart, the exit code heard.
async fn life(docker: &Docker) -> Outcome<()> {
    create(docker, "once", body(&["sh", "-c", "echo out; echo err >&2; exit 3"])).await?;
    let waiting = docker.wait_container("once", None::<WaitContainerOptions>);
    start(docker, "once").await?;
    // bollard has an error for a code that is not 0.
    let waited = waiting.try_collect::<Vec<_>>().await;
    assert!(matches!(waited, Err(Error::DockerContainerWaitError { code: 3, .. })), "{waited:?}");
    let logs = docker.logs("once", Some(LogsOptionsBuilder::new().stdout(true).stderr(true).build()));
    assert_eq!(told(&logs.try_collect::<Vec<_>>().await?), ("out\n".to_owned(), "err\n".to_owned()));
    docker.remove_container("once", None).await?;

    // Attached with input, hijacked.
    let asks = ContainerCreateBody { open_stdin: Some(true), stdin_once: Some(true), ..body(&["cat"]) };
    create(docker, "cat", asks).await?;
    let options = AttachContainerOptionsBuilder::new().stdin(true).stdout(true).stderr(true).stream(true).build();
    let AttachContainerResults { output, mut input } = docker.attach_container("cat", Some(options)).await?;
    start(docker, "cat").await?;
    input.write_all(b"typed\n").await?;
    input.shutdown().await?;
    assert_eq!(told(&output.try_collect::<Vec<_>>().await?).0, "typed\n");
    docker.remove_container("cat", Some(RemoveContainerOptionsBuilder::new().force(true).build())).await?;
    Ok(())
}

/// What is asked of one that runs.
async fn running(docker: &Docker) -> Outcome<()> {
    let port = HashMap::from([("80/tcp".to_owned(), Some(vec![PortBinding::default()]))]);
    let host = HostConfig { port_bindings: Some(port), memory: Some(64 << 20), ..Default::default() };
    let box_body = ContainerCreateBody {
        labels: Some(HashMap::from([("by".to_owned(), "bollard".to_owned())])),
        exposed_ports: words(&["80/tcp"]),
        host_config: Some(host),
        ..body(&["sh", "-c", "echo started; exec sleep 1000"])
    };
    create(docker, "box", box_body).await?;
    start(docker, "box").await?;
    let exec = ExecConfig {
        cmd: words(&["sh", "-c", "cat; echo loud >&2; exit 5"]),
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..Default::default()
    };
    let exec = docker.create_exec("box", exec).await?.id;
    let StartExecResults::Attached { output, mut input } = docker.start_exec(&exec, None).await? else {
        return Err("the exec is not attached".into());
    };
    input.write_all(b"to exec").await?;
    input.shutdown().await?;
    let parts = output.try_collect::<Vec<_>>().await?;
    assert_eq!(told(&parts), ("to exec".to_owned(), "loud\n".to_owned()));
    assert_eq!(docker.inspect_exec(&exec).await?.exit_code, Some(5));

    let once = StatsOptionsBuilder::new().stream(false).one_shot(true).build();
    let stats = docker.stats("box", Some(once)).try_collect::<Vec<_>>().await?;
    assert_eq!(stats[0].memory_stats.as_ref().and_then(|memory| memory.limit), Some(64 << 20));
    let files = archive(&[("put", "from outside")])?;
    let to = UploadToContainerOptionsBuilder::new().path("/tmp").build();
    docker.upload_to_container("box", Some(to), bollard::body_full(files)).await?;
    let from = DownloadFromContainerOptionsBuilder::new().path("/tmp/put").build();
    let back = docker.download_from_container("box", Some(from)).try_collect::<Vec<_>>().await?.concat();
    assert!(String::from_utf8_lossy(&back).contains("from outside"));
    assert!(docker.container_changes("box").await?.is_some_and(|all| all.iter().any(|one| one.path == "/tmp/put")));

    let seen = docker.inspect_container("box", None::<InspectContainerOptions>).await?;
    let ports = seen.network_settings.and_then(|network| network.ports).ok_or("no ports")?;
    let published = ports["80/tcp"].as_ref().and_then(|list| list[0].host_port.clone()).ok_or("no port")?;
    assert!(published.parse::<u16>()? > 0);
    let labelled = HashMap::from([("label".to_owned(), vec!["by=bollard".to_owned()])]);
    let listed = docker.list_containers(Some(ListContainersOptionsBuilder::new().filters(&labelled).build())).await?;
    assert_eq!(listed[0].names, words(&["/box"]));
    let update = ContainerUpdateBody { memory: Some(32 << 20), memory_swap: Some(64 << 20), ..Default::default() };
    docker.update_container("box", update).await?;
    let top = docker.top_processes("box", None::<TopOptions>).await?;
    assert!(top.processes.ok_or("no processes")?.iter().any(|row| row.join(" ").contains("sleep 1000")));
    docker.rename_container("box", RenameContainerOptionsBuilder::new().name("renamed").build()).await?;
    docker.pause_container("renamed").await?;
    docker.unpause_container("renamed").await?;
    docker.restart_container("renamed", Some(RestartContainerOptionsBuilder::new().t(0).build())).await?;
    let commit = CommitContainerOptionsBuilder::new().container("renamed").repo("committed").tag("1").build();
    docker.commit_container(commit, bollard::models::ContainerConfig::default()).await?;
    let config = docker.inspect_image("committed:1").await?.config.ok_or("no configuration")?;
    assert_eq!(config.labels.and_then(|labels| labels.get("by").cloned()).as_deref(), Some("bollard"));
    docker.stop_container("renamed", Some(StopContainerOptionsBuilder::new().t(0).build())).await?;
    let whole = docker.export_container("renamed").try_fold(0, async |sum, part| Ok(sum + part.len())).await?;
    assert!(whole > 100_000, "{whole}");
    Ok(())
}

async fn built(docker: &Docker, dockerfile: &str, options: BuildImageOptionsBuilder) -> Outcome<Result<usize, Error>> {
    let context = archive(&[("Dockerfile", dockerfile), ("file", "in the context")])?;
    let steps = docker.build_image(options.build(), None, Some(bollard::body_full(context)));
    Ok(steps.try_collect::<Vec<_>>().await.map(|steps| steps.len()))
}

/// Both builders of `POST /build`, archives of images.
async fn images(docker: &Docker) -> Outcome<()> {
    let dockerfile = "FROM tiny\nCOPY file /file\nRUN grep context /file\n";
    let classic = BuildImageOptionsBuilder::new().t("built:1");
    assert!(built(docker, dockerfile, classic).await?? > 3);
    let kit = |session: &str| {
        BuildImageOptionsBuilder::new().t("built:2").version(BuilderVersion::BuilderBuildKit).session(session)
    };
    assert!(built(docker, dockerfile, kit("one")).await?? > 0);
    let layers = async |name: &str| -> Outcome<usize> {
        let layers = docker.inspect_image(name).await?.root_fs.and_then(|fs| fs.layers);
        Ok(layers.ok_or("no layers")?.len())
    };
    // A step that writes nothing: BuildKit in dockerd has an empty layer of it, dockerd's classic builder and this engine have none.
    for name in ["built:1", "built:2"] {
        assert!((2..=3).contains(&layers(name).await?), "{name}");
    }
    let failed = built(docker, "FROM tiny\nRUN exit 7\n", kit("two")).await?;
    let Err(Error::DockerStreamError { error }) = failed else { return Err("it did not fail".into()) };
    assert!(error.contains("exit code: 7"), "{error}");

    let saved = docker.export_image("built:2").try_collect::<Vec<_>>().await?.concat();
    docker.remove_image("built:2", None::<RemoveImageOptions>, None).await?;
    let load = ImportImageOptionsBuilder::new().build();
    docker.import_image(load, bollard::body_full(saved.into()), None).try_collect::<Vec<_>>().await?;
    docker.tag_image("built:2", Some(TagImageOptionsBuilder::new().repo("again").tag("3").build())).await?;
    let tags: Vec<String> =
        docker.list_images(None::<ListImagesOptions>).await?.into_iter().flat_map(|image| image.repo_tags).collect();
    assert!(["built:1", "built:2", "again:3"].iter().all(|name| tags.iter().any(|tag| tag == name)), "{tags:?}");
    Ok(())
}

async fn networks_and_volumes(docker: &Docker) -> Outcome<()> {
    let volume = VolumeCreateRequest {
        name: Some("kept".to_owned()),
        labels: Some(HashMap::from([("a".to_owned(), "b".to_owned())])),
        ..Default::default()
    };
    docker.create_volume(volume).await?;
    assert_eq!(docker.inspect_volume("kept").await?.labels["a"], "b");
    docker.remove_volume("kept", None::<RemoveVolumeOptions>).await?;
    let network = NetworkCreateRequest { name: "joined".to_owned(), internal: Some(true), ..Default::default() };
    docker.create_network(network).await?;
    let join = NetworkConnectRequest { container: "renamed".to_owned(), ..Default::default() };
    docker.connect_network("joined", join).await?;
    assert_eq!(docker.inspect_network("joined", None::<InspectNetworkOptions>).await?.internal, Some(true));
    let leave = NetworkDisconnectRequest { container: "renamed".to_owned(), ..Default::default() };
    docker.disconnect_network("joined", leave).await?;
    docker.remove_network("joined").await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let docker = Docker::connect_with_defaults()?.negotiate_version().await?;
    assert_eq!(docker.ping().await?, "OK");
    let since = docker.info().await?.system_time.is_some();
    assert!(since && docker.version().await?.api_version.is_some());
    let kinds = HashMap::from([("type".to_owned(), vec!["container".to_owned()])]);
    let mut events = Box::pin(docker.events(Some(EventsOptionsBuilder::new().filters(&kinds).build())));
    let (life, first) = tokio::join!(life(&docker), events.next());
    life?;
    assert_eq!(first.ok_or("no event")??.action.as_deref(), Some("create"));
    running(&docker).await?;
    images(&docker).await?;
    networks_and_volumes(&docker).await?;
    let missing = docker.inspect_container("nobody", None::<InspectContainerOptions>).await;
    let Err(Error::DockerResponseServerError { status_code: 404, message }) = missing else {
        return Err("it is not missing".into());
    };
    assert_eq!(message, "No such container: nobody");
    docker.remove_container("renamed", Some(RemoveContainerOptionsBuilder::new().force(true).v(true).build())).await?;
    println!("done");
    Ok(())
}
