//! `ps`.

use crate::app::App;
use crate::cli::Args;
use crate::client::with_query;
use crate::error::Result;
use crate::opts;
use crate::table::{Listing, ellipsis, short_id};
use crate::units;
use crate::value::Value;

const TABLE: &str = "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}";
const HEADERS: &[(&str, &str)] = &[
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Ports", "PORTS"),
    ("State", "STATE"),
    ("Status", "STATUS"),
    ("Size", "SIZE"),
    ("Names", "NAMES"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Networks", "NETWORKS"),
    ("Platform", "PLATFORM"),
];

pub(crate) async fn ps(app: &'static App, args: Args) -> Result<u8> {
    let no_trunc = args.on("no-trunc");
    let format = match (args.text("format"), args.on("quiet")) {
        ("", false) => app.config.text("psFormat"),
        ("", true) => "",
        (format, false) => format,
        (_, true) => {
            app.note("WARNING: Ignoring custom format, because both --format and --quiet are set.");
            ""
        }
    };
    let table = if args.on("size") { format!("{TABLE}\t{{{{.Size}}}}") } else { TABLE.to_owned() };
    let quiet = args.on("quiet").then_some("{{.ID}}");
    let listing = Listing::new(format, &table, quiet, HEADERS)?;
    let filters = opts::filter_flag(&args)?;
    let last = if args.changed("last") { args.int("last")? } else { -1 };
    let limit = if args.on("latest") { 1 } else { last };
    let limit = if limit > 0 { limit.to_string() } else { String::new() };
    let size =
        args.on("size") || (quiet.is_none() && !format.is_empty() && format != "json" && listing.mentions("Size"));
    let all = args.on("all") || !limit.is_empty();
    let flag = |b: bool| if b { "1" } else { "" };
    let path = with_query(
        "/containers/json",
        &[("all", flag(all)), ("limit", &limit), ("size", flag(size)), ("filters", &filters)],
    );
    // Most of what is told of a container is not shown.
    let shown: Vec<&str> =
        HEADERS.iter().map(|(name, _)| *name).chain(["Label"]).filter(|name| listing.mentions(name)).collect();
    let keys: Vec<&str> = shown.iter().flat_map(|name| needs(name)).copied().collect();
    let containers = Value::parse_rows(&app.client.get(&path).await?, &keys)?;
    let now = units::now_seconds();
    let rows: Vec<Value> = containers.iter().map(|c| row(c, &shown, now, no_trunc)).collect();
    app.print(&listing.render(&rows)?)?;
    Ok(0)
}

/// What the engine's answer calls that which a field is made of.
fn needs(field: &str) -> &'static [&'static str] {
    match field {
        "ID" => &["Id"],
        "Image" => &["Image", "ImageID"],
        "Command" => &["Command"],
        "CreatedAt" | "RunningFor" => &["Created"],
        "Ports" => &["Ports"],
        "State" => &["State"],
        "Status" => &["Status"],
        "Size" => &["SizeRw", "SizeRootFs"],
        "Names" => &["Names"],
        "Labels" | "Label" => &["Labels"],
        "Mounts" | "LocalVolumes" => &["Mounts"],
        "Networks" => &["NetworkSettings"],
        "Platform" => &["ImageManifestDescriptor"],
        _ => &[],
    }
}

fn row(c: &Value, shown: &[&str], now: i64, no_trunc: bool) -> Value {
    Value::Map(shown.iter().map(|name| ((*name).to_owned(), field(c, name, now, no_trunc))).collect())
}

fn field(c: &Value, name: &str, now: i64, no_trunc: bool) -> Value {
    let cut = |s: &str, max: usize| if no_trunc { s.to_owned() } else { ellipsis(s, max) };
    let mounts = || c.get("Mounts").list().iter();
    match name {
        "ID" if no_trunc => c.text("Id").into(),
        "ID" => short_id(c.text("Id")).into(),
        "Image" => image(c.text("Image"), c.text("ImageID"), no_trunc).into(),
        "Command" => format!("\"{}\"", escape(&cut(c.text("Command"), 20))).into(),
        "CreatedAt" => units::local_time(c.get("Created").int()).into(),
        "RunningFor" => format!("{} ago", units::human_duration(now - c.get("Created").int())).into(),
        "Ports" => ports(c.get("Ports").list()).into(),
        "State" => c.text("State").into(),
        "Status" => c.text("Status").into(),
        "Size" => match (c.get("SizeRw").float(), c.get("SizeRootFs").float()) {
            (rw, root) if root > 0.0 => {
                format!("{} (virtual {})", units::human_size3(rw), units::human_size3(root)).into()
            }
            (rw, _) => units::human_size3(rw).into(),
        },
        "Names" => {
            let names = c.get("Names").list().iter().map(|name| name.str().trim_start_matches('/'));
            names.filter(|name| no_trunc || !name.contains('/')).collect::<Vec<_>>().join(",").into()
        }
        "Labels" => {
            let mut labels: Vec<String> =
                c.get("Labels").map().iter().map(|(key, value)| format!("{key}={}", value.str())).collect();
            labels.sort();
            labels.join(",").into()
        }
        "Label" => Value::Lookup(c.get("Labels").map().iter().map(|(k, v)| (k.clone(), v.str().to_owned())).collect()),
        "Mounts" => {
            let named = |m: &Value| cut(if m.text("Name").is_empty() { m.text("Source") } else { m.text("Name") }, 15);
            mounts().map(named).collect::<Vec<_>>().join(",").into()
        }
        "LocalVolumes" => mounts().filter(|m| m.text("Driver") == "local").count().to_string().into(),
        "Networks" => {
            let networks = c.at(&["NetworkSettings", "Networks"]).map().iter();
            let mut networks: Vec<&str> = networks.map(|(name, _)| name.as_str()).collect();
            networks.sort_unstable();
            networks.join(",").into()
        }
        "Platform" => {
            let platform = c.at(&["ImageManifestDescriptor", "platform"]);
            match (platform.text("os"), platform.text("architecture")) {
                ("", _) => Value::Null,
                (os, arch) => Value::Str(format!("{os}/{arch}")),
            }
        }
        _ => Value::Null,
    }
}

