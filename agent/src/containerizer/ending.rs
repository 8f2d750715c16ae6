//! How containers end: inits are reaped and heard, what is left goes, and the agent is told.

use std::collections::BTreeSet;
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::{getpid, read};

use super::container::{Container, MemoryWatch};
use super::isolators::cgroups::Group;
use super::launcher::Launcher;
use super::plan::failure_message;
use super::report::Report;
use super::sys::{self, Usage, Wait};
use super::tree;
use super::wire::{Ended, Failed, Gone, Started, news};

impl Launcher {
    /// Reaps ended inits and tells what became of their tasks.
    pub(super) fn reap(&mut self) {
        while let Ok(Some(_)) = self.children.read_signal() {}
        let (mut ended, mut others) = (Vec::new(), Vec::new());
        while let Ok(Some(reaped)) = sys::reap(Wait::Poll) {
            if let Some(id) = self.by_pid.remove(&reaped.pid.as_raw()) {
                ended.push((id, reaped));
            } else {
                others.push(reaped.pid.as_raw());
            }
        }
        // An init writes its report before it ends: after reaping, the report is in the pipe.
        self.read_reports();
        for pid in others {
            self.idle.forget(pid);
            self.on_keeper_reaped(pid);
        }
        for (id, reaped) in ended {
            if let Some(container) = self.containers.remove(&id) {
                self.finish(id, container, &reaped.usage);
            }
        }
    }

    fn read_reports(&mut self) {
        loop {
            let n = match read(&self.reports, &mut self.buffer) {
                Ok(n) if n > 0 => n,
                Err(Errno::EINTR) => continue,
                Ok(_) | Err(_) => return,
            };
            let (records, _) = self.buffer.get(..n).unwrap_or_default().as_chunks();
            let reports: Vec<_> = records.iter().filter_map(Report::decode).collect();
            for (uuid, report) in reports {
                match self.by_uuid.get(&uuid) {
                    Some(id) => self.on_report(*id, report),
                    None => self.on_session_report(uuid, report),
                }
            }
        }
    }

    fn on_report(&mut self, id: u64, report: Report) {
        let Some(container) = self.containers.get_mut(&id) else {
            return;
        };
        match report {
            Report::Born(_) => {}
            Report::Started => {
                container.started = true;
                let pid = container.init.as_raw();
                self.tell(news::Kind::Started(Started { id, pid }));
            }
            Report::Failed { stage, errno } => container.failure = Some((stage, errno)),
            Report::Ended { status, usage } => {
                container.ended = Some((status, usage));
                self.free_init(id);
            }
        }
    }

    /// An init that may serve again has seen its container through.
    fn free_init(&mut self, id: u64) {
        let Some(container) = self.containers.get_mut(&id) else {
            return;
        };
        let Some(orders) = container.orders.take() else {
            return;
        };
        let init = container.init;
        if self.agent_gone {
            // It ends, and its container with it.
            return;
        }
        self.idle.add(init, orders);
        self.by_pid.remove(&init.as_raw());
        if let Some(container) = self.containers.remove(&id) {
            self.finish(id, container, &Usage::default());
        }
    }

    /// The init of a container has ended and itself used that much: tells how the task ended and
    /// cleans up.
    pub(super) fn finish(&mut self, id: u64, mut container: Container, own_usage: &Usage) {
        container.memory_watch = MemoryWatch::Off;
        self.by_uuid.remove(&container.uuid);
        let name = uuid::Uuid::from_u128(container.uuid).to_string();
        self.isolators.cleanup(&name);
        self.sessions.kill_those_of(id);
        self.kill_those_in(container.uuid);
        if let Some(parent) = container.beside {
            self.inside.remove(&(parent, id));
        }
        if let Some(pod) = container.pod {
            self.leave_pod(pod);
        }
        if container.ended.is_none() && container.failure.is_none() && !container.pid_namespace {
            // The init was killed; what it guarded has become ours.
            self.kill_orphans();
        }
        let verdict = container.group.as_ref().and_then(Group::memory_verdict);
        let undisturbed = container.ended.is_some() && container.destroying.is_none();
        let as_it_was = undisturbed && verdict.is_none_or(|verdict| !verdict.exceeded);
        let group = match container.group.take() {
            Some(group) if as_it_was => self.isolators.keep(group),
            group => group,
        };
        // Usually nothing is left in it, and then there is nothing to kill.
        if let Some(mut group) = group
            && !group.remove()
        {
            group.kill_members();
            if !group.remove() {
                self.leftover_groups.push(group);
            }
        }
        let verdict = verdict.map(|mut verdict| {
            verdict.exceeded |= container.memory_exceeded;
            verdict
        });
        if container.disowned {
            return;
        }
        let exceeded = verdict.is_some_and(|verdict| verdict.exceeded);
        let unexplained = container.ended.is_none() && container.destroying.is_none() && !exceeded;
        let kind = match container.failure {
            Some((stage, errno)) if !exceeded => news::Kind::Failed(Failed {
                id,
                message: failure_message(&container.program, stage, errno),
            }),
            None if container.adopted.is_some() && unexplained => news::Kind::Gone(Gone {
                id,
                never_begun: false,
            }),
            None if !container.started && container.destroying.is_none() => {
                news::Kind::Failed(Failed {
                    id,
                    message: format!(
                        "the container's first process ended before it could run {:?}; the \
                         machine may be out of memory",
                        container.program
                    ),
                })
            }
            Some(_) | None => {
                // A destroyed init reports nothing; its own usage then holds that of its tree.
                let (status, usage) = container.ended.unwrap_or((libc::SIGKILL, *own_usage));
                let nanos =
                    |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
                news::Kind::Ended(Ended {
                    id,
                    status,
                    user_cpu_ns: nanos(usage.user),
                    system_cpu_ns: nanos(usage.system),
                    max_rss_bytes: usage.max_rss_bytes,
                    memory_limit_bytes: verdict.filter(|v| v.exceeded).map(|v| v.limit_bytes),
                    memory_peak_bytes: verdict.and_then(|v| v.peak_bytes),
                })
            }
        };
        self.tell(kind);
    }

    /// Kills every child that is neither init nor keeper, with all below it.
    fn kill_orphans(&mut self) {
        let inits: BTreeSet<i32> = self
            .by_pid
            .keys()
            .copied()
            .chain(self.sessions.pids())
            .chain(self.idle.pids())
            .chain(self.pods.pids())
            .collect();
        while !tree::descendants(getpid(), &inits).is_empty() {
            tree::kill_tree(getpid(), &inits);
            match sys::reap(Wait::Block) {
                // The turn after the next finishes it: its report, if any, is in the pipe.
                Ok(Some(reaped)) if self.by_pid.contains_key(&reaped.pid.as_raw()) => {
                    self.read_reports();
                    if let Some(id) = self.by_pid.remove(&reaped.pid.as_raw())
                        && let Some(container) = self.containers.remove(&id)
                    {
                        self.finish(id, container, &reaped.usage);
                        return;
                    }
                }
                Ok(Some(reaped)) => {
                    self.read_reports();
                    self.on_keeper_reaped(reaped.pid.as_raw());
                }
                Ok(None) => {}
                Err(_) => return,
            }
        }
    }
}
