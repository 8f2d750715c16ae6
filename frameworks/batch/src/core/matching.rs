//! Offers into launches.
//!
//! One offer is filled with as many jobs as fit, the first in order first; what they leave is
//! declined with Mesos' default filter. Running a job in place, fetching its files from this
//! machine's file system or over HTTP is decided here, because it depends on the agent.

use std::collections::BTreeMap;

use allotment_framework_sdk::{Call, Command, Offer, Task, Uri};
use allotment_proto::allot::{FileTransfer, JobSpec};
use allotment_types::{OfferId, TaskId, Timestamp};

use super::job::{JobKey, Run, Running, Size, State, file_transfer};
use super::record::Record;
use super::{Core, Effect};

/// The most tasks of one ACCEPT: a few hundred keep messages small, and the rest of the offer
/// comes back at once when there is more to do.
const LAUNCHES_MAX: usize = 512;
/// What the executable is called in the sandbox, as in HTCondor.
pub(super) const EXECUTABLE: &str = "condor_exec.exe";
/// What the standard input is called in the sandbox.
pub(super) const STDIN: &str = "_condor_stdin";
/// Begins the address of a file of this machine for an agent on another; the edge writes its own
/// address in its place.
pub const SPOOL_SCHEME: &str = "spool://";

impl Core {
    pub(super) fn on_offers(&mut self, now: Timestamp, offers: Vec<Offer>) {
        let mut declined: Vec<OfferId> = Vec::new();
        for offer in offers {
            self.note_offer(&offer);
            let tasks = self.fill(now, &offer);
            if tasks.is_empty() {
                declined.push(offer.id);
                continue;
            }
            self.asking.filtered = true;
            self.call(Call::Accept {
                agent: offer.agent,
                offers: vec![offer.id],
                tasks,
                refuse_for: None,
            });
        }
        if !declined.is_empty() {
            self.asking.filtered = true;
            self.call(Call::Decline {
                offers: declined,
                refuse_for: None,
            });
        }
    }

    fn fill(&mut self, now: Timestamp, offer: &Offer) -> Vec<Task> {
        let mut cpus = offer.resources.cpus().thousandths();
        let mut memory = offer.resources.mem().whole();
        let mut disk = offer.resources.disk().whole();
        let near = self.shares_files(offer);
        let mut tasks = Vec::new();
        while tasks.len() < LAUNCHES_MAX {
            let fits = |size: Size| {
                size.cpus_milli <= cpus && size.memory_mib <= memory && size.disk_mib <= disk
            };
            let Some((key, size)) = self.idle.pop_first(fits) else {
                break;
            };
            cpus -= size.cpus_milli;
            memory -= size.memory_mib;
            disk -= size.disk_mib;
            tasks.extend(self.launch(now, offer, near, key));
        }
        tasks
    }

    /// Whether the agent sees this machine's files.
    fn shares_files(&self, offer: &Offer) -> bool {
        let host = offer.agent_url.strip_prefix("http://");
        let host = host.and_then(|rest| rest.rsplit_once(':')).map(|(h, _)| h);
        offer.hostname == self.settings.hostname
            || host.is_some_and(|h| h.starts_with("127.") || h == "localhost" || h == "[::1]")
    }

    fn launch(&mut self, now: Timestamp, offer: &Offer, near: bool, key: JobKey) -> Option<Task> {
        let (host, url) = self
            .hosts
            .entry(offer.agent.clone())
            .and_modify(|(host, url)| {
                if **host != *offer.hostname || **url != *offer.agent_url {
                    *host = offer.hostname.as_str().into();
                    *url = offer.agent_url.as_str().into();
                }
            })
            .or_insert_with(|| {
                (
                    offer.hostname.as_str().into(),
                    offer.agent_url.as_str().into(),
                )
            })
            .clone();
        let nonce = self.next_nonce();
        let cluster = self.clusters.get(&key.cluster)?;
        let job = self.jobs.get_mut(&key)?;
        job.starts = job.starts.saturating_add(1);
        let task = TaskId::parse(&format!("{key}.{}-{nonce:08x}", job.starts)).ok()?;
        let name = match &*cluster.batch_name {
            "" => key.to_string(),
            name => format!("{name} {key}"),
        };
        let task = build(task, name, job.size, &cluster.spec(key.proc), near);
        job.since = now;
        job.reason = None;
        job.state = State::Running(Box::new(Running {
            run: Run {
                task: task.id.clone(),
                agent: offer.agent.clone(),
                host,
                agent_url: url,
                launched: now,
                started: None,
            },
            heard: false,
            unknown_since: None,
            ending: None,
        }));
        let record = Record::Job(key, Box::new((&*job).into()));
        self.out.persist.push(record);
        if self.tasks.is_empty() {
            self.reconcile_at = now + super::life::UNHEARD_AFTER;
        }
        self.tasks.insert(task.id.clone(), key);
        self.counts.launched += 1;
        self.asking.stalled = Some(now);
        Some(task)
    }

