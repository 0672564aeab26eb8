//! Starting and stopping.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use potluck_model::units::print_duration;
use potluck_model::{Digest, UnixSeconds};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;

use crate::app::{App, stopped};
use crate::authority::Authority;
use crate::blobs::{Blobs, DirectoryBlobs, adopt};
use crate::catalogue::{Catalogue, SqliteCatalogue};
use crate::config::{NODE_CERTIFICATE_LIVES, OFFLINE_GRACE_MIN, advertised, host};
use crate::data::DataDir;
use crate::listener::{Certificate, Listener, tls_config};
use crate::signing::{Signing, SigningError};
use crate::site::SiteMap;
use crate::{ServerConfig, ServerError, routes, table};

/// Name of the operator whose credential is in the data directory.
pub(crate) const LOCAL_OPERATOR: &str = "admin";
/// How often the certificates of the server itself and of the local operator are renewed.
const RENEWAL: Duration = Duration::from_secs(86_400);
const BACKLOG: u32 = 4_096;

/// A server that runs until it is stopped. Dropped, it ends at once, without waiting for requests.
pub struct RunningServer {
    /// Where it listens, with the port that it really has.
    pub address: SocketAddr,
    /// `HOST:PORT` that stand in its join strings.
    pub advertised: Vec<String>,
    /// The file with the credential of the local operator.
    pub operator: PathBuf,
    /// Fingerprint of the fleet's CA, as in join strings.
    pub ca: Digest,
    app: Arc<App>,
    tasks: JoinSet<()>,
    // Last, so that nobody else gets the data directory before everything else is over.
    _data: Arc<DataDir>,
}

