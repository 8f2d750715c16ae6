//! The launcher process: single-threaded, no runtime, one container init per task.

/// Runs the launcher on the socket `socket_fd` until the agent is gone; returns the exit status.
///
/// Must be the only thing that its process does, before any thread is started.
#[must_use]
pub fn launcher_main(socket_fd: i32) -> i32 {
    let _ = socket_fd;
    1
}
