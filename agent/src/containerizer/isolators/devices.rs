//! `linux/devices`: a `/dev` with harmless devices only. Without it a task that runs as root
//! could read the machine's disks.
//!
//! Made once, in the launcher's own mounts, from where every container inherits it: no launch
//! pays for it.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod, umask};

use super::super::sys::{self, Refuses};
use super::{Host, Isolate, Walls};
use crate::containerizer::wire::Launch;
use crate::isolation::Isolator;

/// Name, major and minor number.
const DEVICES: [(&str, u64, u64); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("fd/0", "stdin"),
    ("fd/1", "stdout"),
    ("fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];

/// Mounts of the machine's `/dev` that are kept.
const KEPT: [&str; 3] = ["pts", "shm", "mqueue"];

#[derive(Debug)]
pub(super) struct Devices;

impl Isolate for Devices {
    fn isolator(&self) -> Isolator {
        Isolator::LinuxDevices
    }

    fn probe(&mut self, host: &mut Host) -> Result<String, String> {
        if !host.own_mounts {
            return Err("it needs filesystem/linux".to_owned());
        }
        make().map_err(|(what, errno)| format!("{what} fails: {}", errno.desc()))?;
        let names: Vec<&str> = DEVICES.iter().map(|(name, ..)| *name).collect();
        Ok(format!("only {} and terminals in /dev", names.join(", ")))
    }

    fn isolate(&mut self, _launch: &Launch, _walls: &mut Walls) -> Result<(), String> {
        Ok(())
    }
}

fn make() -> Result<(), (&'static str, Errno)> {
    let io = |what| {
        move |error: std::io::Error| {
            let number = error.raw_os_error().unwrap_or(nix::libc::EIO);
            (what, Errno::from_raw(number))
        }
    };
    let at = |what| move |errno| (what, errno);
    let dev = Path::new("/dev");
    let mut kept = Vec::new();
    for name in KEPT {
        let path = dev.join(name);
        if path.is_dir() {
            let folder = File::open(&path).map_err(io("opening a folder of /dev"))?;
            let tree = sys::clone_tree(folder.as_fd()).map_err(at("keeping a mount of /dev"))?;
            kept.push((path, tree));
        }
    }
    mount(
        Some("allot-dev"),
        dev,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
        Some("mode=755,size=64k"),
    )
    .map_err(at("mounting a /dev of its own"))?;
    let filled = (|| {
        let before = umask(Mode::empty());
        let made = DEVICES.iter().try_for_each(|(name, major, minor)| {
            let mode = Mode::from_bits_truncate(0o666);
            mknod(
                &dev.join(name),
                SFlag::S_IFCHR,
                mode,
                makedev(*major, *minor),
            )
        });
        umask(before);
        made.map_err(at("making a device"))?;
        for (to, name) in LINKS {
            symlink(to, dev.join(name)).map_err(io("making a link"))?;
        }
        for (path, tree) in &kept {
            fs::create_dir(path).map_err(io("making a folder"))?;
            let place = File::open(path).map_err(io("opening a folder"))?;
            sys::attach(tree.as_fd(), place.as_fd()).map_err(at("keeping a mount of /dev"))?;
        }
        // One file system for all containers: nobody writes there.
        sys::restrict_path(c"/dev", Refuses::Writes).map_err(at("making /dev read-only"))
    })();
    if filled.is_err() {
        let _ = umount2(dev, MntFlags::MNT_DETACH);
    }
    filled
}
