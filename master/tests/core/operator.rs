//! What operators see and may do.

use allotment_master::core::{Refusal, Reply, Request};
use allotment_proto::allot;
use allotment_proto::mesos::TaskState;

use crate::cluster::{Cluster, SECOND, task};

#[test]
fn a_thousand_agents_make_few_lines() {
    let mut c = Cluster::new();
    c.checked = false;
    for i in 0..1000 {
        c.agent(&format!("node{i}"), "cpus:4; mem:1024");
    }
    let fw = c.framework("web");
    c.turn();
    for offer in c.offers(&fw) {
        c.declines(&fw, &offer, Some(60.0));
    }
    c.check();
    let why = c.why("web");
    assert_eq!((why.kind.as_str(), &why.id), ("framework", &fw.id));
    insta::assert_snapshot!(why.lines.join("\n"));
}

#[test]
fn why_tells_of_agents_tasks_and_roles() {
    let mut c = Cluster::new();
    let agent = c.agent("node1", "cpus:4; mem:1024");
    let fw = c.framework("web");
    let offer = c.only_offer_to(&fw);
    c.accepts(&fw, &offer, vec![task("web.1", &offer, "cpus:1; mem:32")]);
    c.launched(&agent);
    c.goes(&agent, &fw, "web.1", TaskState::TaskRunning);
    let other = c.framework("other");
    c.only_offer_to(&other);
    c.kills(&fw, "web.1");
    c.killed(&agent);
    c.pass(3 * SECOND, &[&agent]);
    let mut text = String::new();
    for subject in ["node1", "web.1", "web", "other"] {
        let why = c.why(subject);
        text.push_str(&format!("{subject}: {}\n", why.kind));
        for line in why.lines {
            text.push_str(&format!("  {line}\n"));
        }
    }
    insta::assert_snapshot!(text);
    let subject = "nobody".to_owned();
    let refused = c.ask(Request::Why(allot::WhyRequest {
        subject,
        kind: None,
    }));
    assert!(matches!(refused, Err(Refusal::NotFound(_))));
}

#[test]
fn tasks_are_found_by_a_unique_beginning_of_their_id() {
    let mut c = Cluster::new();
    let agent = c.agent("node1", "cpus:4; mem:1024");
    let fw = c.framework("web");
    let offer = c.only_offer_to(&fw);
    let ids = ["job.1", "job.10", "job.2"];
    let tasks = ids.map(|id| task(id, &offer, "cpus:1; mem:32"));
    c.accepts(&fw, &offer, tasks.to_vec());
    c.launched(&agent);
    let mut find = |id: &str| {
        let request = allot::ListTasksRequest {
            task_id: Some(id.to_owned()),
            ..Default::default()
        };
        match c.ask(Request::ListTasks(request)) {
            Ok(Reply::Tasks(tasks)) => Ok(tasks.into_iter().map(|t| t.id).collect::<Vec<_>>()),
            Err(refusal) => Err(refusal.to_string()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(find("job.1"), Ok(vec!["job.1".to_owned()]));
    assert_eq!(find("job.10"), Ok(vec!["job.10".to_owned()]));
    assert_eq!(find("job.2"), Ok(vec!["job.2".to_owned()]));
    assert!(find("job").unwrap_err().contains("3 tasks begin"));
    assert_eq!(find("other"), Ok(Vec::new()));
}

#[test]
fn an_operator_kills_tasks_and_removes_frameworks() {
    let mut c = Cluster::new();
    let agent = c.agent("node1", "cpus:4; mem:1024");
    let fw = c.framework("web");
    let offer = c.only_offer_to(&fw);
    c.accepts(&fw, &offer, vec![task("t", &offer, "cpus:1; mem:32")]);
    c.launched(&agent);
    let kill = |id: &str| {
        Request::KillTask(allot::KillTaskRequest {
            task_id: id.to_owned(),
            framework_id: None,
        })
    };
    assert!(matches!(c.ask(kill("x")), Err(Refusal::NotFound(_))));
    assert_eq!(c.ask(kill("t")), Ok(Reply::Done));
    assert_eq!(c.killed(&agent), "t");
    let remove = Request::RemoveFramework(allot::RemoveFrameworkRequest {
        framework_id: fw.id.clone(),
    });
    assert_eq!(c.ask(remove.clone()), Ok(Reply::Done));
    assert!(c.error(&fw).contains("removed by an operator"));
    c.closed(fw.conn);
    assert_eq!(c.killed(&agent), "t");
    assert!(matches!(c.ask(remove), Err(Refusal::NotFound(_))));
    c.reports(&agent, &fw, "t", TaskState::TaskKilled);
    c.acknowledged(&agent);
    c.shut_down(&agent);
}

#[test]
fn views_add_up() {
    let mut c = Cluster::new();
    let agent = c.agent("node1", "cpus:4; mem:1024; ports:[31000-31009]");
    c.agent("node2", "cpus:4; mem:1024");
    let fw = c.framework("web");
    c.turn();
    let offers = c.offers(&fw);
    let mine = offers
        .iter()
        .find(|o| o.agent_id.value == agent.id)
        .unwrap();
    let t = task("t", mine, "cpus:1; mem:32; ports:[31000-31001]");
    c.accepts(&fw, mine, vec![t]);
    c.launched(&agent);
    let views = [
        Request::GetCluster,
        Request::ListAgents,
        Request::ListFrameworks,
        Request::ListRoles,
        Request::ListTasks(allot::ListTasksRequest::default()),
    ]
    .map(|request| format!("{:#?}", c.ask(request).unwrap()));
    insta::assert_snapshot!(views.join("\n"));
}

#[test]
fn events_are_replayed_in_order() {
    let mut c = Cluster::new();
    c.agent("node1", "cpus:4; mem:1024");
    let replay = Request::Events(allot::EventsRequest {
        replay: true,
        follow: None,
    });
    let Ok(Reply::Events(past)) = c.ask(replay) else {
        panic!("no events");
    };
    let kinds: Vec<&str> = past.iter().map(|e| e.kind.as_str()).collect();
    assert_eq!(kinds, ["master-started", "agent-registered"]);
    assert!(past[0].sequence < past[1].sequence);
    let fresh = Request::Events(allot::EventsRequest {
        replay: false,
        follow: None,
    });
    assert_eq!(c.ask(fresh), Ok(Reply::Events(Vec::new())));
}
