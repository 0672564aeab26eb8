//! The client of the management server: HTTPS, JSON, and chunks in bulk.
//!
//! A few connections are kept alive and shared. A request that finds its connection closed is sent again on a fresh one
//! if it may be; several addresses of the server are tried in turn. Dropping a future cancels its request.

mod body;
mod chunks;
mod connection;
mod fault;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::{Method, StatusCode, header};
use potluck_model::Digest;
use potluck_model::api::{
    ApiError, CHUNKS_PER_REQUEST_MAX, ErrorKind, Events, Head, HeadQuery, JoinAnswer, JoinRequest, POLL_SECONDS_MAX,
    Presence, RenewAnswer, RenewRequest,
};
use potluck_model::join::JoinString;
use rustls::ClientConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use chunks::{ChunkAnswer, ChunkEvent};
pub use fault::ApiFault;

use body::Parts;
use connection::{Answer, Connection};

/// The most bytes of an answer that is parsed as JSON: the state of 20,000 nodes fits.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// The most bytes of an answer that is an error.
const ERROR_BYTES_MAX: usize = 64 << 10;
/// Name lookup, TCP and TLS handshake with one address of the server.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// No byte in either direction for this long: given up.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// What a long poll may be late by.
const POLL_SLACK: Duration = Duration::from_secs(20);
/// Connections without work that are kept.
const IDLE_CONNECTIONS_MAX: usize = 4;
/// After this without work, a connection is not used again: middleboxes forget, and the server closes.
const IDLE_MAX: Duration = Duration::from_secs(20);

/// The client. Clones share connections.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    servers: Vec<String>,
    tls: RwLock<Arc<ClientConfig>>,
    bind: Option<IpAddr>,
    /// Index of the address that worked last.
    preferred: AtomicUsize,
    idle: Mutex<Vec<Connection>>,
    /// Grows when the network changes: connections of before are not used again.
    generation: AtomicU64,
}

/// A request, before it has a connection.
struct Outgoing<'a> {
    method: Method,
    path: &'a str,
    content_type: &'static str,
    body: Vec<Bytes>,
    /// Counts bytes of the body as they are taken up for sending.
    sent: Option<Arc<AtomicU64>>,
    /// Whether it may be sent again when it is unknown whether it was carried out.
    repeatable: bool,
    silence_max: Duration,
}

impl<'a> Outgoing<'a> {
    fn new(method: Method, path: &'a str) -> Self {
        let repeatable = method != Method::POST;
        Self {
            method,
            path,
            content_type: "application/json",
            body: Vec::new(),
            sent: None,
            repeatable,
            silence_max: SILENCE_MAX,
        }
    }

    fn json<B: Serialize + ?Sized>(mut self, body: &B) -> Result<Self, ApiFault> {
        let bytes = serde_json::to_vec(body)
            .map_err(|error| ApiFault::protocol(self.path, format!("the request cannot be written: {error}")))?;
        self.body = vec![bytes.into()];
        Ok(self)
    }

    fn digests(mut self, digests: &[Digest]) -> Result<Self, ApiFault> {
        if digests.len() > CHUNKS_PER_REQUEST_MAX {
            let what = format!("more than {CHUNKS_PER_REQUEST_MAX} chunks in one request");
            return Err(ApiFault::protocol(self.path, what));
        }
        let mut body = Vec::with_capacity(digests.len() * Digest::BYTES);
        for digest in digests {
            body.extend_from_slice(digest.as_bytes());
        }
        self.body = vec![body.into()];
        self.content_type = "application/octet-stream";
        self.repeatable = true;
        Ok(self)
    }
}

impl Client {
    /// For a server at these addresses (`HOST:PORT`, the first that works is used), with `tls::client_config`.
    pub fn new(servers: Vec<String>, tls: Arc<ClientConfig>) -> Self {
        Self {
            shared: Arc::new(Shared {
                servers,
                tls: RwLock::new(tls),
                bind: None,
                preferred: AtomicUsize::new(0),
                idle: Mutex::default(),
                generation: AtomicU64::new(0),
            }),
        }
    }

    /// For joining: trusts only the server whose CA has the fingerprint in the join string.
    pub fn for_joining(join: &JoinString) -> Self {
        Self::new(join.servers.clone(), crate::tls::join_config(join.ca))
    }

    /// A client of the same server whose connections have `bind` as their source address.
    #[must_use]
    pub fn bound_to(self, bind: Option<IpAddr>) -> Self {
        Self {
            shared: Arc::new(Shared {
                servers: self.shared.servers.clone(),
                tls: RwLock::new(self.shared.tls()),
                bind,
                preferred: AtomicUsize::new(0),
                idle: Mutex::default(),
                generation: AtomicU64::new(0),
            }),
        }
    }

    /// The server's addresses.
    pub fn servers(&self) -> &[String] {
        &self.shared.servers
    }

    /// From now on connections are made with this configuration. Requests under way go on.
    pub fn use_tls(&self, tls: Arc<ClientConfig>) {
        *self.shared.tls.write().unwrap_or_else(PoisonError::into_inner) = tls;
        self.reset();
    }

