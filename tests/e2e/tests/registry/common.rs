//! What the tests with registries share.

use berth_testkit::{Engine, wait_until};
use std::path::Path;
use std::process::Command;

/// Bytes that do not get smaller by packing.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state >> 16).to_le_bytes()[..6]);
    }
    bytes.truncate(length);
    bytes
}

/// Makes image `name` of one layer: a shell and `megabytes` of noise.
pub(crate) fn make_image(engine: &Engine, name: &str, megabytes: usize, seed: u64) {
    let folder = engine.root().join(format!("image-{seed}"));
    std::fs::create_dir_all(folder.join("bin")).expect("scratch folder");
    std::fs::copy("/bin/busybox", folder.join("bin/busybox")).expect("busybox is readable");
    std::os::unix::fs::symlink("busybox", folder.join("bin/sh")).expect("scratch folder");
    std::fs::write(folder.join("noise"), noise(megabytes << 20, seed)).expect("scratch folder");
    let archive = folder.with_extension("tar");
    let packed = Command::new("tar").arg("-C").arg(&folder).arg("-cf").arg(&archive).arg(".").status();
    assert!(packed.is_ok_and(|status| status.success()), "tar");
    let archive = archive.to_str().expect("our own path");
    engine.docker(["import", "--change", "CMD [\"/bin/sh\"]", archive, name]).success();
}

/// The digest under which `name` was pushed or pulled.
pub(crate) fn digest(engine: &Engine, name: &str) -> String {
    let text = engine.docker(["inspect", "--type", "image", "-f", "{{index .RepoDigests 0}}", name]).success();
    text.rsplit('@').next().expect("a digest").to_owned()
}

pub(crate) fn id(engine: &Engine, name: &str) -> String {
    engine.docker(["inspect", "--type", "image", "-f", "{{.Id}}", name]).success()
}

/// Names of what lies in a folder of the engine's data.
pub(crate) fn names_in(engine: &Engine, folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(engine.root().join("data").join(folder)).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Takes away what pushes packed and keep, which would spare a pull its bytes.
pub(crate) fn forget_packed(engine: &Engine) {
    let on_its_way = || names_in(engine, "content/partial").iter().any(|name| name.starts_with("draft-"));
    wait_until("what was packed is on the disk", || !on_its_way());
    for name in names_in(engine, "content/blobs/sha256") {
        std::fs::remove_file(engine.root().join("data/content/blobs/sha256").join(name)).expect("its own file");
    }
}

/// `curl` with these arguments; its output.
pub(crate) fn curl(arguments: &[&str]) -> String {
    let output = Command::new("curl").arg("-fsS").args(arguments).output().expect("curl runs");
    assert!(output.status.success(), "curl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Puts `text` under `reference` of a plain registry.
pub(crate) fn put_manifest(registry: &str, repository: &str, reference: &str, kind: &str, text: &str, scratch: &Path) {
    let file = scratch.join("manifest.json");
    std::fs::write(&file, text).expect("scratch folder");
    let (head, data) = (format!("Content-Type: {kind}"), format!("@{}", file.display()));
    let url = format!("http://{registry}/v2/{repository}/manifests/{reference}");
    curl(&["-X", "PUT", "-H", &head, "--data-binary", &data, &url]);
}
