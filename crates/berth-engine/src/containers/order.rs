//! In which order containers come back: one that is started by its policy waits for those it depends on, as long as they are
//! on their way themselves.
//!
//! Told by the labels that Compose writes on what it makes, so that a project comes back after a reboot as `up` brought
//! it: `com.docker.compose.depends_on: db:service_healthy:true,cache:service_started:false`.

use super::Containers;
use super::record::Container;
use berth_shim_proto::HealthStatus;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

const DEPENDS_ON: &str = "com.docker.compose.depends_on";
const PROJECT: &str = "com.docker.compose.project";
const SERVICE: &str = "com.docker.compose.service";

/// Something late is better than nothing ever.
const PATIENCE: Duration = Duration::from_secs(300);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

struct Dependency {
    container: Arc<Container>,
    healthy: bool,
}

impl Dependency {
    /// Still to come, by itself.
    fn is_on_its_way(&self) -> bool {
        let live = self.container.live();
        if live.removing {
            return false;
        }
        // Without a shim its end has not been heard of yet.
        if !live.is_running() || live.shim.is_none() {
            return live.run.restart_due || live.is_running();
        }
        let health = live.health.as_ref().map(|health| health.status);
        self.healthy && matches!(health, Some(HealthStatus::Starting | HealthStatus::Unhealthy))
    }
}

impl Containers {
    /// Until all that it depends on is there, does not come, or has had its time.
    pub(super) async fn await_dependencies(&self, container: &Arc<Container>) {
        let dependencies = self.dependencies(container);
        if dependencies.is_empty() || self.depends_on_itself(container) {
            return;
        }
        let begun = Instant::now();
        for dependency in dependencies {
            while dependency.is_on_its_way() {
                if begun.elapsed() > PATIENCE {
                    let other = dependency.container.name();
                    tracing::warn!(container = container.id.short(), other, "started without what it depends on");
                    return;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }

    fn dependencies(&self, container: &Arc<Container>) -> Vec<Dependency> {
        let record = container.record();
        let labels = &record.spec.config.labels;
        let (Some(project), Some(text)) = (labels.get(PROJECT), labels.get(DEPENDS_ON)) else { return Vec::new() };
        let all = self.engine.table().all();
        let of = |service: &str| {
            let wanted = [(PROJECT, project.as_str()), (SERVICE, service)];
            let fits = |other: &&Arc<Container>| {
                let record = other.record();
                let labels = &record.spec.config.labels;
                wanted.iter().all(|(key, value)| labels.get(*key).is_some_and(|label| label == value))
            };
            all.iter().filter(fits).cloned().collect::<Vec<_>>()
        };
        let mut found = Vec::new();
        for word in text.split(',') {
            let mut parts = word.split(':');
            let (service, condition) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            // What has completed once is not run again.
            if condition != "service_completed_successfully" {
                let healthy = condition == "service_healthy";
                found.extend(of(service).into_iter().map(|container| Dependency { container, healthy }));
            }
        }
        found
    }

    /// Compose refuses such a project, but labels are anybody's.
    fn depends_on_itself(&self, container: &Arc<Container>) -> bool {
        let mut seen = BTreeSet::new();
        let mut left = self.dependencies(container);
        while let Some(next) = left.pop() {
            if next.container.id == container.id {
                return true;
            }
            if seen.insert(next.container.id.clone()) {
                left.extend(self.dependencies(&next.container));
            }
        }
        false
    }
}
