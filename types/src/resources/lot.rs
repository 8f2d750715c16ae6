//! What sets resources apart from plain ones of the same name.
//!
//! One core is like another until it is reserved; one megabyte of disk is like another until a
//! volume was made of it. Amounts add up within a lot and never across lots (Mesos: `Resource`'s
//! `reservations`, `disk`, `revocable` and `shared`, compared by `addable` in `resources.cpp`).

use std::fmt;
use std::sync::Arc;

use crate::Role;

/// Which resources of a name are meant. The plain lot, [`Lot::PLAIN`], is unreserved, not
/// revocable, not shared, and no particular disk.
///
/// Cheap to clone; ordered, with the plain lot first.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lot(Option<Arc<LotInfo>>);

/// What a [`Lot`] says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LotInfo {
    /// The stack of reservations, the first one for the ancestor of all later ones; empty:
    /// unreserved. Each refines the one before it for a role below.
    pub reservations: Vec<Reservation>,
    /// Which disk, and the volume on it.
    pub disk: Option<Disk>,
    /// May be taken away at any time.
    pub revocable: bool,
    /// A volume that several tasks may use at once.
    pub shared: bool,
}

/// One reservation of a stack.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reservation {
    /// How it was made.
    pub kind: ReservationKind,
    /// For whom; its descendants may use it, too.
    pub role: Role,
    /// Who made it, when it was a framework or operator with a name.
    pub principal: Option<String>,
    /// Free-form, in their order; two reservations with different labels are different lots.
    pub labels: Vec<(String, Option<String>)>,
}

/// How a reservation was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReservationKind {
    /// By the agent's `--resources`; only a restart of the agent changes it.
    Static,
    /// By a RESERVE operation of a framework or operator; UNRESERVE ends it.
    Dynamic,
}

/// Which disk.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Disk {
    /// The device; `None`: the one that holds the agent's work folder.
    pub source: Option<DiskSource>,
    /// The volume made of it.
    pub volume: Option<PersistentVolume>,
}

/// A disk beside the one of the agent's work folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DiskSource {
    /// A folder on a disk that is shared out by amount.
    Path {
        /// Where it is mounted.
        root: String,
    },
    /// A whole disk: taken entirely or not at all.
    Mount {
        /// Where it is mounted.
        root: String,
    },
}

/// A volume that outlives its tasks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PersistentVolume {
    /// Unique per role on its agent.
    pub id: String,
    /// Who made it.
    pub principal: Option<String>,
    /// Where tasks find it, relative to the sandbox unless absolute.
    pub container_path: String,
    /// Tasks may not write to it.
    pub read_only: bool,
}

impl Lot {
    /// Unreserved and nothing special.
    pub const PLAIN: Self = Self(None);

    /// The lot that `info` describes.
    pub fn new(info: LotInfo) -> Self {
        if info == LotInfo::default() {
            Self::PLAIN
        } else {
            Self(Some(Arc::new(info)))
        }
    }

    /// Reserved for `role` by the agent itself, as `cpus(role):4` in `--resources` says.
    pub fn reserved_statically(role: Role) -> Self {
        Self::new(LotInfo {
            reservations: vec![Reservation {
                kind: ReservationKind::Static,
                role,
                principal: None,
                labels: Vec::new(),
            }],
            ..LotInfo::default()
        })
    }

    /// Unreserved and nothing special.
    pub fn is_plain(&self) -> bool {
        self.0.is_none()
    }

    /// What sets it apart; `None` for the plain lot.
    pub fn info(&self) -> Option<&LotInfo> {
        self.0.as_deref()
    }

    /// The same with some of it changed.
    #[must_use]
    pub fn with(&self, change: impl FnOnce(&mut LotInfo)) -> Self {
        let mut info = self.info().cloned().unwrap_or_default();
        change(&mut info);
        Self::new(info)
    }

    /// The stack of reservations; empty when unreserved.
    pub fn reservations(&self) -> &[Reservation] {
        self.info().map_or(&[], |info| &info.reservations)
    }

    /// For whom it is reserved: the role of the innermost reservation.
    pub fn reserved_for(&self) -> Option<&Role> {
        self.reservations().last().map(|r| &r.role)
    }

    /// Whether a framework in `role` may have it: it is unreserved, or reserved for that role or
    /// an ancestor of it.
    pub fn is_open_to(&self, role: &Role) -> bool {
        self.reserved_for()
            .is_none_or(|owner| owner == role || owner.is_ancestor_of(role))
    }

    /// May be taken away at any time.
    pub fn is_revocable(&self) -> bool {
        self.info().is_some_and(|info| info.revocable)
    }

    /// Several tasks may use it at once.
    pub fn is_shared(&self) -> bool {
        self.info().is_some_and(|info| info.shared)
    }

    /// What it was before anybody reserved it at run time or made a volume of it: what the agent's
    /// own settings say.
    #[must_use]
    pub fn declared(&self) -> Self {
        let Some(info) = self.info() else {
            return Self::PLAIN;
        };
        let mut info = info.clone();
        info.reservations
            .retain(|reservation| reservation.kind == ReservationKind::Static);
        info.shared = false;
        if let Some(disk) = &mut info.disk {
            disk.volume = None;
        }
        info.disk = info.disk.filter(|disk| disk.source.is_some());
        Self::new(info)
    }

    /// Without its volume: what the volume was made of.
    #[must_use]
    pub fn without_volume(&self) -> Self {
        self.with(|info| {
            info.shared = false;
            if let Some(disk) = &mut info.disk {
                disk.volume = None;
            }
            info.disk = info.disk.take().filter(|disk| disk.source.is_some());
        })
    }

    /// Which disk, when it is not plain disk.
    pub fn disk(&self) -> Option<&Disk> {
        self.info()?.disk.as_ref()
    }

    /// The persistent volume it is.
    pub fn volume(&self) -> Option<&PersistentVolume> {
        self.disk()?.volume.as_ref()
    }

    /// Whether it is given entirely or not at all: persistent volumes and whole disks.
    pub fn is_unchoppable(&self) -> bool {
        self.disk().is_some_and(|disk| {
            disk.volume.is_some() || matches!(disk.source, Some(DiskSource::Mount { .. }))
        })
    }
}

impl fmt::Display for Lot {
    /// What follows the name in Mesos' text form: `(web)`, `(eng/web)[data:/mnt]`, `{REV}`;
    /// nothing for the plain lot.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(info) = self.info() else {
            return Ok(());
        };
        if let Some(role) = self.reserved_for() {
            write!(f, "({role})")?;
        }
        if let Some(disk) = &info.disk {
            f.write_str("[")?;
            match &disk.source {
                Some(DiskSource::Path { root }) => write!(f, "PATH:{root}")?,
                Some(DiskSource::Mount { root }) => write!(f, "MOUNT:{root}")?,
                None => {}
            }
            if let Some(volume) = &disk.volume {
                let comma = if disk.source.is_some() { "," } else { "" };
                let mode = if volume.read_only { ":ro" } else { "" };
                write!(f, "{comma}{}:{}{mode}", volume.id, volume.container_path)?;
            }
            f.write_str("]")?;
        }
        if info.revocable {
            f.write_str("{REV}")?;
        }
        if info.shared {
            f.write_str("<SHARED>")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Lot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_plain() {
            f.write_str("plain")
        } else {
            fmt::Display::fmt(self, f)
        }
    }
}
