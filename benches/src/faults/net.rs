//! A network of hosts on one machine, and in our hands.
//!
//! Each host is a network namespace with one interface, and every packet passes through this
//! process, which decides by [`Rules`] what becomes of it. A bridge with `tc` would do the same
//! where the kernel has `netem` and packet actions; not every kernel has, and this needs only
//! `/dev/net/tun`, `ip` and root. The namespaces have no names: they end with their processes.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, ensure};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::runtime::Runtime;
use tokio_tun::Tun;

use super::rules::{HostId, Rules, Verdict};

/// Ethernet's.
const PACKET_LEN_MAX: usize = 1500;

/// One host.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) address: Ipv4Addr,
    space: File,
}

/// All of them, and what is between them.
#[derive(Debug)]
pub(super) struct Net {
    pub(super) hosts: Vec<Host>,
    rules: Arc<Mutex<Rules>>,
    // Carries the packets until it is dropped.
    _switch: Runtime,
}

impl Net {
    /// Hosts 10.77.0.1 and so on.
    pub(super) fn new(n_hosts: u8, seed: u64) -> anyhow::Result<Self> {
        let switch = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let (mut hosts, mut links) = (Vec::new(), Vec::new());
        for n in 1..=n_hosts {
            let address = Ipv4Addr::new(10, 77, 0, n);
            let (host, link) = std::thread::scope(|scope| {
                let made = scope.spawn(|| make_host(address, &switch)).join();
                made.unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked")))
            })
            .with_context(|| format!("cannot make host {address}"))?;
            hosts.push(host);
            links.push(Arc::new(link));
        }
        let rules = Arc::new(Mutex::new(Rules::new(seed)));
        for from in 0..links.len() {
            switch.spawn(carry(from, links.clone(), Arc::clone(&rules)));
        }
        Ok(Self {
            hosts,
            rules,
            _switch: switch,
        })
    }

    /// Changes what becomes of packets from now on.
    pub(super) fn change(&self, how: impl FnOnce(&mut Rules)) {
        how(&mut self.rules.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Makes a namespace and its one interface. The calling thread is lost to it.
fn make_host(address: Ipv4Addr, switch: &Runtime) -> anyhow::Result<(Host, Tun)> {
    unshare(CloneFlags::CLONE_NEWNET).context("a network namespace takes root")?;
    let space = File::open("/proc/thread-self/ns/net")?;
    let lo = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .output();
    let lo = lo.context("`ip` is missing; install iproute2")?;
    ensure!(
        lo.status.success(),
        "{}",
        String::from_utf8_lossy(&lo.stderr)
    );
    let _here = switch.enter();
    let links = Tun::builder()
        .name("host0")
        .address(address)
        .netmask(Ipv4Addr::new(255, 255, 255, 0))
        .up()
        .build();
    let links = links.context("an interface takes /dev/net/tun")?;
    let link = links.into_iter().next().context("no interface was made")?;
    Ok((Host { address, space }, link))
}

/// Carries what one host sends, until the runtime ends.
async fn carry(from: HostId, links: Vec<Arc<Tun>>, rules: Arc<Mutex<Rules>>) {
    let mut packet = vec![0; PACKET_LEN_MAX];
    while let Some(link) = links.get(from)
        && let Ok(len) = link.recv(&mut packet).await
    {
        let Some((to, packet)) = packet.get(..len).and_then(address) else {
            continue;
        };
        let Some(link) = links.get(to) else {
            continue;
        };
        let verdict = {
            let mut rules = rules.lock().unwrap_or_else(PoisonError::into_inner);
            rules.judge(from, to)
        };
        match verdict {
            Verdict::Lose => {}
            // A host that is gone hears nothing.
            Verdict::Pass => drop(link.send(packet).await),
            Verdict::Delay(delay) => {
                let (link, packet) = (Arc::clone(link), packet.to_vec());
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    drop(link.send(&packet).await);
                });
            }
        }
    }
}

/// To which host an IPv4 packet goes.
fn address(packet: &[u8]) -> Option<(HostId, &[u8])> {
    let to: &[u8; 4] = packet.get(16..20)?.try_into().ok()?;
    match (packet.first()? >> 4, to) {
        (4, [10, 77, 0, n]) => Some((HostId::from(n.checked_sub(1)?), packet)),
        _ => None,
    }
}

impl Host {
    /// Does something as this host: sockets that are opened and processes that are started
    /// belong to it.
    pub(super) fn run<T: Send>(&self, act: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        std::thread::scope(|scope| {
            let done = scope.spawn(|| {
                self.enter()?;
                Ok(act())
            });
            done.join()
                .unwrap_or_else(|_| Err(anyhow::anyhow!("what ran on {} panicked", self.address)))
        })
    }

    /// The calling thread is on this host from now on.
    pub(super) fn enter(&self) -> anyhow::Result<()> {
        setns(&self.space, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("cannot enter host {}", self.address))
    }

    /// Another handle of the same host.
    pub(super) fn same(&self) -> anyhow::Result<Self> {
        let space = self.space.try_clone()?;
        let address = self.address;
        Ok(Self { address, space })
    }

    /// SIGKILL for every process on it: roles, launchers and tasks, as a power cut would.
    pub(super) fn kill_all(&self) -> anyhow::Result<()> {
        let space = format!("net:[{}]", self.space.metadata()?.ino());
        let own = std::process::id();
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let pid = entry.file_name().to_str().and_then(|pid| pid.parse().ok());
            // Processes come and go.
            let Ok(found) = std::fs::read_link(entry.path().join("ns/net")) else {
                continue;
            };
            if let Some(pid) = pid
                && found.to_str() == Some(&space)
                && own.cast_signed() != pid
            {
                let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        Ok(())
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for host in &self.hosts {
            let _best_effort = host.kill_all();
        }
    }
}
