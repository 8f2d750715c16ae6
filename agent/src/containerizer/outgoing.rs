//! Bytes on their way to the launcher, and descriptors that travel with some of them.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::unix::OwnedWriteHalf;

/// What is about to be sent.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    pub(super) bytes: Vec<u8>,
    /// Descriptors, each with the byte that carries it.
    passed: Vec<(usize, Vec<OwnedFd>)>,
}

impl Outgoing {
    /// Lets descriptors travel with the bytes that are appended next.
    pub(super) fn pass(&mut self, descriptors: impl Into<Vec<OwnedFd>>) {
        self.passed.push((self.bytes.len(), descriptors.into()));
    }

    /// Sends everything and closes the descriptors here.
    pub(super) async fn send(self, socket: &mut OwnedWriteHalf) -> io::Result<()> {
        let mut sent = 0;
        for (at, descriptors) in self.passed {
            socket
                .write_all(self.bytes.get(sent..at).unwrap_or_default())
                .await?;
            let one = self.bytes.get(at..=at).unwrap_or_default();
            send_with(socket, one, &descriptors).await?;
            sent = at + 1;
        }
        socket
            .write_all(self.bytes.get(sent..).unwrap_or_default())
            .await
    }
}

/// Sends one byte with descriptors.
async fn send_with(socket: &OwnedWriteHalf, byte: &[u8], passed: &[OwnedFd]) -> io::Result<()> {
    let numbers: Vec<RawFd> = passed.iter().map(AsRawFd::as_raw_fd).collect();
    let control = [ControlMessage::ScmRights(&numbers)];
    let socket = socket.as_ref();
    let send = || {
        let parts = [IoSlice::new(byte)];
        let flags = MsgFlags::MSG_NOSIGNAL;
        sendmsg::<()>(socket.as_raw_fd(), &parts, &control, flags, None).map_err(io::Error::from)
    };
    socket.async_io(Interest::WRITABLE, send).await.map(drop)
}
