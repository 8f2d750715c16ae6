//! Resources on the wire.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::discriminant;

use allotment_types::resources::AmountError;
use allotment_types::{Fixed, Name, Ranges, Resources, Value};

use super::lots::{self, LotError};
use crate::mesos;

/// Why wire resources were refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ResourceError {
    /// A resource without a name.
    #[error("a resource has no name; name it, for example `cpus`")]
    Nameless,
    /// The value that the type announces is missing.
    #[error("resource {name:?} says it is {kind} but carries no such value")]
    NoValue {
        /// Which resource.
        name: String,
        /// The announced type.
        kind: &'static str,
    },
    /// TEXT is for attributes.
    #[error("resource {name:?} is a text; only scalars, ranges and sets can be allocated")]
    Text {
        /// Which resource.
        name: String,
    },
    /// Out of range.
    #[error("resource {name:?}: {source}")]
    Amount {
        /// Which resource.
        name: String,
        /// What is wrong with the number.
        source: AmountError,
    },
    /// `mem` as ranges, say.
    #[error("resource {name:?} comes with two different types in one bundle; use one")]
    MixedTypes {
        /// Which resource.
        name: String,
    },
    /// A range whose end lies before its begin.
    #[error("resource {name:?} has the range {begin}-{end}, which ends before it begins")]
    Backwards {
        /// Which resource.
        name: String,
        /// First number.
        begin: u64,
        /// Last number.
        end: u64,
    },
    /// More pieces than any machine needs.
    #[error("resource {name:?} has {pieces} pieces; at most {max} are accepted")]
    TooManyPieces {
        /// Which resource.
        name: String,
        /// How many ranges or items came.
        pieces: usize,
        /// How many are accepted.
        max: usize,
    },
    /// What sets it apart makes no sense.
    #[error("resource {name:?} {source}")]
    Lot {
        /// Which resource.
        name: String,
        /// What is wrong with it.
        source: LotError,
    },
    /// Amounts alone were asked for.
    #[error("resource {name:?} is {what}; name amounts of plain scalars alone")]
    NoAmount {
        /// Which resource.
        name: String,
        /// What it is instead.
        what: &'static str,
    },
}

/// The most ranges or set items of one resource: ten thousand port fragments and no more.
pub const PIECES_MAX: usize = 10_000;

/// Sums up wire resources, refusing what is malformed. For whom they are allocated is left to the
/// caller.
///
/// # Errors
/// [`ResourceError`], naming the resource.
pub fn resources_from_wire(wire: &[mesos::Resource]) -> Result<Resources, ResourceError> {
    let mut sum = Resources::EMPTY;
    for resource in wire {
        let name = &resource.name;
        if name.is_empty() {
            return Err(ResourceError::Nameless);
        }
        let lot = lots::lot_from_wire(resource).map_err(|source| ResourceError::Lot {
            name: name.clone(),
            source,
        })?;
        let value = value_from_wire(resource)?;
        let key = Name::from(name.as_str());
        let held = sum.iter().find(|(held, _, _)| **held == key);
        if held.is_some_and(|(_, _, v)| discriminant(v) != discriminant(&value)) {
            return Err(ResourceError::MixedTypes { name: name.clone() });
        }
        if sum.get(&key, &lot).is_none() {
            sum = sum.with(key, lot, value);
        } else {
            sum.add(&Resources::EMPTY.with(key, lot, value));
        }
    }
    Ok(sum)
}

/// Reads amounts of plain scalars, such as quotas and demands.
///
/// # Errors
/// [`ResourceError`], naming the resource.
pub fn amounts_from_wire(wire: &[mesos::Resource]) -> Result<BTreeMap<Name, Fixed>, ResourceError> {
    let resources = resources_from_wire(wire)?;
    let mut amounts = BTreeMap::new();
    for (name, lot, value) in resources.iter() {
        let refuse = |what| ResourceError::NoAmount {
            name: name.as_str().to_owned(),
            what,
        };
        if !lot.is_plain() {
            return Err(refuse("reserved, a volume, revocable or shared"));
        }
        let amount = match value {
            Value::Scalar(amount) => *amount,
            // How many numbers, whichever.
            Value::Ranges(ranges) => Fixed::units(ranges.count().min(Fixed::MAX_UNITS)),
            Value::Set(_) => return Err(refuse("a set")),
        };
        amounts.insert(name.clone(), amount);
    }
    Ok(amounts)
}

