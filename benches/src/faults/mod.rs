//! A cluster under load while masters, agents, frameworks, links and disks fail, one after the
//! other, and the books afterwards.
//!
//! Three masters, five agents, services and batch run as real processes, each on a host
//! (`net`) with a disk (`disk`) of its own. A framework launches tasks all the while, an app
//! keeps three instances, and jobs wait in the queue. After each fault everything must be well
//! again by itself; at the end every task, job and instance must be accounted for.
//!
//! - `plan`: which faults come when. - `acts`: how each is done and undone.
//! - `roles`: the processes. - `net`, `rules`: the links. - `disk`: the disks.

mod acts;
mod disk;
mod net;
mod plan;
mod roles;
mod rules;

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::clock;
use crate::ledger::{self, Wrong, Wrote};
use crate::load::{self, Books, Plan, Wish};
use plan::{Fault, Kind};
use roles::{BATCH, LOAD, Roles, SERVICES, agents, masters};

/// How long a cluster may take to be well again. The slowest ways are those that wait for others
/// to give up: an agent's back-off, a framework's, and 20 s until an agent is unreachable. The
/// rest is for a busy machine.
const WELL_TIMEOUT: Duration = Duration::from_secs(120);
/// Instances of the app.
const INSTANCES: usize = 3;
/// Jobs submitted after each fault.
const JOBS: usize = 5;
/// So many tasks must end after a fault before the next one begins.
const TASKS_BETWEEN: usize = 10;
/// The most wrongs that are told one by one.
const WRONGS_TOLD: usize = 20;

/// Arguments.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// How long
    #[arg(long, default_value_t = 30)]
    pub minutes: u64,
    /// Which faults come in which order, how long each lasts, and which packets are lost
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// One fault of every family, briefly, and no more
    #[arg(long)]
    pub short: bool,
    /// These faults alone, each for 4 s, in this order; an unknown name lists them all
    #[arg(long, value_name = "FAULT", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Tasks launched in a second
    #[arg(long, default_value_t = 10.0)]
    pub rate: f64,
}

/// What is said while it goes on.
type Say<'a> = &'a dyn Fn(&str);

/// Everything that takes part.
struct Night<'a> {
    roles: Roles,
    books: Books,
    wish: watch::Sender<Wish>,
    load: JoinHandle<anyhow::Result<()>>,
    folder: PathBuf,
    say: Say<'a>,
    /// Jobs that were submitted, by cluster.
    jobs: Vec<String>,
    /// How many faults there were.
    n_faults: usize,
}

/// Runs it, and returns what it added up to, in words.
///
/// # Errors
/// It cannot be set up, a fault is not survived, or the books do not balance: in sentences, with
/// the folder that holds every role's log.
pub fn run(allot: &Path, args: &Args, say: Say<'_>) -> anyhow::Result<String> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "hosts of one's own (network namespaces) take root; run this as root"
    );
    let faults = faults(args)?;
    let folder = tempfile::Builder::new().prefix("allot-faults-").tempdir()?;
    match survive(allot, args, faults, folder.path(), say) {
        Ok(report) => Ok(report),
        Err(error) => {
            let kept = folder.keep();
            Err(error.context(format!("the roles' logs are in {}", kept.display())))
        }
    }
}

fn faults(args: &Args) -> anyhow::Result<Box<dyn Iterator<Item = Fault>>> {
    if !args.only.is_empty() {
        let only = args.only.iter().map(|name| {
            let lasts = Duration::from_secs(4);
            Kind::parse(name).map(|kind| Fault { kind, lasts })
        });
        let only: Result<Vec<Fault>, String> = only.collect();
        return Ok(Box::new(only.map_err(anyhow::Error::msg)?.into_iter()));
    }
    if args.short {
        return Ok(Box::new(plan::short().into_iter()));
    }
    Ok(Box::new(plan::night(args.seed)))
}

fn survive(
    allot: &Path,
    args: &Args,
    faults: impl Iterator<Item = Fault>,
    folder: &Path,
    say: Say<'_>,
) -> anyhow::Result<String> {
    let begun = clock();
    let mut night = Night::begin(allot, args, folder, say)?;
    night.well(0)?;
    say(&format!(
        "{:6.1} s  all is well before anything happened",
        begun.elapsed().as_secs_f64()
    ));
    for fault in faults {
        if begun.elapsed() > Duration::from_secs(60 * args.minutes) {
            break;
        }
        let at = begun.elapsed();
        night
            .commit(fault)
            .and_then(|()| {
                let since = clock();
                night.well(TASKS_BETWEEN)?;
                let books = night.books.look();
                say(&format!(
                    "{:6.1} s  {:<24} {:>2} s; well again after {:4.1} s; {} of {} tasks ended",
                    at.as_secs_f64(),
                    fault.kind,
                    fault.lasts.as_secs(),
                    since.elapsed().as_secs_f64(),
                    books.n_ended(),
                    books.n_launched(),
                ));
                Ok(())
            })
            .with_context(|| format!("{} was not survived", fault.kind))?;
        night.submit()?;
        night.n_faults += 1;
    }
    night.end()
}

