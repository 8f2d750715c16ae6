//! RESERVE, UNRESERVE, CREATE and DESTROY: from what resources are to what they become.
//!
//! Rules after Mesos' `validation.cpp`. What becomes of the books is `accept`'s and `reserve`'s.

use allotment_proto::convert::{self, ResourceError};
use allotment_proto::mesos::offer::{Operation, operation};
use allotment_types::resources::{Reservation, ReservationKind};
use allotment_types::{Lot, Resources, Role, Shortfall};

/// A change of resources that leaves their amounts alone.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Conversion {
    pub(super) from: Resources,
    pub(super) to: Resources,
}

/// Who wants the change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker<'a> {
    /// The role that the resources are allocated to; `None`: an operator.
    pub(super) role: Option<&'a Role>,
    pub(super) principal: Option<&'a str>,
    pub(super) refinement: bool,
    pub(super) shared: bool,
}

impl Asker<'_> {
    /// Whoever runs the cluster.
    pub(super) const OPERATOR: Self = Self {
        role: None,
        principal: None,
        refinement: true,
        shared: true,
    };
}

/// Why an operation cannot be done.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(super) enum OperationFault {
    #[error(transparent)]
    Resources(#[from] ResourceError),
    #[error("it names no resources; name some")]
    Nothing,
    #[error("its group has no tasks; name at least one")]
    EmptyGroup,
    #[error("it has no body; set `{0}`")]
    NoBody(&'static str),
    #[error("{name}{lot} is not dynamically reserved; {hint}")]
    NotDynamic {
        name: String,
        lot: Lot,
        hint: &'static str,
    },
    #[error(
        "{resource} would be reserved for role {wanted}, but it is offered to role {offered}; \
         reserve for that role or one below it"
    )]
    Foreign {
        resource: String,
        wanted: Role,
        offered: Role,
    },
    #[error(
        "{0} has a reservation that refines another one, for which the framework needs the \
         RESERVATION_REFINEMENT capability"
    )]
    Refinement(String),
    #[error("{resource} names principal {named:?} but the framework's is {own:?}; name that one")]
    Principal {
        resource: String,
        named: Option<String>,
        own: String,
    },
    #[error("{0} is a persistent volume; destroy it first")]
    Volume(String),
    #[error("{0} is revocable; what may be taken away cannot be reserved")]
    Revocable(String),
    #[error("{0} is no persistent volume; set `disk.persistence` and `disk.volume`")]
    NoVolume(String),
    #[error("volume {id} exists already for role {role} on this agent; choose another id")]
    Exists { id: String, role: Role },
    #[error("volume {0} is shared, for which the framework needs the SHARED_RESOURCES capability")]
    Shared(String),
    #[error("volume {0} is read-only; create it writable and mount it read-only where wanted")]
    ReadOnly(String),
    #[error("volume {0} takes part of a disk that is given whole; take all of it")]
    Part(String),
    #[error("the source and the result differ in more than their reservations")]
    Source,
    #[error("it does not fit into what is there: {0}")]
    Lacking(String),
    #[error("volume {0} is used by a task; end that first")]
    InUse(String),
    #[error("{0}")]
    Allocator(String),
}

impl OperationFault {
    pub(super) fn lacking(shortfalls: &[Shortfall]) -> Self {
        let lacking: Vec<String> = shortfalls.iter().map(Shortfall::to_string).collect();
        Self::Lacking(lacking.join(", "))
    }
}

/// What an operation turns into what, as far as can be told without looking at what is there.
/// `total` is everything the agent has.
pub(super) fn conversion(
    operation: &Operation,
    asker: Asker<'_>,
    total: &Resources,
) -> Result<Conversion, OperationFault> {
    use OperationFault as Fault;
    match operation.r#type() {
        operation::Type::Reserve => {
            let body = operation.reserve.as_ref().ok_or(Fault::NoBody("reserve"))?;
            let to = read(&body.resources)?;
            let from = match body.source.as_slice() {
                [] => popped(&to),
                source => read(source)?,
            };
            reserve(asker, from, to)
        }
        operation::Type::Unreserve => {
            let body = operation.unreserve.as_ref();
            let from = read(&body.ok_or(Fault::NoBody("unreserve"))?.resources)?;
            unreserve(from)
        }
        operation::Type::Create => {
            let body = operation.create.as_ref().ok_or(Fault::NoBody("create"))?;
            create(asker, read(&body.volumes)?, total)
        }
        operation::Type::Destroy => {
            let body = operation.destroy.as_ref();
            let from = read(&body.ok_or(Fault::NoBody("destroy"))?.volumes)?;
            destroy(&from.naming_volumes_of(total))
        }
        operation::Type::Unknown
        | operation::Type::Launch
        | operation::Type::LaunchGroup
        | operation::Type::GrowVolume
        | operation::Type::ShrinkVolume
        | operation::Type::CreateDisk
        | operation::Type::DestroyDisk => Err(Fault::Nothing),
    }
}

