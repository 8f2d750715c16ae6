//! Raft's messages in pieces small enough that a slow link still shows progress.

use allotment_proto::allot;
use allotment_raft::wire;
use bytes::{Bytes, BytesMut};
use prost::Message as _;
use tonic::Status;

const FRAME_LEN: usize = 256 * 1024;

/// A message in pieces.
pub(super) fn cut(message: &allot::RaftMessage) -> Vec<allot::RaftFrame> {
    let mut rest = Bytes::from(message.encode_to_vec());
    let mut frames = Vec::new();
    while rest.len() > FRAME_LEN {
        frames.push(allot::RaftFrame {
            data: rest.split_to(FRAME_LEN),
            last: false,
        });
    }
    frames.push(allot::RaftFrame {
        data: rest,
        last: true,
    });
    frames
}

/// The piece after the last one: what a stream brought was taken in.
pub(in crate::edge) fn end() -> allot::RaftFrame {
    allot::RaftFrame::default()
}

/// What there is of a message so far.
#[derive(Debug, Default)]
pub(in crate::edge) struct Pieces(BytesMut);

impl Pieces {
    /// The message, when this was its last piece.
    ///
    /// # Errors
    /// For the sender: the message is too large, or none.
    pub(in crate::edge) fn add(
        &mut self,
        frame: allot::RaftFrame,
    ) -> Result<Option<allot::RaftMessage>, Status> {
        if self.0.len() + frame.data.len() > wire::MESSAGE_LEN_MAX {
            return Err(Status::resource_exhausted("a Raft message is too large"));
        }
        let whole = if self.0.is_empty() && frame.last {
            frame.data
        } else {
            self.0.extend_from_slice(&frame.data);
            if !frame.last {
                return Ok(None);
            }
            self.0.split().freeze()
        };
        let decoded = allot::RaftMessage::decode(whole);
        let decoded = decoded
            .map_err(|error| Status::invalid_argument(format!("no Raft message: {error}")))?;
        Ok(Some(decoded))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_the_message_that_was_cut() {
        let message = allot::RaftMessage {
            kind: 3,
            to: 1,
            from: 2,
            term: 7,
            context: Some(vec![5; 2 * FRAME_LEN + 1].into()),
            ..Default::default()
        };
        let frames = cut(&message);
        assert_eq!(frames.len(), 3);
        let mut pieces = Pieces::default();
        for _ in 0..2 {
            let mut made = Vec::new();
            for frame in frames.clone() {
                made.extend(pieces.add(frame).unwrap());
            }
            assert_eq!(made, std::slice::from_ref(&message));
        }
        assert_eq!(pieces.add(end()).unwrap(), None);
        let garbage = allot::RaftFrame {
            data: "no message".into(),
            last: true,
        };
        assert!(pieces.add(garbage).is_err());
    }
}
