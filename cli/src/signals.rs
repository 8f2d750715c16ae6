//! When the user or the system wants this process to end.

use tokio::signal::unix::{SignalKind, signal};

/// Waits for SIGINT (Ctrl-C) or SIGTERM.
///
/// Listening begins when this is called, not when it is polled first.
pub(crate) fn ended() -> anyhow::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Waits for SIGUSR1, with which an operator takes a role away for good.
pub(crate) fn removed() -> anyhow::Result<impl Future<Output = ()>> {
    let mut user_defined = signal(SignalKind::user_defined1())?;
    Ok(async move {
        user_defined.recv().await;
    })
}
