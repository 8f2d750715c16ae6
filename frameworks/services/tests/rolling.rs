//! Rolling restarts over the whole core, with chance in charge of the cluster: what runs when,
//! which probes fail to come, when kills are confirmed, when the process is replaced.

mod common;

use std::time::Duration;

use allotment_framework_sdk::Command;
use allotment_services::core::health::Outcome;
use common::World;
use proptest::prelude::*;
use serde_json::json;

/// Running and healthy, as the REST API tells.
fn ready(w: &mut World) -> u64 {
    w.get("/v2/apps/r")["app"]["tasksHealthy"]
        .as_u64()
        .unwrap_or(0)
}

/// Of those, the ones that nobody asked to end.
fn spared(w: &mut World) -> u64 {
    let killed = w.kills();
    let app = w.get("/v2/apps/r")["app"].clone();
    let tasks = app["tasks"].as_array().cloned().unwrap_or_default();
    let healthy = tasks.iter().filter(|task| {
        let id = task["id"].as_str().unwrap_or_default();
        task["state"] == "TASK_RUNNING"
            && task["healthCheckResults"][0]["alive"] == true
            && killed.iter().all(|k| k.as_str() != id)
    });
    healthy.count() as u64
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_deployment_never_takes_an_app_below_minimum_health_capacity(
        before in 1_u64..6,
        target in 1_u64..6,
        min in 0_u32..=4,
        over in 0_u32..=4,
        turns in prop::collection::vec(0_u8..8, 0..60),
    ) {
        let min = f64::from(min) / 4.0;
        let over = f64::from(over) / 4.0;
        let mut w = World::new().agent("a1", "cpus:50; mem:9000; ports:[31000-31999]");
        let app = json!({
            "id": "/r", "cmd": "serve 1", "cpus": 0.1, "instances": before,
            "healthChecks": [{"protocol": "HTTP", "gracePeriodSeconds": 100000, "intervalSeconds": 1}],
            "upgradeStrategy": {"minimumHealthCapacity": min, "maximumOverCapacity": over},
        });
        prop_assert_eq!(w.post(&app.to_string()).status, 201);
        w.settle();
        prop_assert_eq!(ready(&mut w), before);
        let change = json!({"cmd": "serve 2", "instances": target});
        prop_assert_eq!(w.ask("PUT", "/v2/apps/r", &change.to_string()).status, 200);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "small")]
        let floor = ((target as f64 * min - 1e-9).ceil() as u64).min(before);
        let most = before.max(2 * target) + 1;
        for turn in turns {
            match turn {
                0 | 1 => if w.wants_offers { w.offer() },
                2 | 3 => if let Some(task) = w.staging().first().cloned() {
                    w.update(&task, allotment_framework_sdk::api::TaskState::TaskRunning, "");
                },
                4 => w.pass(Duration::from_millis(200)),
                5 => w.probes_end(&Outcome::Status(200)),
                6 => if let Some(task) = w.kills().first().cloned() {
                    w.update(&task, allotment_framework_sdk::api::TaskState::TaskKilled, "");
                },
                _ => w.restart(),
            }
            let left = spared(&mut w);
            prop_assert!(left >= floor, "{left} healthy instances are spared, {floor} promised");
            prop_assert!(w.tasks.len() as u64 <= most, "{} tasks, {most} allowed", w.tasks.len());
        }
        for _ in 0..4 {
            w.pass(Duration::from_secs(1));
            w.settle();
        }
        prop_assert_eq!(w.deployments(), 0);
        prop_assert_eq!(w.running().len() as u64, target);
        let new = |command: &Command| *command == Command::Shell("serve 2".to_owned());
        let all_new = w.tasks.values().all(|live| new(&live.task.command));
        prop_assert!(all_new);
    }
}
