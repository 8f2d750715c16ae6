//! What simulated agents say, as bytes from the beginning.
//!
//! A real agent makes its registration on a machine of its own. Here thousands of agents share the
//! machine with the master that is measured, so they keep what they will have to say ready.

use allotment_proto::allot;
use allotment_proto::allot::agent_message::Message as Said;
use bytes::{BufMut as _, Bytes, BytesMut};
use http::uri::PathAndQuery;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use tonic::Status;
use tonic::client::Grpc;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic::codegen::tokio_stream::Stream;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

/// `register` in `AgentMessage`.
const REGISTER: u32 = 1;
const CONNECT: &str = "/allot.v1.Agent/Connect";

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

/// A registration with these tasks beside those that it lists itself.
pub(super) fn registration<'a>(
    register: &allot::Register,
    tasks: impl Iterator<Item = &'a Bytes> + Clone,
) -> Bytes {
    let of_tasks: usize = tasks.clone().map(Bytes::len).sum();
    let len = register.encoded_len() + of_tasks;
    let mut message = BytesMut::with_capacity(len + 16);
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
    allot::AgentMessage { message }.encode_to_vec().into()
}

/// Opens an agent's stream.
pub(super) async fn connect(
    channel: Channel,
    said: impl Stream<Item = Bytes> + Send + 'static,
) -> Result<tonic::Streaming<allot::MasterMessage>, Status> {
    let mut client = Grpc::new(channel).max_decoding_message_size(allotment_proto::MESSAGE_LEN_MAX);
    let gone = |error: tonic::transport::Error| Status::unavailable(error.to_string());
    client.ready().await.map_err(gone)?;
    let request = tonic::Request::new(said);
    let path = PathAndQuery::from_static(CONNECT);
    let response = client.streaming(request, path, Plain).await?;
    Ok(response.into_inner())
}

/// Bytes there, messages back.
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = allot::MasterMessage;
    type Encoder = Self;
    type Decoder = <ProstCodec<allot::AgentMessage, allot::MasterMessage> as Codec>::Decoder;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<allot::AgentMessage, allot::MasterMessage>::default().decoder()
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use allotment_proto::mesos;

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
        let bytes = registration(&head, parts.iter());
        let whole = allot::Register {
            tasks: vec![record("a"), record("b")],
            ..head
        };
        let decoded = allot::AgentMessage::decode(bytes).unwrap();
        assert_eq!(decoded.message, Some(Said::Register(whole)));
    }
}
