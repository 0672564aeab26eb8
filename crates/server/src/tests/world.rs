//! A server on loopback, and small clients of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use potluck_model::api::{
    ApiError, AssignRequest, AssignmentInfo, ErrorKind, Events, Head, JoinAnswer, JoinRequest, Labels, NodeInfo,
    Presence, PublishRequest, Release, RenewRequest, Target, TokenAnswer, TokenRequest,
};
use potluck_model::chunk_list::{Chunk, ChunkList};
use potluck_model::join::JoinString;
use potluck_model::list::{Entry, List, Settings};
use potluck_model::trace::{Event, What};
use potluck_model::{AudienceName, Digest, NodeId, UnixMicros};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{RunningServer, ServerConfig};

/// A server with a data directory of its own.
pub(super) struct World {
    pub(super) server: Option<RunningServer>,
    pub(super) dir: tempfile::TempDir,
    pub(super) operator: Client,
}

/// A certificate and its key, both PEM.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) certificate: String,
    pub(super) key: String,
}

/// A client that opens a connection for each request.
#[derive(Clone)]
pub(super) struct Client {
    address: std::net::SocketAddr,
    config: Arc<ClientConfig>,
}

/// An answer, read to its end.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// A node that has joined.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) client: Client,
    pub(super) key: String,
    pub(super) answer: JoinAnswer,
}

impl World {
    pub(super) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// With other settings than usual.
    pub(super) async fn with(change: impl FnOnce(&mut ServerConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = ServerConfig::new(dir.path());
        config.listen = "127.0.0.1:0".parse().unwrap();
        change(&mut config);
        let server = RunningServer::start(config).await.unwrap();
        let operator = operator(&server);
        Self {
            server: Some(server),
            dir,
            operator,
        }
    }

    /// Kills the server, as far as that goes in one process, and starts it again.
    pub(super) async fn restart(&mut self) {
        drop(self.server.take());
        self.server = Some(start(self.dir.path()).await);
        self.operator = operator(self.running());
    }

    pub(super) fn running(&self) -> &RunningServer {
        self.server.as_ref().unwrap()
    }

    /// A client with this identity, or none.
    pub(super) fn client(&self, identity: Option<&Identity>) -> Client {
        let text = std::fs::read(self.dir.path().join("keys/ca.pem")).unwrap();
        let ca = CertificateDer::from_pem_slice(&text).unwrap();
        Client::new(self.running().address, &ca, identity)
    }

    pub(super) async fn token(&self, uses: u32, labels: Labels) -> JoinString {
        self.token_with(uses, labels, false).await
    }

    /// The same, and its nodes may wait for approval.
    pub(super) async fn token_with(&self, uses: u32, labels: Labels, approval: bool) -> JoinString {
        let request = TokenRequest {
            uses,
            ttl_seconds: 60,
            labels,
            approval,
        };
        let answer: TokenAnswer = self.operator.post("/v1/tokens", &request).await.json();
        answer.join.parse().unwrap()
    }

    /// A node with these labels.
    pub(super) async fn node(&self, labels: &[(&str, &str)]) -> Node {
        let labels: Labels = labels
            .iter()
            .map(|(key, value)| (key.parse().unwrap(), (*value).to_owned()))
            .collect();
        let join = self.token(1, labels).await;
        let (key, csr) = key_and_csr();
        let answer: JoinAnswer = self.join(&join, &csr).await.json();
        let identity = Identity {
            certificate: answer.certificate.clone(),
            key: key.clone(),
        };
        Node {
            id: answer.node,
            client: self.client(Some(&identity)),
            key,
            answer,
        }
    }

    pub(super) async fn join(&self, join: &JoinString, csr: &str) -> Answer {
        self.client(None).post("/v1/join", &join_request(join, csr)).await
    }

    /// Uploads and publishes.
    pub(super) async fn publish(&self, name: &str, number: u64, files: &[(&str, &[u8])]) -> Release {
        let made = Made::new(name, number, files);
        self.operator.upload(&made.chunks).await.expect(StatusCode::NO_CONTENT);
        self.release(name, &made.list).await.json()
    }

    pub(super) async fn release(&self, name: &str, list: &Digest) -> Answer {
        let path = format!("/v1/configurations/{name}/releases");
        let request = PublishRequest {
            list: *list,
            only: None,
            minimum: None,
        };
        self.operator.post(&path, &request).await
    }

    pub(super) async fn assign(&self, name: &str, version: Option<&str>, target: Target) -> Answer {
        let request = AssignRequest {
            configuration: name.parse().unwrap(),
            version: version.map(str::to_owned),
            target,
        };
        self.operator.post("/v1/assignments", &request).await
    }

    pub(super) async fn assigned(&self, name: &str) -> AssignmentInfo {
        self.assign(name, None, Target::All).await.json()
    }

    pub(super) async fn info(&self, node: NodeId) -> NodeInfo {
        self.operator.get(&format!("/v1/nodes/{node}")).await.json()
    }
}

impl Node {
    pub(super) async fn head(&self, cursor: u64, wait: u64) -> Head {
        let path = format!("/v1/node/head?cursor={cursor}&wait={wait}");
        self.client.get(&path).await.json()
    }

