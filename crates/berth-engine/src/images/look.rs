//! Looking at images: list, inspect, history, disk usage.

use super::catalog::{Catalog, Record, no_such, reference_matches};
use super::{DiskUsage, HistoryEntry, Images, Inspect, ListOptions, Summary};
use crate::Filters;
use crate::containers;
use crate::events::now_unix_nanos;
use berth_types::{Digest, Error, ImageName, Result};
use std::collections::BTreeMap;

/// Docker's `until` and the times of `before` and `since` as moments.
pub(super) fn until(filters: &Filters) -> Result<Option<i64>> {
    match filters.get("until") {
        [] => Ok(None),
        [text] => parse_until(text, now_unix_nanos()).map(Some),
        _ => Err(Error::invalid("more than one until filter specified")),
    }
}

/// Seconds since 1970, RFC 3339, a date, or a Go duration before now.
fn parse_until(text: &str, now: i64) -> Result<i64> {
    if let Some((whole, fraction)) = Some(text.split_once('.').unwrap_or((text, "")))
        && let Ok(seconds) = whole.parse::<i64>()
        && fraction.len() <= 9
        && fraction.bytes().all(|byte| byte.is_ascii_digit())
    {
        let nanos: i64 = format!("{fraction:0<9}").parse().unwrap_or(0);
        return Ok(seconds.saturating_mul(1_000_000_000).saturating_add(nanos));
    }
    if let Some(back) = super::changes::nanos(text) {
        return Ok(now.saturating_sub(back));
    }
    let instant = text.parse::<jiff::Timestamp>().ok();
    let instant = instant.or_else(|| {
        Some(text.parse::<jiff::civil::DateTime>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
    });
    instant
        .and_then(|moment| i64::try_from(moment.as_nanosecond()).ok())
        .ok_or_else(|| Error::invalid(format!("failed to parse value as time or duration: {text:?}")))
}

impl Images {
    /// Those that match, newest first.
    pub async fn list(&self, options: &ListOptions) -> Result<Vec<Summary>> {
        options.filters.only(&["dangling", "label", "label!", "before", "since", "reference", "until"])?;
        let counts = match options.containers {
            true => Some(self.containers_by_image().await?),
            false => None,
        };
        let shared = self.shared();
        let catalog = shared.catalog();
        let mut list = matching(&catalog, options)?;
        let layers = options.shared_size.then(|| catalog.all_layers());
        for summary in &mut list {
            let Some(record) = catalog.images.get(&summary.id) else { continue };
            summary.shared_size_bytes = layers.as_ref().map(|layers| {
                let shared = |layer: &&Digest| layers.get(*layer).is_some_and(|(_, users)| *users > 1);
                record.layers.iter().filter(shared).filter_map(|layer| layers.get(layer)).map(|(bytes, _)| bytes).sum()
            });
            summary.containers = counts.as_ref().map(|counts| counts.get(&summary.id).copied().unwrap_or(0));
        }
        Ok(list)
    }

    async fn containers_by_image(&self) -> Result<BTreeMap<Digest, u64>> {
        let all = containers::ListOptions { all: true, ..containers::ListOptions::default() };
        let mut counts = BTreeMap::new();
        for container in self.engine.containers().list(&all).await? {
            if let Some(id) = container.image_id {
                *counts.entry(id).or_insert(0) += 1;
            }
        }
        Ok(counts)
    }

    /// Everything about it.
    pub async fn inspect(&self, reference: &str) -> Result<Inspect> {
        let shared = self.shared();
        let record = shared.find(reference)?;
        let config = shared.config(&record.id)?.config;
        let (repo_tags, repo_digests) = shared.catalog().familiar_names(&record.id);
        Ok(Inspect {
            id: record.id,
            parent: record.parent,
            repo_tags,
            repo_digests,
            comment: comment(&config),
            author: config.author.clone(),
            created_unix_nanos: config.created_unix_nanos(),
            docker_version: config.docker_version.clone(),
            config: config.inner()?,
            architecture: config.architecture.clone(),
            variant: config.variant.clone(),
            os: config.os.clone(),
            os_version: config.os_version.clone(),
            size_bytes: record.size_bytes(),
            rootfs: shared.disk.view(&record.layers),
            layers: record.layers.clone(),
            last_tagged_unix_nanos: record.last_tagged_unix_nanos,
        })
    }

    /// How it was made, newest step first.
    pub async fn history(&self, reference: &str) -> Result<Vec<HistoryEntry>> {
        let shared = self.shared();
        let record = shared.find(reference)?;
        let config = shared.config(&record.id)?.config;
        let mut sizes = record.layer_bytes.iter();
        let mut entries: Vec<HistoryEntry> = config
            .history
            .iter()
            .map(|step| HistoryEntry {
                id: None,
                created_unix_nanos: step.created_unix_nanos(),
                created_by: step.created_by.clone(),
                comment: step.comment.clone(),
                size_bytes: if step.empty_layer { 0 } else { sizes.next().copied().unwrap_or(0) },
                tags: Vec::new(),
            })
            .collect();
        entries.reverse();
        // The newest steps are images of ours: this one, what it was committed on, and so on.
        let catalog = shared.catalog();
        let mut next = Some(record.id);
        for entry in &mut entries {
            let Some(id) = next else { break };
            entry.id = Some(id);
            entry.tags = catalog.familiar_names(&id).0;
            next = catalog.images.get(&id).and_then(|record| record.parent);
        }
        Ok(entries)
    }

    /// What images take on the disk.
    pub async fn disk_usage(&self) -> Result<DiskUsage> {
        let options = ListOptions { shared_size: true, containers: true, ..ListOptions::default() };
        let images = self.list(&options).await?;
        let shared = self.shared();
        let layers: u64 = shared.catalog().all_layers().values().map(|(bytes, _)| bytes).sum();
        Ok(DiskUsage { layers_bytes: layers + shared.disk.blob_bytes()?, images })
    }
}

/// Docker keeps it in the newest step of the history too.
fn comment(config: &super::config::ImageConfig) -> String {
    match config.comment.is_empty() {
        true => config.history.last().map_or(String::new(), |step| step.comment.clone()),
        false => config.comment.clone(),
    }
}

fn matching(catalog: &Catalog, options: &ListOptions) -> Result<Vec<Summary>> {
    let filters = &options.filters;
    let dangling = filters.boolean("dangling")?;
    let until = until(filters)?;
    let time_of = |key: &str, newest: bool| -> Result<Option<i64>> {
        let times: Vec<i64> = filters
            .get(key)
            .iter()
            .map(|reference| {
                let id = catalog.find(reference)?;
                let record = catalog.images.get(&id).ok_or_else(|| no_such(reference))?;
                Ok(record.created_unix_nanos)
            })
            .collect::<Result<_>>()?;
        Ok(if newest { times.into_iter().max() } else { times.into_iter().min() })
    };
    let (before, since) = (time_of("before", false)?, time_of("since", true)?);
    let mut list = Vec::new();
    for record in catalog.images.values() {
        let created = record.created_unix_nanos;
        if before.is_some_and(|before| created >= before)
            || since.is_some_and(|since| created <= since)
            || until.is_some_and(|until| created > until)
            || !filters.labels(&record.labels)
        {
            continue;
        }
        let is_parent = catalog.children(&record.id).next().is_some();
        if let Some(summary) = summary(catalog, record, filters, dangling, options.all, is_parent)? {
            list.push(summary);
        }
    }
    list.sort_by(|a, b| b.created_unix_nanos.cmp(&a.created_unix_nanos).then_with(|| a.repo_tags.cmp(&b.repo_tags)));
    Ok(list)
}

/// One image in the list, `None` where the filters or its being a mere parent keep it out.
fn summary(
    catalog: &Catalog,
    record: &Record,
    filters: &Filters,
    dangling: Option<bool>,
    all: bool,
    is_parent: bool,
) -> Result<Option<Summary>> {
    let names = catalog.names_of(&record.id);
    let mut shown = Vec::new();
    for name in &names {
        let mut wanted = !filters.contains("reference");
        for pattern in filters.get("reference") {
            wanted = wanted || reference_matches(pattern, name)?;
        }
        if wanted {
            shown.push(*name);
        }
    }
    let (tags, digests): (Vec<&ImageName>, Vec<&ImageName>) =
        shown.iter().copied().partition(|name| name.digest().is_none());
    if shown.is_empty() {
        let hidden = filters.contains("reference") || dangling == Some(false) || (is_parent && !all);
        if hidden || !names.is_empty() {
            return Ok(None);
        }
    } else if dangling == Some(true) && !tags.is_empty() {
        return Ok(None);
    }
    Ok(Some(Summary {
        id: record.id,
        parent: record.parent,
        repo_tags: tags.into_iter().map(|name| name.familiar()).collect(),
        repo_digests: digests.into_iter().map(|name| name.familiar()).collect(),
        created_unix_nanos: record.created_unix_nanos,
        size_bytes: record.size_bytes(),
        shared_size_bytes: None,
        containers: None,
        labels: record.labels.clone(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_is_read_in_all_spellings() {
        let now = 1_700_000_000_000_000_000;
        assert_eq!(parse_until("1700000000", now).unwrap(), now);
        assert_eq!(parse_until("1h", now).unwrap(), now - 3_600_000_000_000);
        assert_eq!(parse_until("2023-11-14T22:13:20Z", now).unwrap(), now);
        assert_eq!(parse_until("2023-11-14T22:13:20", now).unwrap(), now);
        assert_eq!(parse_until("2023-11-14", now).unwrap(), 1_699_920_000_000_000_000);
        assert!(parse_until("soon", now).is_err());
    }
}