fn read(wire: &[allotment_proto::mesos::Resource]) -> Result<Resources, OperationFault> {
    let resources = convert::resources_from_wire(wire)?;
    if resources.is_empty() {
        return Err(OperationFault::Nothing);
    }
    Ok(resources)
}

/// The same without the innermost reservation of each.
fn popped(resources: &Resources) -> Resources {
    resources.relotted(|lot| {
        lot.with(|info| {
            info.reservations.pop();
        })
    })
}

/// The innermost reservation, which must be a dynamic one.
fn innermost<'a>(
    name: &allotment_types::Name,
    lot: &'a Lot,
    hint: &'static str,
) -> Result<&'a Reservation, OperationFault> {
    lot.reservations()
        .last()
        .filter(|reservation| reservation.kind == ReservationKind::Dynamic)
        .ok_or_else(|| OperationFault::NotDynamic {
            name: name.as_str().to_owned(),
            lot: lot.clone(),
            hint,
        })
}

fn reserve(asker: Asker<'_>, from: Resources, to: Resources) -> Result<Conversion, OperationFault> {
    use OperationFault as Fault;
    let bare = |resources: &Resources| {
        resources.relotted(|lot| lot.with(|info| info.reservations.clear()))
    };
    if bare(&from) != bare(&to) {
        return Err(Fault::Source);
    }
    for (name, lot, _) in from.iter().chain(to.iter()) {
        let resource = format!("{name}{lot}");
        if lot.volume().is_some() {
            return Err(Fault::Volume(resource));
        }
        if lot.is_revocable() {
            return Err(Fault::Revocable(resource));
        }
    }
    for (name, lot, _) in to.iter() {
        let resource = format!("{name}{lot}");
        let hint = "give its reservation the type DYNAMIC";
        let reservation = innermost(name, lot, hint)?;
        if lot.reservations().len() > 1 && !asker.refinement {
            return Err(Fault::Refinement(resource));
        }
        if let Some(offered) = asker.role
            && *offered != reservation.role
            && !offered.is_ancestor_of(&reservation.role)
        {
            return Err(Fault::Foreign {
                resource,
                wanted: reservation.role.clone(),
                offered: offered.clone(),
            });
        }
        principal(asker, resource, reservation.principal.as_deref())?;
    }
    Ok(Conversion { from, to })
}

/// Mesos: what a framework with a principal reserves or creates carries that principal.
fn principal(
    asker: Asker<'_>,
    resource: String,
    named: Option<&str>,
) -> Result<(), OperationFault> {
    match asker.principal {
        Some(own) if named != Some(own) => Err(OperationFault::Principal {
            resource,
            named: named.map(super::accept::truncated),
            own: own.to_owned(),
        }),
        Some(_) | None => Ok(()),
    }
}

fn unreserve(from: Resources) -> Result<Conversion, OperationFault> {
    for (name, lot, _) in from.iter() {
        innermost(
            name,
            lot,
            "only what was reserved at run time can be unreserved",
        )?;
        if lot.volume().is_some() {
            return Err(OperationFault::Volume(format!("{name}{lot}")));
        }
    }
    let to = popped(&from);
    Ok(Conversion { from, to })
}

fn create(
    asker: Asker<'_>,
    to: Resources,
    total: &Resources,
) -> Result<Conversion, OperationFault> {
    use OperationFault as Fault;
    let mut named = std::collections::BTreeSet::new();
    for (name, lot, value) in to.iter() {
        let resource = format!("{name}{lot}");
        let Some(volume) = lot.volume() else {
            return Err(Fault::NoVolume(resource));
        };
        let id = volume.id.clone();
        if lot.is_shared() && !asker.shared {
            return Err(Fault::Shared(id));
        }
        if volume.read_only {
            return Err(Fault::ReadOnly(id));
        }
        // The wire refuses volumes without a reservation.
        let Some(role) = lot.reserved_for() else {
            return Err(Fault::NoVolume(resource));
        };
        let taken = total
            .volumes()
            .any(|(there, v)| v.id == id && there.reserved_for() == Some(role));
        if taken || !named.insert((role, id.clone())) {
            let role = role.clone();
            return Err(Fault::Exists { id, role });
        }
        let plain = lot.without_volume();
        if plain.is_unchoppable() && total.get(name, &plain) != Some(value) {
            return Err(Fault::Part(id));
        }
        principal(asker, resource, volume.principal.as_deref())?;
    }
    let from = to.relotted(Lot::without_volume);
    Ok(Conversion { from, to })
}

