//! Messages in a few words, for the trace.

use allotment_proto::allot::{agent_message, master_message};
use allotment_proto::{allot, scheduler};

use crate::net::{Down, Peer, Up};

pub(crate) fn stream(number: u64, peer: Option<Peer>) -> String {
    match peer {
        Some(Peer::Agent(i)) => format!("machine {i} ({number})"),
        Some(Peer::Framework(i)) => format!("framework {i} ({number})"),
        None => format!("gone ({number})"),
    }
}

pub(crate) fn up(up: &Up) -> String {
    match up {
        Up::Opened => "opened".to_owned(),
        Up::Call(call) => self::call(call),
        Up::Message(message) => self::message(message),
        Up::Closed => "closed".to_owned(),
    }
}

pub(crate) fn down(down: &Down) -> String {
    match down {
        Down::Event(event) => self::event(event),
        Down::Message(message) => order(message),
        Down::Closed { reason, .. } => format!("closed: {reason}"),
    }
}

fn call(call: &scheduler::Call) -> String {
    let kind = call.r#type().as_str_name();
    if let Some(accept) = &call.accept {
        let offers: Vec<_> = accept.offer_ids.iter().map(|o| o.value.as_str()).collect();
        let tasks: Vec<_> = accept
            .operations
            .iter()
            .flat_map(|o| o.launch.iter().flat_map(|l| &l.task_infos))
            .map(|t| t.task_id.value.as_str())
            .collect();
        return format!("{kind} {} -> {}", offers.join(","), tasks.join(","));
    }
    if let Some(decline) = &call.decline {
        let offers: Vec<_> = decline.offer_ids.iter().map(|o| o.value.as_str()).collect();
        return format!("{kind} {}", offers.join(","));
    }
    if let Some(kill) = &call.kill {
        return format!("{kind} {}", kill.task_id.value);
    }
    if let Some(ack) = &call.acknowledge {
        return format!("{kind} {}", ack.task_id.value);
    }
    if let Some(reconcile) = &call.reconcile {
        return format!("{kind} {} tasks", reconcile.tasks.len());
    }
    kind.to_owned()
}

fn event(event: &scheduler::Event) -> String {
    let kind = event.r#type().as_str_name();
    if let Some(offers) = &event.offers {
        let offers: Vec<_> = offers
            .offers
            .iter()
            .map(|o| format!("{}@{}", o.id.value, o.agent_id.value))
            .collect();
        return format!("{kind} {}", offers.join(","));
    }
    if let Some(update) = &event.update {
        let status = &update.status;
        let source = if status.uuid.is_some() {
            ""
        } else {
            " (master)"
        };
        let state = status.state().as_str_name();
        return format!("{kind} {} {state}{source}", status.task_id.value);
    }
    if let Some(rescind) = &event.rescind {
        return format!("{kind} {}", rescind.offer_id.value);
    }
    if let Some(rejected) = &event.call_rejected {
        return format!("{kind} {}", rejected.message);
    }
    kind.to_owned()
}

fn message(message: &allot::AgentMessage) -> String {
    match &message.message {
        Some(agent_message::Message::Register(register)) => format!(
            "register {} with {} tasks",
            register.agent.id.as_ref().map_or("new", |id| &id.value),
            register.tasks.len()
        ),
        Some(agent_message::Message::Update(update)) => format!(
            "update {} {} (latest {})",
            update.status.task_id.value,
            update.status.state().as_str_name(),
            update.latest_state().as_str_name()
        ),
        Some(agent_message::Message::Pong(_)) => "pong".to_owned(),
        Some(agent_message::Message::Unregister(_)) => "unregister".to_owned(),
        Some(agent_message::Message::ExecutorEnded(ended)) => {
            format!("executor {} ended", ended.executor_id.value)
        }
        Some(agent_message::Message::ExecutorMessage(message)) => {
            format!("message of executor {}", message.executor_id.value)
        }
        None => "nothing".to_owned(),
    }
}

fn order(message: &allot::MasterMessage) -> String {
    match &message.message {
        Some(master_message::Message::Registered(r)) => format!("registered {}", r.agent_id.value),
        Some(master_message::Message::Rejected(r)) => format!("rejected: {}", r.message),
        Some(master_message::Message::Launch(launch)) => {
            let tasks: Vec<_> = launch
                .tasks
                .iter()
                .map(|t| t.task_id.value.as_str())
                .collect();
            format!("launch {}", tasks.join(","))
        }
        Some(master_message::Message::Kill(kill)) => format!("kill {}", kill.task_id.value),
        Some(master_message::Message::Acknowledge(ack)) => {
            format!("acknowledge {}", ack.task_id.value)
        }
        Some(master_message::Message::ShutdownFramework(s)) => {
            format!("shutdown {}", s.framework_id.value)
        }
        Some(master_message::Message::ApplyResources(_)) => "apply resources".to_owned(),
        Some(master_message::Message::Ping(_)) => "ping".to_owned(),
        Some(master_message::Message::ExecutorMessage(message)) => {
            format!("message to executor {}", message.executor_id.value)
        }
        Some(master_message::Message::ShutdownExecutor(shutdown)) => {
            format!("shutdown of executor {}", shutdown.executor_id.value)
        }
        None => "nothing".to_owned(),
    }
}
