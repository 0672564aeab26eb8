//! Good archives of every kind, and hostile ones.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ::tar::{Builder, EntryType, Header};
use ::zip::ZipWriter;
use ::zip::write::SimpleFileOptions;

use super::*;
use crate::root::MachineRoot;

/// Kind, name and link target.
type Entry = (EntryType, &'static str, &'static str);

/// One entry of a tar: its kind, name, link target and bytes. Names are written as they are, however bad.
fn entry(builder: &mut Builder<Vec<u8>>, kind: EntryType, name: &str, link: &str, bytes: &[u8]) {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(0o4755);
    header.set_size(bytes.len() as u64);
    let raw = header.as_mut_bytes();
    raw[..name.len()].copy_from_slice(name.as_bytes());
    raw[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    builder.append(&header, bytes).unwrap();
}

fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, name, link) in entries {
        let bytes: &[u8] = if *kind == EntryType::Regular { b"data" } else { b"" };
        entry(&mut builder, *kind, name, link, bytes);
    }
    builder.into_inner().unwrap()
}

fn sample() -> Vec<u8> {
    tar(&[
        (EntryType::Directory, "./", ""),
        (EntryType::Directory, "./d/", ""),
        (EntryType::Regular, "./d/file", ""),
        (EntryType::Symlink, "d/link", "../d/file"),
        (EntryType::Link, "hard", "d/file"),
        (EntryType::Regular, "implied/deep/file", ""),
        (EntryType::Directory, "d", ""),
    ])
}

struct Place {
    temp: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("root")).unwrap();
        Self { temp }
    }

    fn root(&self) -> std::path::PathBuf {
        self.temp.path().join("root")
    }

    fn unpack(&self, bytes: &[u8], dest: &str) -> Result<usize, ArchiveError> {
        let path = self.temp.path().join("archive");
        fs::write(&path, bytes).unwrap();
        let root = MachineRoot::open(&self.root()).unwrap();
        let mut placement = Placement::durable(&root, self.temp.path()).unwrap();
        let placed = unpack(File::open(path).unwrap(), dest, false, &mut placement)?;
        placement.commit()?;
        Ok(placed)
    }
}

fn all_below(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(next) = todo.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            found.push(path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned());
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                todo.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn every_format_unpacks_to_the_same_files() {
    let plain = sample();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&plain).unwrap();
    let zst = zstd::stream::encode_all(plain.as_slice(), 1).unwrap();
    for bytes in [plain, gz.finish().unwrap(), zst] {
        let place = Place::new();
        assert_eq!(place.unpack(&bytes, "opt/app").unwrap(), 4);
        let app = place.root().join("opt/app");
        assert_eq!(
            all_below(&app),
            [
                "d",
                "d/file",
                "d/link",
                "hard",
                "implied",
                "implied/deep",
                "implied/deep/file"
            ]
        );
        assert_eq!(fs::read(app.join("d/link")).unwrap(), b"data");
        assert_eq!(fs::read(app.join("hard")).unwrap(), b"data");
        let mode = fs::metadata(app.join("d/file")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755, "set-id bits are not taken over");
    }
}

