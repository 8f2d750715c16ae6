//! Agents arrive, fall silent, come back, and leave.

use allotment_proto::allot::agent_message::Message as Says;
use allotment_proto::mesos::task_status::Reason;
use allotment_proto::mesos::{self, TaskState};
use allotment_proto::scheduler::Event;
use allotment_proto::{allot, scheduler};

use crate::cluster::{Ag, Cluster, Fw, SECOND, held, record, resources, task};

fn running(c: &mut Cluster, fw: &Fw, id: &str) -> (Ag, mesos::TaskInfo) {
    let agent = c.agent("a", "cpus:4; mem:1024");
    let offer = c.only_offer_to(fw);
    let t = task(id, &offer, "cpus:1; mem:32");
    c.accepts(fw, &offer, vec![t.clone()]);
    assert_eq!(c.launched(&agent), [id]);
    c.goes(&agent, fw, id, TaskState::TaskRunning);
    (agent, t)
}

#[test]
fn losing_a_session_rescinds_the_agents_offers_and_makes_no_new_ones() {
    let mut c = Cluster::new();
    let agent = c.agent("a", "cpus:4; mem:1024");
    let fw = c.framework("web");
    let offer = c.only_offer_to(&fw);
    c.loses_session(&agent);
    assert_eq!(c.rescinded(&fw), offer.id);
    c.pass(10 * SECOND, &[]);
    c.hears_nothing(&fw);
    let back = c.returns(&agent, Vec::new(), &[]);
    assert_eq!(back.id, agent.id);
    c.only_offer_to(&fw);
}

#[test]
fn a_short_absence_costs_no_task() {
    let mut c = Cluster::new();
    let fw = c.framework("web");
    let (agent, t) = running(&mut c, &fw, "t");
    c.loses_session(&agent);
    c.pass(70 * SECOND, &[]);
    let agent = c.returns(
        &agent,
        vec![record(&fw, &t, TaskState::TaskRunning)],
        &[&fw],
    );
    c.hears_nothing(&fw);
    assert_eq!(held(&c.only_offer_to(&fw)), resources("cpus:3; mem:992"));
    c.goes(&agent, &fw, "t", TaskState::TaskFinished);
    c.turn();
    c.offers(&fw);
}

#[test]
fn an_unreachable_agents_tasks_are_unreachable_and_come_back_with_it() {
    let mut c = Cluster::new();
    let fw = c.framework("web");
    let (agent, t) = running(&mut c, &fw, "t");
    c.loses_session(&agent);
    c.pass(75 * SECOND, &[]);
    let unreachable = c.status(&fw);
    assert_eq!(unreachable.state(), TaskState::TaskUnreachable);
    assert!(unreachable.unreachable_time.is_some() && unreachable.uuid.is_none());
    assert_eq!(c.lost_agent(&fw), agent.id);
    let record_of = |c: &Cluster| c.registry.agents.values().next().cloned().unwrap();
    assert!(record_of(&c).unreachable_since.is_some());
    let agent = c.returns(
        &agent,
        vec![record(&fw, &t, TaskState::TaskRunning)],
        &[&fw],
    );
    assert_eq!(
        c.update(&fw),
        (
            "t".to_owned(),
            TaskState::TaskRunning,
            Some(Reason::AgentReregistered)
        )
    );
    assert!(record_of(&c).unreachable_since.is_none());
    assert_eq!(c.cpus(&agent), [4.0, 1.0, 0.0]);
    c.turn();
    c.offers(&fw);
}

