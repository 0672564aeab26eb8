//! `potluck agent`: the managed node.

mod keeper;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use potluck_agent::{AgentConfig, AgentError, Finished, HomeError, JoinFault, Manners, Serve};
use potluck_model::LabelKey;
use potluck_model::api::Labels;
use potluck_model::join::{JOIN_VARIABLE, JoinError, JoinString};
use potluck_model::rate::{Limit, Schedule, ScheduleError, Window};
use potluck_model::units::parse_size;
use potluck_net::api::ApiFault;
use serde::Deserialize;
use serde_json::json;

use crate::arguments::{Global, label};
use crate::exit::{Doing, Exit, Failure, chain};
use crate::output::Output;
use crate::settings;
use crate::shutdown;

/// The most threads that an agent works with: it must not take a whole machine.
const THREADS_MAX: usize = 2;
/// The most threads that wait for the disk or for an executing process. Each costs memory.
const BLOCKING_THREADS_MAX: usize = 6;

/// The most that a limit for the processor can be: 64 processors.
const CPU_PERCENT_MAX: u16 = 6_400;

/// Runs this machine's managed node
///
/// It joins the fleet once, keeps its identity, fetches what it is assigned from its peers and the
/// server, executes it, and serves its peers.
#[derive(clap::Args, Debug)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Peers reach it on TCP and UDP port 7443. A settings file has the names of the flags:

  data = \"/var/lib/potluck/node\"
  join-file = \"/etc/potluck/join\"
  root = \"/\"
  label = [\"rack=12\"]
  bind = \"10.0.0.7\"
  store-max = \"20GiB\"
  upload-limit = \"20 Mbit/s\"
  disk-limit = \"40 MiB/s\"
  cpu-limit = \"50%\"
  serve = \"mains,unmetered\"

  [[limit]]
  from = \"08:00\"
  to = \"18:00\"
  upload = \"2 Mbit/s\"

Examples:
  potluck agent --join potluck1.…                     as a service, usually from systemd
  potluck agent --once --detailed-exit-code           until all is executed, then exit
  potluck agent --data ./node --root ./root --join potluck1.…     to try it without root"
)]
pub(crate) struct Args {
    /// Read settings from this file; flags win
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The join string, from `potluck join-token`; others here can see it
    // Not parsed here: an error of the command line shows the value, and this one is a secret.
    #[arg(long, value_name = "STRING")]
    join: Option<String>,
    /// Read the join string from this file
    #[arg(long, value_name = "FILE", conflicts_with = "join")]
    join_file: Option<PathBuf>,
    /// What paths on the machine that steps name are under [default: /]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// A label to ask for when joining; kept only if the token permits the key
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(LabelKey, String)>,
    /// Use only this address: source address and multicast interface
    #[arg(long, value_name = "IP")]
    bind: Option<IpAddr>,
    /// Keep at most so many bytes (20GiB), but all that the newest release needs
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    store_max: Option<u64>,
    /// Send at most so much to peers (10 Mbit/s, 1 MiB/s) [default: unlimited]
    #[arg(long, value_name = "RATE")]
    upload_limit: Option<Limit>,
    /// Fetch at most so much from peers and server [default: unlimited]
    #[arg(long, value_name = "RATE")]
    download_limit: Option<Limit>,
    /// Read and write at most so much of files' contents [default: unlimited]
    #[arg(long, value_name = "RATE")]
    disk_limit: Option<Limit>,
    /// Use at most so much of one processor (50%) [default: unlimited]
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent)]
    cpu_limit: Option<u16>,
    /// When to give: always (the default), never, mains, unmetered, or both
    #[arg(long, value_name = "WHEN")]
    serve: Option<Serve>,
    /// The same as --serve never
    #[arg(long, conflicts_with = "serve")]
    no_serve: bool,
    /// Where to look for peers: everywhere (the default), or in known-sites only
    #[arg(long, value_enum, value_name = "WHERE", hide_possible_values = true)]
    peering: Option<Peering>,
    /// End when the designated configuration has been executed
    #[arg(long)]
    once: bool,
    /// With --once: exit code 2 instead of 0 if something was changed
    #[arg(long, requires = "once")]
    detailed_exit_code: bool,
    /// End when standard input closes
    #[arg(long, hide = true)]
    exit_with_stdin: bool,
    /// Be the process that talks to the network; the agent starts it
    #[arg(long, hide = true)]
    network_process: bool,
}