    /// After a change of the network: the next requests use fresh connections. Requests under way go on.
    pub fn reset(&self) {
        self.shared.generation.fetch_add(1, Ordering::Relaxed);
        self.shared.idle().clear();
    }

    /// `GET path`, which begins with `/v1/`.
    pub async fn get<R: DeserializeOwned>(&self, path: &str) -> Result<R, ApiFault> {
        self.exchange(Outgoing::new(Method::GET, path)).await
    }

    /// `POST path`. Not repeated by itself if the connection breaks.
    pub async fn post<B: Serialize + ?Sized, R: DeserializeOwned>(&self, path: &str, body: &B) -> Result<R, ApiFault> {
        self.exchange(Outgoing::new(Method::POST, path).json(body)?).await
    }

    /// `PUT path`.
    pub async fn put<B: Serialize + ?Sized, R: DeserializeOwned>(&self, path: &str, body: &B) -> Result<R, ApiFault> {
        self.exchange(Outgoing::new(Method::PUT, path).json(body)?).await
    }

    /// `DELETE path`.
    pub async fn delete<R: DeserializeOwned>(&self, path: &str) -> Result<R, ApiFault> {
        self.exchange(Outgoing::new(Method::DELETE, path)).await
    }

    /// `POST /v1/join`.
    pub async fn join(&self, request: &JoinRequest) -> Result<JoinAnswer, ApiFault> {
        self.post("/v1/join", request).await
    }

    /// `POST /v1/node/renew`: a new certificate for the node's key.
    pub async fn renew(&self, request: &RenewRequest) -> Result<RenewAnswer, ApiFault> {
        self.post("/v1/node/renew", request).await
    }

    /// `GET /v1/node/head`: waits for something that differs from the answer before.
    pub async fn head(&self, query: &HeadQuery) -> Result<Head, ApiFault> {
        let wait = query.wait.min(POLL_SECONDS_MAX);
        let path = format!(
            "/v1/node/head?cursor={}&wait={wait}&revocations={}&issued={}&instance={}",
            query.cursor, query.revocations.number, query.revocations.issued.0, query.instance
        );
        let mut request = Outgoing::new(Method::GET, &path);
        request.silence_max = Duration::from_secs(wait) + POLL_SLACK;
        self.exchange(request).await
    }

    /// `PUT /v1/node/presence`.
    pub async fn presence(&self, presence: &Presence) -> Result<(), ApiFault> {
        self.put("/v1/node/presence", presence).await
    }

    /// `POST /v1/node/events`: once this returns, the server keeps them. Sent twice they count once.
    pub async fn events(&self, events: &Events) -> Result<(), ApiFault> {
        let mut request = Outgoing::new(Method::POST, "/v1/node/events").json(events)?;
        request.repeatable = true;
        self.exchange(request).await
    }

    /// `GET /v1/content/DIGEST`: the whole content of at most `max` bytes, verified against its digest.
    pub async fn content(&self, digest: &Digest, max: usize) -> Result<Bytes, ApiFault> {
        let path = format!("/v1/content/{digest}");
        let answer = self.send(Outgoing::new(Method::GET, &path)).await?;
        let bytes = answer.whole(max).await?;
        if Digest::of(&bytes) == *digest {
            Ok(bytes)
        } else {
            Err(ApiFault::protocol(
                &path,
                "the bytes do not have this digest".to_owned(),
            ))
        }
    }

    /// `POST /v1/node/chunks`: opens an answer from which chunks are taken one by one, in the order of `digests` (at most
    /// `CHUNKS_PER_REQUEST_MAX`). What is not taken is not sent: TCP holds the server back. Dropping it ends it.
    pub async fn open_chunks(&self, digests: &[Digest]) -> Result<ChunkAnswer, ApiFault> {
        let answer = self
            .send(Outgoing::new(Method::POST, "/v1/node/chunks").digests(digests)?)
            .await?;
        Ok(ChunkAnswer::new(answer, digests.len()))
    }

    /// The same, with a callback. `max_len` gives the most bytes that the chunk with this index may have; a longer one is
    /// refused unread. Chunks are not verified against their digests here.
    pub async fn chunks<F, Fut>(
        &self,
        digests: &[Digest],
        max_len: &(dyn Fn(usize) -> u64 + Send + Sync),
        mut on: F,
    ) -> Result<(), ApiFault>
    where
        F: FnMut(ChunkEvent) -> Fut,
        Fut: Future<Output = ()>,
    {
        let mut answer = self.open_chunks(digests).await?;
        while let Some(event) = answer.next(max_len).await? {
            on(event).await;
        }
        Ok(())
    }

    /// `POST /v1/chunks/missing`: which of these the server lacks, in the same order.
    pub async fn missing_chunks(&self, digests: &[Digest]) -> Result<Vec<bool>, ApiFault> {
        let path = "/v1/chunks/missing";
        let answer = self.send(Outgoing::new(Method::POST, path).digests(digests)?).await?;
        let bytes = answer.whole(digests.len()).await?;
        if bytes.len() != digests.len() || bytes.iter().any(|&byte| byte > 1) {
            let what = format!("{} answers for {} chunks", bytes.len(), digests.len());
            return Err(ApiFault::protocol(path, what));
        }
        Ok(bytes.iter().map(|&byte| byte == 1).collect())
    }

