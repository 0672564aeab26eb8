//! The rules of the format, through `resolve`.

mod any;
mod bare;
mod errors;
mod include;
mod keys;
mod order;

use super::*;

fn directory(path: &str) -> TreeEntry {
    TreeEntry {
        path: path.into(),
        kind: TreeKind::Directory,
    }
}

fn file(path: &str) -> TreeEntry {
    file_with(path, 0o644, b"")
}

fn file_with(path: &str, mode: u32, first: &[u8]) -> TreeEntry {
    TreeEntry {
        path: path.into(),
        kind: TreeKind::File {
            mode,
            size: first.len() as u64,
            first: first.to_vec(),
        },
    }
}

fn link(path: &str) -> TreeEntry {
    TreeEntry {
        path: path.into(),
        kind: TreeKind::Link,
    }
}

fn sorted(mut tree: Vec<TreeEntry>) -> Vec<TreeEntry> {
    tree.sort_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
    tree
}

fn sample() -> Vec<TreeEntry> {
    sorted(vec![
        file("app.conf"),
        file("app.tar.gz"),
        directory("docs"),
        file("docs/a.md"),
        file("docs/b.md"),
        file("nginx-1.26.x86_64.rpm"),
        file("nginx_1.26_amd64.deb"),
        directory("site"),
        file("site/index.html"),
        link("site/latest"),
        file("site-old.html"),
        file("tune.sh"),
    ])
}

/// As the product does it, for files that have the text of `text_of`.
fn resolve(
    directory_name: &str,
    toml: Option<&str>,
    tree: &[TreeEntry],
    name: Option<&ConfigurationName>,
) -> Result<Resolved, Vec<ConfigurationError>> {
    super::resolve(directory_name, toml, tree, name, &text_of, &|include| {
        let message = format!("there is no {include}");
        Err(IncludeFault {
            message,
            suggestion: None,
        })
    })
}

fn text_of(path: &str) -> Option<String> {
    let text = match path {
        "app.conf" => "listen {{ facts.hostname }}\n",
        "broken.j2" => "a\n{{ x\n",
        "user-data.yaml" => "#cloud-config\nruncmd: [true]\nwrite_files: []\n",
        "tune.sh" => "#!/bin/sh\nset -eu\ntrue\n",
        "careless.sh" => "#!/bin/bash\ncd /srv\nrm -rf x\n",
        _ => return None,
    };
    Some(text.to_owned())
}

fn resolved(toml: &str) -> Resolved {
    resolve("web-edge", Some(toml), &sample(), None).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

/// The errors as they are printed.
fn errors(toml: &str) -> Vec<String> {
    let errors = resolve("web-edge", Some(toml), &sample(), None).expect_err("it should not resolve");
    errors.iter().map(ToString::to_string).collect()
}

fn ids(steps: &[Step]) -> Vec<&str> {
    steps.iter().map(|step| step.id.as_str()).collect()
}
