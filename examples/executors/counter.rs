//! A custom executor: one process that counts for many tasks.
//!
//! Each task's `data` is a number to count to, one step every 10 ms. The framework hears the sum
//! of all that was counted as a message after each task, and may ask for it with any message of
//! its own. Start it with `Executor::custom` of the SDK; see `docs/design/executors.md`.

use std::collections::BTreeMap;
use std::time::Duration;

use allotment_framework_sdk::api::TaskState;
use allotment_framework_sdk::executor::{Event, Executor, Task, TaskId};

/// A task that counts: how far it is, and how far it goes.
struct Count {
    at: u64,
    to: u64,
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut executor = Executor::connect()?;
    let mut counts: BTreeMap<TaskId, Count> = BTreeMap::new();
    let mut sum = 0_u64;
    let mut step = tokio::time::interval(Duration::from_millis(10));
    loop {
        tokio::select! {
            event = executor.next() => match event {
                Some(Event::Launch(task)) => match goal(&task) {
                    Ok(to) => {
                        executor.update(&task.id, TaskState::TaskRunning, None);
                        counts.insert(task.id, Count { at: 0, to });
                    }
                    Err(why) => executor.update(&task.id, TaskState::TaskFailed, Some(&why)),
                },
                Some(Event::Kill { task, .. }) => {
                    if counts.remove(&task).is_some() {
                        executor.update(&task, TaskState::TaskKilled, None);
                    }
                }
                Some(Event::Message(_)) => executor.message(sum.to_string().into()),
                Some(Event::Subscribed) => {}
                Some(Event::Shutdown) | None => break,
            },
            _ = step.tick() => {
                for count in counts.values_mut() {
                    count.at += 1;
                    sum += 1;
                }
                let done = counts.iter().filter(|(_, count)| count.at >= count.to);
                let done: Vec<TaskId> = done.map(|(id, _)| id.clone()).collect();
                for id in done {
                    counts.remove(&id);
                    executor.update(&id, TaskState::TaskFinished, None);
                    executor.message(sum.to_string().into());
                }
            }
        }
    }
    for id in counts.keys() {
        executor.update(
            id,
            TaskState::TaskKilled,
            Some("its executor was asked to exit"),
        );
    }
    executor.close().await;
    Ok(())
}

fn goal(task: &Task) -> Result<u64, String> {
    let text = String::from_utf8_lossy(&task.data);
    let goal = text.trim().parse();
    goal.map_err(|error| format!("{text:?} is no number to count to: {error}"))
}
