//! What an engine must not leave behind: looked for by the marks that only it can have made.

use std::path::Path;

/// Mounts below `root`, processes whose arguments or working directory name it, and cgroups of `containers`.
pub(crate) fn find(root: &Path, containers: &[String]) -> Vec<String> {
    let root_text = root.display().to_string();
    let mut found = Vec::new();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    found.extend(mounts.lines().filter(|line| line.contains(&root_text)).map(|line| format!("mount: {line}")));
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let folder = entry.path();
        let Ok(arguments) = std::fs::read(folder.join("cmdline")) else { continue };
        let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
        let works_inside = std::fs::read_link(folder.join("cwd")).is_ok_and(|cwd| cwd.starts_with(root));
        if arguments.contains(&root_text) || works_inside {
            found.push(format!("process {}: {arguments}", folder.display()));
        }
    }
    let mut folders = vec![Path::new("/sys/fs/cgroup").to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let name = entry.file_name();
            if containers.iter().any(|id| name.to_string_lossy().contains(id.as_str())) {
                found.push(format!("cgroup: {}", entry.path().display()));
            }
            folders.push(entry.path());
        }
    }
    found
}
