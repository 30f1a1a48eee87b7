//! A container's meters as Docker's clients compute with them.

use super::stream_body;
use crate::error::ApiResult;
use crate::events::IntoResponseOk;
use crate::params::Params;
use crate::time::rfc3339;
use crate::version::ApiVersion;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use berth_engine::Engine;
use berth_engine::containers::{Stats, StatsOptions, StatsSample};
use bytes::Bytes;
use serde_json::{Map, Value, json};

pub(super) fn router() -> Router<Engine> {
    Router::new().route("/containers/{id}/stats", get(stats))
}

/// `GET /containers/{id}/stats`
async fn stats(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    Extension(version): Extension<ApiVersion>,
    params: Params,
) -> ApiResult<Response> {
    let one_shot = !version.before(41) && params.flag("one-shot");
    let options = StatsOptions { stream: params.flag_or("stream", true), one_shot };
    if options.stream && options.one_shot {
        return Err(berth_types::Error::invalid("cannot have stream=true and one-shot=true").into());
    }
    let mut stream = engine.containers().stats(&id, options).await?;
    let body = stream_body(move |sender| async move {
        loop {
            let next = tokio::select! {
                next = stream.next() => next,
                () = sender.closed() => return,
            };
            let stats = match next {
                Some(Ok(stats)) => stats,
                Some(Err(error)) => return tracing::warn!(container = id, %error, "cannot read meters on"),
                None => return,
            };
            if sender.send(Bytes::from(format!("{}\n", render(&stats, version)))).await.is_err() {
                return;
            }
        }
    });
    Ok(Response::builder().header("content-type", "application/json").body(body).into_response_ok())
}

fn cpu(sample: &StatsSample) -> Value {
    // What was not read is left out, so that clients do not divide by it.
    let mut usage = json!({"total_usage": sample.cpu_total_nanos});
    if !sample.per_cpu_nanos.is_empty() {
        usage["percpu_usage"] = json!(sample.per_cpu_nanos);
    }
    usage["usage_in_kernelmode"] = json!(sample.cpu_kernel_nanos);
    usage["usage_in_usermode"] = json!(sample.cpu_user_nanos);
    let mut value = json!({"cpu_usage": usage});
    if sample.system_nanos != 0 {
        value["system_cpu_usage"] = json!(sample.system_nanos);
    }
    if sample.online_cpus != 0 {
        value["online_cpus"] = json!(sample.online_cpus);
    }
    value["throttling_data"] = json!({
        "periods": sample.throttling_periods, "throttled_periods": sample.throttled_periods,
        "throttled_time": sample.throttled_nanos,
    });
    value
}

fn io(entries: &[(u64, u64, String, u64)]) -> Value {
    if entries.is_empty() {
        return Value::Null;
    }
    let entry = |(major, minor, op, value): &(u64, u64, String, u64)| json!({"major": major, "minor": minor, "op": op, "value": value});
    entries.iter().map(entry).collect()
}

fn render(stats: &Stats, version: ApiVersion) -> Value {
    let now = &stats.now;
    let mut pids = Map::new();
    for (key, number) in [("current", now.pids_current), ("limit", now.pids_limit)] {
        if number != 0 {
            pids.insert(key.to_owned(), json!(number));
        }
    }
    let memory = match now.memory_limit_bytes {
        0 => json!({}),
        limit => {
            let mut memory = json!({"usage": now.memory_usage_bytes});
            for (key, number) in [("max_usage", now.memory_max_usage_bytes), ("failcnt", now.memory_fail_count)] {
                if number != 0 {
                    memory[key] = json!(number);
                }
            }
            memory["stats"] = json!(now.memory_stat);
            memory["limit"] = json!(limit);
            memory
        }
    };
    let mut value = json!({
        "name": format!("/{}", stats.name), "id": stats.id.to_string(), "read": rfc3339(now.read_unix_nanos),
        "preread": rfc3339(stats.before.read_unix_nanos), "pids_stats": pids,
        "blkio_stats": {
            "io_service_bytes_recursive": io(&now.io_service_bytes), "io_serviced_recursive": io(&now.io_serviced),
            "io_queue_recursive": null, "io_service_time_recursive": null, "io_wait_time_recursive": null,
            "io_merged_recursive": null, "io_time_recursive": null, "sectors_recursive": null,
        },
        "num_procs": 0, "storage_stats": {}, "cpu_stats": cpu(now), "precpu_stats": cpu(&stats.before),
        "memory_stats": memory,
    });
    if !version.before(52) {
        value["os_type"] = json!("linux");
    }
    if !now.networks.is_empty() {
        let networks: Map<String, Value> = now
            .networks
            .iter()
            .map(|(name, n)| {
                let counters = json!({
                    "rx_bytes": n.rx_bytes, "rx_packets": n.rx_packets, "rx_errors": n.rx_errors,
                    "rx_dropped": n.rx_dropped, "tx_bytes": n.tx_bytes, "tx_packets": n.tx_packets,
                    "tx_errors": n.tx_errors, "tx_dropped": n.tx_dropped,
                });
                (name.clone(), counters)
            })
            .collect();
        value["networks"] = Value::Object(networks);
    }
    value
}
