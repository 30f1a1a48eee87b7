//! `/system/df`: what is on the disk, in the words of the client's version.
//!
//! ```text
//! up to 1.51   Images, Containers, Volumes, BuildCache: lists, and LayersSize
//! since 1.52   ImageUsage, ContainerUsage, VolumeUsage, BuildCacheUsage: counts and sums,
//!              with the lists as Items where `verbose` is asked for, and with the old fields where it is not
//! ```

use crate::error::ApiResult;
use crate::json::Json;
use crate::params::Params;
use crate::version::ApiVersion;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Extension, Router};
use berth_engine::Engine;
use berth_engine::containers::StateWord;
use berth_engine::events::now_unix_nanos;
use berth_engine::system::DiskUsageParts;
use serde_json::{Map, Value, json};

pub(crate) fn router() -> Router<Engine> {
    Router::new().route("/system/df", get(disk_usage))
}

/// One kind of thing: its list, and what the list comes to.
#[derive(Default)]
struct Usage {
    items: Vec<Value>,
    active: u64,
    reclaimable: u64,
    total: u64,
}

impl Usage {
    /// `None` for a size that is not known.
    fn add(&mut self, item: Value, active: bool, bytes: Option<u64>) {
        self.items.push(item);
        self.active += u64::from(active);
        if !active {
            self.reclaimable += bytes.unwrap_or(0);
        }
    }

    /// As Go writes it: without zeros.
    fn render(&self, verbose: bool) -> Value {
        let mut map = Map::new();
        let count = self.items.len() as u64;
        for (key, number) in [("ActiveCount", self.active), ("TotalCount", count), ("Reclaimable", self.reclaimable)] {
            if number != 0 {
                map.insert(key.to_owned(), json!(number));
            }
        }
        if self.total != 0 {
            map.insert("TotalSize".to_owned(), json!(self.total));
        }
        if verbose && count != 0 {
            map.insert("Items".to_owned(), json!(self.items));
        }
        Value::Object(map)
    }
}

/// `GET /system/df`
async fn disk_usage(
    State(engine): State<Engine>,
    Extension(version): Extension<ApiVersion>,
    params: Params,
) -> ApiResult {
    let wanted: Vec<&str> = params.all("type").filter(|_| !version.before(42)).collect();
    let known = ["container", "image", "volume", "build-cache"];
    if let Some(unknown) = wanted.iter().find(|kind| !known.contains(kind)) {
        return Err(berth_types::Error::invalid(format!("unknown object type: {unknown}")).into());
    }
    let has = |kind| wanted.is_empty() || wanted.contains(&kind);
    let parts = DiskUsageParts { containers: has("container"), volumes: has("volume") };
    let usage = engine.system().disk_usage(parts).await?;
    let mut images = None;
    if has("image") {
        let found = engine.images().disk_usage().await?;
        let all = images.insert(Usage { total: found.layers_bytes, ..Usage::default() });
        for image in &found.images {
            let own = image.size_bytes.saturating_sub(image.shared_size_bytes.unwrap_or(image.size_bytes));
            all.add(crate::images::summary(image, version), image.containers != Some(0), Some(own));
        }
    }
    let containers = parts.containers.then(|| {
        let now = now_unix_nanos();
        let mut all = Usage::default();
        for container in &usage.containers {
            let word = container.state.word();
            let active = matches!(word, StateWord::Running | StateWord::Paused | StateWord::Restarting);
            let bytes = container.sizes.map_or(0, |sizes| sizes.disk_bytes);
            all.total += bytes;
            // Here it is about room on the disk, and clients add these up.
            let mut shown = container.clone();
            if let Some(sizes) = &mut shown.sizes {
                sizes.written_bytes = sizes.disk_bytes;
            }
            all.add(crate::containers::render_summary(&shown, now, version), active, Some(bytes));
        }
        all
    });
    let volumes = parts.volumes.then(|| {
        let mut all = Usage::default();
        for volume in &usage.volumes {
            let bytes = volume.usage.map(|usage| usage.size_bytes);
            all.total += bytes.unwrap_or(0);
            let active = volume.usage.is_none_or(|usage| usage.references != 0);
            all.add(crate::volumes::render(volume), active, bytes);
        }
        all
    });
    let mut cache = None;
    if has("build-cache") {
        let all = cache.insert(Usage::default());
        for entry in engine.builds().cache().await? {
            all.total += entry.bytes;
            // As BuildKit counts: what an image shares does not come free.
            let kept = entry.in_use || entry.shared;
            all.add(crate::build::render_cache(&entry), entry.in_use, (!kept).then_some(entry.bytes));
        }
    }
    let verbose = !version.before(52) && params.flag("verbose");
    Ok(Json(render(&[images, containers, volumes, cache], version, verbose)).into_response())
}

/// Images, containers, volumes, build cache; `None` for what was not asked for.
fn render(parts: &[Option<Usage>; 4], version: ApiVersion, verbose: bool) -> Value {
    let old = ["Images", "Containers", "Volumes", "BuildCache"];
    let new = ["ImageUsage", "ContainerUsage", "VolumeUsage", "BuildCacheUsage"];
    let mut map = Map::new();
    if !verbose {
        let layers = parts[0].as_ref().map_or(0, |images| images.total);
        if layers != 0 || version.before(52) {
            map.insert("LayersSize".to_owned(), json!(layers));
        }
        for (key, part) in old.iter().zip(parts) {
            match part {
                Some(part) => map.insert((*key).to_owned(), json!(part.items)),
                None if version.before(52) => map.insert((*key).to_owned(), Value::Null),
                None => None,
            };
        }
    }
    if !version.before(52) {
        for (key, part) in new.iter().zip(parts) {
            if let Some(part) = part {
                map.insert((*key).to_owned(), part.render(verbose));
            }
        }
    }
    Value::Object(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> [Option<Usage>; 4] {
        let mut images = Usage { total: 100, ..Usage::default() };
        images.add(json!("a"), true, Some(60));
        images.add(json!("b"), false, Some(30));
        [Some(images), Some(Usage::default()), None, None]
    }

    #[test]
    fn each_version_gets_its_fields() {
        let old = render(&parts(), ApiVersion(51), false);
        assert_eq!(
            old,
            json!({"LayersSize": 100, "Images": ["a", "b"], "Containers": [], "Volumes": null, "BuildCache": null})
        );
        let usage = json!({"ActiveCount": 1, "TotalCount": 2, "Reclaimable": 30, "TotalSize": 100});
        let both = render(&parts(), ApiVersion(52), false);
        assert_eq!(
            both,
            json!({"LayersSize": 100, "Images": ["a", "b"], "Containers": [], "ImageUsage": usage, "ContainerUsage": {}})
        );
        let mut verbose = usage;
        verbose["Items"] = json!(["a", "b"]);
        assert_eq!(render(&parts(), ApiVersion(56), true), json!({"ImageUsage": verbose, "ContainerUsage": {}}));
    }
}