#[test]
fn silence_on_an_open_session_counts_as_being_away() {
    let mut c = Cluster::new();
    let fw = c.framework("web");
    let (agent, _) = running(&mut c, &fw, "t");
    c.pass(200 * SECOND, &[&agent]);
    c.offers(&fw);
    c.pass(91 * SECOND, &[]);
    assert!(c.closed(agent.conn).contains("5 pings"));
    let mut heard = Vec::new();
    while c.has_heard(&fw) {
        heard.push(c.hears(&fw).r#type());
    }
    use scheduler::event::Type::{Failure, Rescind, Update};
    assert_eq!(heard, [Rescind, Update, Failure]);
}

#[test]
fn a_task_that_the_agent_lost_is_gone_and_one_that_never_arrived_is_dropped() {
    let mut c = Cluster::new();
    let fw = c.framework("web");
    let (agent, _) = running(&mut c, &fw, "ran");
    let offer = {
        c.pass(6 * SECOND, &[&agent]);
        c.offers(&fw).remove(0)
    };
    c.accepts(&fw, &offer, vec![task("new", &offer, "cpus:1; mem:32")]);
    c.launched(&agent);
    let before = agent;
    let agent = c.returns(&before, Vec::new(), &[]);
    c.closed(before.conn);
    let mut heard = [c.update(&fw), c.update(&fw)];
    heard.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(heard[0].1, TaskState::TaskDropped);
    assert_eq!(heard[1].1, TaskState::TaskGone);
    assert_eq!(heard[1].2, Some(Reason::AgentRestarted));
    assert_eq!(c.cpus(&agent), [4.0, 0.0, 0.0]);
    c.turn();
    c.offers(&fw);
}

#[test]
fn a_second_session_closes_the_first_and_its_late_words_are_nothing() {
    let mut c = Cluster::new();
    let fw = c.framework("web");
    let (old, t) = running(&mut c, &fw, "t");
    let new = c.returns(&old, vec![record(&fw, &t, TaskState::TaskRunning)], &[&fw]);
    assert!(c.closed(old.conn).contains("another session"));
    c.reports(&old, &fw, "t", TaskState::TaskFailed);
    c.loses_session(&old);
    c.hears_nothing(&fw);
    c.goes(&new, &fw, "t", TaskState::TaskFinished);
    c.turn();
    c.offers(&fw);
}

#[test]
fn a_registration_that_comes_after_a_later_one_changes_nothing() {
    let mut c = Cluster::new();
    let fw = c.framework("web");
    let (mut agent, t) = running(&mut c, &fw, "t");
    let attempt = |process, number| Some(allot::Attempt { process, number });
    let at = |agent: &Ag, attempt| allot::Register {
        attempt,
        ..agent.register.clone()
    };
    agent.register.frameworks = vec![fw.info.clone()];
    agent.register.tasks = vec![record(&fw, &t, TaskState::TaskRunning)];
    let newest = c.registers(at(&agent, attempt(7, 3))).unwrap();
    c.closed(agent.conn);
    // It knows nothing of the task that was launched since.
    agent.register.tasks.clear();
    let why = c.registers(at(&agent, attempt(7, 2))).unwrap_err();
    assert!(
        why.contains("number 2") && why.contains("number 3"),
        "{why}"
    );
    c.hears_nothing(&fw);
    c.goes(&newest, &fw, "t", TaskState::TaskRunning);
    // Also when the newer stream has broken meanwhile.
    c.loses_session(&newest);
    c.registers(at(&agent, attempt(7, 2))).unwrap_err();
    // Another process has the folder now, and the first one has ended.
    agent.register.tasks = vec![record(&fw, &t, TaskState::TaskRunning)];
    let restarted = c.registers(at(&agent, attempt(8, 1))).unwrap();
    agent.register.tasks.clear();
    c.loses_session(&restarted);
    let why = c.registers(at(&agent, attempt(7, 4))).unwrap_err();
    assert!(why.contains("--work-dir"), "{why}");
    c.hears_nothing(&fw);
    agent.register.tasks = vec![record(&fw, &t, TaskState::TaskRunning)];
    let back = c.registers(at(&agent, attempt(8, 2))).unwrap();
    c.goes(&back, &fw, "t", TaskState::TaskFinished);
}

#[test]
fn an_id_reused_while_its_agent_was_away_runs_once() {
    let mut c = Cluster::new();
    let fw = c.framework_with("old", |info| {
        info.capabilities
            .retain(|cap| cap.r#type() == mesos::framework_info::capability::Type::MultiRole);
    });
    let (first, t) = running(&mut c, &fw, "t");
    c.loses_session(&first);
    c.pass(75 * SECOND, &[]);
    // Not partition aware: for this framework the task is lost, and the id is free.
    assert_eq!(c.update(&fw).1, TaskState::TaskLost);
    c.lost_agent(&fw);
    let second = c.agent("b", "cpus:4; mem:1024");
    let offer = c.only_offer_to(&fw);
    c.accepts(&fw, &offer, vec![task("t", &offer, "cpus:4; mem:1024")]);
    assert_eq!(c.launched(&second), ["t"]);
    let first = c.returns(
        &first,
        vec![record(&fw, &t, TaskState::TaskRunning)],
        &[&fw],
    );
    assert_eq!(c.killed(&first), "t");
    // The stray's end is the master's business; the framework's task runs on.
    c.reports(&first, &fw, "t", TaskState::TaskKilled);
    c.acknowledged(&first);
    c.goes(&second, &fw, "t", TaskState::TaskRunning);
    c.turn();
    c.offers(&fw);
}

#[test]
fn an_agent_that_leaves_takes_its_tasks_with_it() {
    let mut c = Cluster::new();
    let fw = c.framework("web");
    let (agent, _) = running(&mut c, &fw, "t");
    c.says(&agent, Says::Unregister(allot::Unregister {}));
    c.closed(agent.conn);
    assert_eq!(c.update(&fw).1, TaskState::TaskGone);
    assert_eq!(c.lost_agent(&fw), agent.id);
    assert!(c.registry.agents.is_empty());
    let back = c.agent("a", "cpus:4; mem:1024");
    assert_ne!(back.id, agent.id);
    c.turn();
    c.offers(&fw);
}

#[test]
fn an_agent_may_come_back_with_other_resources() {
    let mut c = Cluster::new();
    let fw = c.framework("web");
    let (agent, t) = running(&mut c, &fw, "t");
    c.loses_session(&agent);
    let mut grown = agent.clone();
    grown.register.agent.resources = crate::cluster::register("a", "cpus:8; mem:2048")
        .agent
        .resources;
    c.returns(
        &grown,
        vec![record(&fw, &t, TaskState::TaskRunning)],
        &[&fw],
    );
    assert_eq!(held(&c.only_offer_to(&fw)), resources("cpus:7; mem:2016"));
}

#[test]
fn the_end_of_a_task_that_nobody_acknowledged_is_told_again_when_its_agent_is_lost() {
    let mut c = Cluster::new();
    let agent = c.agent("a", "cpus:4; mem:1024");
    let fw = c.framework("web");
    let offer = c.only_offer_to(&fw);
    c.accepts(&fw, &offer, vec![task("t", &offer, "cpus:1; mem:32")]);
    c.launched(&agent);
    let ended = c.reports(&agent, &fw, "t", TaskState::TaskFinished);
    assert_eq!(c.status(&fw), ended);
    // It got lost, and the machine that would have repeated it is installed anew.
    c.loses_session(&agent);
    c.pass(75 * SECOND, &[]);
    assert_eq!(c.status(&fw), ended);
    assert_eq!(c.lost_agent(&fw), agent.id);
}

#[test]
fn a_recovered_agent_that_stays_away_becomes_unreachable() {
    let mut c = Cluster::new();
    let agent = c.agent("a", "cpus:4; mem:1024");
    c.master_restarts();
    c.pass(76 * SECOND, &[]);
    let fw = c.framework("web");
    c.reconciles(&fw, &[("t", Some(&agent.id))]);
    assert_eq!(c.update(&fw).1, TaskState::TaskUnreachable);
    c.returns(&agent, Vec::new(), &[]);
    c.only_offer_to(&fw);
}

#[test]
fn agents_get_ids_and_keep_them() {
    let mut c = Cluster::new();
    assert_eq!(c.agent("a", "cpus:4; mem:1024").id, "m1-S0");
    assert_eq!(c.agent("b", "cpus:4; mem:1024").id, "m1-S1");
    assert_eq!(c.registry.agents.len(), 2);
}

#[test]
fn an_end_whose_details_the_agent_lost_is_told_all_the_same() {
    let mut c = Cluster::new();
    let fw = c.framework("web");
    let (agent, _) = running(&mut c, &fw, "t");
    let (told, latest) = (TaskState::TaskRunning, TaskState::TaskFinished);
    c.reports_late(&agent, &fw, "t", told, latest);
    c.update(&fw);
    c.loses_session(&agent);
    c.returns(&agent, Vec::new(), &[]);
    let told = c.status(&fw);
    assert_eq!(told.state(), TaskState::TaskFinished);
    assert_eq!(
        (told.uuid.as_ref(), told.reason()),
        (None, Reason::AgentRestarted)
    );
    c.turn();
    c.offers(&fw);
}

/// The task runs for its framework, and has ended for its agent.
fn ended_untold(c: &mut Cluster, fw: &Fw) -> (Ag, mesos::TaskInfo) {
    let (agent, t) = running(c, fw, "t");
    let (told, latest) = (TaskState::TaskRunning, TaskState::TaskFinished);
    c.reports_late(&agent, fw, "t", told, latest);
    c.update(fw);
    (agent, t)
}

#[test]
fn a_task_whose_end_was_not_told_is_unreachable_with_its_agent_and_ends_when_that_is_back() {
    let mut c = Cluster::new();
    let fw = c.framework("web");
    let (agent, t) = ended_untold(&mut c, &fw);
    c.turn();
    c.all_heard_by(&fw);
    c.loses_session(&agent);
    c.pass(75 * SECOND, &[]);
    let heard: Vec<_> = c.all_heard_by(&fw);
    let states = |events: &[Event]| -> Vec<TaskState> {
        let updates = events.iter().filter_map(|event| event.update.as_ref());
        updates.map(|update| update.status.state()).collect()
    };
    assert_eq!(states(&heard), [TaskState::TaskUnreachable]);
    // Whoever asks hears the same, and nothing that was so once.
    c.reconciles(&fw, &[("t", Some(&agent.id))]);
    assert_eq!(c.update(&fw).1, TaskState::TaskUnreachable);
    let finished = record(&fw, &t, TaskState::TaskFinished);
    let agent = c.returns(&agent, vec![finished], &[&fw]);
    c.reports(&agent, &fw, "t", TaskState::TaskFinished);
    c.turn();
    assert_eq!(states(&c.all_heard_by(&fw)), [TaskState::TaskFinished]);
}

#[test]
fn a_task_whose_end_was_not_told_ends_when_its_agent_leaves_or_comes_back_without_it() {
    for leaves in [true, false] {
        let mut c = Cluster::new();
        let fw = c.framework("web");
        let (agent, _) = ended_untold(&mut c, &fw);
        if leaves {
            c.says(&agent, Says::Unregister(allot::Unregister {}));
            c.closed(agent.conn);
        } else {
            c.loses_session(&agent);
            c.pass(75 * SECOND, &[]);
            c.returns(&agent, Vec::new(), &[]);
        }
        c.turn();
        c.all_heard_by_agent(&agent);
        let heard = c.all_heard_by(&fw);
        let last = heard
            .iter()
            .filter_map(|event| event.update.as_ref())
            .last();
        assert_eq!(last.unwrap().status.state(), TaskState::TaskFinished);
    }
}

#[test]
fn the_first_word_to_an_agent_is_that_it_is_registered() {
    let mut c = Cluster::new();
    let fw = c.framework_with("web", |info| info.failover_timeout = None);
    let (agent, _) = running(&mut c, &fw, "t");
    c.loses_session(&agent);
    c.disconnects(&fw);
    // The removed framework's task is over, which must not be said on a session that only begins.
    let back = c.returns(&agent, Vec::new(), &[]);
    assert_eq!(c.cpus(&back), [4.0, 0.0, 0.0]);
}

/// Found by the simulator: the framework heard TASK_UNREACHABLE from an earlier master.
#[test]
fn a_task_that_was_unreachable_before_a_restart_is_spoken_of_when_it_is_back() {
    let mut c = Cluster::new();
    let fw = c.framework("web");
    let (agent, t) = running(&mut c, &fw, "t");
    c.loses_session(&agent);
    c.pass(75 * SECOND, &[]);
    c.update(&fw);
    c.lost_agent(&fw);
    c.master_restarts();
    let fw = c.comes_back(&fw);
    c.returns(
        &agent,
        vec![record(&fw, &t, TaskState::TaskRunning)],
        &[&fw],
    );
    assert_eq!(c.update(&fw).1, TaskState::TaskRunning);
    c.turn();
    c.offers(&fw);
}
