//! Drives the client from outside, as The Update Framework's public conformance suite wants it. For tests alone: it
//! speaks plain HTTP to loopback addresses and nothing else.
//!
//! ```text
//! tuf-client --metadata-dir DIR init TRUSTED_ROOT
//! tuf-client --metadata-dir DIR --metadata-url URL refresh
//! tuf-client --metadata-dir DIR --metadata-url URL --target-name NAME --target-base-url URL --target-dir DIR download
//! ```
//!
//! The exit code is 0 or 1. The time is the system's.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use data_encoding::HEXLOWER;
use potluck_model::UnixSeconds;
use potluck_trust::{Client, Role, Source, Target};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// How long the repository may be silent. Slow retrieval ends here.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// The most bytes of a line of an answer's head, and the most lines.
const LINE_BYTES_MAX: u64 = 8_192;
const LINES_MAX: usize = 100;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "tuf-client: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<()> {
    let (options, command) = arguments()?;
    let option = |name: &str| {
        options
            .get(name)
            .map(String::as_str)
            .ok_or_else(|| format!("--{name} is missing"))
    };
    let dir = Path::new(option("metadata-dir")?);
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["init", root] => {
            fs::create_dir_all(dir)?;
            Client::begin::<io::Error>(dir, &fs::read(root)?)?;
        }
        ["refresh"] => {
            refresh(dir, option("metadata-url")?)?;
        }
        ["download"] => {
            let client = refresh(dir, option("metadata-url")?)?;
            let (name, base, to) = (
                option("target-name")?,
                option("target-base-url")?,
                option("target-dir")?,
            );
            download(&client, name, base, Path::new(to))?;
        }
        _ => return Err("the command is init TRUSTED_ROOT, refresh or download".into()),
    }
    Ok(())
}

fn arguments() -> Outcome<(BTreeMap<String, String>, Vec<String>)> {
    let mut options = BTreeMap::new();
    let mut words = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.strip_prefix("--") {
            Some(name) => {
                let value = arguments.next().ok_or_else(|| format!("--{name} wants a value"))?;
                options.insert(name.to_owned(), value);
            }
            None => words.push(argument),
        }
    }
    Ok((options, words))
}

fn refresh(dir: &Path, url: &str) -> Outcome<Client> {
    let mut client = Client::open::<io::Error>(dir)?.ok_or("there is no trusted root: run init first")?;
    client.refresh(&mut Repository { url }, UnixSeconds::now())?;
    Ok(client)
}

struct Repository<'a> {
    url: &'a str,
}

impl Source for Repository<'_> {
    type Error = io::Error;

    fn fetch(&mut self, role: Role, version: Option<u64>, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
        let name = version.map_or_else(|| format!("{role}.json"), |version| format!("{version}.{role}.json"));
        get(&join(self.url, &name), bytes_max)
    }
}

fn download(client: &Client, name: &str, base: &str, dir: &Path) -> Outcome<()> {
    let target = client.trusted().target(name)?;
    let place = dir.join(quoted(name, false));
    if fs::read(&place).is_ok_and(|bytes| target.check(name, &bytes).is_ok()) {
        return Ok(());
    }
    let url = join(base, &quoted(&remote_name(client, name, target)?, true));
    let bytes = get(&url, target.length)?.ok_or_else(|| format!("the repository has no {name}"))?;
    target.check(name, &bytes)?;
    fs::create_dir_all(dir)?;
    fs::write(place, bytes)?;
    Ok(())
}

/// With consistent snapshots, a digest stands before the last part of the name.
fn remote_name(client: &Client, name: &str, target: &Target) -> Outcome<String> {
    if !client.trusted().root().document.consistent_snapshot {
        return Ok(name.to_owned());
    }
    let digest = target.hashes.values().next().ok_or("the target has no digest")?;
    Ok(match name.rsplit_once('/') {
        Some((dir, file)) => format!("{dir}/{digest}.{file}"),
        None => format!("{digest}.{name}"),
    })
}

fn join(base: &str, name: &str) -> String {
    format!("{}/{name}", base.trim_end_matches('/'))
}

/// Percent-encodes what a URL's path, or a single file name, cannot hold.
fn quoted(name: &str, slashes: bool) -> String {
    let mut text = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) || (slashes && b"/.".contains(&byte)) {
            text.push(char::from(byte));
        } else {
            text.push('%');
            text.push_str(&HEXLOWER.encode(&[byte]));
        }
    }
    text
}

/// At most `bytes_max` bytes of `url`; nothing if the repository says that it has no such file.
fn get(url: &str, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    let bad = |what: String| io::Error::new(io::ErrorKind::InvalidData, format!("{url}: {what}"));
    let rest = url
        .strip_prefix("http://")
        .ok_or_else(|| bad("only http:// is spoken here".into()))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let stream = TcpStream::connect(host)?;
    if !stream.peer_addr()?.ip().is_loopback() {
        return Err(bad("it is not on this machine".into()));
    }
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    (&stream).write_all(format!("GET /{path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = BufReader::new(stream);
    let status = line(&mut answer)?;
    for _ in 0..LINES_MAX {
        if line(&mut answer)?.is_empty() {
            break;
        }
    }
    match status.split(' ').nth(1) {
        Some("200") => {}
        Some("403" | "404") => return Ok(None),
        _ => return Err(bad(format!("the answer was {status:?}"))),
    }
    let mut bytes = Vec::new();
    answer.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(bad(format!("it has more than {bytes_max} bytes")));
    }
    Ok(Some(bytes))
}

fn line(answer: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    answer.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}
