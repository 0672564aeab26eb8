//! When a service is to end: on a signal, or with the process that started it.

use std::io::Read;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::exit::{Doing, Failure};

/// Resolves when the process is told to end: by SIGINT or SIGTERM, or, with `with_stdin`, when its standard input closes,
/// which it does when the process that holds the other end dies, however it dies. To be called inside a runtime.
pub(crate) fn requested(with_stdin: bool) -> Result<impl Future<Output = ()> + Send + 'static, Failure> {
    let doing = || "listening for signals".to_owned();
    let mut interrupt = signal(SignalKind::interrupt()).doing(doing)?;
    let mut terminate = signal(SignalKind::terminate()).doing(doing)?;
    let (closed, stdin_closed) = oneshot::channel::<()>();
    if with_stdin {
        // A thread of its own: a read from standard input cannot be cancelled.
        std::thread::Builder::new()
            .name("stdin".into())
            .spawn(move || {
                let mut buffer = [0; 256];
                while matches!(std::io::stdin().lock().read(&mut buffer), Ok(read) if read > 0) {}
                drop(closed);
            })
            .doing(|| "starting a thread".into())?;
    } else {
        std::mem::forget(closed);
    }
    Ok(async move {
        let told = tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
            _ = stdin_closed => "standard input closed",
        };
        tracing::info!("stopping: {told}");
    })
}
