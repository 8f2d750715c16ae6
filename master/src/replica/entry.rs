//! What the log's entries and snapshots hold: records, and the time and place they come from.

use allotment_types::Timestamp;
use bytes::Bytes;
use prost::Message;

use crate::core::registry::{FORMAT, Record, Registry};

/// One proposal of a leading master.
#[derive(Clone, PartialEq, Message)]
pub struct Entry {
    /// Which reign of the master that proposed it; its own count.
    #[prost(uint64, required, tag = "1")]
    pub epoch: u64,
    /// Which proposal of that reign.
    #[prost(uint64, required, tag = "2")]
    pub sequence: u64,
    /// The group's time, in nanoseconds since the Unix epoch.
    #[prost(uint64, required, tag = "3")]
    pub time: u64,
    /// What changes.
    #[prost(message, repeated, tag = "4")]
    pub records: Vec<Boxed>,
}

/// A record as a message of its own.
#[derive(Clone, PartialEq, Message)]
pub struct Boxed {
    /// Absent: written by a later version.
    #[prost(oneof = "Record", tags = "1, 2, 3, 4, 5, 6, 7, 8")]
    pub record: Option<Record>,
}

/// The whole registry.
#[derive(Clone, PartialEq, Message)]
pub struct Snapshot {
    /// [`FORMAT`] of whoever wrote it.
    #[prost(uint64, required, tag = "1")]
    pub format: u64,
    /// The group's time, in nanoseconds since the Unix epoch.
    #[prost(uint64, required, tag = "2")]
    pub time: u64,
    /// Records that add up to it.
    #[prost(message, repeated, tag = "3")]
    pub records: Vec<Boxed>,
}

/// Why an entry or a snapshot cannot be taken in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Not what a master wrote.
    #[error("it is unreadable: {0}")]
    Unreadable(#[from] prost::DecodeError),
    /// A later version wrote it.
    #[error("it has format {found}, this master reads up to {FORMAT}; start the newer version")]
    Newer {
        /// Its format.
        found: u64,
    },
    /// A later version wrote it.
    #[error("it holds a record that this version does not know; start the newer version")]
    UnknownRecord,
}

fn boxed(record: Record) -> Boxed {
    Boxed {
        record: Some(record),
    }
}

fn unboxed(records: Vec<Boxed>) -> Result<Vec<Record>, EntryError> {
    let records = records.into_iter().map(|boxed| boxed.record);
    records
        .collect::<Option<_>>()
        .ok_or(EntryError::UnknownRecord)
}

/// An entry's bytes.
pub fn encode(epoch: u64, sequence: u64, time: Timestamp, records: Vec<Record>) -> Bytes {
    let entry = Entry {
        epoch,
        sequence,
        time: time.as_nanos(),
        records: records.into_iter().map(boxed).collect(),
    };
    entry.encode_to_vec().into()
}

/// An entry's records, and where they come from.
///
/// # Errors
/// [`EntryError`].
pub fn decode(data: Bytes) -> Result<(u64, u64, Timestamp, Vec<Record>), EntryError> {
    let entry = Entry::decode(data)?;
    let time = Timestamp::from_nanos(entry.time);
    Ok((entry.epoch, entry.sequence, time, unboxed(entry.records)?))
}

/// A snapshot's bytes. Takes a while for a large registry: keep it off the loop.
pub fn encode_registry(registry: Registry, time: Timestamp) -> Bytes {
    let snapshot = Snapshot {
        format: FORMAT,
        time: time.as_nanos(),
        records: registry.into_records().into_iter().map(boxed).collect(),
    };
    snapshot.encode_to_vec().into()
}