fn value_from_wire(resource: &mesos::Resource) -> Result<Value, ResourceError> {
    let name = || resource.name.clone();
    let missing = |kind| ResourceError::NoValue { name: name(), kind };
    let bounded = |pieces: usize| {
        if pieces > PIECES_MAX {
            return Err(ResourceError::TooManyPieces {
                name: name(),
                pieces,
                max: PIECES_MAX,
            });
        }
        Ok(())
    };
    match resource.r#type() {
        mesos::value::Type::Scalar => {
            let scalar = resource
                .scalar
                .as_ref()
                .ok_or_else(|| missing("a scalar"))?;
            let amount = Fixed::from_f64(scalar.value).map_err(|source| ResourceError::Amount {
                name: name(),
                source,
            })?;
            Ok(Value::Scalar(amount))
        }
        mesos::value::Type::Ranges => {
            let ranges = resource.ranges.as_ref().ok_or_else(|| missing("ranges"))?;
            bounded(ranges.range.len())?;
            if let Some(bad) = ranges.range.iter().find(|r| r.begin > r.end) {
                let (begin, end) = (bad.begin, bad.end);
                return Err(ResourceError::Backwards {
                    name: name(),
                    begin,
                    end,
                });
            }
            Ok(Value::Ranges(Ranges::new(
                ranges.range.iter().map(|r| (r.begin, r.end)),
            )))
        }
        mesos::value::Type::Set => {
            let set = resource.set.as_ref().ok_or_else(|| missing("a set"))?;
            bounded(set.item.len())?;
            Ok(Value::Set(
                set.item.iter().cloned().collect::<BTreeSet<_>>(),
            ))
        }
        mesos::value::Type::Text => Err(ResourceError::Text { name: name() }),
    }
}

/// Writes resources for the wire, reservations as stacks; with `role`, as allocated to it.
pub fn resources_to_wire(resources: &Resources, role: Option<&str>) -> Vec<mesos::Resource> {
    let written = resources.iter().map(|(name, lot, value)| {
        let mut wire = value_to_wire(name, value, role);
        lots::write_lot(lot, &mut wire);
        wire
    });
    written.collect()
}

/// Writes resources for frameworks without the RESERVATION_REFINEMENT capability: reservations as
/// `role` and `reservation`. What has several of them is left out.
pub fn resources_to_old_wire(resources: &Resources, role: Option<&str>) -> Vec<mesos::Resource> {
    let written = resources.iter().filter_map(|(name, lot, value)| {
        let mut wire = value_to_wire(name, value, role);
        lots::write_old_lot(lot, &mut wire).then_some(wire)
    });
    written.collect()
}