impl<'a> Night<'a> {
    fn begin(allot: &Path, args: &Args, folder: &Path, say: Say<'a>) -> anyhow::Result<Self> {
        // Tasks of any user may write what they did.
        let proof = folder.join("tasks");
        std::fs::write(&proof, "")?;
        std::fs::write(folder.join("jobs"), "")?;
        let mut roles = Roles::new(allot, folder, args.seed)?;
        roles.start_with(0, &["--bootstrap"])?;
        let secret = folder.join("master-0/secret");
        until("the first master made its secret", || {
            ensure!(secret.exists(), "there is none");
            Ok(())
        })?;
        let first = format!(
            "{}:5050",
            roles.net.hosts.first().context("a host")?.address
        );
        for master in masters().skip(1) {
            let secret = secret.display().to_string();
            roles.start_with(master, &["--join", &first, "--secret-file", &secret])?;
        }
        until("three masters vote", || masters_well(&roles))?;
        for host in agents().chain([SERVICES, BATCH]) {
            roles.start(host)?;
        }
        let books = Books::default();
        let (wish, heard) = watch::channel(Wish::Launch);
        let plan = Plan {
            masters: roles.all_masters.split(',').map(str::to_owned).collect(),
            name: "load".to_owned(),
            resources: "cpus:0.2;mem:32".parse()?,
            lasts: Duration::from_millis(500),
            rate: args.rate,
            open_max: 60,
            proof,
        };
        let host = roles.net.hosts.get(LOAD).context("a host")?.same()?;
        let its_books = books.clone();
        let load = std::thread::Builder::new()
            .name("load".to_owned())
            .spawn(move || {
                host.enter()?;
                let mut runtime = tokio::runtime::Builder::new_current_thread();
                let runtime = runtime.enable_all().build()?;
                runtime.block_on(load::run(plan, its_books, heard))
            })?;
        let mut night = Self {
            roles,
            books,
            wish,
            load,
            folder: folder.to_owned(),
            say,
            jobs: Vec::new(),
            n_faults: 0,
        };
        night.add_app()?;
        night.submit()?;
        Ok(night)
    }

    fn add_app(&self) -> anyhow::Result<()> {
        let file = self.folder.join("app.json");
        let app = json!({
            "id": "/sleep", "cmd": "sleep 100000", "cpus": 0.1, "mem": 16, "instances": INSTANCES
        });
        std::fs::write(&file, app.to_string())?;
        let file = file.display().to_string();
        until("the app is there", || {
            self.roles.allot(&["app", "add", &file]).map(drop)
        })
    }

    /// Puts more jobs into the queue.
    fn submit(&mut self) -> anyhow::Result<()> {
        let proof = self.folder.join("jobs").display().to_string();
        let file = self.folder.join("jobs.sub");
        let id = "$(ClusterId).$(ProcId)";
        std::fs::write(
            &file,
            format!(
                "executable = /bin/sh\ntransfer_executable = false\nrequest_cpus = 1\n\
                 request_memory = 16\narguments = \"-c 'echo begin {id} >> {proof}; sleep 0.3; \
                 echo end {id} >> {proof}'\"\nqueue {JOBS}\n"
            ),
        )?;
        let file = file.display().to_string();
        let said = until("the queue takes jobs", || {
            self.roles.allot(&["job", "submit", &file])
        })?;
        let id = said.rsplit_once("cluster ").map(|(_, id)| id.trim());
        let id = id.and_then(|id| id.strip_suffix('.'));
        self.jobs.push(
            id.with_context(|| format!("`job submit` said {said:?}"))?
                .to_owned(),
        );
        Ok(())
    }