#[derive(Deserialize, Debug, Default)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Settings {
    data: Option<PathBuf>,
    join: Option<String>,
    join_file: Option<PathBuf>,
    root: Option<PathBuf>,
    #[serde(default)]
    label: Vec<String>,
    bind: Option<IpAddr>,
    store_max: Option<String>,
    upload_limit: Option<String>,
    download_limit: Option<String>,
    #[serde(default)]
    limit: Vec<LimitSettings>,
    disk_limit: Option<String>,
    cpu_limit: Option<String>,
    serve: Option<String>,
    peering: Option<Peering>,
}

/// Other limits for part of each day.
#[derive(Deserialize, Debug)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct LimitSettings {
    from: String,
    to: String,
    upload: Option<String>,
    download: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Peering {
    Everywhere,
    KnownSites,
}

pub(crate) fn run(args: &Args, global: &Global, output: Output) -> Result<ExitCode, Failure> {
    if args.network_process {
        return network_process(args, global, output).map(Into::into);
    }
    let text = args.config.as_deref().map(settings::text).transpose()?;
    let settings = settings(args, text.as_deref())?;
    let join = join(args, &settings)?;
    let wanted = wanted(args, global, settings)?;
    let found = keeper::Found {
        data: wanted.data,
        root: wanted.root,
        settings: text,
        join,
    };
    keeper::keep(&found, args.exit_with_stdin)
}

fn network_process(args: &Args, global: &Global, output: Output) -> Result<Exit, Failure> {
    let keeper::Inside {
        handover,
        provisioner,
        confinement,
    } = keeper::enter()?;
    let settings = settings(args, handover.settings.as_deref())?;
    let wanted = wanted(args, global, settings)?;
    let join = handover.join.as_deref().map(str::parse).transpose();
    let config = AgentConfig {
        data: handover.data,
        join: join.doing(|| "reading the join string".into())?,
        root: handover.root,
        labels: wanted.labels,
        bind: wanted.bind,
        once: args.once,
        store_max: wanted.store_max,
        manners: wanted.manners,
        provisioner,
        machine: handover.machine,
        confinement,
    };
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(THREADS_MAX);
    let finished = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .enable_all()
        .build()
        .doing(|| "starting the asynchronous runtime".into())?
        .block_on(async {
            // Its standard input is the keeper's socket; it ends when the keeper does.
            let shutdown = shutdown::requested(false)?;
            Box::pin(potluck_agent::run(config, shutdown))
                .await
                .map_err(|error| failure(&error))
        })?;
    if args.once {
        report(&finished, output)?;
    }
    Ok(exit(&finished, args.once, args.detailed_exit_code))
}

/// What flags and settings say, but for the join string.
struct Wanted {
    data: PathBuf,
    root: PathBuf,
    labels: Labels,
    bind: Option<IpAddr>,
    store_max: Option<u64>,
    manners: Manners,
}

/// What stands in the settings file, of which this is the text.
fn settings(args: &Args, text: Option<&str>) -> Result<Settings, Failure> {
    match (&args.config, text) {
        (Some(path), Some(text)) => settings::parse(path, text),
        _ => Ok(Settings::default()),
    }
}

/// Something in the settings file is wrong.
fn in_file(args: &Args, what: &str, why: &str) -> Failure {
    let file = args.config.clone().unwrap_or_default();
    Failure::new(format!("{}: {what}: {why}", file.display())).exit(Exit::Data)
}

