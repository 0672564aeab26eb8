//! Publishing to a real server over HTTPS.

use std::fs;

use potluck_model::Digest;
use potluck_model::api::Configuration;
use potluck_model::chunk_list::ChunkList;
use potluck_model::list::{Entry, List};
use potluck_server::{RunningServer, ServerConfig};
use tempfile::TempDir;

use super::*;
use crate::credential::Credential;

/// A server on a loopback address, its operator, and a directory to publish.
struct Scene {
    _server: RunningServer,
    operator: Operator,
    dir: TempDir,
}

impl Scene {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let mut config = ServerConfig::new(&data);
        config.listen = "127.0.0.1:0".parse().unwrap();
        let server = RunningServer::start(config).await.unwrap();
        let credential = Credential::find(Some(&data)).unwrap_or_else(|failure| panic!("{failure}"));
        let operator = Operator::with(credential).unwrap_or_else(|failure| panic!("{failure}"));
        fs::create_dir_all(dir.path().join("web/files/etc")).unwrap();
        Self {
            _server: server,
            operator,
            dir,
        }
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        fs::write(self.directory().join(path), bytes).unwrap();
    }

    fn directory(&self) -> PathBuf {
        self.dir.path().join("web")
    }

    async fn publish(&self, version: Option<&str>) -> Result<Published, Failure> {
        let publication = Publication {
            directory: self.directory(),
            name: None,
            version: version.map(|version| version.parse().unwrap()),
            narrowing: Narrowing::default(),
            place: KeyPlace::default(),
        };
        publish(&self.operator, publication, &mut Progress::new(false)).await
    }

    async fn list(&self, digest: &Digest) -> List {
        self.operator.list(digest).await.unwrap()
    }
}

fn noise(seed: &str, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new()
        .update(seed.as_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

#[tokio::test]
async fn a_directory_becomes_a_release_with_all_its_bytes() {
    let scene = Scene::new().await;
    let big = noise("big", 700_000);
    scene.write("files/etc/motd", b"hello\n");
    scene.write("files/etc/empty", b"");
    scene.write("files/big.img", &big);
    std::os::unix::fs::symlink("motd", scene.directory().join("files/etc/link")).unwrap();
    let published = scene.publish(Some("2026.1")).await.unwrap();
    assert_eq!((published.release, published.unchanged, published.files), (1, false, 3));
    assert_eq!(published.bytes, 700_006);

    let list = scene.list(&published.list).await;
    assert_eq!(list.configuration.as_str(), "web");
    let Some(Entry::File { chunks, digest, .. }) = list.entry("files/big.img") else {
        panic!("{list:?}")
    };
    assert_eq!(*digest, Digest::of(&big));
    let chunks = scene.operator.client.content(&chunks.unwrap(), 1 << 20).await.unwrap();
    assert_eq!(ChunkList::from_bytes(&chunks).unwrap().size(), 700_000);
    let whole = scene.operator.client.content(digest, 1 << 20).await.unwrap();
    assert_eq!(whole, big);
}

#[tokio::test]
async fn an_unchanged_directory_makes_no_release_and_uploads_nothing() {
    let scene = Scene::new().await;
    scene.write("files/etc/motd", b"hello\n");
    let first = scene.publish(Some("spring")).await.unwrap();
    for version in [None, Some("spring")] {
        let again = scene.publish(version).await.unwrap();
        assert!(again.unchanged);
        assert_eq!((again.release, again.list, again.uploaded_bytes), (1, first.list, 0));
    }
    let renamed = scene.publish(Some("summer")).await.unwrap();
    assert_eq!((renamed.release, renamed.unchanged), (2, false));
}

#[tokio::test]
async fn only_what_has_changed_is_uploaded() {
    let scene = Scene::new().await;
    let mut big = noise("big", 4 << 20);
    scene.write("files/big.img", &big);
    let first = scene.publish(None).await.unwrap();
    assert!(first.uploaded_bytes > 4 << 20, "{}", first.uploaded_bytes);
    big.splice(2_000_000..2_000_000, *b"a few bytes in the middle");
    scene.write("files/big.img", &big);
    let second = scene.publish(None).await.unwrap();
    assert_eq!(second.release, 2);
    assert!(second.uploaded_bytes < 400_000, "{}", second.uploaded_bytes);
}

#[tokio::test]
async fn what_stands_at_many_paths_is_uploaded_once() {
    let scene = Scene::new().await;
    let bytes = noise("same", 60_000);
    for name in ["a", "b", "c", "d"] {
        scene.write(&format!("files/{name}"), &bytes);
    }
    let published = scene.publish(None).await.unwrap();
    assert!(published.uploaded_bytes < 70_000, "{}", published.uploaded_bytes);
}

#[tokio::test]
async fn publishers_at_the_same_time_get_releases_of_their_own() {
    let scene = Scene::new().await;
    scene.write("files/etc/motd", b"hello\n");
    let publish = |number: u8| {
        let directory = scene.dir.path().join(format!("copy-{number}"));
        fs::create_dir_all(directory.join("files")).unwrap();
        fs::write(directory.join("files/number"), [number]).unwrap();
        let publication = Publication {
            directory,
            name: Some("web".parse().unwrap()),
            version: None,
            narrowing: Narrowing::default(),
            place: KeyPlace::default(),
        };
        async {
            publish(&scene.operator, publication, &mut Progress::new(false))
                .await
                .unwrap()
                .release
        }
    };
    let (a, b, c) = tokio::join!(publish(1), publish(2), publish(3));
    let mut releases = [a, b, c];
    releases.sort_unstable();
    assert_eq!(releases, [1, 2, 3]);
    let web: Configuration = scene.operator.client.get("/v1/configurations/web").await.unwrap();
    assert_eq!(web.releases.len(), 3);
}

#[tokio::test]
async fn a_version_name_of_another_release_is_refused() {
    let scene = Scene::new().await;
    scene.write("files/etc/motd", b"1");
    scene.publish(Some("spring")).await.unwrap();
    scene.write("files/etc/motd", b"2");
    let fault = scene.publish(Some("spring")).await.unwrap_err().to_string();
    assert!(fault.contains("release 1 is called spring already"), "{fault}");
}

#[tokio::test]
async fn faults_of_the_configuration_are_told_all_at_once_with_their_places() {
    let scene = Scene::new().await;
    scene.write("configuration.toml", b"nmae = \"x\"\n\n[[step]]\nrun = \"none.sh\"\n");
    let failure = scene.publish(None).await.unwrap_err();
    assert_eq!(failure.exit, Exit::Data);
    let text = failure.to_string();
    assert!(text.contains("configuration.toml:1:1:"), "{text}");
    assert!(text.contains("none.sh"), "{text}");
}