    /// Waits until everybody is there, the app is whole and `n_tasks` more tasks have ended.
    fn well(&mut self, n_tasks: usize) -> anyhow::Result<()> {
        let before = self.books.look().n_ended();
        for host in 0..LOAD {
            let runs = self.roles.runs(host)?;
            let role = self.roles.role(host)?;
            ensure!(
                runs,
                "{} ended by itself; see {}",
                role.name,
                role.log.display()
            );
        }
        ensure!(!self.load.is_finished(), "the load's subscription ended");
        until("all is well", || {
            masters_well(&self.roles)?;
            count(
                &self.roles.list("node")?,
                "nodes",
                "registered",
                agents().len(),
            )?;
            count(&self.roles.list("framework")?, "frameworks", "connected", 3)?;
            let apps = self.roles.list("app")?;
            let app = apps.first().context("the app is gone")?;
            ensure!(app["tasksRunning"] == json!(INSTANCES), "the app is {app}");
            let ended = self.books.look().n_ended();
            ensure!(
                ended >= before + n_tasks,
                "{} tasks of the load ended since, not {n_tasks}",
                ended - before
            );
            Ok(())
        })
    }

    /// Lets everything come to its end and adds up.
    fn end(mut self) -> anyhow::Result<String> {
        self.wish.send(Wish::Drain)?;
        let waited = until("every task of the load has ended", || {
            let books = self.books.look();
            let open: Vec<_> = books.open().take(3).map(ToString::to_string).collect();
            ensure!(
                open.is_empty(),
                "{} and perhaps others have not",
                open.join(", ")
            );
            Ok(())
        });
        if let Err(error) = waited {
            // The books say it more exactly.
            (self.say)(&format!("{error:#}"));
        }
        for jobs in &self.jobs {
            until("the jobs have ended", || {
                self.roles.allot(&["job", "wait", jobs])
            })?;
        }
        self.wish.send(Wish::End)?;
        let ended = self.load.join();
        ended.map_err(|_| anyhow::anyhow!("the load panicked"))??;
        self.roles.allot(&["app", "rm", "/sleep"])?;
        for agent in agents() {
            // Out of the cluster for good: its containers are ended and removed.
            self.roles.signal(agent, Signal::SIGUSR1)?;
            self.roles.ended(agent)?;
        }
        for host in [SERVICES, BATCH].into_iter().chain(masters()) {
            self.roles.stop(host)?;
        }
        let mut wrongs: Vec<String> = Vec::new();
        for role in &self.roles.roles {
            let log = std::fs::read_to_string(&role.log)?;
            let panics = log.lines().filter(|line| line.contains("panicked at"));
            wrongs.extend(panics.map(|line| format!("{}: {line}", role.name)));
        }
        let books = self.books.look();
        let tasks = ledger::read_proofs(&std::fs::read_to_string(self.folder.join("tasks"))?);
        wrongs.extend(books.close(&tasks).iter().map(Wrong::to_string));
        let jobs = ledger::read_proofs(&std::fs::read_to_string(self.folder.join("jobs"))?);
        let n_jobs = self.jobs.len() * JOBS;
        let done = |wrote: &&Wrote| wrote.ended > 0;
        let n_done = jobs.values().filter(done).count();
        if n_done != n_jobs {
            wrongs.push(format!(
                "{n_jobs} jobs are recorded complete and {n_done} ran to their end"
            ));
        }
        if !wrongs.is_empty() {
            let n = wrongs.len();
            wrongs.truncate(WRONGS_TOLD);
            bail!(
                "the books do not balance, {n} things are wrong:\n  {}",
                wrongs.join("\n  ")
            );
        }
        let again: usize = jobs.values().map(|wrote| wrote.began - 1).sum();
        let ends: Vec<String> = books
            .ends()
            .iter()
            .map(|(end, n)| format!("{n} {end}"))
            .collect();
        Ok(format!(
            "{} faults; {} tasks accepted, all accounted for ({}), none ran twice, every status in \
             order; {n_jobs} jobs complete ({again} starts were repeated after faults)",
            self.n_faults,
            books.n_launched(),
            ends.join(", "),
        ))
    }
}

fn masters_well(roles: &Roles) -> anyhow::Result<()> {
    let check = roles.allot(&["master", "check"])?;
    ensure!(check.contains("3 voters"), "`master check` says {check}");
    Ok(())
}

fn count(rows: &[Value], what: &str, state: &str, n: usize) -> anyhow::Result<()> {
    let found = rows.iter().filter(|row| row["state"] == state).count();
    ensure!(found == n, "{found} {what} are {state}, not {n}");
    Ok(())
}

/// Tries until it succeeds.
///
/// # Errors
/// It did not within [`WELL_TIMEOUT`]: what stood in the way at last.
fn until<T>(what: &str, mut look: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let begun = clock();
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(error) if begun.elapsed() > WELL_TIMEOUT => {
                return Err(error.context(format!("it never came true that {what}")));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}
