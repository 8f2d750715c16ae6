//! Lots on the wire: for whom a resource is reserved, which disk it is, and what else sets it
//! apart from plain ones.

use allotment_types::Lot;
use allotment_types::Role;
use allotment_types::resources::{
    Disk, DiskSource, LotInfo, PersistentVolume, Reservation, ReservationKind,
};
use allotment_types::role::RoleError;

use crate::mesos;
use crate::mesos::resource::disk_info::source;
use crate::mesos::resource::{DiskInfo, ReservationInfo, disk_info, reservation_info};

/// Why what sets a resource apart was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LotError {
    /// A role that is none.
    #[error(transparent)]
    Role(#[from] RoleError),
    /// `role` or `reservation` beside `reservations`, saying something else.
    #[error(
        "says for whom it is reserved in two forms that differ; set either `reservations`, or \
         `role` and `reservation`"
    )]
    Forms,
    /// `reservation` on an unreserved resource.
    #[error("has a `reservation` but its `role` is `*`; name the role it is reserved for")]
    ReservationForNobody,
    /// A reservation without role or type.
    #[error("has an entry in `reservations` without {0}; set it")]
    Incomplete(&'static str),
    /// A reservation for everybody.
    #[error("is reserved for role `*`, which is everybody; reserve for a role of its own")]
    ReservedForAll,
    /// A static reservation upon another one.
    #[error("refines a reservation with a static one; only the first can be static")]
    StaticRefinement,
    /// A refinement for a role that is not below the one before.
    #[error("refines a reservation for role {outer} with one for role {inner}, which is not below")]
    NotBelow {
        /// The reservation that is refined.
        outer: Role,
        /// The refinement.
        inner: Role,
    },
    /// Kinds of resources that Allotment does not have.
    #[error("is {0}, which is not supported")]
    Unsupported(&'static str),
    /// Only disk has sources and volumes.
    #[error("carries `disk` but is no disk; volumes are made of the resource `disk`")]
    NotDisk,
    /// A disk without a folder.
    #[error("is a disk of its own without `root`; say where it is mounted")]
    NoRoot,
    /// A volume that lacks something.
    #[error("is a persistent volume {0}")]
    Volume(&'static str),
    /// A combination that cannot be.
    #[error("is {0}")]
    Impossible(&'static str),
}

/// What sets `wire` apart.
pub(super) fn lot_from_wire(wire: &mesos::Resource) -> Result<Lot, LotError> {
    if wire.provider_id.is_some() {
        return Err(LotError::Unsupported("of a resource provider"));
    }
    let reservations = reservations(wire)?;
    let disk = wire
        .disk
        .as_deref()
        .map(disk_from_wire)
        .transpose()?
        .flatten();
    let info = LotInfo {
        reservations,
        disk,
        revocable: wire.revocable.is_some(),
        shared: wire.shared.is_some(),
    };
    check(&wire.name, &info)?;
    Ok(Lot::new(info))
}

/// What goes together (Mesos: `validation.cpp`, `resource`).
fn check(name: &str, info: &LotInfo) -> Result<(), LotError> {
    if info.disk.is_some() && name != "disk" {
        return Err(LotError::NotDisk);
    }
    let volume = info.disk.as_ref().and_then(|disk| disk.volume.as_ref());
    if info.shared && volume.is_none() {
        return Err(LotError::Impossible(
            "shared but no persistent volume; only those can be shared",
        ));
    }
    if info.revocable && (info.disk.is_some() || !info.reservations.is_empty()) {
        return Err(LotError::Impossible(
            "revocable and reserved or a disk of its own; it can only be one of these",
        ));
    }
    if volume.is_some() && info.reservations.is_empty() {
        return Err(LotError::Volume(
            "on unreserved disk; reserve the disk first",
        ));
    }
    Ok(())
}

fn reservations(wire: &mesos::Resource) -> Result<Vec<Reservation>, LotError> {
    let old = old_reservation(wire)?;
    if wire.reservations.is_empty() {
        return Ok(old.into_iter().collect());
    }
    let mut stack: Vec<Reservation> = Vec::with_capacity(wire.reservations.len());
    for entry in &wire.reservations {
        let inner = reservation_from_wire(entry)?;
        if let Some(outer) = stack.last() {
            if inner.kind == ReservationKind::Static {
                return Err(LotError::StaticRefinement);
            }
            if !outer.role.is_ancestor_of(&inner.role) {
                return Err(LotError::NotBelow {
                    outer: outer.role.clone(),
                    inner: inner.role,
                });
            }
        }
        stack.push(inner);
    }
    // Some clients echo both forms; that is harmless as long as they agree.
    match old {
        Some(old) if stack.len() != 1 || stack.first() != Some(&old) => Err(LotError::Forms),
        _ => Ok(stack),
    }
}

fn old_reservation(wire: &mesos::Resource) -> Result<Option<Reservation>, LotError> {
    let role = Role::parse(wire.role())?;
    if role == Role::star() {
        return match wire.reservation {
            Some(_) => Err(LotError::ReservationForNobody),
            None => Ok(None),
        };
    }
    let Some(info) = &wire.reservation else {
        return Ok(Some(Reservation {
            kind: ReservationKind::Static,
            role,
            principal: None,
            labels: Vec::new(),
        }));
    };
    let other_role = info.role.as_deref().is_some_and(|r| r != role.as_str());
    let other_type = info.r#type.is_some() && info.r#type() != reservation_info::Type::Dynamic;
    if other_role || other_type {
        return Err(LotError::Forms);
    }
    Ok(Some(Reservation {
        kind: ReservationKind::Dynamic,
        role,
        principal: info.principal.clone(),
        labels: labels(info),
    }))
}

fn reservation_from_wire(info: &ReservationInfo) -> Result<Reservation, LotError> {
    let kind = match info.r#type() {
        reservation_info::Type::Static => ReservationKind::Static,
        reservation_info::Type::Dynamic => ReservationKind::Dynamic,
        reservation_info::Type::Unknown => return Err(LotError::Incomplete("`type`")),
    };
    let role = info.role.as_deref().ok_or(LotError::Incomplete("`role`"))?;
    let role = Role::parse(role)?;
    if role == Role::star() {
        return Err(LotError::ReservedForAll);
    }
    Ok(Reservation {
        kind,
        role,
        principal: info.principal.clone(),
        labels: labels(info),
    })
}

fn labels(info: &ReservationInfo) -> Vec<(String, Option<String>)> {
    let labels = info.labels.iter().flat_map(|labels| &labels.labels);
    labels
        .map(|label| (label.key.clone(), label.value.clone()))
        .collect()
}

fn disk_from_wire(wire: &DiskInfo) -> Result<Option<Disk>, LotError> {
    let source = wire.source.as_ref().map(source_from_wire).transpose()?;
    let volume = match (&wire.persistence, &wire.volume) {
        (None, None) => None,
        (None, Some(_)) => return Err(LotError::Unsupported("a volume that is not persistent")),
        (Some(_), None) => {
            return Err(LotError::Volume(
                "without `volume`; say where tasks find it in `volume.container_path`",
            ));
        }
        (Some(persistence), Some(volume)) => Some(volume_from_wire(persistence, volume)?),
    };
    let disk = Disk { source, volume };
    Ok((disk != Disk::default()).then_some(disk))
}

fn source_from_wire(wire: &disk_info::Source) -> Result<DiskSource, LotError> {
    let root = |root: Option<&String>| {
        root.filter(|root| !root.is_empty())
            .cloned()
            .ok_or(LotError::NoRoot)
    };
    match wire.r#type() {
        source::Type::Path => Ok(DiskSource::Path {
            root: root(wire.path.as_ref().and_then(|p| p.root.as_ref()))?,
        }),
        source::Type::Mount => Ok(DiskSource::Mount {
            root: root(wire.mount.as_ref().and_then(|m| m.root.as_ref()))?,
        }),
        source::Type::Block => Err(LotError::Unsupported("a BLOCK disk")),
        source::Type::Raw => Err(LotError::Unsupported("a RAW disk")),
        source::Type::Unknown => Err(LotError::Unsupported("a disk of an unknown type")),
    }
}

fn volume_from_wire(
    persistence: &disk_info::Persistence,
    volume: &mesos::Volume,
) -> Result<PersistentVolume, LotError> {
    // The id becomes a folder's name.
    if allotment_types::TaskId::parse(&persistence.id).is_err() {
        return Err(LotError::Volume(
            "whose id is empty, too long, or not usable as the name of a folder",
        ));
    }
    if volume.host_path.is_some() || volume.image.is_some() {
        return Err(LotError::Volume(
            "with a `host_path` or `image`; its place on the agent is not the framework's to choose",
        ));
    }
    let path = &volume.container_path;
    let climbs = path.split('/').any(|part| part == "..");
    if path.is_empty() || climbs || path.chars().any(char::is_control) {
        return Err(LotError::Volume(
            "whose container_path is empty, holds `..` or control characters",
        ));
    }
    Ok(PersistentVolume {
        id: persistence.id.clone(),
        principal: persistence.principal.clone(),
        container_path: path.clone(),
        read_only: volume.mode() == mesos::volume::Mode::Ro,
    })
}

/// Writes `lot` into `wire`, its reservations as a stack.
pub(super) fn write_lot(lot: &Lot, wire: &mut mesos::Resource) {
    wire.reservations = lot.reservations().iter().map(reservation_to_wire).collect();
    write_rest(lot, wire);
}

/// Writes `lot` into `wire`, its reservation as `role` and `reservation`; whether that form can
/// say it.
pub(super) fn write_old_lot(lot: &Lot, wire: &mut mesos::Resource) -> bool {
    match lot.reservations() {
        [] => {}
        [only] => {
            wire.role = Some(only.role.as_str().to_owned());
            if only.kind == ReservationKind::Dynamic {
                let mut info = reservation_to_wire(only);
                info.r#type = None;
                info.role = None;
                wire.reservation = Some(Box::new(info));
            }
        }
        [_, _, ..] => return false,
    }
    write_rest(lot, wire);
    true
}

fn write_rest(lot: &Lot, wire: &mut mesos::Resource) {
    wire.disk = lot.disk().map(|disk| Box::new(disk_to_wire(disk)));
    wire.revocable = lot
        .is_revocable()
        .then(mesos::resource::RevocableInfo::default);
    wire.shared = lot.is_shared().then(mesos::resource::SharedInfo::default);
}

fn reservation_to_wire(reservation: &Reservation) -> ReservationInfo {
    let kind = match reservation.kind {
        ReservationKind::Static => reservation_info::Type::Static,
        ReservationKind::Dynamic => reservation_info::Type::Dynamic,
    };
    let labels = reservation.labels.iter().map(|(key, value)| mesos::Label {
        key: key.clone(),
        value: value.clone(),
    });
    ReservationInfo {
        r#type: Some(kind.into()),
        role: Some(reservation.role.as_str().to_owned()),
        principal: reservation.principal.clone(),
        labels: (!reservation.labels.is_empty()).then(|| mesos::Labels {
            labels: labels.collect(),
        }),
    }
}

fn disk_to_wire(disk: &Disk) -> DiskInfo {
    let source = disk.source.as_ref().map(|source| match source {
        DiskSource::Path { root } => disk_info::Source {
            r#type: source::Type::Path.into(),
            path: Some(source::Path {
                root: Some(root.clone()),
            }),
            mount: None,
        },
        DiskSource::Mount { root } => disk_info::Source {
            r#type: source::Type::Mount.into(),
            path: None,
            mount: Some(source::Mount {
                root: Some(root.clone()),
            }),
        },
    });
    let volume = disk.volume.as_ref();
    DiskInfo {
        source,
        persistence: volume.map(|volume| disk_info::Persistence {
            id: volume.id.clone(),
            principal: volume.principal.clone(),
        }),
        volume: volume.map(|volume| {
            let mode = if volume.read_only {
                mesos::volume::Mode::Ro
            } else {
                mesos::volume::Mode::Rw
            };
            mesos::Volume {
                mode: mode.into(),
                container_path: volume.container_path.clone(),
                ..Default::default()
            }
        }),
    }
}