impl RunningServer {
    /// Starts a server; it answers when this returns.
    pub async fn start(config: ServerConfig) -> Result<Self, ServerError> {
        let sites = SiteMap::new(&config.sites).map_err(ServerError::Config)?;
        let path = config.data.clone();
        let life = config.node_certificate_life;
        if !NODE_CERTIFICATE_LIVES.contains(&life) {
            return Err(ServerError::Config(format!(
                "certificates of nodes cannot be valid for {}: between {} and {}",
                print_duration(life),
                print_duration(*NODE_CERTIFICATE_LIVES.start()),
                print_duration(*NODE_CERTIFICATE_LIVES.end())
            )));
        }
        if let Some(grace) = config.offline_grace.filter(|grace| *grace < OFFLINE_GRACE_MIN) {
            return Err(ServerError::Config(format!(
                "an offline grace of {} is too short: at least {}",
                print_duration(grace),
                print_duration(OFFLINE_GRACE_MIN)
            )));
        }
        let open = tokio::task::spawn_blocking(move || open(&path, life));
        let (data, authority, signing, catalogue, blobs) =
            open.await.map_err(|fault| ServerError::Config(fault.to_string()))??;
        let socket = bind(config.listen)?;
        let address = socket.local_addr().map_err(|source| ServerError::Listen {
            address: config.listen,
            source,
        })?;
        let advertised = advertised(&config.advertise, address).map_err(ServerError::Config)?;
        let hosts: Vec<String> = advertised.iter().map(|address| host(address).to_owned()).collect();
        let operator = data.operator();
        let now = UnixSeconds::now();
        let key = authority.write_operator(&operator, LOCAL_OPERATOR, &advertised, now)?;
        catalogue.set_operator(LOCAL_OPERATOR, key, now)?;
        let certificate = Certificate::new(authority.server(&hosts, now)?);
        let tls = tls_config(authority.ca(), certificate.clone())?;
        let ca = authority.fingerprint();
        if catalogue.use_site_map(sites.number())? {
            tracing::debug!("another site map than before: nodes get their sites when they say where they are");
        }
        let app = Arc::new(App::new(
            catalogue,
            blobs,
            authority,
            signing,
            advertised.clone(),
            data.upkeep(),
            config.downloads_max,
            sites,
            config.offline_grace,
        ));
        let first = app.clone();
        let looked = tokio::task::spawn_blocking(move || first.cut_revoked());
        looked.await.map_err(|fault| ServerError::Config(fault.to_string()))??;
        let listener = Listener {
            socket,
            tls,
            router: table::router(routes::all(), app.clone()),
            connections_max: config.connections_max.max(1),
            revoked: app.revoked(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(listener.run(app.stopping()));
        tasks.spawn(app.clone().watch_changes());
        tasks.spawn(app.clone().write_seen());
        tasks.spawn(renew(app.clone(), certificate, hosts, operator.clone()));
        tracing::info!(%address, advertised = advertised.join(","), data = %config.data.display(), "server started");
        Ok(Self {
            address,
            advertised,
            operator,
            ca,
            app,
            tasks,
            _data: data,
        })
    }

    /// Stops it: no more connections, waiting nodes are answered, and requests under way have a few seconds to end.
    pub async fn stop(mut self) {
        self.app.stop();
        while self.tasks.join_next().await.is_some() {}
        tracing::info!("server stopped");
    }
}

/// Runs a server until `shutdown` completes.
pub async fn run(config: ServerConfig, shutdown: impl Future<Output = ()> + Send) -> Result<(), ServerError> {
    let server = RunningServer::start(config).await?;
    shutdown.await;
    server.stop().await;
    Ok(())
}

type Opened = (
    Arc<DataDir>,
    Authority,
    Option<Signing>,
    Arc<dyn Catalogue>,
    Arc<dyn Blobs>,
);

fn open(path: &std::path::Path, life: Duration) -> Result<Opened, ServerError> {
    let data = DataDir::open(path)?;
    let authority = Authority::open(&data.keys(), life)?;
    let catalogue = SqliteCatalogue::open(&data.database())?;
    let blobs = DirectoryBlobs::open(&data.packs())?;
    let known = catalogue.packs()?;
    for pack in blobs.packs()?.into_iter().filter(|pack| !known.contains(pack)) {
        // An upload that a crash kept from being recorded.
        match adopt(&catalogue, &blobs, pack) {
            Ok(chunks) => tracing::info!(%pack, chunks, "pack adopted"),
            Err(fault) => tracing::warn!(%pack, "a pack that nobody knows was left alone: {fault}"),
        }
    }
    let signing = match authority.root().releases {
        Some(_) => Some(Signing::open(&data.keys())?),
        None => None,
    };
    if let Some(signing) = &signing {
        signing
            .turn()
            .take_up(&catalogue, &blobs)
            .map_err(|fault| match fault {
                SigningError::Data(fault) => fault,
                other => ServerError::Config(other.to_string()),
            })?;
    }
    Ok((Arc::new(data), authority, signing, Arc::new(catalogue), Arc::new(blobs)))
}

fn bind(address: SocketAddr) -> Result<TcpListener, ServerError> {
    let listen = |address: SocketAddr| {
        let socket = if address.is_ipv6() {
            TcpSocket::new_v6()?
        } else {
            TcpSocket::new_v4()?
        };
        // A restart need not wait for connections of before.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    let any_v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
    match listen(address) {
        Ok(listener) => Ok(listener),
        // `[::]` is the default, also where there is no IPv6.
        Err(fault) if address.is_ipv6() && address.ip().is_unspecified() && !in_use(&fault) => {
            listen(any_v4).map_err(|source| ServerError::Listen { address, source })
        }
        Err(source) => Err(ServerError::Listen { address, source }),
    }
}

fn in_use(fault: &std::io::Error) -> bool {
    fault.kind() == std::io::ErrorKind::AddrInUse
}

async fn renew(app: Arc<App>, certificate: Arc<Certificate>, hosts: Vec<String>, operator: PathBuf) {
    let mut stopping = app.stopping();
    loop {
        tokio::select! {
            () = tokio::time::sleep(RENEWAL) => {}
            () = stopped(&mut stopping) => return,
        }
        let now = UnixSeconds::now();
        let renewed = app.authority.server(&hosts, now).map(|key| certificate.replace(key));
        let written = app
            .authority
            .write_operator(&operator, LOCAL_OPERATOR, &app.advertised, now)
            .and_then(|key| Ok(app.catalogue.set_operator(LOCAL_OPERATOR, key, now)?));
        if let Err(fault) = renewed.and(written) {
            tracing::error!("renewing certificates: {fault}");
        }
    }
}
