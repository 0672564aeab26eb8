//! `potluck server`: the management server.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use potluck_model::Network;
use potluck_model::rate::{Limit, Schedule, Window};
use potluck_model::units::{parse_duration, print_duration};
use potluck_server::{
    CatalogueError, DEFAULT_PORT, NODE_CERTIFICATE_LIVES, RunningServer, ServerConfig, ServerError, Site,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Deserialize;

use crate::arguments::Global;
use crate::exit::{Doing, Exit, Failure, chain};
use crate::output::{Output, print};
use crate::settings;
use crate::shutdown;

/// Runs the management server
///
/// Everything it needs is made in its data directory at the first start: keys, the fleet's
/// certificate authority, the database, and the operator's credential that the other commands use.
/// It can be stopped or killed at any moment.
#[derive(clap::Args, Debug)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Nodes and operators reach it on TCP port 7440. A settings file has the names of the flags:

  data = \"/srv/potluck\"
  listen = \"0.0.0.0:7440\"
  advertise = [\"potluck.example.org:7440\"]
  node-certificate-life = \"30d\"
  offline-grace = \"24h\"

  [[site]]
  name = \"branch-12\"
  networks = [\"10.12.0.0/16\"]
  uplink-limit = \"50 Mbit/s\"

Examples:
  potluck server                                          state in /var/lib/potluck/server (as root)
  potluck server --data ./server --listen 127.0.0.1:7440
  potluck server --config /etc/potluck/server.toml"
)]
pub(crate) struct Args {
    /// Read settings from this file; flags win
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen [default: every address, port 7440]
    #[arg(long, value_name = "ADDR[:PORT]", value_parser = listen_address)]
    listen: Option<SocketAddr>,
    /// Where nodes and operators reach it; repeatable [default: its addresses]
    #[arg(long, value_name = "HOST[:PORT]")]
    advertise: Vec<String>,
    /// Send content to so many at a time [default: 64 a core, at least 256]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    downloads_max: Option<u32>,
    /// End when standard input closes
    #[arg(long, hide = true)]
    exit_with_stdin: bool,
}

#[derive(Deserialize, Debug, Default)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Settings {
    data: Option<PathBuf>,
    listen: Option<String>,
    #[serde(default)]
    advertise: Vec<String>,
    downloads_max: Option<u32>,
    node_certificate_life: Option<String>,
    offline_grace: Option<String>,
    #[serde(default)]
    site: Vec<SiteSettings>,
}

/// An entry of the site map.
#[derive(Deserialize, Debug)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct SiteSettings {
    name: String,
    networks: Vec<String>,
    #[serde(default)]
    share_with: Vec<String>,
    uplink_limit: Option<String>,
    #[serde(default)]
    limit: Vec<UplinkSettings>,
}

/// Another limit for part of each day.
#[derive(Deserialize, Debug)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct UplinkSettings {
    from: String,
    to: String,
    uplink: String,
}

impl SiteSettings {
    fn site(self) -> Result<Site, String> {
        let limit = |text: &str| {
            text.parse::<Limit>()
                .map(|limit| limit.0)
                .map_err(|error| error.to_string())
        };
        let all_day = self.uplink_limit.as_deref().map(limit).transpose()?.flatten();
        let mut uplink_limit = Schedule::always(all_day);
        for part in &self.limit {
            let window = Window::parse(&part.from, &part.to).map_err(|error| error.to_string())?;
            uplink_limit
                .add(window, limit(&part.uplink)?)
                .map_err(|error| error.to_string())?;
        }
        let networks = self.networks.iter().map(|text| text.parse::<Network>());
        Ok(Site {
            networks: networks.collect::<Result<_, _>>().map_err(|error| error.to_string())?,
            name: self.name,
            share_with: self.share_with,
            uplink_limit,
        })
    }
}

fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let host = text.trim_start_matches('[').trim_end_matches(']');
    text.parse()
        .or_else(|_| host.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DEFAULT_PORT)))
        .map_err(|_| "expected an IP address and a port, such as 0.0.0.0:7440 or [::]:7440".into())
}

pub(crate) fn run(args: Args, global: &Global, output: Output) -> Result<Exit, Failure> {
    let exit_with_stdin = args.exit_with_stdin;
    let config = configuration(args, global)?;
    raise_file_limit();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .doing(|| "starting the asynchronous runtime".into())?
        .block_on(serve(config, exit_with_stdin, output))
}