    pub(super) async fn presence(&self, addresses: &[&str]) -> Answer {
        let presence = Presence {
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            facts: Labels::from([("hostname".parse().unwrap(), format!("host-{}", self.id))]),
            version: "1.2.3".into(),
            networks: Vec::new(),
        };
        self.client.put("/v1/node/presence", &presence).await
    }

    pub(super) async fn report(&self, first: u64, list: Option<Digest>, what: Vec<What>) -> Answer {
        let events = what.into_iter().enumerate().map(|(index, what)| Event {
            boot: 1,
            seq: first + index as u64,
            at: UnixMicros::now(),
            list,
            what,
        });
        let events = Events {
            events: events.collect(),
        };
        self.client.post("/v1/node/events", &events).await
    }

    /// Chunks, `None` for absent ones.
    pub(super) async fn chunks(&self, digests: &[Digest]) -> Vec<Option<Vec<u8>>> {
        let body: Vec<u8> = digests.iter().flat_map(|digest| *digest.as_bytes()).collect();
        let answer = self.client.send(Method::POST, "/v1/node/chunks", &[], body).await;
        let mut rest = answer.expect(StatusCode::OK);
        let mut chunks = Vec::new();
        while let Some((len, tail)) = rest.split_first_chunk::<4>() {
            let len = u32::from_be_bytes(*len);
            if len == potluck_model::api::CHUNK_ABSENT {
                chunks.push(None);
                rest = Bytes::copy_from_slice(tail);
            } else {
                let (chunk, tail) = tail.split_at(len as usize);
                chunks.push(Some(chunk.to_vec()));
                rest = Bytes::copy_from_slice(tail);
            }
        }
        assert!(rest.is_empty());
        chunks
    }
}

impl Client {
    pub(super) fn new(
        address: std::net::SocketAddr,
        ca: &CertificateDer<'static>,
        identity: Option<&Identity>,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap()],
                    PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap(),
                )
                .unwrap(),
        };
        Self {
            address,
            config: Arc::new(config),
        }
    }

    /// The same client for a server that is elsewhere now.
    pub(super) fn at(&self, address: std::net::SocketAddr) -> Self {
        Self {
            address,
            config: self.config.clone(),
        }
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], Vec::new()).await
    }

    pub(super) async fn post<T: Serialize>(&self, path: &str, body: &T) -> Answer {
        self.send(Method::POST, path, &[], serde_json::to_vec(body).unwrap())
            .await
    }

    pub(super) async fn put<T: Serialize>(&self, path: &str, body: &T) -> Answer {
        self.send(Method::PUT, path, &[], serde_json::to_vec(body).unwrap())
            .await
    }

    pub(super) async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, &[], Vec::new()).await
    }

    pub(super) async fn upload(&self, chunks: &[Vec<u8>]) -> Answer {
        self.send(Method::POST, "/v1/chunks", &[], upload_body(chunks)).await
    }

    pub(super) async fn missing(&self, digests: &[Digest]) -> Vec<u8> {
        let body: Vec<u8> = digests.iter().flat_map(|digest| *digest.as_bytes()).collect();
        let answer = self.send(Method::POST, "/v1/chunks/missing", &[], body).await;
        answer.expect(StatusCode::OK).to_vec()
    }

    pub(super) async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
        self.try_send(method, path, headers, body).await.unwrap()
    }

    pub(super) async fn try_send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<Answer, Box<dyn std::error::Error>> {
        let mut connection = self.connect().await?;
        let mut request = Request::builder().method(method).uri(path).header("host", "server");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = connection
            .send_request(request.body(Full::new(Bytes::from(body)))?)
            .await?;
        let (parts, body) = answer.into_parts();
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body: body.collect().await?.to_bytes(),
        })
    }

    pub(super) async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Box<dyn std::error::Error>> {
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from(crate::caller::SERVER_NAME)?;
        let tls = TlsConnector::from(self.config.clone()).connect(name, stream).await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await?;
        // Ends when the sender is dropped.
        tokio::spawn(connection);
        Ok(sender)
    }
}

impl Answer {
    /// The body of an answer that has this status.
    #[track_caller]
    pub(super) fn expect(self, status: StatusCode) -> Bytes {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        self.body
    }

