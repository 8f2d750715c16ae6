//! The worked examples of Mesos and of the DRF paper, over real processes.

use std::time::Duration;

use allotment_framework_sdk::api::TaskState;
use allotment_framework_sdk::{Call, Event, Offer};
use allotment_types::{Fixed, Name};

use crate::common::{Cluster, eventually};
use crate::framework::{Framework, endless};

fn cpus_mem(offer: &Offer) -> (Fixed, Fixed) {
    let resources = &offer.resources;
    (resources.scalar(&Name::CPUS), resources.scalar(&Name::MEM))
}

/// "Example of resource offer" of Mesos' `architecture.md`.
#[test]
fn what_framework_1_leaves_of_an_offer_is_offered_to_framework_2() {
    let cluster = Cluster::start(&["cpus:4;mem:4096"]);
    let mut first = Framework::subscribe(&cluster.url, "framework-1");
    let offer = first.offer();
    assert_eq!(cpus_mem(&offer), (Fixed::units(4), Fixed::units(4096)));
    let mut second = Framework::subscribe(&cluster.url, "framework-2");
    let tasks = vec![
        endless("task-1", "cpus:2;mem:1024"),
        endless("task-2", "cpus:1;mem:2048"),
    ];
    first.accept(&offer, tasks, Duration::from_secs(600));
    first.update("task-1", TaskState::TaskRunning);
    first.update("task-2", TaskState::TaskRunning);
    let rest = second.offer();
    assert_eq!(cpus_mem(&rest), (Fixed::units(1), Fixed::units(1024)));
    assert_eq!(rest.agent, offer.agent);
}

/// Section 4.1 of "Dominant Resource Fairness" (NSDI 2011): 9 CPUs and 18 GB, user A's tasks need
/// 1 CPU and 4 GB, user B's 3 CPUs and 1 GB; A ends with three and B with two.
#[test]
fn the_drf_papers_users_end_with_three_and_two_tasks() {
    let cluster = Cluster::start(&["cpus:9;mem:18432"]);
    let mut a = Framework::subscribe(&cluster.url, "user-a");
    // A holds the whole cluster in its offer until B is there: the paper's users start together.
    let mut waiting = Some(a.offer());
    let mut b = Framework::subscribe(&cluster.url, "user-b");
    let mut launched = [0, 0];
    let needs = ["cpus:1;mem:4096", "cpus:3;mem:1024"];
    // Whoever is offered resources launches one task, when one fits, and gives back the rest.
    while launched.iter().sum::<usize>() < 5 {
        for (user, framework) in [&mut a, &mut b].into_iter().enumerate() {
            let offer = waiting.take().or_else(|| framework.offer_soon());
            let Some(offer) = offer else {
                continue;
            };
            let task = endless(&format!("task-{}", launched[user]), needs[user]);
            let tasks = if offer.resources.contains(&task.resources) {
                launched[user] += 1;
                vec![task]
            } else {
                Vec::new()
            };
            framework.accept(&offer, tasks, Duration::ZERO);
        }
    }
    let cpus_free = eventually("every task runs", || {
        let tasks = cluster.list("task");
        let running = tasks.iter().filter(|task| task["state"] == "TASK_RUNNING");
        (running.count() == 5).then(|| cluster.list("node")[0]["free"].clone())
    });
    assert!(
        !cpus_free.to_string().contains("cpus"),
        "cores are left: {cpus_free}"
    );
    assert_eq!(launched, [3, 2]);
    // Equal dominant shares: A has two thirds of the memory, B two thirds of the cores.
    assert_eq!(held(&cluster, "user-a", "mem"), 12288.0);
    assert_eq!(held(&cluster, "user-b", "cpus"), 6.0);
}

/// How much of `resource` the master has allocated to `role`.
fn held(cluster: &Cluster, role: &str, resource: &str) -> f64 {
    let roles = cluster.list("role");
    let role = roles.iter().find(|listed| listed["name"] == role).unwrap();
    let scalars = role["allocated"]["scalars"].as_array().unwrap();
    let scalar = scalars.iter().find(|scalar| scalar["name"] == resource);
    scalar.unwrap()["value"].as_f64().unwrap()
}

#[test]
fn a_framework_that_comes_back_in_time_finds_its_tasks_running() {
    let cluster = Cluster::start(&["cpus:1;mem:512"]);
    let mut framework = Framework::subscribe(&cluster.url, "web");
    let offer = framework.offer();
    framework.accept(&offer, vec![endless("t", "cpus:1;mem:64")], Duration::ZERO);
    framework.update("t", TaskState::TaskRunning);
    let id = framework.id.clone();
    framework.leave();
    eventually("the master sees it gone", || {
        (cluster.list("framework")[0]["state"] == "disconnected").then_some(())
    });
    let mut back = Framework::resubscribe(&cluster.url, "web", Some(&id));
    assert_eq!(back.id, id);
    back.call(Call::Reconcile(Vec::new()));
    back.update("t", TaskState::TaskRunning);
    back.call(Call::Kill {
        task: "t".parse().unwrap(),
        agent: None,
        grace: None,
    });
    back.update("t", TaskState::TaskKilled);
}

impl Framework {
    /// An offer, when one comes within a moment: the other user may be next.
    fn offer_soon(&mut self) -> Option<Offer> {
        self.hear_within(Duration::from_millis(50), |event| match event {
            Event::Offers(offers) => offers.first().cloned(),
            _ => None,
        })
    }
}
