//! Mesos messages as JSON, the way Mesos writes and reads it.
//!
//! That is not proto3's canonical JSON: names stay as they are in the `.proto` files, 64-bit
//! integers are numbers, optional fields with a default are written even when they are not set,
//! and unknown fields are ignored (`3rdparty/stout/include/stout/protobuf.hpp` of Mesos). Clients
//! rely on all of it. What is written is compact and ASCII, because some clients count
//! characters, not bytes.

mod read;
mod write;

use std::sync::LazyLock;

use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};

static POOL: LazyLock<Option<DescriptorPool>> = LazyLock::new(|| {
    let bytes: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
    DescriptorPool::decode(bytes).ok()
});

/// Why a body is no such message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Not JSON at all.
    #[error("the body is no JSON: {0}")]
    Syntax(String),
    /// Not protobuf, or of another message.
    #[error("the body is no {message}: {reason}")]
    Protobuf {
        /// Which message was expected.
        message: String,
        /// Why it is none.
        reason: String,
    },
    /// A field has a value that it cannot have.
    #[error("field `{field}` must be {expected}, but is {found}")]
    Field {
        /// Where, from the outermost message on.
        field: String,
        /// What may stand there.
        expected: &'static str,
        /// What stands there, shortened.
        found: String,
    },
    /// A required field is not there.
    #[error("field `{0}` is required and missing")]
    Missing(String),
}

/// Writes a message.
pub fn encode<M: Message + Name>(message: &M) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(mut dynamic) = descriptor::<M>().map(DynamicMessage::new)
        && dynamic.transcode_from(message).is_ok()
    {
        write::message(&dynamic, &mut out);
    }
    out
}

/// Reads a message from JSON.
///
/// # Errors
/// [`BodyError`] names the field and both sides.
pub fn decode<M: Message + Name + Default>(body: &[u8]) -> Result<M, BodyError> {
    let value: serde_json::Value =
        serde_json::from_slice(body).map_err(|error| BodyError::Syntax(error.to_string()))?;
    let dynamic = read::message(known::<M>()?, &value, "")?;
    read::check_required(&dynamic, "")?;
    dynamic.transcode_to().map_err(|error| no_such::<M>(&error))
}

/// Reads a message from protobuf, and looks that every required field is there.
///
/// # Errors
/// [`BodyError`] when it is none, or names what is missing.
pub fn decode_protobuf<M: Message + Name + Default>(body: &[u8]) -> Result<M, BodyError> {
    let dynamic =
        DynamicMessage::decode(known::<M>()?, body).map_err(|error| no_such::<M>(&error))?;
    read::check_required(&dynamic, "")?;
    M::decode(body).map_err(|error| no_such::<M>(&error))
}

fn descriptor<M: Name>() -> Option<MessageDescriptor> {
    POOL.as_ref()?.get_message_by_name(&M::full_name())
}

fn known<M: Name>() -> Result<MessageDescriptor, BodyError> {
    descriptor::<M>().ok_or_else(|| BodyError::Protobuf {
        message: M::full_name(),
        reason: "this build does not describe it".to_owned(),
    })
}

fn no_such<M: Name>(error: &prost::DecodeError) -> BodyError {
    BodyError::Protobuf {
        message: M::full_name(),
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{executor, mesos, scheduler};

    fn text<M: Message + Name>(message: &M) -> String {
        String::from_utf8(encode(message)).unwrap()
    }

    #[test]
    fn written_as_mesos_writes_it() {
        let status = mesos::TaskStatus {
            task_id: mesos::TaskId {
                value: "t\u{e9}\u{1f600}\n".to_owned(),
            },
            state: mesos::TaskState::TaskRunning.into(),
            timestamp: Some(15.0),
            uuid: Some(bytes::Bytes::from_static(b"\0\xff")),
            ..Default::default()
        };
        assert_eq!(
            text(&status),
            r#"{"task_id":{"value":"t\u00e9\ud83d\ude00\n"},"state":"TASK_RUNNING","timestamp":15.0,"uuid":"AP8="}"#
        );
    }

    #[test]
    fn defaults_are_written_even_when_they_are_not_set() {
        let filters = text(&mesos::Filters::default());
        assert_eq!(filters, r#"{"refuse_seconds":5.0}"#);
        let unavailability = mesos::Unavailability {
            start: mesos::TimeInfo {
                nanoseconds: i64::MAX,
            },
            duration: None,
        };
        let expected = r#"{"start":{"nanoseconds":9223372036854775807}}"#;
        assert_eq!(text(&unavailability), expected);
    }

    #[test]
    fn read_as_leniently_as_mesos_reads_it() {
        let body = br#"{
            "type": "SUBSCRIBE", "unknown": {"x": [1]}, "framework_id": null,
            "subscribe": {
                "framework_info": {
                    "user": "u", "name": "n", "failover_timeout": "3.5", "checkpoint": "true",
                    "roles": "web", "capabilities": {"type": "MULTI_ROLE"}
                }
            }
        }"#;
        let call: scheduler::Call = decode(body).unwrap();
        assert_eq!(call.r#type(), scheduler::call::Type::Subscribe);
        assert_eq!(call.framework_id, None);
        let info = call.subscribe.unwrap().framework_info;
        assert_eq!(info.failover_timeout, Some(3.5));
        assert_eq!(info.checkpoint, Some(true));
        assert_eq!(info.roles, ["web"]);
        assert_eq!(info.capabilities.len(), 1);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let read = |body: &str| {
            decode::<executor::Call>(body.as_bytes())
                .unwrap_err()
                .to_string()
        };
        assert!(read("{").contains("no JSON"), "{}", read("{"));
        let missing = read(r#"{"framework_id": {"value": "f"}}"#);
        assert_eq!(missing, "field `executor_id` is required and missing");
        let nested = r#"{"framework_id": {"value": "f"}, "executor_id": {"value": "e"},
            "type": "UPDATE", "update": {"status": {"task_id": {"value": "t"}, "state": "GARBAGE"}}}"#;
        assert!(
            read(nested).contains("update.status.state"),
            "{}",
            read(nested)
        );
        let wrong = read(r#"{"framework_id": "f", "executor_id": {"value": "e"}}"#);
        assert!(
            wrong.contains("`framework_id` must be an object"),
            "{wrong}"
        );
        let deep = "[".repeat(100_000);
        assert!(read(&deep).contains("no JSON"));
    }

    #[test]
    fn protobuf_without_a_required_field_is_refused() {
        let error = decode_protobuf::<executor::Call>(b"").unwrap_err();
        assert_eq!(error, BodyError::Missing("executor_id".to_owned()));
        assert!(decode_protobuf::<executor::Call>(b"\xff\xff").is_err());
    }

    #[test]
    fn a_message_survives_the_way_there_and_back() {
        let mut task = mesos::TaskInfo {
            name: "n".to_owned(),
            data: Some(bytes::Bytes::from_static(&[0, 159, 146, 150])),
            ..Default::default()
        };
        task.limits.insert(
            "mem".to_owned(),
            mesos::value::Scalar {
                value: f64::INFINITY,
            },
        );
        let back: mesos::TaskInfo = decode(&encode(&task)).unwrap();
        assert_eq!(back, task);
    }
}
