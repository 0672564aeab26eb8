//! One connection to the server, and the answer that comes over it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::{HeaderMap, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::body::Parts;
use super::fault::chain;
use super::{ApiFault, CONNECT_MAX, Outgoing, Shared};
use crate::tls::tls_reason;

/// The most bytes that are read ahead on one connection.
const READ_AHEAD_BYTES_MAX: usize = 256 << 10;

pub(super) struct Connection {
    sender: SendRequest<Parts>,
    address: String,
    /// Bytes that moved on the wire, either way.
    moved: Arc<AtomicU64>,
    pub(super) generation: u64,
    /// Whether it has carried a request before: then the server may be closing it this very moment.
    pub(super) reused: bool,
    idle_since: Instant,
}

/// A request that failed, and whether the server cannot have seen it.
pub(super) struct SendFault {
    pub(super) fault: ApiFault,
    pub(super) unsent: bool,
}

impl Connection {
    pub(super) async fn open(shared: &Shared, address: &str) -> Result<Self, ApiFault> {
        match tokio::time::timeout(CONNECT_MAX, Self::open_unbounded(shared, address)).await {
            Ok(result) => result,
            Err(_) => Err(ApiFault::Unreachable {
                address: address.to_owned(),
                source: io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no answer within {} s", CONNECT_MAX.as_secs()),
                ),
            }),
        }
    }

    async fn open_unbounded(shared: &Shared, address: &str) -> Result<Self, ApiFault> {
        let generation = shared.generation.load(Ordering::Relaxed);
        let unreachable = |source| ApiFault::Unreachable {
            address: address.to_owned(),
            source,
        };
        let candidates: Vec<_> = tokio::net::lookup_host(address).await.map_err(unreachable)?.collect();
        let tcp = crate::socket::dial(&candidates, shared.bind)
            .await
            .map_err(unreachable)?;
        let moved = Arc::new(AtomicU64::new(0));
        let counted = Counted {
            stream: tcp,
            moved: moved.clone(),
        };
        let tls = TlsConnector::from(shared.tls())
            .connect(crate::tls::server_name(), counted)
            .await
            .map_err(|error| match tls_reason(&error) {
                Some(why) => ApiFault::Tls {
                    address: address.to_owned(),
                    why,
                },
                None => unreachable(error),
            })?;
        let (sender, driver) = Builder::new()
            .max_buf_size(READ_AHEAD_BYTES_MAX)
            .handshake(TokioIo::new(tls))
            .await
            .map_err(|error| unreachable(io::Error::other(error)))?;
        // It ends when its sender is dropped, or when the other end closes; requests get its error.
        tokio::spawn(async move {
            let _ = driver.await;
        });
        Ok(Self {
            sender,
            address: address.to_owned(),
            moved,
            generation,
            reused: false,
            idle_since: Instant::now(),
        })
    }

    pub(super) fn usable(&self, now: Instant, idle_max: Duration) -> bool {
        !self.sender.is_closed() && now.saturating_duration_since(self.idle_since) < idle_max
    }

    pub(super) async fn send(
        mut self,
        shared: &Arc<Shared>,
        request: &Outgoing<'_>,
        body: Parts,
    ) -> Result<Answer, SendFault> {
        if let Err(error) = self.sender.ready().await {
            return Err(SendFault {
                fault: self.fault(request.path, &error),
                unsent: true,
            });
        }
        let mut http = Request::builder()
            .method(&request.method)
            .uri(request.path)
            .header(header::HOST, self.address.as_str())
            .header(header::USER_AGENT, concat!("potluck/", env!("CARGO_PKG_VERSION")));
        if body.len() > 0 {
            http = http.header(header::CONTENT_TYPE, request.content_type);
        }
        let http = http.body(body).map_err(|error| SendFault {
            fault: ApiFault::protocol(request.path, error.to_string()),
            unsent: true,
        })?;
        let sending = self.sender.try_send_request(http);
        match unless_silent(&self.moved, request.silence_max, sending).await {
            Some(Ok(response)) => {
                let (head, body) = response.into_parts();
                Ok(Answer {
                    status: head.status,
                    headers: head.headers,
                    body,
                    connection: Some(self),
                    shared: shared.clone(),
                    path: request.path.to_owned(),
                    silence_max: request.silence_max,
                })
            }
            Some(Err(error)) => Err(SendFault {
                unsent: error.message().is_some(),
                fault: self.fault(request.path, error.error()),
            }),
            None => Err(SendFault {
                unsent: false,
                fault: self.silent(request.path, request.silence_max),
            }),
        }
    }

    fn fault(&self, path: &str, error: &hyper::Error) -> ApiFault {
        match tls_reason(error) {
            Some(why) => ApiFault::Tls {
                address: self.address.clone(),
                why,
            },
            None => ApiFault::Broken {
                address: self.address.clone(),
                path: path.to_owned(),
                why: chain(error),
            },
        }
    }

    fn silent(&self, path: &str, silence: Duration) -> ApiFault {
        ApiFault::Silent {
            address: self.address.clone(),
            path: path.to_owned(),
            silence,
        }
    }
}

