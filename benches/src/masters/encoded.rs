//! What simulated agents say, as bytes from the beginning.
//!
//! A real agent makes its registration on a machine of its own. Here thousands of agents share the
//! machine with the master that is measured, so they keep what they will have to say ready.

use allotment_proto::allot;
use allotment_proto::allot::agent_message::Message as Said;
use bytes::{BufMut as _, Bytes};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use super::wire;

/// `register` in `AgentMessage`.
const REGISTER: u32 = 1;

/// A task as a part of a registration. Encoded messages that follow each other are one message
/// with the fields of all of them.
#[derive(Clone, PartialEq, Message)]
struct OneTask {
    /// As in `Register`.
    #[prost(message, optional, tag = "5")]
    task: Option<allot::TaskRecord>,
}

/// A task, ready for [`registration`].
pub(super) fn task(record: allot::TaskRecord) -> Bytes {
    let task = Some(record);
    OneTask { task }.encode_to_vec().into()
}

/// A registration with these tasks beside those that it lists itself, ready to be sent.
pub(super) fn registration<'a>(
    register: &allot::Register,
    tasks: impl Iterator<Item = &'a Bytes> + Clone,
) -> Bytes {
    let of_tasks: usize = tasks.clone().map(Bytes::len).sum();
    let len = register.encoded_len() + of_tasks;
    let mut message = wire::frame(key_len(REGISTER) + encoded_len_varint(len as u64) + len);
    encode_key(REGISTER, WireType::LengthDelimited, &mut message);
    encode_varint(len as u64, &mut message);
    // A `BytesMut` grows as needed.
    let _ = register.encode(&mut message);
    for task in tasks {
        message.put_slice(task);
    }
    message.freeze()
}

pub(super) fn message(said: Said) -> Bytes {
    let message = Some(said);
    wire::framed(&allot::AgentMessage { message })
}

#[cfg(test)]
mod tests {
    use allotment_proto::mesos;
    use bytes::Buf as _;

    use super::*;

    #[test]
    fn a_registration_made_of_parts_is_the_same_message() {
        let record = |id: &str| allot::TaskRecord {
            framework_id: mesos::FrameworkId {
                value: "f".to_owned(),
            },
            task: mesos::TaskInfo {
                task_id: mesos::TaskId {
                    value: id.to_owned(),
                },
                ..Default::default()
            },
            state: mesos::TaskState::TaskRunning.into(),
        };
        let head = allot::Register {
            url: "http://127.0.0.1:1".to_owned(),
            ..Default::default()
        };
        let parts = [task(record("a")), task(record("b"))];
        let mut bytes = registration(&head, parts.iter());
        let whole = allot::Register {
            tasks: vec![record("a"), record("b")],
            ..head
        };
        assert_eq!(bytes.get_u8(), 0);
        assert_eq!(bytes.get_u32() as usize, bytes.len());
        let decoded = allot::AgentMessage::decode(bytes).unwrap();
        assert_eq!(decoded.message, Some(Said::Register(whole)));
    }
}
