//! The two processes of `potluck agent`, and how one starts the other. See `potluck_agent::Walls`.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use potluck_agent::{Confinement, Handover, Machine, Walls};
use potluck_model::join::{JOIN_VARIABLE, JoinString};
use potluck_provision::{Keeper, Provisioner};

use crate::exit::{Doing, Exit, Failure, chain};
use crate::shutdown;

/// The argument, after all others, that makes an agent the network process.
const INSIDE: &str = "--network-process";
/// The most bytes of a handover: a settings file, mostly.
const HANDOVER_BYTES_MAX: u64 = 4 << 20;

/// What the keeper has found out before it starts the network process.
pub(super) struct Found {
    pub(super) data: PathBuf,
    pub(super) root: PathBuf,
    /// The text of the settings file.
    pub(super) settings: Option<String>,
    pub(super) join: Option<JoinString>,
}

/// Keeps a network process until that ends, or this one is told to end: then it tells the other.
pub(super) fn keep(found: &Found, exit_with_stdin: bool) -> Result<ExitCode, Failure> {
    let walls = Walls::prepare(&found.data).map_err(|error| Failure::new(chain(&error)))?;
    let root = root(&found.root)?;
    let program = std::env::current_exe().doing(|| "finding this program".into())?;
    let keeper = keeper(program.clone(), &walls, &root, found.join.as_ref());
    let handover = handover(&walls, root, found);
    let doing = || "starting the process that talks to the network".to_owned();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .doing(|| "starting the asynchronous runtime".into())?
        .block_on(async {
            let shutdown = shutdown::requested(exit_with_stdin)?;
            let (ours, theirs) = UnixStream::pair().doing(doing)?;
            let mut inside = tokio::process::Command::new(&program)
                .args(std::env::args_os().skip(1))
                .arg(INSIDE)
                .env_remove(JOIN_VARIABLE)
                // It can write nowhere else; SQLite sorts what is large in files.
                .env("SQLITE_TMPDIR", &walls.data)
                .env("TMPDIR", &walls.data)
                .stdin(OwnedFd::from(theirs))
                .kill_on_drop(true)
                .spawn()
                .doing(doing)?;
            std::thread::Builder::new()
                .name("keeper".into())
                .spawn(move || {
                    let line = serde_json::to_vec(&handover).map(|line| [&line[..], b"\n"].concat());
                    let served = line
                        .map_err(Into::into)
                        .and_then(|line| (&ours).write_all(&line))
                        .and_then(|()| keeper.serve(&ours));
                    if let Err(error) = served {
                        tracing::error!(%error, "the network process speaks in a way that is not understood");
                        drop(ours.shutdown(Shutdown::Both));
                    }
                })
                .doing(doing)?;
            let status = tokio::select! {
                status = inside.wait() => status,
                () = shutdown => {
                    let pid = inside.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()));
                    if let Some(pid) = pid {
                        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
                    }
                    inside.wait().await
                }
            };
            let status = status.doing(|| "waiting for the process that talks to the network".into())?;
            match (status.code(), status.signal()) {
                (Some(code), _) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(Exit::Failure as u8))),
                (None, signal) => Err(Failure::new(format!(
                    "the process that talks to the network was ended by signal {}",
                    signal.unwrap_or_default()
                ))),
            }
        })
}

fn root(path: &Path) -> Result<PathBuf, Failure> {
    path.canonicalize().map_err(|error| {
        Failure::new(format!("the root {} cannot be used: {error}", path.display()))
            .advice("Create it, or name another with --root.")
    })
}

fn keeper(program: PathBuf, walls: &Walls, root: &Path, join: Option<&JoinString>) -> Keeper {
    let mut args: Vec<OsString> = ["execute", "--root"].map(Into::into).into();
    args.push(root.into());
    args.push("--store".into());
    args.push(walls.data.join("store").into());
    if let Some(join) = join {
        args.push("--pin".into());
        args.push(join.root.to_string().into());
    }
    Keeper {
        program,
        args,
        dir: walls.data.join("execute"),
        may_forget: join.is_some(),
    }
}

fn handover(walls: &Walls, root: PathBuf, found: &Found) -> Handover {
    let (user, without) = match &walls.user {
        Ok(user) => (Some(user.clone()), None),
        Err(why) => (None, Some(why.clone())),
    };
    Handover {
        keeper: std::process::id(),
        settings: found.settings.clone(),
        join: found.join.as_ref().map(ToString::to_string),
        data: walls.data.clone(),
        root,
        machine: Machine::here(),
        user,
        without,
    }
}

/// What the network process has when it begins.
pub(super) struct Inside {
    pub(super) handover: Handover,
    pub(super) provisioner: Provisioner,
    pub(super) confinement: Confinement,
}

/// Confines this process as the keeper says. To be called before anything else is done.
pub(super) fn enter() -> Result<Inside, Failure> {
    let doing = || "reading what the keeper hands over (only `potluck agent` starts this process)".to_owned();
    let stream = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().doing(doing)?);
    let mut line = Vec::new();
    // The keeper says nothing more before it is asked.
    BufReader::new(&stream)
        .take(HANDOVER_BYTES_MAX)
        .read_until(b'\n', &mut line)
        .doing(doing)?;
    let handover: Handover = serde_json::from_slice(&line).doing(doing)?;
    let confinement =
        potluck_agent::confine(&handover).doing(|| "giving up what talking to the network does not need".into())?;
    Ok(Inside {
        handover,
        provisioner: Provisioner::new(stream),
        confinement,
    })
}