fn join(args: &Args, settings: &Settings) -> Result<Option<JoinString>, Failure> {
    let given = |text: &str, by: &str| {
        let parsed = text
            .parse()
            .doing(|| format!("reading the join string that {by} gives"));
        parsed.map_err(|failure| failure.exit(Exit::Data))
    };
    let flagged = args.join.is_some() || args.join_file.is_some();
    let in_environment = std::env::var(JOIN_VARIABLE).ok().filter(|_| !flagged);
    Ok(
        match (
            in_environment,
            &args.join,
            &args.join_file,
            &settings.join,
            &settings.join_file,
        ) {
            (Some(text), ..) => Some(given(&text, JOIN_VARIABLE)?),
            (None, Some(text), ..) => Some(given(text, "--join")?),
            (None, None, Some(file), ..) | (None, None, None, None, Some(file)) => Some(read_join(file)?),
            (None, None, None, Some(text), _) => {
                let parsed = text.parse();
                Some(parsed.map_err(|error: JoinError| in_file(args, "join", &error.to_string()))?)
            }
            (None, None, None, None, None) => None,
        },
    )
}

fn wanted(args: &Args, global: &Global, settings: Settings) -> Result<Wanted, Failure> {
    let in_file = |what: &str, why: String| in_file(args, what, &why);
    let mut labels = args.labels.clone();
    if labels.is_empty() {
        for text in &settings.label {
            labels.push(label(text).map_err(|why| in_file(&format!("label {text:?}"), why))?);
        }
    }
    let store_max = match (args.store_max, settings.store_max) {
        (Some(max), _) => Some(max),
        (None, Some(text)) => Some(parse_size(&text).map_err(|error| in_file("store-max", error.to_string()))?),
        (None, None) => None,
    };
    let schedule =
        |flag: Option<Limit>, written: Option<&String>, key: &str, of: fn(&LimitSettings) -> Option<&String>| {
            let limit = |key: &str, text: &String| {
                let parsed = text.parse::<Limit>().map_err(|error| in_file(key, error.to_string()))?;
                Ok::<_, Failure>(parsed.0)
            };
            // A flag holds all day.
            if let Some(Limit(rate)) = flag {
                return Ok(Schedule::always(rate));
            }
            let mut schedule = Schedule::always(written.map(|text| limit(key, text)).transpose()?.flatten());
            for window in &settings.limit {
                if let Some(text) = of(window) {
                    let rate = limit("limit", text)?;
                    let wrong = |error: ScheduleError| in_file("limit", error.to_string());
                    let window = Window::parse(&window.from, &window.to).map_err(wrong)?;
                    schedule.add(window, rate).map_err(wrong)?;
                }
            }
            Ok::<_, Failure>(schedule)
        };
    let upload = schedule(
        args.upload_limit,
        settings.upload_limit.as_ref(),
        "upload-limit",
        |window| window.upload.as_ref(),
    )?;
    let download = schedule(
        args.download_limit,
        settings.download_limit.as_ref(),
        "download-limit",
        |window| window.download.as_ref(),
    )?;
    if let Some(window) = settings
        .limit
        .iter()
        .find(|window| window.upload.is_none() && window.download.is_none())
    {
        let why = format!(
            "the one from {} to {} limits neither upload nor download",
            window.from, window.to
        );
        return Err(in_file("limit", why));
    }
    let serve = match (args.no_serve, args.serve, settings.serve) {
        (true, ..) => Serve::Never,
        (false, Some(serve), _) => serve,
        (false, None, Some(text)) => text
            .parse()
            .map_err(|error: potluck_agent::ServeError| in_file("serve", error.to_string()))?,
        (false, None, None) => Serve::default(),
    };
    let cpu_percent = match (args.cpu_limit, settings.cpu_limit) {
        (Some(percent), _) => Some(percent),
        (None, Some(text)) => Some(parse_percent(&text).map_err(|why| in_file("cpu-limit", why))?),
        (None, None) => None,
    };
    let disk = schedule(args.disk_limit, settings.disk_limit.as_ref(), "disk-limit", |_| None)?;
    let manners = Manners {
        peering: match args.peering.or(settings.peering) {
            None | Some(Peering::Everywhere) => potluck_agent::Peering::Everywhere,
            Some(Peering::KnownSites) => potluck_agent::Peering::KnownSites,
        },
        serve,
        upload,
        download,
        disk,
        cpu_percent,
    };
    let data = match global.data.clone().or(settings.data) {
        Some(data) => data,
        None => settings::default_data("node")?,
    };
    Ok(Wanted {
        data,
        root: args.root.clone().or(settings.root).unwrap_or_else(|| "/".into()),
        labels: labels.into_iter().collect(),
        bind: args.bind.or(settings.bind),
        store_max,
        manners,
    })
}