fn destroy(from: &Resources) -> Result<Conversion, OperationFault> {
    for (name, lot, _) in from.iter() {
        if lot.volume().is_none() {
            return Err(OperationFault::NoVolume(format!("{name}{lot}")));
        }
    }
    Ok(Conversion {
        from: from.clone(),
        to: from.relotted(Lot::without_volume),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use allotment_proto::mesos;

    fn role(name: &str) -> Role {
        Role::parse(name).unwrap()
    }

    fn reserved(what: &str, roles: &[&str], principal: Option<&str>) -> Resources {
        let plain: Resources = what.parse().unwrap();
        let names = roles.iter();
        names.fold(plain, |sum, name| sum.reserved(&role(name), principal))
    }

    fn reserve_operation(to: &Resources) -> Operation {
        Operation {
            r#type: Some(operation::Type::Reserve.into()),
            reserve: Some(operation::Reserve {
                source: Vec::new(),
                resources: convert::resources_to_wire(to, None),
            }),
            ..Default::default()
        }
    }

    fn told(operation: &Operation, asker: Asker<'_>) -> String {
        let total = Resources::EMPTY;
        conversion(operation, asker, &total)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_framework_reserves_for_its_role_or_below() {
        let eng = role("eng");
        let asker = Asker {
            role: Some(&eng),
            ..Asker::OPERATOR
        };
        for own in ["eng", "eng/web"] {
            let to = reserved("cpus:1", &[own], None);
            let made = conversion(&reserve_operation(&to), asker, &Resources::EMPTY).unwrap();
            assert_eq!(made.from, "cpus:1".parse().unwrap());
        }
        let foreign = reserve_operation(&reserved("cpus:1", &["ops"], None));
        assert!(told(&foreign, asker).contains("reserve for that role or one below"));
    }

    #[test]
    fn refinements_need_their_capability() {
        let eng = role("eng");
        let plain = Asker {
            role: Some(&eng),
            refinement: false,
            ..Asker::OPERATOR
        };
        let refined = reserve_operation(&reserved("cpus:1", &["eng", "eng/web"], None));
        assert!(told(&refined, plain).contains("RESERVATION_REFINEMENT"));
        let able = Asker {
            refinement: true,
            ..plain
        };
        let made = conversion(&refined, able, &Resources::EMPTY).unwrap();
        assert_eq!(made.from, reserved("cpus:1", &["eng"], None));
    }

    #[test]
    fn a_principal_signs_what_it_reserves() {
        let asker = Asker {
            principal: Some("alice"),
            ..Asker::OPERATOR
        };
        let unsigned = reserve_operation(&reserved("cpus:1", &["eng"], None));
        assert!(told(&unsigned, asker).contains("the framework's is \"alice\""));
        let signed = reserve_operation(&reserved("cpus:1", &["eng"], Some("alice")));
        assert!(conversion(&signed, asker, &Resources::EMPTY).is_ok());
    }

    #[test]
    fn what_the_agent_declares_cannot_be_unreserved() {
        let fixed: Resources = "cpus(eng):1".parse().unwrap();
        let operation = Operation {
            r#type: Some(operation::Type::Unreserve.into()),
            unreserve: Some(operation::Unreserve {
                resources: convert::resources_to_wire(&fixed, None),
            }),
            ..Default::default()
        };
        assert!(told(&operation, Asker::OPERATOR).contains("not dynamically reserved"));
    }

    fn volumes(kind: operation::Type, wire: Vec<mesos::Resource>) -> Operation {
        let create = operation::Create {
            volumes: wire.clone(),
        };
        Operation {
            r#type: Some(kind.into()),
            create: Some(create),
            destroy: Some(operation::Destroy { volumes: wire }),
            ..Default::default()
        }
    }

    #[test]
    fn volume_ids_are_used_once_per_role_and_agent() {
        let one = reserved("disk:64", &["eng"], None).as_volume("data", "data", None);
        let create = volumes(
            operation::Type::Create,
            convert::resources_to_wire(&one, None),
        );
        let made = conversion(&create, Asker::OPERATOR, &Resources::EMPTY).unwrap();
        assert_eq!(made.from, reserved("disk:64", &["eng"], None));
        assert_eq!(made.to, one);
        let again = conversion(&create, Asker::OPERATOR, &one).unwrap_err();
        assert!(again.to_string().contains("exists already for role eng"));
        let destroy = volumes(
            operation::Type::Destroy,
            convert::resources_to_wire(&one, None),
        );
        let gone = conversion(&destroy, Asker::OPERATOR, &one).unwrap();
        assert_eq!((gone.from, gone.to), (made.to, made.from));
    }
}
