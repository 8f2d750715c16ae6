//! What becomes of this agent's resources at run time: reservations, and volumes that outlive the
//! tasks that use them.
//!
//! The master decides, and the agent keeps it durably: what it has is in the checkpoint and in
//! every registration. A volume is a folder below the work folder.

use std::path::Path;

use allotment_proto::allot;
use allotment_proto::convert::resources_from_wire;
use allotment_types::resources::PersistentVolume;
use allotment_types::{Lot, Resources};

use super::confinement::Source;
use super::launch::Launch;
use super::{Core, Effect, Step};

/// A volume as a task uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Its folder, relative to the work folder.
    pub folder: String,
    /// Where the task finds it, relative to its sandbox.
    pub path: String,
    /// It cannot be changed through this mount.
    pub read_only: bool,
}

/// Where a volume lies below the work folder; Mesos lays them out so.
fn folder(lot: &Lot, volume: &PersistentVolume) -> String {
    // Roles hold no spaces, so `eng/web` and `eng web` cannot be mixed up.
    let role = lot.reserved_for().map_or("*", |role| role.as_str());
    format!("volumes/roles/{}/{}", role.replace('/', " "), volume.id)
}

/// The volumes that a task uses.
///
/// # Errors
/// What this agent cannot do, to follow "asks for".
pub(super) fn mounted(resources: &Resources) -> Result<Vec<Mounted>, &'static str> {
    let mut mounted = Vec::new();
    for (lot, volume) in resources.volumes() {
        if lot.disk().is_some_and(|disk| disk.source.is_some()) {
            return Err("a volume on a disk of its own");
        }
        if volume.container_path.starts_with('/') {
            return Err("a volume at an absolute path");
        }
        mounted.push(Mounted {
            folder: folder(lot, volume),
            path: volume.container_path.clone(),
            read_only: volume.read_only,
        });
    }
    Ok(mounted)
}

/// The volumes of a default executor, which a task of its group mounts by their places in the
/// executor's sandbox, become the task's own.
///
/// # Errors
/// What the task cannot have, to follow "asks for".
pub(super) fn lend(
    launch: &mut Launch,
    executors: &[Mounted],
    work_dir: &str,
) -> Result<(), String> {
    let mut kept = Vec::new();
    for mut volume in std::mem::take(&mut launch.confinement.volumes) {
        let wanted = match &volume.source {
            Some(Source::Parent(path)) => path.trim_end_matches('/'),
            _ => "",
        };
        let below = |lent: &&Mounted| Path::new(wanted).starts_with(&lent.path);
        let Some(lent) = executors.iter().find(below) else {
            kept.push(volume);
            continue;
        };
        if Path::new(wanted) != Path::new(&lent.path) {
            return Err(format!(
                "the folder {wanted:?} inside its executor's persistent volume; mount the volume \
                 at {:?} as a whole",
                lent.path
            ));
        }
        volume.read_only |= lent.read_only;
        if volume.read_only || volume.container_path.starts_with('/') {
            volume.source = Some(Source::Persistent(format!("{work_dir}/{}", lent.folder)));
            kept.push(volume);
        } else {
            launch.volumes.push(Mounted {
                path: volume.container_path,
                ..lent.clone()
            });
        }
    }
    launch.confinement.volumes = kept;
    Ok(())
}

impl Core {
    pub(super) fn on_apply_resources(&mut self, apply: &allot::ApplyResources, step: &mut Step) {
        let held = &self.settings.resources;
        let total = match resources_from_wire(&apply.total) {
            Ok(total) if total.declared() == held.declared() => total,
            Ok(total) => {
                step.then.push(Effect::Warn(format!(
                    "the master believes this agent has {total}, but it has {held}; that is \
                     settled when it registers again"
                )));
                return;
            }
            Err(error) => {
                step.then.push(Effect::Warn(format!(
                    "the master says what this agent has in a form that makes no sense: {error}"
                )));
                return;
            }
        };
        let (gone, fresh) = (held.minus(&total), total.minus(held));
        if gone.is_empty() && fresh.is_empty() {
            return;
        }
        let folders = |resources: &Resources| -> Vec<String> {
            let volumes = resources.volumes();
            volumes.map(|(lot, volume)| folder(lot, volume)).collect()
        };
        let (gone_folders, fresh_folders) = (folders(&gone), folders(&fresh));
        self.free.subtract(&gone);
        self.free.add(&fresh);
        self.settings.resources = total;
        step.persist.push(self.agent_record());
        for folder in gone_folders {
            step.then.push(Effect::DestroyVolume { folder });
        }
        for folder in fresh_folders {
            step.then.push(Effect::MakeVolume { folder });
        }
    }
}
