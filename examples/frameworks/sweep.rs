//! Runs a command once for each parameter: `sweep 127.0.0.1:5050 'echo $((6 * P))' 1 2 3`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program")]
use allotment_framework_sdk::api::{Call, Command, Event, Offer, Task, TaskState, Update};
use allotment_framework_sdk::{Config, Scheduler, sandbox::read_text};
use std::{collections::BTreeMap, error::Error, mem::take};

#[derive(Default)]
pub(crate) struct Sweep {
    pub(crate) waiting: Vec<Task>,
    pub(crate) running: BTreeMap<String, (Task, String)>, // by id, with the agent's URL
    pub(crate) ended: Vec<(Task, String, Update)>,
}

impl Sweep {
    pub(crate) fn step(&mut self, event: Event) -> Vec<Call> {
        match event {
            Event::Subscribed { .. } => vec![Call::Reconcile(Vec::new())],
            Event::Offers(offers) => offers.into_iter().map(|o| self.on_offer(o)).collect(),
            Event::Update(update) => self.on_update(update),
            _ => Vec::new(),
        }
    }

    fn on_offer(&mut self, mut offer: Offer) -> Call {
        let mut tasks = Vec::new();
        let free = &mut offer.resources;
        while let Some(task) = self.waiting.pop_if(|task| free.contains(&task.resources)) {
            free.subtract(&task.resources);
            let run = (task.clone(), offer.agent_url.clone());
            self.running.insert(task.id.to_string(), run);
            tasks.push(task);
        }
        offer.accept(tasks)
    }

    fn on_update(&mut self, update: Update) -> Vec<Call> {
        let mut calls = Vec::from_iter(update.acknowledgement());
        let ended = update.is_terminal().then_some(update.task.as_str());
        if let Some((mut task, agent)) = ended.and_then(|id| self.running.remove(id)) {
            if update.state == TaskState::TaskFinished || task.id.as_str().ends_with("++") {
                self.ended.push((task, agent, update));
            } else {
                task.id = format!("{}+", task.id).parse().expect("an id and a plus");
                self.waiting.push(task);
                calls.push(Call::Revive);
            }
        }
        calls
    }
}

#[tokio::main]
pub(crate) async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let master = args.next().ok_or("usage: sweep MASTER COMMAND P...")?;
    let command = Command::Shell(args.next().ok_or("the COMMAND is missing")?);
    let mut sweep = Sweep::default();
    for (number, parameter) in args.enumerate() {
        let (id, needs) = (number.to_string().parse()?, "cpus:0.5; mem:32".parse()?);
        let mut task = Task::new(id, needs, command.clone());
        task.env.insert("P".to_owned(), parameter);
        sweep.waiting.push(task);
    }
    let mut scheduler = Scheduler::connect(Config::new(master, "sweep"))?;
    while !(sweep.waiting.is_empty() && sweep.running.is_empty()) {
        let event = scheduler.next().await.ok_or("the subscription ended")?;
        if let Event::Disconnected { reason } = &event {
            eprintln!("{reason}");
        }
        scheduler.call_all(sweep.step(event)).await?;
        for (task, agent, end) in take(&mut sweep.ended) {
            let framework = scheduler.framework().ok_or("not subscribed")?;
            let output = read_text(&agent, framework, &task.id, "stdout", 4096).await;
            let output = output.unwrap_or_else(|error| error.to_string());
            println!("P={} {:?} {}", task.env["P"], end.state, output.trim_end());
        }
    }
    scheduler.teardown().await;
    Ok(())
}
