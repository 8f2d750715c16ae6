//! From wire messages to pure types and back.
//!
//! Everything that comes from outside passes here once: numbers that no machine has, kinds that
//! are not supported yet and texts that are no ids are refused with a sentence.

use std::collections::BTreeSet;

use allotment_types::resources::AmountError;
use allotment_types::{AgentId, FrameworkId, IdError, Name, OfferId, Ranges, Resources, TaskId};
use allotment_types::{Fixed, Lot, Value};

use crate::{allot, mesos};

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
    /// Reserved, persistent, revocable or shared resources.
    #[error("resource {name:?} is {feature}, which is not supported yet; ask for plain resources")]
    Unsupported {
        /// Which resource.
        name: String,
        /// What it asks for.
        feature: &'static str,
    },
}

/// The most ranges or set items of one resource: ten thousand port fragments and no more.
pub const PIECES_MAX: usize = 10_000;

/// Sums up wire resources, refusing what is malformed or not supported yet.
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
        let unsupported = |feature| {
            Err(ResourceError::Unsupported {
                name: name.clone(),
                feature,
            })
        };
        if resource.role.as_deref().is_some_and(|role| role != "*")
            || resource.reservation.is_some()
            || !resource.reservations.is_empty()
        {
            return unsupported("reserved");
        }
        if resource
            .disk
            .as_ref()
            .is_some_and(|d| d.persistence.is_some() || d.volume.is_some())
        {
            return unsupported("a persistent volume");
        }
        if resource.revocable.is_some() {
            return unsupported("revocable");
        }
        if resource.shared.is_some() {
            return unsupported("shared");
        }
        let value = value_from_wire(resource)?;
        let key = Name::from(name.as_str());
        if let Some(held) = sum.get(&key, &Lot::PLAIN)
            && std::mem::discriminant(held) != std::mem::discriminant(&value)
        {
            return Err(ResourceError::MixedTypes { name: name.clone() });
        }
        sum.add(&Resources::EMPTY.with(key, Lot::PLAIN, value));
    }
    Ok(sum)
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

/// Writes resources for the wire; with `role`, as allocated to that role.
pub fn resources_to_wire(resources: &Resources, role: Option<&str>) -> Vec<mesos::Resource> {
    resources
        .iter()
        .map(|(name, _, value)| {
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
        })
        .collect()
}

/// Writes resources for people: scalars and ranges under plain names, sets as ranges of text.
pub fn resources_view(resources: &Resources) -> allot::ResourcesView {
    let mut view = allot::ResourcesView::default();
    for (name, _, value) in resources.iter() {
        let name = name.as_str().to_owned();
        match value {
            Value::Scalar(amount) => {
                view.scalars.push(allot::ScalarView {
                    name,
                    value: amount.as_f64(),
                });
            }
            Value::Ranges(_) | Value::Set(_) => {
                view.ranges.push(allot::RangesView {
                    name,
                    value: value.to_string(),
                });
            }
        }
    }
    view
}

macro_rules! wire_id {
    ($wire:ty, $pure:ty) => {
        impl TryFrom<&$wire> for $pure {
            type Error = IdError;

            fn try_from(wire: &$wire) -> Result<Self, IdError> {
                Self::parse(&wire.value)
            }
        }

        impl From<&$pure> for $wire {
            fn from(pure: &$pure) -> Self {
                Self {
                    value: pure.as_str().to_owned(),
                }
            }
        }
    };
}

wire_id!(mesos::AgentId, AgentId);
wire_id!(mesos::FrameworkId, FrameworkId);
wire_id!(mesos::OfferId, OfferId);
wire_id!(mesos::TaskId, TaskId);

/// Whether a task in this state will never run again, for a framework that is not partition
/// aware (Mesos' `protobuf::isTerminalState`).
pub fn is_terminal(state: mesos::TaskState) -> bool {
    use mesos::TaskState as S;
    match state {
        S::TaskFinished
        | S::TaskFailed
        | S::TaskKilled
        | S::TaskError
        | S::TaskLost
        | S::TaskDropped
        | S::TaskGone
        | S::TaskGoneByOperator => true,
        S::TaskStaging
        | S::TaskStarting
        | S::TaskRunning
        | S::TaskKilling
        | S::TaskUnreachable
        | S::TaskUnknown => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

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

    #[test]
    fn reserved_resources_are_refused_rather_than_taken_as_free() {
        let mut wire = resources_to_wire(&"cpus:1".parse().unwrap(), None);
        wire[0].role = Some("eng".to_owned());
        assert!(matches!(
            resources_from_wire(&wire),
            Err(ResourceError::Unsupported {
                feature: "reserved",
                ..
            })
        ));
    }

    #[test]
    fn an_update_has_the_bytes_that_mesos_writes() {
        // Field 1 (task id, itself field 1), field 2 (TASK_RUNNING = 1), field 11 (uuid).
        let status = mesos::TaskStatus {
            task_id: mesos::TaskId {
                value: "t".to_owned(),
            },
            state: mesos::TaskState::TaskRunning.into(),
            uuid: Some(vec![7; 2].into()),
            ..Default::default()
        };
        assert_eq!(
            status.encode_to_vec(),
            [0x0a, 3, 0x0a, 1, b't', 0x10, 1, 0x5a, 2, 7, 7]
        );
    }
}