/// The registry in a snapshot, and when it was made.
///
/// # Errors
/// [`EntryError`].
pub fn decode_registry(data: Bytes) -> Result<(Registry, Timestamp), EntryError> {
    let mut registry = Registry::default();
    if data.is_empty() {
        return Ok((registry, Timestamp::ZERO));
    }
    let snapshot = Snapshot::decode(data)?;
    if snapshot.format > FORMAT {
        let found = snapshot.format;
        return Err(EntryError::Newer { found });
    }
    for record in unboxed(snapshot.records)? {
        registry.apply(record);
    }
    Ok((registry, Timestamp::from_nanos(snapshot.time)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::registry::{
        AgentRecord, FrameworkRecord, QuotaRecord, StoreChange, StoreRecord, StoredEntry,
        WeightRecord, WishRecord,
    };
    use allotment_proto::mesos;

    fn records() -> Vec<Record> {
        let change = |key: &str, value: Option<&'static [u8]>| StoreChange {
            key: key.to_owned(),
            value: value.map(Bytes::from_static),
            lease_ms: value.map(|_| 5000),
        };
        let commit = |version, changes| {
            Record::Store(StoreRecord {
                namespace: "services".to_owned(),
                version,
                changes,
            })
        };
        vec![
            Record::Agent(AgentRecord {
                info: mesos::AgentInfo {
                    id: Some(mesos::AgentId {
                        value: "a-S0".to_owned(),
                    }),
                    ..Default::default()
                },
                url: "http://a:1".to_owned(),
                version: "1".to_owned(),
                unreachable_since: Some(3),
            }),
            Record::AgentRemoved("a-S1".to_owned()),
            Record::Framework(FrameworkRecord {
                info: mesos::FrameworkInfo {
                    id: Some(mesos::FrameworkId {
                        value: "f-0".to_owned(),
                    }),
                    ..Default::default()
                },
                disconnected_since: Some(4),
                removed_at: None,
            }),
            Record::FrameworkForgotten("f-1".to_owned()),
            commit(7, vec![change("a", Some(b"1")), change("b", Some(b"2"))]),
            commit(9, vec![change("b", None)]),
            Record::Weight(WeightRecord {
                role: "web".to_owned(),
                thousandths: 2500,
            }),
            Record::Quota(QuotaRecord {
                role: "web".to_owned(),
                guarantees: [("cpus".to_owned(), 4000)].into(),
                limits: [("mem".to_owned(), 64_000)].into(),
            }),
            Record::Wish(WishRecord {
                agent: "a-S0".to_owned(),
                draining: true,
                grace: Some(5),
                ..Default::default()
            }),
        ]
    }

    /// Whoever adds a kind of record meets this match, and adds one to `records` and its tag to
    /// [`Boxed`].
    fn tag(record: &Record) -> u32 {
        match record {
            Record::Agent(_) => 1,
            Record::AgentRemoved(_) => 2,
            Record::Framework(_) => 3,
            Record::FrameworkForgotten(_) => 4,
            Record::Store(_) => 5,
            Record::Weight(_) => 6,
            Record::Quota(_) => 7,
            Record::Wish(_) => 8,
        }
    }

    #[test]
    fn every_record_survives_the_log() {
        let tags: std::collections::BTreeSet<u32> = records().iter().map(tag).collect();
        assert!(tags.into_iter().eq(1..=8));
        let time = Timestamp::from_secs(5);
        let (epoch, sequence, at, read) = decode(encode(1, 2, time, records())).unwrap();
        assert_eq!((epoch, sequence, at), (1, 2, time));
        assert_eq!(read, records());
    }

    #[test]
    fn a_registry_survives_its_snapshot_with_the_version_of_what_was_deleted() {
        let mut registry = Registry::default();
        for record in records() {
            registry.apply(record);
        }
        let time = Timestamp::from_secs(5);
        let (read, at) = decode_registry(encode_registry(registry.clone(), time)).unwrap();
        assert_eq!((read, at), (registry.clone(), time));
        assert_eq!(registry.store_version, 9);
        let kept = StoredEntry {
            version: 7,
            value: Bytes::from_static(b"1"),
            lease_ms: Some(5000),
        };
        assert_eq!(registry.store["services"]["a"], kept);
    }

    #[test]
    fn what_a_later_version_wrote_is_refused_rather_than_guessed_at() {
        let newer = Snapshot {
            format: FORMAT + 1,
            time: 0,
            records: vec![],
        };
        let error = decode_registry(newer.encode_to_vec().into());
        assert_eq!(error, Err(EntryError::Newer { found: FORMAT + 1 }));
        let entry = Entry {
            epoch: 1,
            sequence: 1,
            time: 0,
            records: vec![Boxed { record: None }],
        };
        let error = decode(entry.encode_to_vec().into());
        assert_eq!(error, Err(EntryError::UnknownRecord));
    }
}
