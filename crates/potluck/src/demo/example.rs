//! The example that the demo publishes: what is in examples/web-edge, and what is made when it is needed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

/// Name of the directory.
pub(super) const NAME: &str = "web-edge";

/// How many small files are made.
const SMALL_FILES: usize = 240;
/// Bytes of the large file.
const LARGE_BYTES: usize = 32 << 20;

macro_rules! example_file {
    ($path:literal, $mode:literal) => {
        (
            $path,
            $mode,
            include_bytes!(concat!("../../../../examples/web-edge/", $path)),
        )
    };
}

/// Path, mode and bytes of what is in examples/web-edge.
const FILES: [(&str, u32, &[u8]); 7] = [
    example_file!("configuration.toml", 0o644),
    example_file!("etc/web-edge.conf", 0o644),
    example_file!("index.sh", 0o755),
    example_file!("prepare.sh", 0o755),
    example_file!("site/css/style.css", 0o644),
    example_file!("site/index.html", 0o644),
    example_file!("site/status/index.html", 0o644),
];

/// Steps for what is made.
const STEPS: &str = r#"
# From here on: what `potluck demo` makes.

# An archive, unpacked.
[[step]]
id = "app"
archive = "app.tar.gz"
dest = "/opt/web-edge"

# A few hundred small files.
[[step]]
id = "assets"
file = "assets"
dest = "/srv/assets"
mode = "0644"

# A large file.
[[step]]
id = "catalogue"
file = "catalogue.img"
dest = "/var/lib/web-edge/catalogue.img"
mode = "0644"
needs = ["prepare"]
"#;

/// Writes the example to `directory`, which is made. The same bytes each time.
pub(super) fn write(directory: &Path) -> io::Result<()> {
    for (path, mode, bytes) in FILES {
        let path = directory.join(path);
        fs::create_dir_all(path.parent().unwrap_or(directory))?;
        fs::write(&path, bytes)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    File::options()
        .append(true)
        .open(directory.join("configuration.toml"))?
        .write_all(STEPS.as_bytes())?;
    small_files(&directory.join("assets"))?;
    large_file(&directory.join("catalogue.img"))?;
    archive(&directory.join("app.tar.gz"))
}

/// Bytes that look random, and are the same for the same name.
fn noise(name: &str) -> blake3::OutputReader {
    blake3::Hasher::new().update(name.as_bytes()).finalize_xof()
}

fn small_files(directory: &Path) -> io::Result<()> {
    for number in 0..SMALL_FILES {
        let group = directory.join(format!("group-{}", number / 20));
        fs::create_dir_all(&group)?;
        let name = format!("asset-{number:03}.bin");
        let mut noise = noise(&name);
        let mut size = [0; 2];
        noise.fill(&mut size);
        let mut bytes = vec![0; 256 + usize::from(u16::from_be_bytes(size)) % 8_000];
        noise.fill(&mut bytes);
        fs::write(group.join(name), bytes)?;
    }
    Ok(())
}

fn large_file(path: &Path) -> io::Result<()> {
    let mut file = File::create(path)?;
    let mut noise = noise("catalogue");
    let mut bytes = vec![0; 1 << 20];
    for _ in 0..LARGE_BYTES / bytes.len() {
        noise.fill(&mut bytes);
        file.write_all(&bytes)?;
    }
    Ok(())
}

fn archive(path: &Path) -> io::Result<()> {
    let mut archive = tar::Builder::new(GzEncoder::new(File::create(path)?, Compression::fast()));
    let mut data = vec![0; 400_000];
    noise("application").fill(&mut data);
    let files: [(&str, u32, &[u8]); 3] = [
        ("bin/web-edge", 0o755, b"#!/bin/sh\necho \"web-edge 1.0\"\n"),
        (
            "share/web-edge/README",
            0o644,
            b"An application that came as an archive.\n",
        ),
        ("share/web-edge/data.bin", 0o644, &data),
    ];
    for (name, mode, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(mode);
        header.set_mtime(0);
        header.set_cksum();
        archive.append_data(&mut header, name, bytes)?;
    }
    archive.into_inner()?.finish()?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::tests_only::look;

    #[test]
    fn the_example_is_a_configuration_without_faults_or_warnings() {
        let dir = tempfile::tempdir().unwrap();
        let example = dir.path().join(NAME);
        write(&example).unwrap();
        let (entries, steps, warnings) = look(&example).unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        assert!(entries > SMALL_FILES + 8, "{entries}");
        assert_eq!(
            steps,
            ["settings", "site", "prepare", "index", "app", "assets", "catalogue"]
        );
    }

    #[test]
    fn all_of_the_example_in_the_repository_is_in_the_demo() {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/web-edge");
        let mut found = Vec::new();
        let mut pending = vec![from.clone()];
        while let Some(directory) = pending.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    pending.push(path);
                } else {
                    found.push(path.strip_prefix(&from).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        found.sort();
        let mut known: Vec<&str> = FILES.iter().map(|(path, ..)| *path).collect();
        known.sort_unstable();
        assert_eq!(found, known);
    }
}
