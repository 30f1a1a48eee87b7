//! testcontainers for Rust: containers of a test's own, waiting for words and answers, an image built for the test.

use testcontainers::core::wait::{ExitWaitStrategy, HttpWaitStrategy};
use testcontainers::core::{CmdWaitFor, ExecCommand, IntoContainerPort, Mount, WaitFor};
use testcontainers::runners::{AsyncBuilder, AsyncRunner};
use testcontainers::{GenericBuildableImage, GenericImage, ImageExt};
use tokio::io::AsyncReadExt;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn tiny() -> GenericImage {
    GenericImage::new("tiny", "latest")
}

async fn a_server() -> Outcome<()> {
    let answers = WaitFor::http(HttpWaitStrategy::new("/passwd").with_port(80.tcp()).with_expected_status_code(200u16));
    let web = tiny()
        .with_exposed_port(80.tcp())
        .with_wait_for(WaitFor::message_on_stdout("ready"))
        .with_wait_for(answers)
        .with_env_var("A", "b")
        .with_label("by", "testcontainers")
        .with_mount(Mount::tmpfs_mount("/scratch").with_size("1m"))
        .with_copy_to("/etc/given", b"from the test".to_vec())
        .with_cmd(["sh", "-c", "echo ready; exec httpd -f -p 80 -h /etc"])
        .start()
        .await?;
    assert!(web.get_host_port_ipv4(80).await? > 0 && web.is_running().await?);
    let mut said = web.exec(ExecCommand::new(["sh", "-c", "cat /etc/given; echo $A >&2"])).await?;
    assert_eq!(said.stdout_to_vec().await?, b"from the test");
    assert_eq!(said.stderr_to_vec().await?, b"b\n");
    let failed = web.exec(ExecCommand::new(["false"]).with_cmd_ready_condition(CmdWaitFor::exit_code(0))).await;
    assert!(failed.is_err());
    let mut copied = Vec::new();
    web.copy_file_from("/etc/given", &mut copied).await?;
    assert_eq!(copied, b"from the test");
    web.pause().await?;
    web.unpause().await?;
    web.stop_with_timeout(Some(0)).await?;
    assert!(!web.is_running().await? && web.exit_code().await?.is_some());
    web.rm().await?;
    Ok(())
}

async fn one_that_ends() -> Outcome<()> {
    let ended = tiny()
        .with_wait_for(WaitFor::exit(ExitWaitStrategy::new().with_exit_code(0)))
        .with_cmd(["sh", "-c", "echo first; echo second"])
        .start()
        .await?;
    let mut out = String::new();
    ended.stdout(false).read_to_string(&mut out).await?;
    assert_eq!(out, "first\nsecond\n");
    Ok(())
}

/// Containers of one network find each other by their names.
async fn two_that_talk() -> Outcome<()> {
    let _server = tiny()
        .with_wait_for(WaitFor::message_on_stdout("ready"))
        .with_network("talk")
        .with_container_name("server")
        .with_cmd(["sh", "-c", "echo ready; exec httpd -f -p 80 -h /etc"])
        .start()
        .await?;
    let _client = tiny()
        .with_wait_for(WaitFor::message_on_stdout("root:"))
        .with_network("talk")
        .with_cmd(["sh", "-c", "until wget -qO- http://server/passwd; do sleep 0.1; done; exec sleep 1000"])
        .start()
        .await?;
    Ok(())
}

/// By BuildKit, over `POST /build` and a session.
async fn one_that_is_built() -> Outcome<()> {
    let image = GenericBuildableImage::new("made", "1")
        .with_dockerfile_string("FROM tiny\nCOPY words /words\nRUN grep -q said /words\nCMD [\"cat\", \"/words\"]\n")
        .with_data(b"said\n".to_vec(), "words")
        .build_image()
        .await?;
    let container = image.with_wait_for(WaitFor::message_on_stdout("said")).start().await?;
    assert_eq!(container.stdout_to_vec().await?, b"said\n");
    Ok(())
}

#[tokio::main]
async fn main() -> Outcome<()> {
    a_server().await?;
    one_that_ends().await?;
    two_that_talk().await?;
    one_that_is_built().await?;
    println!("done");
    Ok(())
}