/// `50%` of one processor; above 100 % it is more than one.
fn parse_percent(text: &str) -> Result<u16, String> {
    let number = text
        .trim()
        .strip_suffix('%')
        .and_then(|number| number.trim().parse().ok());
    number
        .filter(|percent| (1..=CPU_PERCENT_MAX).contains(percent))
        .ok_or_else(|| format!("{text:?} is no share of a processor: 1% to {CPU_PERCENT_MAX}% are"))
}

fn read_join(file: &Path) -> Result<JoinString, Failure> {
    let doing = || format!("reading the join string from {}", file.display());
    let read = || std::fs::read_to_string(file).doing(doing)?.parse().doing(doing);
    read().map_err(|failure: Failure| failure.exit(Exit::Data))
}

fn failure(error: &AgentError) -> Failure {
    let exit = match error {
        AgentError::Join(JoinFault::Server(ApiFault::Unreachable { .. } | ApiFault::Silent { .. })) => {
            Exit::Unreachable
        }
        AgentError::Join(JoinFault::OtherFleet { .. } | JoinFault::OtherMachine { .. } | JoinFault::Untrusted(_))
        | AgentError::Home(HomeError::Newer { .. } | HomeError::Damaged { .. }) => Exit::Data,
        _ => Exit::Failure,
    };
    Failure::new(chain(error)).exit(exit)
}

fn exit(finished: &Finished, once: bool, detailed: bool) -> Exit {
    match finished {
        Finished::Unassigned => Exit::Unassigned,
        Finished::Converged { changed: true, .. } if detailed => Exit::Changed,
        // Whoever waits for the end must not take this for one.
        Finished::Stopped if once => Exit::Failure,
        Finished::Converged { .. } | Finished::Stopped => Exit::Ok,
        Finished::Failed { .. } => Exit::StepFailed,
        Finished::Revoked => Exit::Failure,
        Finished::Unreachable => Exit::Unreachable,
    }
}

