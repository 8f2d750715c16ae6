//! How each fault is done, held and undone.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;

use super::plan::{Fault, Kind};
use super::roles::{BATCH, DESK, LOAD, SERVICES, agents, masters};
use super::rules::{HostId, Rules, Weather};
use super::{Night, masters_well, until};
use crate::clock;
use crate::load::Wish;

/// How long each of the turns of a link that flaps takes.
const FLAP: Duration = Duration::from_millis(700);

impl Night<'_> {
    /// Does it, waits, and undoes it.
    pub(super) fn commit(&mut self, fault: Fault) -> anyhow::Result<()> {
        let leader = until("somebody leads", || self.roles.leader())?;
        let follower = (leader + 1) % masters().len();
        let agent = agents().start + self.n_faults % agents().len();
        let lasts = fault.lasts;
        match fault.kind {
            Kind::LeaderKilled => self.killed(leader, lasts),
            Kind::FollowerKilled => self.killed(follower, lasts),
            Kind::AgentKilled => self.killed(agent, lasts),
            Kind::ServicesKilled => self.killed(SERVICES, lasts),
            Kind::BatchKilled => self.killed(BATCH, lasts),
            Kind::LeaderStopped => self.stopped(leader, lasts),
            Kind::AgentStopped => self.stopped(agent, lasts),
            Kind::AgentPowerCut => self.power_cut(agent, lasts),
            Kind::AllKilled => self.all_killed(lasts),
            Kind::RollingRestart => self.rolling_restart(),
            Kind::FrameworkAway => self.framework_away(lasts),
            Kind::LeaderDiskFull => self.leader_disk_full(leader, lasts),
            Kind::AgentDiskFull => self.agent_disk_full(agent, lasts),
            Kind::Flapping => self.flapping(leader, lasts),
            Kind::LeaderCutOff
            | Kind::LeaderCutFromMasters
            | Kind::LeaderMute
            | Kind::LeaderDeaf
            | Kind::MastersApart
            | Kind::Split
            | Kind::BadWeather
            | Kind::AgentCutOff
            | Kind::AgentMute
            | Kind::FrameworkCutOff => {
                let change = |rules: &mut Rules| break_links(rules, fault.kind, leader, agent);
                self.roles.net.change(change);
                std::thread::sleep(lasts);
                self.roles.net.change(Rules::heal);
                Ok(())
            }
        }
    }

    fn killed(&mut self, host: HostId, lasts: Duration) -> anyhow::Result<()> {
        self.roles.kill(host)?;
        std::thread::sleep(lasts);
        self.roles.start(host)
    }

    fn stopped(&self, host: HostId, lasts: Duration) -> anyhow::Result<()> {
        self.roles.signal(host, Signal::SIGSTOP)?;
        std::thread::sleep(lasts);
        self.roles.signal(host, Signal::SIGCONT)
    }

    fn power_cut(&mut self, agent: HostId, lasts: Duration) -> anyhow::Result<()> {
        let host = self.roles.net.hosts.get(agent).context("a host")?;
        host.kill_all()?;
        self.roles.kill(agent)?;
        std::thread::sleep(lasts);
        self.roles.start(agent)
    }

    fn all_killed(&mut self, lasts: Duration) -> anyhow::Result<()> {
        self.wish.send(Wish::Away)?;
        for host in 0..LOAD {
            self.roles.kill(host)?;
        }
        std::thread::sleep(lasts);
        for host in 0..LOAD {
            self.roles.start(host)?;
        }
        self.wish.send(Wish::Launch)?;
        Ok(())
    }

    /// As an operator upgrades: one role after the other, each back before the next one goes.
    fn rolling_restart(&mut self) -> anyhow::Result<()> {
        for host in 0..LOAD {
            self.roles.stop(host)?;
            self.roles.start(host)?;
            if masters().contains(&host) {
                until("the masters are well", || masters_well(&self.roles))?;
            } else {
                self.well(1)?;
            }
        }
        self.framework_away(Duration::from_millis(100))
    }

    fn framework_away(&self, lasts: Duration) -> anyhow::Result<()> {
        self.wish.send(Wish::Away)?;
        std::thread::sleep(lasts);
        self.wish.send(Wish::Launch)?;
        Ok(())
    }

    /// The leader must end with a sentence rather than go on without a disk, and say the same when
    /// it is started on the full one.
    fn leader_disk_full(&mut self, leader: HostId, lasts: Duration) -> anyhow::Result<()> {
        let disk = self.roles.disks.get(leader).context("a disk")?;
        disk.fill()?;
        let begun = clock();
        // Something to write: whether it is answered matters to nobody.
        let mut instances = 2;
        while self.roles.runs(leader)? && begun.elapsed() < Duration::from_secs(30) {
            let _ = self
                .roles
                .allot(&["app", "scale", "/sleep", &instances.to_string()]);
            instances = 5 - instances;
        }
        let code = self
            .roles
            .ended(leader)
            .context("with a full disk it must end")?;
        ensure!(code == Some(1), "with a full disk it ended with {code:?}");
        self.names_the_disk(leader)?;
        std::thread::sleep(lasts);
        self.roles.start(leader)?;
        std::thread::sleep(lasts);
        if !self.roles.runs(leader)? {
            let code = self.roles.ended(leader)?;
            ensure!(
                code == Some(1),
                "started on a full disk it ended with {code:?}"
            );
            self.names_the_disk(leader)?;
        }
        self.roles.disks.get(leader).context("a disk")?.free()?;
        if !self.roles.runs(leader)? {
            let _ended = self.roles.ended(leader);
            self.roles.start(leader)?;
        }
        until("the app is scaled back", || {
            self.roles
                .allot(&["app", "scale", "/sleep", &super::INSTANCES.to_string()])
        })?;
        Ok(())
    }

    fn names_the_disk(&self, host: HostId) -> anyhow::Result<()> {
        let role = self.roles.role(host)?;
        let log = std::fs::read_to_string(&role.log)?;
        let last = log
            .lines()
            .rev()
            .take(20)
            .any(|line| line.contains("No space left"));
        ensure!(
            last,
            "{} does not say that its disk is full",
            role.log.display()
        );
        Ok(())
    }

    fn agent_disk_full(&self, agent: HostId, lasts: Duration) -> anyhow::Result<()> {
        let disk = self.roles.disks.get(agent).context("a disk")?;
        disk.fill()?;
        std::thread::sleep(lasts);
        disk.free()
    }

    fn flapping(&self, leader: HostId, lasts: Duration) -> anyhow::Result<()> {
        let begun = clock();
        while begun.elapsed() < lasts {
            self.roles.net.change(|rules| cut_off(rules, leader));
            std::thread::sleep(FLAP);
            self.roles.net.change(Rules::heal);
            std::thread::sleep(FLAP);
        }
        Ok(())
    }
}

