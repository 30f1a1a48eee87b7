//! What an engine must not leave behind: looked for by the marks that only it can have made.

use berth_net::netlink::{NetlinkError, Socket};
use berth_net::nft::look;
use berth_net::route::Route;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The marks of one engine.
pub(crate) struct Marks<'a> {
    pub(crate) root: &'a Path,
    pub(crate) bridge: &'a str,
    /// Its name below each hierarchy's mount.
    pub(crate) cgroup_parent: &'a str,
}

impl Marks<'_> {
    /// Its firewall's, in each family.
    fn table(&self) -> String {
        format!("berth_{}", self.bridge)
    }
}

/// All cgroup hierarchies' mounts: v1 and v2.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let cgroup = |line: &str| {
        let mut words = line.split(' ');
        let (place, kind) = (words.nth(1)?, words.next()?);
        kind.starts_with("cgroup").then(|| PathBuf::from(place))
    };
    mounts.lines().filter_map(cgroup).collect()
}

fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// Of an engine whose containers are all removed, running or not: mounts below its root, cgroups below its
/// parent, folders of containers, published ports in the firewall. Shims and interfaces made ahead may be there.
pub(crate) fn of_containers(marks: &Marks<'_>) -> Vec<String> {
    let mut found = mounts(marks.root);
    for mount in hierarchies() {
        let parent = mount.join(marks.cgroup_parent.trim_start_matches('/'));
        found.extend(folders(&parent).iter().map(|path| format!("cgroup: {}", path.display())));
    }
    for folder in ["data/containers", "run/shims", "data/snapshots"] {
        let entries = std::fs::read_dir(marks.root.join(folder)).into_iter().flatten().flatten();
        found.extend(entries.map(|entry| format!("on the disk: {}", entry.path().display())));
    }
    match Socket::netfilter().and_then(|mut socket| published(&mut socket, marks)) {
        Ok(ports) => found.extend(ports),
        Err(error) => found.push(format!("the firewall cannot be listed: {error}")),
    }
    found
}

/// The maps of published ports that are not empty.
fn published(socket: &mut Socket, marks: &Marks<'_>) -> Result<Vec<String>, NetlinkError> {
    let mut found = Vec::new();
    for map in ["any4", "any6", "at4", "at6"] {
        let count = look::elements(socket, &marks.table(), map)?;
        if count > 0 {
            found.push(format!("firewall: {count} elements in {map} of {}", marks.table()));
        }
    }
    Ok(found)
}

/// Of an engine that has ended: the same, and processes and interfaces of any kind.
pub(crate) fn of_engine(marks: &Marks<'_>) -> Vec<String> {
    let mut found = of_containers(marks);
    found.extend(processes(marks.root).iter().map(|(pid, arguments)| format!("process {pid}: {arguments}")));
    match Route::open().and_then(|mut route| route.links()) {
        Ok(links) => {
            let bridge = links.iter().find(|link| link.name == marks.bridge).map(|link| link.index);
            let ports = links.iter().filter(|link| bridge.is_some() && Some(link.master) == bridge);
            found.extend(ports.map(|link| format!("interface: {} on {}", link.name, marks.bridge)));
            let alias = format!("berth {}", marks.bridge);
            let others = links.iter().filter(|link| link.alias == alias && link.name != marks.bridge);
            found.extend(others.map(|link| format!("bridge: {}", link.name)));
        }
        Err(error) => found.push(format!("interfaces cannot be listed: {error}")),
    }
    found
}

fn mounts(root: &Path) -> Vec<String> {
    let root = root.display().to_string();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().filter(|line| line.contains(&root)).map(|line| format!("mount: {line}")).collect()
}

/// Processes whose arguments or working directory name `root`, and what they were started with.
pub(crate) fn processes(root: &Path) -> BTreeMap<i32, String> {
    let root_text = root.display().to_string();
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let folder = entry.path();
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(arguments) = std::fs::read(folder.join("cmdline")) else { continue };
        let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
        let works_inside = std::fs::read_link(folder.join("cwd")).is_ok_and(|cwd| cwd.starts_with(root));
        if arguments.contains(&root_text) || works_inside {
            found.insert(pid, arguments);
        }
    }
    found
}

/// Takes away what an engine keeps for the next one on its folders: bridge, firewall table, cgroup parent.
pub(crate) fn take_away(marks: &Marks<'_>) -> Result<(), String> {
    let said = |error: NetlinkError| error.to_string();
    let mut route = Route::open().map_err(said)?;
    if route.link(marks.bridge).map_err(said)?.is_some() {
        let mut batch = berth_net::netlink::Batch::default();
        berth_net::route::delete_link(&mut batch, marks.bridge);
        route.run(batch).map_err(said)?;
    }
    let mut socket = Socket::netfilter().map_err(said)?;
    // An engine killed while it replaced its table leaves the one that stood in.
    for table in [marks.table(), format!("{}.next", marks.table())] {
        for family in look::tables(&mut socket, &table).map_err(said)? {
            look::delete_table(&mut socket, family, &table).map_err(said)?;
        }
    }
    for mount in hierarchies() {
        let parent = mount.join(marks.cgroup_parent.trim_start_matches('/'));
        match std::fs::remove_dir(&parent) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(format!("cgroup {}: {error}", parent.display()));
            }
            _ => {}
        }
    }
    Ok(())
}