fn image(image: &str, id: &str, no_trunc: bool) -> String {
    match image {
        "" => "<no image>".to_owned(),
        image if no_trunc => image.to_owned(),
        // An image that lost its name is listed by its id.
        image if image == id || image.starts_with("sha256:") => short_id(image),
        image => image.split_once('@').map_or(image, |(name, _)| name).to_owned(),
    }
}

/// The inside of Go's `strconv.Quote`.
fn escape(s: &str) -> String {
    s.chars()
        .flat_map(|c| match c {
            '"' => vec!['\\', '"'],
            '\\' => vec!['\\', '\\'],
            '\n' => vec!['\\', 'n'],
            '\t' => vec!['\\', 't'],
            c => vec![c],
        })
        .collect()
}

/// `0.0.0.0:80->80/tcp, 443/tcp`. Ports that are the same inside and outside, and unpublished ones, are
/// gathered into ranges; those that differ come last, one by one.
fn ports(ports: &[Value]) -> String {
    struct Group<'a> {
        ip: &'a str,
        protocol: &'a str,
        first: i64,
        last: i64,
    }
    let host = |ip: &str| if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    let show = |g: &Group<'_>| {
        let range = if g.first == g.last { g.first.to_string() } else { format!("{}-{}", g.first, g.last) };
        match g.ip {
            "" => format!("{range}/{}", g.protocol),
            ip => format!("{}:{range}->{range}/{}", host(ip), g.protocol),
        }
    };
    let mut sorted: Vec<&Value> = ports.iter().collect();
    sorted.sort_by_key(|p| (p.get("PrivatePort").int(), p.text("IP"), p.get("PublicPort").int(), p.text("Type")));
    let (mut open, mut done, mut differing): (Vec<Group<'_>>, Vec<String>, Vec<String>) = Default::default();
    for p in sorted {
        let (ip, protocol) = (p.text("IP"), p.text("Type"));
        let (inside, outside) = (p.get("PrivatePort").int(), p.get("PublicPort").int());
        if !ip.is_empty() && inside != outside {
            differing.push(format!("{}:{outside}->{inside}/{protocol}", host(ip)));
            continue;
        }
        match open.iter_mut().find(|g| g.ip == ip && g.protocol == protocol) {
            Some(group) if inside == group.last + 1 => group.last = inside,
            Some(group) => {
                done.push(show(group));
                (group.first, group.last) = (inside, inside);
            }
            None => open.push(Group { ip, protocol, first: inside, last: inside }),
        }
    }
    done.extend(open.iter().map(show));
    done.extend(differing);
    done.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_gathered_into_ranges() {
        let v = Value::parse(
            br#"[{"IP":"0.0.0.0","PrivatePort":80,"PublicPort":8080,"Type":"tcp"},{"IP":"::","PrivatePort":80,"PublicPort":8080,"Type":"tcp"},
                {"PrivatePort":90,"Type":"tcp"},{"PrivatePort":91,"Type":"tcp"},{"PrivatePort":53,"Type":"udp"}]"#,
        )
        .unwrap();
        assert_eq!(ports(v.list()), "53/udp, 90-91/tcp, 0.0.0.0:8080->80/tcp, [::]:8080->80/tcp");
    }

    #[test]
    fn a_row_has_what_docker_shows() {
        let c = Value::parse(
            br#"{"Id":"0123456789abcdef","Image":"debian","Command":"sleep 100000000000000","Created":1700000000,"Names":["/web"],
                "Labels":{"b":"2","a":"1"},"Status":"Up 3 seconds","State":"running","SizeRw":10,"SizeRootFs":117000000}"#,
        )
        .unwrap();
        let all: Vec<&str> = HEADERS.iter().map(|(name, _)| *name).collect();
        let keys: Vec<&str> = all.iter().flat_map(|name| needs(name)).copied().collect();
        let parsed = Value::parse_rows(format!("[{}]", c.to_json()).as_bytes(), &keys).unwrap();
        for (name, whole) in super::row(&c, &all, 1_700_000_030, false).map() {
            assert_eq!(field(&parsed[0], name, 1_700_000_030, false), *whole, "{name}");
        }
        let row = row(&c, &["ID", "Command", "RunningFor", "Labels", "Size"], 1_700_000_030, false);
        assert_eq!(row.text("ID"), "0123456789ab");
        assert_eq!(row.text("Command"), "\"sleep 1000000000000\u{2026}\"");
        assert_eq!(row.text("RunningFor"), "30 seconds ago");
        assert_eq!(row.text("Labels"), "a=1,b=2");
        assert_eq!(row.text("Size"), "10B (virtual 117MB)");
    }
}
