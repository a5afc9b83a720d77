//! What the system tells the server: to end, to read its configuration again, that it is still watched.

use std::io::Read as _;
use std::sync::Arc;

use store::Store;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::parents::{GRACE, Parents};
use crate::run::{Control, Notice, ServeError};

/// Comes back when the server is to end.
///
/// A server that is `managed` ends with its standard input, once no other parent holds it.
pub(crate) fn ends(
    cancel: CancellationToken,
    managed: bool,
    parents: Parents,
) -> Result<impl Future<Output = ()>, ServeError> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |error: std::io::Error| {
        ServeError::new(format!("Listening for signals: {error}."), "Start it again.")
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            () = cancel.cancelled() => {}
            _ = terminate.recv() => tracing::info!("asked to end"),
            _ = interrupt.recv() => tracing::info!("interrupted"),
            () = parent_gone(&parents), if managed => tracing::info!("the parent is gone"),
        }
    })
}

/// Comes back when standard input has ended and no other parent is attached.
async fn parent_gone(parents: &Parents) {
    let (gone, is_gone) = oneshot::channel();
    // A thread of its own: a read of the runtime's would hold up the end until the parent says something.
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        let mut bytes = [0; 64];
        while input.read(&mut bytes).is_ok_and(|n_bytes| n_bytes > 0) {}
        let _ = gone.send(());
    });
    let _ = is_gone.await;
    if parents.n_attached() > 0 {
        tracing::info!("whoever started the server is gone; another parent holds it");
    }
    parents.gone_for(GRACE).await;
}

/// Reads the configuration again on SIGHUP.
pub(crate) fn hang_ups(
    control: Control,
    tell: &(dyn Fn(Notice<'_>) + Send + Sync),
) -> Result<impl Future<Output = ()>, ServeError> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |error: std::io::Error| {
        ServeError::new(format!("Listening for signals: {error}."), "Start it again.")
    };
    let mut hang_up = signal(SignalKind::hangup()).map_err(failed)?;
    Ok(async move {
        while hang_up.recv().await.is_some() {
            match control.reload().await {
                Ok(reloaded) => tell(Notice::Reloaded(&reloaded)),
                Err(error) => tell(Notice::Warning(format!(
                    "The configuration stays as it was: {error}"
                ))),
            }
        }
    })
}

/// Tells the service manager that the server lives, where it asks; not once the journal is lost.
pub(crate) async fn watchdog(store: Arc<Store>) {
    let Some(every) = sd_notify::watchdog_enabled() else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(every / 2).await;
        if !store.is_lost() {
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
        }
    }
}