#[test]
fn a_zip_unpacks_with_its_modes_and_links() {
    let mut zip = ZipWriter::new(io::Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default();
    zip.add_directory("d", options).unwrap();
    zip.start_file("d/run", options.unix_permissions(0o755)).unwrap();
    zip.write_all(b"data").unwrap();
    zip.add_symlink("d/link", "run", options).unwrap();
    let bytes = zip.finish().unwrap().into_inner();
    let place = Place::new();
    assert_eq!(place.unpack(&bytes, "").unwrap(), 2);
    assert_eq!(all_below(&place.root()), ["d", "d/link", "d/run"]);
    assert_eq!(fs::read(place.root().join("d/link")).unwrap(), b"data");
    let mode = fs::metadata(place.root().join("d/run")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
}

#[test]
fn hostile_entries_are_refused_by_name_and_nothing_is_unpacked() {
    use EntryType::{Block, Char, Directory, Fifo, Link, Regular, Symlink};
    let good = (Regular, "good", "");
    let hostile: &[(&str, &[Entry])] = &[
        ("/abs", &[(Regular, "/abs", "")]),
        ("../up", &[(Regular, "../up", "")]),
        ("a/../../up", &[(Regular, "a/../../up", "")]),
        ("dir/..", &[(Directory, "dir/..", "")]),
        ("out", &[(Symlink, "out", "/etc")]),
        ("up", &[(Symlink, "up", "../outside")]),
        ("d/up", &[(Symlink, "d/up", "../../outside")]),
        // `here` is the destination, so that `here/..` is outside.
        (
            "trick",
            &[(Symlink, "here", "."), (Symlink, "trick", "here/../outside")],
        ),
        (
            "l/x",
            &[(Directory, "d", ""), (Symlink, "l", "d"), (Regular, "l/x", "")],
        ),
        ("f/x", &[(Regular, "f", ""), (Regular, "f/x", "")]),
        ("d", &[(Regular, "d/x", ""), (Symlink, "d", "elsewhere")]),
        ("twice", &[(Regular, "twice", ""), (Regular, "./twice", "")]),
        ("hard", &[(Link, "hard", "/etc/passwd")]),
        ("hard", &[(Link, "hard", "../../etc/passwd")]),
        ("hard", &[(Link, "hard", "missing")]),
        ("hard", &[(Symlink, "s", "good"), (Link, "hard", "s")]),
        ("null", &[(Char, "null", "")]),
        ("sda", &[(Block, "sda", "")]),
        ("fifo", &[(Fifo, "fifo", "")]),
        ("a\\b", &[(Regular, "a\\b", "")]),
    ];
    for (name, entries) in hostile {
        let place = Place::new();
        fs::write(place.temp.path().join("outside"), b"untouched").unwrap();
        let mut all = vec![good];
        all.extend_from_slice(entries);
        let error = place.unpack(&tar(&all), "opt").unwrap_err().to_string();
        let quoted = format!("{:?}", name.trim_end_matches('/'));
        assert!(
            error.contains(&quoted)
                || error.contains(&format!("{:?}", entries.last().unwrap().2))
                || error.contains("twice"),
            "{name}: {error}"
        );
        assert_eq!(all_below(&place.root()), [""; 0], "{name}");
        assert_eq!(fs::read(place.temp.path().join("outside")).unwrap(), b"untouched");
    }
}

#[test]
fn a_zip_with_bad_or_double_names_is_refused() {
    for name in ["../up", "/abs", "a/../../b"] {
        let mut zip = ZipWriter::new(io::Cursor::new(Vec::new()));
        zip.start_file(name, SimpleFileOptions::default()).unwrap();
        zip.write_all(b"data").unwrap();
        let place = Place::new();
        let bytes = zip.finish().unwrap().into_inner();
        assert!(matches!(place.unpack(&bytes, "opt"), Err(ArchiveError::Refused { .. })));
        assert_eq!(all_below(&place.root()), [""; 0]);
    }
    let mut zip = ZipWriter::new(io::Cursor::new(Vec::new()));
    for name in ["name_a", "name_b"] {
        zip.start_file(name, SimpleFileOptions::default()).unwrap();
        zip.write_all(b"data").unwrap();
    }
    let mut bytes = zip.finish().unwrap().into_inner();
    let ends: Vec<usize> = bytes
        .windows(6)
        .enumerate()
        .filter_map(|(at, window)| (window == b"name_b").then_some(at + 5))
        .collect();
    for end in ends {
        bytes[end] = b'a';
    }
    let error = Place::new().unpack(&bytes, "opt").unwrap_err().to_string();
    assert!(error.contains("name_a"), "{error}");
}

#[test]
fn bombs_are_refused_and_leave_nothing() {
    let mut builder = Builder::new(Vec::new());
    entry(
        &mut builder,
        EntryType::Regular,
        "zeros",
        "",
        &vec![0; UNPACKED_BYTES_FREE as usize + 1],
    );
    let plain = builder.into_inner().unwrap();
    let bomb = zstd::stream::encode_all(plain.as_slice(), 1).unwrap();
    assert!(bomb.len() < 60_000, "{}", bomb.len());
    let place = Place::new();
    assert!(matches!(place.unpack(&bomb, "opt"), Err(ArchiveError::Bytes(_))));
    assert_eq!(all_below(&place.root()), [""; 0]);
}

#[test]
fn what_is_cut_or_no_archive_leaves_nothing() {
    let plain = sample();
    let place = Place::new();
    assert!(matches!(
        place.unpack(&plain[..1300], "opt"),
        Err(ArchiveError::Damaged(_))
    ));
    let gz = {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&plain).unwrap();
        gz.finish().unwrap()
    };
    assert!(matches!(
        place.unpack(&gz[..gz.len() / 2], "opt"),
        Err(ArchiveError::Damaged(_))
    ));
    assert!(matches!(place.unpack(b"no archive", "opt"), Err(ArchiveError::Unknown)));
    assert!(matches!(place.unpack(b"", "opt"), Err(ArchiveError::Unknown)));
    assert_eq!(all_below(&place.root()), [""; 0]);
}

#[test]
fn absolute_links_are_for_the_root_of_the_machine() {
    assert!(stays("", true, "a", "/etc/x"));
    assert!(stays("opt", true, "a", "/opt/x"));
    assert!(!stays("opt", true, "a", "/optical"));
    assert!(!stays("opt", true, "a", "/opt/../etc"));
    assert!(!stays("", false, "a", "/etc/x"));
    assert!(stays("opt", false, "a/b/c", "../../x"));
    assert!(!stays("opt", false, "a/b/c", "../../../x"));
}

/// Whatever an archive holds: it is unpacked below its place or refused, and nothing is written beside it.
#[test]
fn archives_of_any_bytes_write_nowhere_else() {
    let place = Place::new();
    fs::create_dir(place.root().join("beside")).unwrap();
    fs::write(place.root().join("beside/file"), "as it was").unwrap();
    potluck_fuzz::fuzz("archive", |bytes| {
        let _ = fs::remove_dir_all(place.root().join("opt"));
        // Which of the two it is, is in other tests.
        let _ = place.unpack(bytes, "opt");
        let mut found: Vec<_> = fs::read_dir(place.root())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        found.retain(|name| name != "opt");
        assert_eq!(found, ["beside"]);
        assert_eq!(all_below(&place.root().join("beside")), ["file"]);
        assert_eq!(fs::read(place.root().join("beside/file")).unwrap(), b"as it was");
        for path in all_below(&place.temp.path().join("root")) {
            let kind = fs::symlink_metadata(place.root().join(&path)).unwrap().file_type();
            assert!(kind.is_dir() || kind.is_file() || kind.is_symlink(), "{path}");
        }
    });
}
