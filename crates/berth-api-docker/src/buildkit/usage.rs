//! Who builds here, and what its cache has.

use super::solve::plain;
use berth_buildkit::grpc::{Code, Status};
use berth_buildkit::proto::Timestamp;
use berth_buildkit::proto::control::{
    BuildkitVersion, DiskUsageRequest, DiskUsageResponse, Platform, PruneRequest, UsageRecord, WorkerRecord,
};
use berth_engine::Engine;
use berth_engine::builds::build::platform;
use berth_engine::builds::{CacheEntry, CacheKind};
use berth_engine::events::now_unix_nanos;
use std::collections::BTreeMap;

pub(super) fn version() -> BuildkitVersion {
    BuildkitVersion {
        package: "berth".to_owned(),
        // Clients compare it with BuildKit's own versions: what they may expect of this door.
        version: "v0.11.0+berth".to_owned(),
        revision: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

pub(super) fn worker(engine: &Engine) -> WorkerRecord {
    let host = platform::Platform::host();
    let mut labels = BTreeMap::from([("org.mobyproject.buildkit.worker.executor".to_owned(), "berth-shim".to_owned())]);
    if let Some(gateway) = engine.networks().default_gateway() {
        labels.insert("org.mobyproject.buildkit.worker.moby.host-gateway-ip".to_owned(), gateway.to_string());
    }
    WorkerRecord {
        id: "berth".to_owned(),
        labels,
        platforms: vec![Platform { architecture: host.architecture, os: host.os, variant: host.variant }],
        version: Some(version()),
    }
}

fn record(entry: &CacheEntry) -> UsageRecord {
    UsageRecord {
        id: entry.id.hex(),
        mutable: entry.kind == CacheKind::Mount,
        in_use: entry.in_use,
        bytes: i64::try_from(entry.bytes).unwrap_or(i64::MAX),
        created_at: Some(Timestamp::from_unix_nanos(entry.created_unix_nanos)),
        last_used_at: Some(Timestamp::from_unix_nanos(entry.used_unix_nanos)),
        usage_count: 1,
        description: entry.description.clone(),
        record_type: kind(entry.kind).to_owned(),
        shared: entry.shared,
    }
}

fn kind(kind: CacheKind) -> &'static str {
    match kind {
        CacheKind::Step => "regular",
        CacheKind::Mount => "exec.cachemount",
    }
}

/// containerd's filters, as far as a cache has fields: `type==regular`, `id~=^ab`, `shared`; several in one are all true.
struct Filter(Vec<Condition>);

struct Condition {
    field: String,
    /// `None`: the field is there.
    wanted: Option<(bool, String, Option<regex::Regex>)>,
}

impl Filter {
    fn parse(text: &str) -> Result<Filter, Status> {
        let invalid = |why: &str| Status::new(Code::Unknown, format!("failed to parse prune filters {text:?}: {why}"));
        let condition = |part: &str| {
            let Some(at) = part.find(['=', '!', '~']) else {
                return Ok(Condition { field: part.to_owned(), wanted: None });
            };
            let (field, rest) = part.split_at(at);
            let (equal, value, pattern) = match rest {
                rest if rest.starts_with("==") => (true, &rest[2..], false),
                rest if rest.starts_with("!=") => (false, &rest[2..], false),
                rest if rest.starts_with("~=") => (true, &rest[2..], true),
                _ => return Err(invalid("an operator is ==, != or ~=")),
            };
            let value = value.trim_matches('"').to_owned();
            let pattern = match pattern {
                true => Some(regex::Regex::new(&value).map_err(|cause| invalid(&cause.to_string()))?),
                false => None,
            };
            Ok(Condition { field: field.to_owned(), wanted: Some((equal, value, pattern)) })
        };
        let conditions: Vec<Condition> = text.split(',').map(condition).collect::<Result<_, Status>>()?;
        let known = ["id", "type", "shared", "private", "inuse", "mutable", "immutable", "description"];
        match conditions.iter().find(|condition| !known.contains(&condition.field.as_str())) {
            Some(condition) => Err(invalid(&format!("there is no field {}", condition.field))),
            None => Ok(Filter(conditions)),
        }
    }

    fn matches(&self, entry: &CacheEntry) -> bool {
        self.0.iter().all(|condition| {
            let mutable = entry.kind == CacheKind::Mount;
            let flag = |set: bool| if set { "true" } else { "" };
            let value = match condition.field.as_str() {
                "id" => entry.id.hex(),
                "type" => kind(entry.kind).to_owned(),
                "description" => entry.description.clone(),
                "shared" => flag(entry.shared).to_owned(),
                "private" => flag(!entry.shared).to_owned(),
                "inuse" => flag(entry.in_use).to_owned(),
                "mutable" => flag(mutable).to_owned(),
                _ => flag(!mutable).to_owned(),
            };
            match &condition.wanted {
                None => !value.is_empty(),
                Some((_, _, Some(pattern))) => pattern.is_match(&value),
                Some((equal, wanted, None)) => (value == *wanted || value.is_empty() && wanted == "false") == *equal,
            }
        })
    }
}

fn filters(texts: &[String]) -> Result<Vec<Filter>, Status> {
    // Clients send an empty one for none.
    texts.iter().filter(|text| !text.is_empty()).map(|text| Filter::parse(text)).collect()
}

fn wanted(filters: &[Filter], entry: &CacheEntry) -> bool {
    filters.is_empty() || filters.iter().any(|filter| filter.matches(entry))
}

pub(super) async fn disk_usage(engine: &Engine, request: DiskUsageRequest) -> Result<DiskUsageResponse, Status> {
    let filters = filters(&request.filter)?;
    let before = match request.age_limit_nanos {
        0 => i64::MAX,
        age => now_unix_nanos().saturating_sub(age),
    };
    let entries = engine.builds().cache().await.map_err(|error| plain(&error))?;
    let shown = entries.iter().filter(|entry| wanted(&filters, entry) && entry.used_unix_nanos < before);
    Ok(DiskUsageResponse { record: shown.map(record).collect() })
}

/// What went, with its size.
pub(super) async fn prune(engine: &Engine, request: PruneRequest) -> Result<Vec<UsageRecord>, Status> {
    if request.min_free_bytes > 0 {
        return Err(Status::new(
            Code::Unimplemented,
            "a prune until so much is free is not supported: --max-used-space",
        ));
    }
    if request.filter.iter().any(|filter| !filter.is_empty()) {
        let text = "the build cache is pruned by until= and by size, by no other filter";
        return Err(Status::new(Code::Unimplemented, text));
    }
    let before = (request.keep_nanos > 0).then(|| now_unix_nanos().saturating_sub(request.keep_nanos));
    let keep = u64::try_from(request.reserved_bytes.max(request.max_used_bytes)).unwrap_or(0);
    let builds = engine.builds();
    let entries = builds.cache().await.map_err(|error| plain(&error))?;
    let (gone, _) = builds.prune(request.all, keep, before).await.map_err(|error| plain(&error))?;
    let left = builds.cache().await.map_err(|error| plain(&error))?;
    let is_gone = |entry: &&CacheEntry| gone.contains(&entry.id) || !left.iter().any(|other| other.id == entry.id);
    Ok(entries.iter().filter(is_gone).map(record).collect())
}