    /// splitmix64, cut: makes task ids of two databases or two lives of one differ.
    fn next_nonce(&mut self) -> u32 {
        self.nonce = self.nonce.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.nonce;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from((z ^ (z >> 31)) >> 32).unwrap_or(0)
    }

    /// A run is over: forgets its task and keeps the run for the record.
    pub(super) fn leave_run(&mut self, key: JobKey) -> Option<Box<Running>> {
        let job = self.jobs.get_mut(&key)?;
        if !matches!(job.state, State::Running(_)) {
            return None;
        }
        let State::Running(running) = std::mem::replace(&mut job.state, State::Idle) else {
            return None;
        };
        job.last = Some(Box::new(running.run.clone()));
        self.tasks.remove(&running.run.task);
        self.out
            .then
            .push(Effect::RunOver(running.run.task.clone()));
        Some(running)
    }
}

/// The last part of a path or address.
pub(super) fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn build(id: TaskId, name: String, size: Size, spec: &JobSpec, near: bool) -> Task {
    let mode = file_transfer(spec);
    let copies = mode != FileTransfer::No;
    let in_place = near && mode == FileTransfer::IfNeeded;
    let executable = spec.executable.as_deref().unwrap_or_default();
    let mut uris = Vec::new();
    let fetch = |path: &str, executable: bool, name: &str| Uri {
        value: if near || path.contains("://") {
            path.to_owned()
        } else {
            format!("{SPOOL_SCHEME}{path}")
        },
        executable,
        // Files come as they are, as with HTCondor.
        extract: false,
        cache: false,
        output_file: Some(name.to_owned()),
    };
    let program = if spec.transfer_executable == Some(false) || !copies || in_place {
        executable.to_owned()
    } else {
        uris.push(fetch(executable, true, EXECUTABLE));
        format!("./{EXECUTABLE}")
    };
    if copies {
        for path in spec.transfer_input.iter().flat_map(|list| &list.items) {
            uris.push(fetch(path, false, base_name(path)));
        }
    }
    let input = spec.input.as_deref().filter(|path| !path.is_empty());
    let stdin = input.map(|path| {
        if !copies || in_place {
            path.to_owned()
        } else {
            uris.push(fetch(path, false, STDIN));
            STDIN.to_owned()
        }
    });
    let arguments = spec.arguments.as_ref().map(|list| list.items.clone());
    let arguments = arguments.unwrap_or_default();

    let mut env: BTreeMap<String, String> = BTreeMap::new();
    let threads = size.cpus_milli.div_ceil(1000).to_string();
    for (name, value) in [
        ("BATCH_SYSTEM", "HTCondor"),
        ("OMP_NUM_THREADS", threads.as_str()),
        // Only the agent knows where the sandbox is, and writes it in the place of this name.
        ("TMPDIR", "${MESOS_SANDBOX}"),
        ("_CONDOR_SCRATCH_DIR", "${MESOS_SANDBOX}"),
        ("_CONDOR_SLOT", "slot1"),
    ] {
        env.insert(name.to_owned(), value.to_owned());
    }
    for variable in spec.environment.iter().flat_map(|list| &list.items) {
        env.insert(variable.name.clone(), variable.value.clone());
    }

    let command = if stdin.is_none() && copies {
        Command::Exec { program, arguments }
    } else {
        // A shell for what only a shell can do here: start elsewhere, read from a file.
        let mut script = String::new();
        if !copies {
            script.push_str("cd -- \"$_CONDOR_JOB_IWD\" || exit 1; ");
            let folder = spec.initial_dir.clone().unwrap_or_default();
            env.insert("_CONDOR_JOB_IWD".to_owned(), folder);
        }
        script.push_str("exec \"$0\" \"$@\"");
        if let Some(stdin) = stdin {
            script.push_str(" < \"$_CONDOR_STDIN\"");
            env.insert("_CONDOR_STDIN".to_owned(), stdin);
        }
        let mut line = vec!["-c".to_owned(), script, program];
        line.extend(arguments);
        Command::Exec {
            program: "/bin/sh".to_owned(),
            arguments: line,
        }
    };
    Task {
        name,
        env,
        uris,
        ..Task::new(id, size.resources(), command)
    }
}