fn configuration(args: Args, global: &Global) -> Result<ServerConfig, Failure> {
    let file = args.config.clone();
    let settings: Settings = file
        .as_deref()
        .map_or_else(|| Ok(Settings::default()), settings::read)?;
    let data = match global.data.clone().or(settings.data) {
        Some(data) => data,
        None => settings::default_data("server")?,
    };
    let mut config = ServerConfig::new(data);
    let path = file.clone().unwrap_or_default();
    for site in settings.site {
        let name = site.name.clone();
        let site = site
            .site()
            .map_err(|why| Failure::new(format!("{}: site {name:?}: {why}", path.display())).exit(Exit::Data))?;
        config.sites.push(site);
    }
    if let Some(max) = args.downloads_max.or(settings.downloads_max) {
        config.downloads_max = max as usize;
    }
    if let Some(text) = settings.node_certificate_life {
        let wrong = |why: &dyn Display| {
            Failure::new(format!("{}: node-certificate-life = {text:?}: {why}", path.display())).exit(Exit::Data)
        };
        config.node_certificate_life = parse_duration(&text).map_err(|error| wrong(&error))?;
        if !NODE_CERTIFICATE_LIVES.contains(&config.node_certificate_life) {
            let (least, most) = (NODE_CERTIFICATE_LIVES.start(), NODE_CERTIFICATE_LIVES.end());
            let why = format!("between {} and {}", print_duration(*least), print_duration(*most));
            return Err(wrong(&why));
        }
    }
    if let Some(text) = settings.offline_grace {
        config.offline_grace = match text.as_str() {
            "unlimited" => None,
            text => {
                let wrong = |error| {
                    let file = path.display();
                    Failure::new(format!("{file}: offline-grace = {text:?}: {error}; or `unlimited`")).exit(Exit::Data)
                };
                Some(parse_duration(text).map_err(wrong)?)
            }
        };
    }
    let written = settings.listen.map(|text| {
        listen_address(&text).map_err(|why| {
            let file = file.unwrap_or_default();
            Failure::new(format!("{}: listen = {text:?}: {why}", file.display())).exit(Exit::Data)
        })
    });
    if let Some(listen) = args.listen.map(Ok).or(written) {
        config.listen = listen?;
    }
    config.advertise = if args.advertise.is_empty() {
        settings.advertise
    } else {
        args.advertise
    };
    Ok(config)
}

async fn serve(config: ServerConfig, exit_with_stdin: bool, output: Output) -> Result<Exit, Failure> {
    let shutdown = shutdown::requested(exit_with_stdin)?;
    let server = RunningServer::start(config).await.map_err(|error| failure(&error))?;
    if output.json {
        // One line, so that who started it can read it while it runs.
        let document = serde_json::json!({
            "listening": server.address,
            "advertised": server.advertised,
            "operator": server.operator,
        });
        print(format!("{document}\n").as_bytes())?;
    }
    shutdown.await;
    server.stop().await;
    Ok(Exit::Ok)
}

fn failure(error: &ServerError) -> Failure {
    let exit = match error {
        ServerError::Config(_)
        | ServerError::Damaged { .. }
        | ServerError::Newer { .. }
        | ServerError::HalfRestored(_)
        | ServerError::Catalogue(CatalogueError::Damaged(_) | CatalogueError::Newer(_)) => Exit::Data,
        _ => Exit::Failure,
    };
    Failure::new(chain(error)).exit(exit)
}

/// Each node that waits holds a connection: as many files may be open as the system lets this process open.
fn raise_file_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current < maximum || (current.is_some() && maximum.is_none()) {
        let raised = Rlimit {
            current: maximum,
            maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::debug!(%error, "the limit for open files stays at {current:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use potluck_model::rate::Rate;

    use super::*;
    use crate::arguments::{Cli, Command};

    #[test]
    fn an_address_without_a_port_gets_the_default_one() {
        let parsed = ["0.0.0.0", "127.0.0.1:0", "::", "[::1]", "[::]:80"].map(|text| listen_address(text).unwrap());
        assert_eq!(
            parsed.map(|address| address.to_string()),
            ["0.0.0.0:7440", "127.0.0.1:0", "[::]:7440", "[::1]:7440", "[::]:80"]
        );
        assert!(listen_address("localhost").is_err());
    }

    fn configured(text: &str) -> Result<ServerConfig, Failure> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("server.toml");
        std::fs::write(&file, format!("data = \"/nonexistent\"\n{text}")).unwrap();
        let cli = Cli::try_parse_from(["potluck", "server", "--config", file.to_str().unwrap()]).unwrap();
        let Command::Server(args) = cli.command else { panic!() };
        configuration(args, &cli.global)
    }

    #[test]
    fn a_site_map_is_read_with_its_limits() {
        let config = configured(
            "[[site]]\nname = 'hq'\nnetworks = ['10.0.0.0/8', '198.51.100.1']\nshare-with = ['lab']\n\
             uplink-limit = 'unlimited'\nlimit = [{ from = '08:00', to = '18:00', uplink = '8 Mbit/s' }]\n\
             [[site]]\nname = 'lab'\nnetworks = []\n",
        )
        .unwrap();
        let hq = &config.sites[0];
        assert_eq!(
            (hq.networks.len(), hq.share_with.as_slice()),
            (2, &["lab".to_owned()][..])
        );
        assert_eq!(hq.uplink_limit.at(9 * 60).map(Rate::bytes), Some(1_000_000));
        assert_eq!(hq.uplink_limit.at(19 * 60), None);
    }

    #[test]
    fn a_site_map_that_is_wrong_is_refused_with_the_site_and_the_reason() {
        for (text, why) in [
            ("networks = ['10.0.0/8']", "is not a network"),
            ("networks = []\nuplink-limit = '10'", "has no unit"),
            (
                "networks = []\nlimit = [{ from = '8', to = '9:00', uplink = '1 MB/s' }]",
                "not a time of day",
            ),
        ] {
            let fault = configured(&format!("[[site]]\nname = 'hq'\n{text}\n"))
                .err()
                .unwrap()
                .to_string();
            assert!(fault.contains(why) && fault.contains("\"hq\""), "{fault}");
        }
    }
}