fn value_to_wire(name: &Name, value: &Value, role: Option<&str>) -> mesos::Resource {
    let mut wire = mesos::Resource {
        name: name.as_str().to_owned(),
        allocation_info: role.map(|role| mesos::resource::AllocationInfo {
            role: Some(role.to_owned()),
        }),
        ..Default::default()
    };
    match value {
        Value::Scalar(amount) => {
            wire.set_type(mesos::value::Type::Scalar);
            wire.scalar = Some(mesos::value::Scalar {
                value: amount.as_f64(),
            });
        }
        Value::Ranges(ranges) => {
            wire.set_type(mesos::value::Type::Ranges);
            let range = ranges
                .iter()
                .map(|(begin, end)| mesos::value::Range { begin, end });
            wire.ranges = Some(mesos::value::Ranges {
                range: range.collect(),
            });
        }
        Value::Set(items) => {
            wire.set_type(mesos::value::Type::Set);
            wire.set = Some(mesos::value::Set {
                item: items.iter().cloned().collect(),
            });
        }
    }
    wire
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesos::resource::{ReservationInfo, reservation_info};

    #[test]
    fn resources_survive_the_wire() {
        let all: Resources = "cpus:1.5; mem:64; ports:[1-2, 9-9]; tags:{a,b}"
            .parse()
            .unwrap();
        assert_eq!(
            resources_from_wire(&resources_to_wire(&all, Some("web"))),
            Ok(all)
        );
    }

    #[test]
    fn absurd_amounts_are_refused_by_name() {
        for value in [-1.0, f64::NAN, f64::INFINITY, 1e300] {
            let mut wire = resources_to_wire(&"cpus:1".parse().unwrap(), None);
            wire[0].scalar = Some(mesos::value::Scalar { value });
            let error = resources_from_wire(&wire).unwrap_err().to_string();
            assert!(
                error.contains("cpus") && error.contains("between 0 and"),
                "{error}"
            );
        }
    }

    fn cpus() -> mesos::Resource {
        resources_to_wire(&"cpus:1".parse().unwrap(), None).remove(0)
    }

    fn dynamic(role: &str) -> ReservationInfo {
        ReservationInfo {
            r#type: Some(reservation_info::Type::Dynamic.into()),
            role: Some(role.to_owned()),
            principal: Some("ops".to_owned()),
            labels: None,
        }
    }

    fn volume() -> mesos::Resource {
        let mut wire = resources_to_wire(&"disk:64".parse().unwrap(), None).remove(0);
        wire.reservations = vec![dynamic("eng")];
        wire.disk = Some(Box::new(mesos::resource::DiskInfo {
            persistence: Some(mesos::resource::disk_info::Persistence {
                id: "data".to_owned(),
                principal: None,
            }),
            volume: Some(mesos::Volume {
                mode: mesos::volume::Mode::Rw.into(),
                container_path: "data".to_owned(),
                ..Default::default()
            }),
            source: None,
        }));
        wire.shared = Some(mesos::resource::SharedInfo {});
        wire
    }

    #[test]
    fn what_masters_hold_by_the_hundred_thousand_is_small() {
        // Four of them, which a vector makes room for, are below what allocators give out quickly.
        assert!(size_of::<mesos::Resource>() <= 256);
        assert!(size_of::<mesos::TaskInfo>() <= 512);
    }

    #[test]
    fn both_forms_of_one_reservation_are_the_same_resource() {
        let mut fresh = cpus();
        fresh.reservations = vec![dynamic("eng")];
        let mut old = cpus();
        old.role = Some("eng".to_owned());
        old.reservation = Some(Box::new(ReservationInfo {
            principal: Some("ops".to_owned()),
            ..Default::default()
        }));
        let read = resources_from_wire(&[fresh.clone()]).unwrap();
        assert_eq!(resources_from_wire(&[old.clone()]).as_ref(), Ok(&read));
        assert_eq!(resources_to_wire(&read, None), [fresh]);
        assert_eq!(resources_to_old_wire(&read, None), [old]);
    }

    #[test]
    fn static_reservations_have_no_reservation_in_the_old_form() {
        let mut old = cpus();
        old.role = Some("eng".to_owned());
        let read = resources_from_wire(&[old.clone()]).unwrap();
        assert_eq!(read, "cpus(eng):1".parse().unwrap());
        assert_eq!(resources_to_old_wire(&read, None), [old]);
    }

    #[test]
    fn refined_resources_are_never_written_in_the_old_form() {
        let mut refined = cpus();
        refined.reservations = vec![dynamic("eng"), dynamic("eng/web")];
        let read = resources_from_wire(&[refined.clone()]).unwrap();
        assert_eq!(resources_to_wire(&read, None), [refined]);
        assert_eq!(resources_to_old_wire(&read, None), []);
    }

    #[test]
    fn volumes_survive_the_wire() {
        let read = resources_from_wire(&[volume()]).unwrap();
        assert_eq!(read.to_string(), "disk(eng)[data:data]<SHARED>:64");
        assert_eq!(resources_to_wire(&read, None), [volume()]);
    }

    #[test]
    fn what_contradicts_itself_is_refused_in_words() {
        let refused = |change: &dyn Fn(&mut mesos::Resource), wire: mesos::Resource| {
            let mut wire = wire;
            change(&mut wire);
            resources_from_wire(&[wire]).unwrap_err().to_string()
        };
        let told = refused(
            &|r| {
                r.role = Some("ops".to_owned());
                r.reservations = vec![dynamic("eng")];
            },
            cpus(),
        );
        assert!(told.contains("two forms that differ"), "{told}");
        let told = refused(
            &|r| r.reservations = vec![dynamic("eng"), dynamic("ops")],
            cpus(),
        );
        assert!(told.contains("not below"), "{told}");
        let told = refused(&|r| r.reservation = Some(Box::new(dynamic("eng"))), cpus());
        assert!(told.contains("its `role` is `*`"), "{told}");
        let told = refused(&|r| r.reservations.clear(), volume());
        assert!(told.contains("reserve the disk first"), "{told}");
        let told = refused(&|r| r.disk = None, volume());
        assert!(told.contains("only those can be shared"), "{told}");
        let climbing = |r: &mut mesos::Resource| {
            let volume = r.disk.as_mut().and_then(|disk| disk.volume.as_mut());
            volume.unwrap().container_path = "../etc".to_owned();
        };
        let told = refused(&climbing, volume());
        assert!(told.contains("holds `..`"), "{told}");
    }
}