/// Everybody but the operator and this host.
fn others(host: HostId) -> Vec<HostId> {
    (0..DESK).filter(|other| *other != host).collect()
}

fn cut_off(rules: &mut Rules, host: HostId) {
    rules.cut(&[host], &others(host));
    rules.cut(&others(host), &[host]);
}

fn break_links(rules: &mut Rules, kind: Kind, leader: HostId, agent: HostId) {
    let peers: Vec<HostId> = masters().filter(|master| *master != leader).collect();
    match kind {
        Kind::LeaderCutOff => cut_off(rules, leader),
        Kind::LeaderCutFromMasters => {
            rules.cut(&[leader], &peers);
            rules.cut(&peers, &[leader]);
        }
        Kind::LeaderMute => rules.cut(&[leader], &others(leader)),
        Kind::LeaderDeaf => rules.cut(&others(leader), &[leader]),
        Kind::MastersApart => {
            let all: Vec<HostId> = masters().collect();
            rules.cut(&all, &all);
        }
        Kind::Split => {
            let half = agents().len() / 2;
            let one: Vec<HostId> = agents().take(half).chain([leader]).collect();
            let rest: Vec<HostId> = (0..DESK).filter(|host| !one.contains(host)).collect();
            rules.cut(&one, &rest);
            rules.cut(&rest, &one);
        }
        Kind::BadWeather => rules.set_weather(Weather {
            loss: 0.05,
            latency: Duration::from_millis(20),
            jitter: Duration::from_millis(20),
        }),
        Kind::AgentCutOff => cut_off(rules, agent),
        Kind::AgentMute => rules.cut(&[agent], &others(agent)),
        Kind::FrameworkCutOff => cut_off(rules, LOAD),
        // Nothing that a link can do.
        Kind::LeaderKilled
        | Kind::FollowerKilled
        | Kind::LeaderStopped
        | Kind::Flapping
        | Kind::LeaderDiskFull
        | Kind::AgentKilled
        | Kind::AgentPowerCut
        | Kind::AgentStopped
        | Kind::AgentDiskFull
        | Kind::FrameworkAway
        | Kind::ServicesKilled
        | Kind::BatchKilled
        | Kind::AllKilled
        | Kind::RollingRestart => {}
    }
}