    /// The JSON of an answer that is no error.
    #[track_caller]
    pub(super) fn json<T: DeserializeOwned>(self) -> T {
        let body = self.expect(StatusCode::OK);
        serde_json::from_slice(&body).unwrap_or_else(|fault| panic!("{fault}: {}", String::from_utf8_lossy(&body)))
    }

    /// The message of an answer that is an error of this kind.
    #[track_caller]
    pub(super) fn refused(self, status: u16, kind: ErrorKind) -> String {
        let text = String::from_utf8_lossy(&self.body).into_owned();
        assert_eq!(self.status.as_u16(), status, "{text}");
        let error: ApiError = serde_json::from_slice(&self.body).unwrap_or_else(|fault| panic!("{fault}: {text}"));
        assert_eq!(error.error, kind, "{text}");
        error.message
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// What a node asks for that joins.
pub(super) fn join_request(join: &JoinString, csr: &str) -> JoinRequest {
    JoinRequest {
        token: join.token.to_hex(),
        csr: csr.to_owned(),
        facts: BTreeMap::from([("hostname".parse().unwrap(), "box".to_owned())]),
        labels: Labels::new(),
        replaces: None,
        operator: false,
        root: None,
    }
}

/// A list and the chunks that it needs, itself among them.
pub(super) struct Made {
    pub(super) list: Digest,
    pub(super) chunks: Vec<Vec<u8>>,
}

impl Made {
    /// Files of more than 64 KiB are cut into chunks of 40,000 bytes.
    pub(super) fn new(name: &str, number: u64, files: &[(&str, &[u8])]) -> Self {
        Self::cut(name, number, files, 40_000)
    }

    /// The same, with chunks of another length.
    pub(super) fn cut(name: &str, number: u64, files: &[(&str, &[u8])], chunk_bytes: usize) -> Self {
        let mut chunks = Vec::new();
        let mut entries = Vec::new();
        for (path, bytes) in files {
            let mut list = None;
            if bytes.len() > 64 << 10 {
                let pieces = bytes.chunks(chunk_bytes).map(|piece| Chunk {
                    digest: Digest::of(piece),
                    len: piece.len() as u32,
                });
                let described = ChunkList::new(pieces.collect()).unwrap().to_bytes();
                list = Some(Digest::of(&described));
                chunks.extend(bytes.chunks(chunk_bytes).map(<[u8]>::to_vec));
                chunks.push(described);
            } else {
                chunks.push(bytes.to_vec());
            }
            entries.push(Entry::File {
                path: (*path).to_owned(),
                mode: 0o644,
                size: bytes.len() as u64,
                digest: Digest::of(bytes),
                chunks: list,
            });
        }
        entries.sort_by(|a, b| a.path().cmp(b.path()));
        let list = List {
            format: 1,
            configuration: name.parse().unwrap(),
            release: number,
            version: (number == 2).then(|| "two".parse().unwrap()),
            audience: AudienceName::fleet(),
            entries,
            steps: Vec::new(),
            settings: Settings::default(),
        };
        chunks.push(list.to_bytes());
        Self {
            list: list.digest(),
            chunks,
        }
    }
}

pub(super) fn upload_body(chunks: &[Vec<u8>]) -> Vec<u8> {
    let mut body = Vec::new();
    for chunk in chunks {
        body.extend_from_slice(&(chunk.len() as u32).to_be_bytes());
        body.extend_from_slice(Digest::of(chunk).as_bytes());
        body.extend_from_slice(chunk);
    }
    body
}

/// Bytes that differ everywhere.
pub(super) fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

pub(super) fn key_and_csr() -> (String, String) {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
    (key.serialize_pem(), csr.pem().unwrap())
}

/// A request to renew the certificate of this key.
pub(super) fn renewal(key: &str) -> RenewRequest {
    let key = rcgen::KeyPair::from_pem(key).unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
    RenewRequest {
        csr: csr.pem().unwrap(),
    }
}

pub(super) async fn start(data: &Path) -> RunningServer {
    let mut config = ServerConfig::new(data);
    config.listen = "127.0.0.1:0".parse().unwrap();
    RunningServer::start(config).await.unwrap()
}

fn operator(server: &RunningServer) -> Client {
    let text = std::fs::read_to_string(&server.operator).unwrap();
    let credential: serde_json::Value = serde_json::from_str(&text).unwrap();
    let field = |name: &str| credential[name].as_str().unwrap().to_owned();
    assert_eq!(credential["servers"][0], server.address.to_string());
    let ca = CertificateDer::from_pem_slice(field("ca").as_bytes()).unwrap();
    let identity = Identity {
        certificate: field("certificate"),
        key: field("key"),
    };
    Client::new(server.address, &ca, Some(&identity))
}
