//! Connections: TCP, TLS, and HTTP over it, each with its limits.

mod stall;

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig as TlsConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tower_service::Service;

use crate::ServerError;
use crate::app::stopped;
use crate::caller::{Caller, Role};
use crate::catalogue::Revoked;
use crate::verifier::CallerVerifier;
use stall::Stall;

/// TLS handshakes and connections without a certificate at the same time.
const ANONYMOUS_MAX: usize = 512;
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// The head of a request must come in this time; a connection without one may stay idle for as long.
const HEAD_MAX: Duration = Duration::from_secs(75);
/// Bytes that a connection buffers of what it reads.
const READ_BUFFER_MAX: usize = 256 << 10;
/// Requests that are being answered when the server is stopped have this long.
const GRACE: Duration = Duration::from_secs(5);
/// Who is revoked hears of it in this time, if it is waiting for an answer.
const LAST_WORD: Duration = Duration::from_millis(250);
/// Pause after a failure to accept, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The server's certificate, which is renewed while it runs.
pub(crate) struct Certificate(RwLock<Arc<CertifiedKey>>);

impl Certificate {
    /// Begins with this one.
    pub(crate) fn new(key: Arc<CertifiedKey>) -> Arc<Self> {
        Arc::new(Self(RwLock::new(key)))
    }

    /// Presents another one from now on.
    pub(crate) fn replace(&self, key: Arc<CertifiedKey>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = key;
    }
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Certificate")
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// TLS 1.3 only; a certificate of the client is verified against the CA if it presents one.
pub(crate) fn tls_config(
    ca: &CertificateDer<'static>,
    certificate: Arc<Certificate>,
) -> Result<Arc<TlsConfig>, ServerError> {
    let fault = |fault: &dyn std::fmt::Display| ServerError::Certificate(fault.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone()).map_err(|error| fault(&error))?;
    let verifier = CallerVerifier::new(roots, provider.clone()).map_err(|error| fault(&error))?;
    let mut config = TlsConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| fault(&error))?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // No resumption: a certificate is verified on each connection, and connections are few and long.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// What serves connections.
pub(crate) struct Listener {
    /// Bound already.
    pub(crate) socket: TcpListener,
    /// With certificates.
    pub(crate) tls: Arc<TlsConfig>,
    /// The routes.
    pub(crate) router: Router,
    /// The most connections at the same time.
    pub(crate) connections_max: usize,
    /// Nodes whose connections are cut.
    pub(crate) revoked: watch::Receiver<Arc<Revoked>>,
}

impl Listener {
    /// Serves until `stopping` is true and what was under way has ended, or its time is over.
    pub(crate) async fn run(self, mut stopping: watch::Receiver<bool>) {
        let connections = Arc::new(Semaphore::new(self.connections_max));
        let anonymous = Arc::new(Semaphore::new(ANONYMOUS_MAX));
        let acceptor = TlsAcceptor::from(self.tls);
        let mut tasks = JoinSet::new();
        let stop = stopping.clone();
        let accept = async {
            loop {
                // Beyond the limits, connections wait in the kernel's queue.
                let Ok(connection) = connections.clone().acquire_owned().await else {
                    return;
                };
                let Ok(unproven) = anonymous.clone().acquire_owned().await else {
                    return;
                };
                match self.socket.accept().await {
                    Ok((stream, address)) => {
                        while tasks.try_join_next().is_some() {}
                        tasks.spawn(serve(
                            stream,
                            address,
                            acceptor.clone(),
                            self.router.clone(),
                            stop.clone(),
                            self.revoked.clone(),
                            (connection, unproven),
                        ));
                    }
                    Err(fault) => {
                        tracing::warn!("accepting a connection: {fault}");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            () = accept => {}
            () = stopped(&mut stopping) => {}
        }
        let finish = async { while tasks.join_next().await.is_some() {} };
        // Whoever takes longer is cut off when the tasks are dropped.
        let _ = tokio::time::timeout(GRACE, finish).await;
    }
}

/// Waits until the node that calls is revoked. One that was revoked before is refused by the guard of the routes, with a
/// reason.
async fn cut(role: &Role, mut revoked: watch::Receiver<Arc<Revoked>>) {
    let Role::Node(node) = role else {
        return std::future::pending().await;
    };
    revoked.mark_unchanged();
    while revoked.changed().await.is_ok() {
        if revoked.borrow_and_update().nodes.binary_search(node).is_ok() {
            // For the answer that says so.
            tokio::time::sleep(LAST_WORD).await;
            return;
        }
    }
    std::future::pending::<()>().await;
}

async fn serve(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    router: Router,
    mut stopping: watch::Receiver<bool>,
    revoked: watch::Receiver<Arc<Revoked>>,
    (_connection, unproven): (OwnedSemaphorePermit, OwnedSemaphorePermit),
) {
    // Only makes small answers faster.
    let _ = stream.set_nodelay(true);
    let tls = match tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(Stall::new(stream))).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(fault)) => {
            tracing::debug!(%address, "TLS handshake failed: {fault}");
            return;
        }
        Err(_) => {
            tracing::debug!(%address, "TLS handshake took too long");
            return;
        }
    };
    let certificate = tls.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let Some(caller) = Caller::of(address, certificate) else {
        tracing::warn!(%address, "a certificate of this fleet's CA that is neither a node's nor an operator's was refused");
        return;
    };
    // Who has proven who it is does not count against the others any more.
    let unproven = (caller.role == Role::Anonymous).then_some(unproven);
    let role = caller.role.clone();
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(caller.clone());
        let mut router = router.clone();
        async move { router.call(request).await }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .max_buf_size(READ_BUFFER_MAX)
        .serve_connection(TokioIo::new(tls), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut stopping) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = cut(&role, revoked) => {
            tracing::info!(%address, ?role, "a connection of a node that was revoked is cut");
            return;
        }
    };
    if let Err(fault) = ended {
        tracing::debug!(%address, "connection ended: {fault}");
    }
    drop(unproven);
}
