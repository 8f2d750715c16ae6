//! Reservations and volumes: told by the master, kept by the agent.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "support/story.rs"]
mod story;

use allotment_agent::core::{Core, Effect};
use allotment_proto::allot;
use allotment_proto::allot::master_message::Message as Told;
use allotment_proto::convert::{resources_from_wire, resources_to_wire};
use allotment_proto::mesos::TaskState;
use allotment_proto::mesos::task_status::Reason;
use allotment_types::{Resources, Role};
use story::{Agent, task};

fn resources(text: &str) -> Resources {
    text.parse().unwrap()
}

fn reserved(text: &str) -> Resources {
    resources(text).reserved(&Role::parse("eng/web").unwrap(), None)
}

fn volume() -> Resources {
    reserved("disk:64").as_volume("data", "data", None)
}

fn applies(a: &mut Agent, total: &Resources) {
    a.hears(Told::ApplyResources(allot::ApplyResources {
        total: resources_to_wire(total, None),
    }));
}

/// An agent that a volume was made on, of all its disk.
fn with_volume() -> (Agent, Resources) {
    let mut a = Agent::alone();
    a.settings.resources = resources("cpus:4; mem:1024; disk:64");
    a.effects.clear();
    a.dies_and_returns();
    a.is_back();
    let total = resources("cpus:3; mem:1024")
        .plus(&reserved("cpus:1"))
        .plus(&volume());
    applies(&mut a, &total);
    let folder = "volumes/roles/eng web/data".to_owned();
    assert_eq!(a.next(), Effect::MakeVolume { folder });
    a.nothing_else();
    (a, total)
}

fn user(id: &str, resources: &Resources) -> allotment_proto::mesos::TaskInfo {
    let mut info = task(id, "cpus:1");
    info.resources = resources_to_wire(resources, Some("eng/web"));
    info
}

#[test]
fn reservations_and_volumes_are_there_after_a_crash_and_are_reported() {
    let (mut a, total) = with_volume();
    a.dies_and_returns();
    let back = a.is_back();
    assert_eq!(resources_from_wire(&back.agent.resources).unwrap(), total);
    assert_eq!(a.core.overview().free, total);
}

#[test]
fn a_task_finds_its_volume_under_the_path_it_chose() {
    let (mut a, total) = with_volume();
    let elsewhere = reserved("disk:64").as_volume("data", "my/data", None);
    let needs = reserved("cpus:1").plus(&elsewhere);
    a.launch(vec![user("t", &needs)]);
    let Effect::Start(launch) = a.next() else {
        panic!("it was not started");
    };
    assert_eq!(launch.volumes[0].folder, "volumes/roles/eng web/data");
    assert_eq!(launch.volumes[0].path, "my/data");
    assert_eq!(a.core.overview().free, resources("cpus:3; mem:1024"));
    // It holds what it holds after a crash, too.
    a.dies_and_returns();
    assert_eq!(a.core.overview().free, resources("cpus:3; mem:1024"));
    assert_eq!(a.core.overview().total, total);
}

#[test]
fn a_destroyed_volume_is_done_away_with() {
    let (mut a, _) = with_volume();
    let total = resources("cpus:3; mem:1024").plus(&reserved("cpus:1; disk:64"));
    applies(&mut a, &total);
    let folder = "volumes/roles/eng web/data".to_owned();
    assert_eq!(a.next(), Effect::DestroyVolume { folder });
    a.dies_and_returns();
    assert_eq!(a.core.overview().total, total);
}

#[test]
fn what_the_master_believes_of_other_amounts_is_not_taken_over() {
    let (mut a, total) = with_volume();
    applies(&mut a, &resources("cpus:5; mem:1024; disk:64"));
    assert!(matches!(a.next(), Effect::Warn(_)));
    assert_eq!(a.core.overview().total, total);
}

#[test]
fn settings_without_room_for_a_volume_are_refused_with_the_numbers() {
    let (mut a, _) = with_volume();
    a.settings.resources = resources("cpus:8; mem:1024; disk:10");
    let refused = Core::recover(a.settings.clone(), a.checkpoint(), 9, a.now).unwrap_err();
    let told = refused.to_string();
    assert!(told.starts_with("the reservations and volumes"), "{told}");
    assert!(
        told.contains("disk: asked 64 MiB, there is 10 MiB"),
        "{told}"
    );
    assert!(told.contains("unreserve them"), "{told}");
}

#[test]
fn volumes_that_this_agent_cannot_mount_are_refused_in_words() {
    let (mut a, _) = with_volume();
    let absolute = reserved("disk:64").as_volume("data", "/data", None);
    a.launch(vec![user("t", &reserved("cpus:1").plus(&absolute))]);
    let status = a.acknowledged_update("t", TaskState::TaskError);
    assert_eq!(status.reason(), Reason::TaskInvalid);
    assert!(status.message().contains("absolute path"), "{status:?}");
}

#[test]
fn a_shared_volume_is_used_by_several_tasks_at_once() {
    let (mut a, _) = with_volume();
    let shared = volume().relotted(|lot| lot.with(|info| info.shared = true));
    applies(&mut a, &resources("cpus:4; mem:1024").plus(&shared));
    let folder = "volumes/roles/eng web/data".to_owned();
    assert_eq!(
        a.next(),
        Effect::DestroyVolume {
            folder: folder.clone()
        }
    );
    assert_eq!(a.next(), Effect::MakeVolume { folder });
    let needs = resources("cpus:1").plus(&shared);
    a.launch(vec![user("one", &needs), user("two", &needs)]);
    a.starts("one");
    a.starts("two");
    assert_eq!(
        a.core.overview().free,
        resources("cpus:2; mem:1024").plus(&shared)
    );
}
