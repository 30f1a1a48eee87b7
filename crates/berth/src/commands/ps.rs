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
    let containers = app.client.get_value(&path).await?;
    let now = units::now_seconds();
    let rows: Vec<Value> = containers.list().iter().map(|c| row(c, now, no_trunc)).collect();
    app.print(&listing.render(&rows)?)?;
    Ok(0)
}

fn row(c: &Value, now: i64, no_trunc: bool) -> Value {
    let cut = |s: &str, max: usize| if no_trunc { s.to_owned() } else { ellipsis(s, max) };
    let id = if no_trunc { c.text("Id").to_owned() } else { short_id(c.text("Id")) };
    let image = match (c.text("Image"), c.text("ImageID")) {
        ("", _) => "<no image>".to_owned(),
        // An image that lost its name is listed by its id.
        (image, id) if !no_trunc && (image == id || image.starts_with("sha256:")) => short_id(image),
        (image, _) if !no_trunc => image.split_once('@').map_or(image, |(name, _)| name).to_owned(),
        (image, _) => image.to_owned(),
    };
    let names: Vec<&str> = c.get("Names").list().iter().map(|n| n.str().trim_start_matches('/')).collect();
    let names: Vec<&str> = if no_trunc { names } else { names.into_iter().filter(|n| !n.contains('/')).collect() };
    let labels: Vec<(String, String)> =
        c.get("Labels").map().iter().map(|(k, v)| (k.clone(), v.str().to_owned())).collect();
    let mut label_text: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    label_text.sort();
    let mounts: Vec<String> = c
        .get("Mounts")
        .list()
        .iter()
        .map(|m| cut(if m.text("Name").is_empty() { m.text("Source") } else { m.text("Name") }, 15))
        .collect();
    let local = c.get("Mounts").list().iter().filter(|m| m.text("Driver") == "local").count();
    let mut networks: Vec<&str> =
        c.at(&["NetworkSettings", "Networks"]).map().iter().map(|(k, _)| k.as_str()).collect();
    networks.sort_unstable();
    let size = match (c.get("SizeRw").float(), c.get("SizeRootFs").float()) {
        (rw, root) if root > 0.0 => format!("{} (virtual {})", units::human_size3(rw), units::human_size3(root)),
        (rw, _) => units::human_size3(rw),
    };
    let created = c.get("Created").int();
    let platform = match (
        c.at(&["ImageManifestDescriptor", "platform", "os"]).str(),
        c.at(&["ImageManifestDescriptor", "platform", "architecture"]).str(),
    ) {
        ("", _) => Value::Null,
        (os, arch) => Value::Str(format!("{os}/{arch}")),
    };
    Value::Map(vec![
        ("ID".into(), id.into()),
        ("Image".into(), image.into()),
        ("Command".into(), format!("\"{}\"", escape(&cut(c.text("Command"), 20))).into()),
        ("CreatedAt".into(), units::local_time(created).into()),
        ("RunningFor".into(), format!("{} ago", units::human_duration(now - created)).into()),
        ("Ports".into(), ports(c.get("Ports").list()).into()),
        ("State".into(), c.text("State").into()),
        ("Status".into(), c.text("Status").into()),
        ("Size".into(), size.into()),
        ("Names".into(), names.join(",").into()),
        ("Labels".into(), label_text.join(",").into()),
        ("Label".into(), Value::Lookup(labels)),
        ("Mounts".into(), mounts.join(",").into()),
        ("LocalVolumes".into(), local.to_string().into()),
        ("Networks".into(), networks.join(",").into()),
        ("Platform".into(), platform),
    ])
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
        let row = row(&c, 1_700_000_030, false);
        assert_eq!(row.text("ID"), "0123456789ab");
        assert_eq!(row.text("Command"), "\"sleep 1000000000000\u{2026}\"");
        assert_eq!(row.text("RunningFor"), "30 seconds ago");
        assert_eq!(row.text("Labels"), "a=1,b=2");
        assert_eq!(row.text("Size"), "10B (virtual 117MB)");
    }
}