    /// `POST /v1/chunks`: uploads chunks, together at most `UPLOAD_BYTES_MAX` with 36 bytes for each. `sent` counts bytes
    /// of the body as they are taken up for sending; when the connection breaks and the upload begins anew, it goes back.
    pub async fn upload_chunks(
        &self,
        chunks: &[(Digest, Bytes)],
        sent: Option<Arc<AtomicU64>>,
    ) -> Result<(), ApiFault> {
        let mut request = Outgoing::new(Method::POST, "/v1/chunks");
        for (digest, bytes) in chunks {
            let mut prefix = Vec::with_capacity(4 + Digest::BYTES);
            prefix.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
            prefix.extend_from_slice(digest.as_bytes());
            request.body.push(prefix.into());
            request.body.push(bytes.clone());
        }
        request.content_type = "application/octet-stream";
        request.repeatable = true;
        request.sent = sent;
        self.exchange(request).await
    }

    /// Sends a request and parses its answer; an empty answer is `null`.
    async fn exchange<R: DeserializeOwned>(&self, request: Outgoing<'_>) -> Result<R, ApiFault> {
        let path = request.path;
        let answer = self.send(request).await?;
        let bytes = answer.whole(ANSWER_BYTES_MAX).await?;
        let text: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
        serde_json::from_slice(text)
            .map_err(|error| ApiFault::protocol(path, format!("the answer cannot be read: {error}")))
    }

    /// Sends a request and waits for the head of an answer that is no error.
    async fn send(&self, request: Outgoing<'_>) -> Result<Answer, ApiFault> {
        let mut fresh = false;
        loop {
            let connection = match self.shared.idle_connection() {
                Some(connection) if !fresh => connection,
                _ => self.shared.connect().await?,
            };
            let reused = connection.reused;
            let progress = request.sent.clone();
            let already = progress.as_ref().map_or(0, |sent| sent.load(Ordering::Relaxed));
            let body = Parts::new(request.body.clone(), request.sent.clone());
            let sent = connection.send(&self.shared, &request, body).await;
            match sent {
                Ok(answer) if answer.status.is_success() => return Ok(answer),
                Ok(answer) => return Err(refusal(request.path, answer).await),
                Err(fault) if reused && !fresh && (fault.unsent || request.repeatable) => {
                    // The server closed a connection that had no work: that is how keep-alive ends, and no fault.
                    if let Some(sent) = &progress {
                        sent.store(already, Ordering::Relaxed);
                    }
                    fresh = true;
                }
                Err(fault) => return Err(fault.fault),
            }
        }
    }
}

async fn refusal(path: &str, answer: Answer) -> ApiFault {
    let status = answer.status;
    let retry_after = answer
        .headers
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .map(Duration::from_secs);
    let error = match answer.whole(ERROR_BYTES_MAX).await {
        Ok(bytes) => serde_json::from_slice::<ApiError>(&bytes).ok(),
        Err(_) => None,
    };
    if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        return ApiFault::Busy { retry_after };
    }
    let error = error.unwrap_or_else(|| ApiError {
        error: if status.is_server_error() {
            ErrorKind::Internal
        } else {
            ErrorKind::BadRequest
        },
        message: format!("the server answered {path} with {status} and no explanation"),
    });
    ApiFault::Refused {
        status: status.as_u16(),
        error,
    }
}

impl Shared {
    fn tls(&self) -> Arc<ClientConfig> {
        self.tls.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection that was used last: the others may grow old.
    fn idle_connection(&self) -> Option<Connection> {
        let now = Instant::now();
        let mut idle = self.idle();
        idle.retain(|connection| connection.usable(now, IDLE_MAX));
        idle.pop()
    }

    fn keep(&self, connection: Connection) {
        if connection.generation == self.generation.load(Ordering::Relaxed) {
            let now = Instant::now();
            let mut idle = self.idle();
            idle.retain(|connection| connection.usable(now, IDLE_MAX));
            if idle.len() < IDLE_CONNECTIONS_MAX {
                idle.push(connection);
            }
        }
    }

    async fn connect(self: &Arc<Self>) -> Result<Connection, ApiFault> {
        let count = self.servers.len();
        let first = self.preferred.load(Ordering::Relaxed);
        let mut fault = None;
        for step in 0..count {
            let index = (first + step) % count;
            match Connection::open(self, &self.servers[index]).await {
                Ok(connection) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(connection);
                }
                // A server that could be reached and was not believed says more than one that could not be reached.
                Err(error) if fault.is_none() || matches!(error, ApiFault::Tls { .. }) => fault = Some(error),
                Err(_) => {}
            }
        }
        Err(fault.unwrap_or_else(|| ApiFault::Unreachable {
            address: "(none)".to_owned(),
            source: std::io::Error::new(std::io::ErrorKind::InvalidInput, "no address of the server is known"),
        }))
    }
}

#[cfg(test)]
mod tests;