/// An answer whose head has come.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    body: Incoming,
    /// Goes back to the others once the body has ended.
    connection: Option<Connection>,
    shared: Arc<Shared>,
    pub(super) path: String,
    silence_max: Duration,
}

impl Answer {
    /// The next bytes of the body, never none; `None` at its end. Safe to cancel.
    pub(super) async fn bytes(&mut self) -> Result<Option<Bytes>, ApiFault> {
        loop {
            let Some(connection) = &self.connection else {
                return Ok(None);
            };
            match unless_silent(&connection.moved, self.silence_max, self.body.frame()).await {
                Some(Some(Ok(frame))) => match frame.into_data() {
                    Ok(bytes) if !bytes.is_empty() => return Ok(Some(bytes)),
                    // Trailers and empty frames say nothing.
                    _ => {}
                },
                Some(Some(Err(error))) => return Err(connection.fault(&self.path, &error)),
                Some(None) => {
                    if let Some(mut connection) = self.connection.take() {
                        connection.reused = true;
                        connection.idle_since = Instant::now();
                        self.shared.keep(connection);
                    }
                    return Ok(None);
                }
                None => return Err(connection.silent(&self.path, self.silence_max)),
            }
        }
    }

    /// The whole body, of at most `max` bytes.
    pub(super) async fn whole(mut self, max: usize) -> Result<Bytes, ApiFault> {
        let mut whole = BytesMut::new();
        while let Some(bytes) = self.bytes().await? {
            if whole.len() + bytes.len() > max {
                let what = format!("the answer is longer than {max} bytes");
                return Err(ApiFault::protocol(&self.path, what));
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(whole.freeze())
    }

    /// The body ended before all had come that the protocol promises.
    pub(super) fn cut_short(&self, what: String) -> ApiFault {
        ApiFault::Broken {
            address: self.connection.as_ref().map_or_else(
                || self.shared.servers.join(", "),
                |connection| connection.address.clone(),
            ),
            path: self.path.clone(),
            why: what,
        }
    }
}

/// Waits for `future` as long as bytes move; `None` if none did for `silence_max`.
pub(super) async fn unless_silent<F: Future>(moved: &AtomicU64, silence_max: Duration, future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    let mut seen = moved.load(Ordering::Relaxed);
    let mut since = tokio::time::Instant::now();
    loop {
        if let Ok(output) = tokio::time::timeout(silence_max / 4, &mut future).await {
            return Some(output);
        }
        let now = moved.load(Ordering::Relaxed);
        if now != seen {
            seen = now;
            since = tokio::time::Instant::now();
        } else if since.elapsed() >= silence_max {
            return None;
        }
    }
}

/// Counts the bytes that move over a TCP stream.
struct Counted {
    stream: TcpStream,
    moved: Arc<AtomicU64>,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.moved
            .fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.count(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.count(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Counted {
    fn count(&self, polled: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = polled {
            self.moved.fetch_add(*bytes as u64, Ordering::Relaxed);
        }
    }
}