/// The result of `--once`.
fn report(finished: &Finished, output: Output) -> Result<(), Failure> {
    let (state, recap, text) = match finished {
        Finished::Unassigned => ("unassigned", None, "nothing is assigned to this node".to_owned()),
        Finished::Converged { recap, .. } => ("converged", Some(recap), recap.to_string()),
        Finished::Failed { recap: Some(recap) } => ("failed", Some(recap), recap.to_string()),
        Finished::Failed { recap: None } => (
            "failed",
            None,
            "the release could not be executed; the log says why".into(),
        ),
        Finished::Unreachable => (
            "unreachable",
            None,
            "the management server cannot be reached, and nothing is known from before".into(),
        ),
        Finished::Revoked => ("revoked", None, "this node was revoked".into()),
        Finished::Stopped => ("stopped", None, "stopped before the end".into()),
    };
    let changed = matches!(finished, Finished::Converged { changed: true, .. });
    output.result(&json!({ "state": state, "changed": changed, "recap": recap }), |_| text)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use potluck_model::rate::Rate;
    use potluck_model::trace::Recap;

    use super::*;
    use crate::arguments::{Cli, Command};

    #[test]
    fn exit_codes_are_the_documented_ones() {
        let converged = |changed| Finished::Converged {
            changed,
            recap: Recap::default(),
        };
        let codes = [
            (converged(true), false, 0),
            (converged(true), true, 2),
            (converged(false), true, 0),
            (Finished::Unassigned, false, 3),
            (Finished::Unreachable, false, 4),
            (Finished::Failed { recap: None }, false, 5),
            (Finished::Stopped, false, 1),
        ];
        for (finished, detailed, code) in codes {
            assert_eq!(exit(&finished, true, detailed) as u8, code, "{finished:?}");
        }
        assert_eq!(
            exit(&Finished::Stopped, false, false) as u8,
            0,
            "a service is stopped that way"
        );
    }

    fn configured(text: &str, flags: &[&str]) -> Result<Wanted, Failure> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agent.toml");
        std::fs::write(&file, format!("data = \"/nonexistent\"\n{text}")).unwrap();
        let argv = ["potluck", "agent", "--config", file.to_str().unwrap()];
        let cli = Cli::try_parse_from(argv.iter().chain(flags)).unwrap();
        let Command::Agent(args) = cli.command else { panic!() };
        let read = settings(&args, Some(&settings::text(&file).unwrap()))?;
        wanted(&args, &cli.global, read)
    }

    #[test]
    fn limits_are_read_by_the_time_of_day_and_flags_hold_all_day() {
        let text = "upload-limit = '8 Mbit/s'\nserve = 'mains'\npeering = 'known-sites'\n\
                    [[limit]]\nfrom = '22:00'\nto = '6:00'\nupload = 'unlimited'\n";
        let manners = configured(text, &[]).unwrap().manners;
        assert_eq!(manners.upload.at(12 * 60).map(Rate::bytes), Some(1_000_000));
        assert_eq!((manners.upload.at(0), manners.download.lowest()), (None, None));
        assert_eq!(manners.serve, "mains".parse().unwrap());
        assert_eq!(manners.peering, potluck_agent::Peering::KnownSites);
        let manners = configured(text, &["--upload-limit", "1 MiB/s", "--no-serve"])
            .unwrap()
            .manners;
        assert_eq!(manners.upload.at(0).map(Rate::bytes), Some(1 << 20));
        assert_eq!(manners.serve, Serve::Never);
    }

    #[test]
    fn limits_for_disk_and_processor_are_read_from_file_and_flags() {
        let text = "disk-limit = '1 MiB/s'\ncpu-limit = '50%'\n";
        let manners = configured(text, &[]).unwrap().manners;
        assert_eq!(manners.disk.at(0).map(Rate::bytes), Some(1 << 20));
        assert_eq!(manners.cpu_percent, Some(50));
        let flags = ["--cpu-limit", "150%", "--disk-limit", "unlimited"];
        let manners = configured(text, &flags).unwrap().manners;
        assert_eq!((manners.cpu_percent, manners.disk.lowest()), (Some(150), None));
    }

    #[test]
    fn limits_that_are_wrong_are_refused_with_the_reason() {
        for (text, why) in [
            ("upload-limit = '10 MB'", "is none of"),
            ("download-limit = '1 kB/s'", "less than 8 KiB/s"),
            ("[[limit]]\nfrom = '8:00'\nto = '8:00'\nupload = '1 MB/s'", "is empty"),
            ("[[limit]]\nfrom = '8:00'\nto = '9:00'", "neither upload nor download"),
            ("serve = 'sometimes'", "none of always, never"),
            ("cpu-limit = '0%'", "no share of a processor"),
            ("cpu-limit = '50'", "no share of a processor"),
        ] {
            let fault = configured(text, &[]).err().unwrap().to_string();
            assert!(fault.contains(why) && fault.contains("agent.toml"), "{fault}");
        }
    }
}
