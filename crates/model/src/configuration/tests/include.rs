//! A configuration made of others.

use std::collections::BTreeMap;

use super::{directory, file, sorted};
use crate::configuration::{
    ConfigurationError, Include, IncludeFault, Resolved, TreeEntry, TreeKind, Wanted, includes,
};
use crate::list::{Entry, List, Settings, format_of};
use crate::{AudienceName, Digest};

/// The list that a directory of such files comes to. The files hold `content`.
fn published(name: &str, release: u64, toml: &str, tree: &[TreeEntry], content: &str, others: &[List]) -> List {
    let resolved = resolve(name, toml, tree, others).unwrap_or_else(|errors| panic!("{errors:#?}"));
    let mut entries: Vec<Entry> = tree
        .iter()
        .map(|entry| match entry.kind {
            TreeKind::Directory => Entry::Directory {
                path: entry.path.clone(),
                mode: 0o755,
            },
            _ => Entry::File {
                path: entry.path.clone(),
                mode: 0o644,
                size: content.len() as u64,
                digest: Digest::of(content.as_bytes()),
                chunks: None,
            },
        })
        .chain(resolved.included)
        .collect();
    entries.sort_by(|one, two| one.path().as_bytes().cmp(two.path().as_bytes()));
    let list = List {
        format: format_of(&resolved.steps, &resolved.settings),
        configuration: resolved.name,
        release,
        version: None,
        audience: AudienceName::fleet(),
        entries,
        steps: resolved.steps,
        settings: resolved.settings,
    };
    list.check().unwrap();
    list
}

fn resolve(name: &str, toml: &str, tree: &[TreeEntry], others: &[List]) -> Result<Resolved, Vec<ConfigurationError>> {
    super::super::resolve(name, Some(toml), tree, None, &|_| None, &|include: &Include| {
        let releases = others.iter().filter(|list| list.configuration == include.configuration);
        let chosen = include.wanted.of(releases.clone().map(|list| (list.release, None)));
        releases
            .clone()
            .find(|list| Some(list.release) == chosen)
            .cloned()
            .ok_or_else(|| IncludeFault {
                message: format!("there is no {include}"),
                suggestion: Some("base".into()),
            })
    })
}

fn errors(toml: &str, tree: &[TreeEntry], others: &[List]) -> Vec<String> {
    let errors = resolve("web", toml, tree, others).expect_err("it should not resolve");
    errors.iter().map(ToString::to_string).collect()
}

/// A script, and a directory that is placed.
fn base() -> List {
    let toml = "[[step]]\nrun = \"first.sh\"\n[[step]]\nfile = \"site\"\ndest = \"/srv\"\n\
        [[health]]\nrun = [\"true\"]\n[vars]\nport = 80\nname = \"base\"\n";
    let tree = sorted(vec![directory("site"), file("site/index.html"), file("first.sh")]);
    published("base", 3, toml, &tree, "base", &[])
}

fn step(id: &str) -> String {
    format!("[[step]]\nid = \"{id}\"\nrun = \"{id}.sh\"\n")
}

#[test]
fn what_is_included_comes_first_and_all_is_one_list() {
    let toml = format!(
        "include = [\"base@>=2\"]\n{}needs = [\"site\"]\n[vars]\nport = 8080\n[[health]]\nrun = [\"own\"]\n",
        step("own")
    );
    let list = published("web", 1, &toml, &[file("own.sh")], "own", &[base()]);
    let ids: Vec<&str> = list.steps.iter().map(|step| step.id.as_str()).collect();
    assert_eq!(ids, ["first", "site", "own"]);
    let paths: Vec<&str> = list.entries.iter().map(Entry::path).collect();
    assert_eq!(paths, ["first.sh", "own.sh", "site", "site/index.html"]);
    let Settings { vars, health, includes } = &list.settings;
    assert_eq!(vars["port"], 8080, "its own goes before");
    assert_eq!(vars["name"], "base");
    assert_eq!(health.len(), 2);
    assert_eq!((includes[0].configuration.as_str(), includes[0].release), ("base", 3));
    assert_eq!(includes[0].list, base().digest());
    assert_eq!(List::from_bytes(&list.to_bytes()).unwrap(), list);
}

#[test]
fn a_configuration_may_be_made_of_others_alone() {
    let list = published("web", 1, "include = [\"base\"]", &[], "", &[base()]);
    assert_eq!(list.steps, base().steps);
}

#[test]
fn what_two_have_in_common_is_there_once() {
    let one = published(
        "one",
        1,
        &format!("include = [\"base\"]\n{}", step("a")),
        &[file("a.sh")],
        "a",
        &[base()],
    );
    let two = published(
        "two",
        1,
        &format!("include = [\"base\"]\n{}", step("b")),
        &[file("b.sh")],
        "b",
        &[base()],
    );
    let list = published("web", 1, "include = [\"one\", \"two\"]", &[], "", &[one, two]);
    let ids: Vec<&str> = list.steps.iter().map(|step| step.id.as_str()).collect();
    assert_eq!(ids, ["first", "site", "a", "b"]);
    assert_eq!(list.settings.includes.len(), 3);
    assert_eq!(list.settings.health.len(), 1);
}

#[test]
fn which_release_is_meant_can_be_said() {
    let wanted = |text: &str| text.parse::<Include>().map(|include| include.wanted);
    assert_eq!(wanted("base"), Ok(Wanted::Newest));
    assert_eq!(wanted("base@>=3"), Ok(Wanted::AtLeast(3)));
    assert_eq!(wanted("base@3"), Ok(Wanted::Exactly(3)));
    assert_eq!(wanted("base@2026.1"), Ok(Wanted::Named("2026.1".parse().unwrap())));
    for text in ["", "@3", "base@>=x", "base@>=0", "ba se", "base@"] {
        assert!(wanted(text).is_err(), "{text}");
    }
    for text in ["base", "base@>=3", "base@3", "base@2026.1"] {
        assert_eq!(text.parse::<Include>().unwrap().to_string(), text);
    }
    let version = "2026.1".parse().unwrap();
    let releases = BTreeMap::from([(1, None), (2, Some(&version)), (4, None)]);
    let of = |text: &str| {
        wanted(text)
            .unwrap()
            .of(releases.iter().map(|(number, name)| (*number, *name)))
    };
    assert_eq!(of("base"), Some(4));
    assert_eq!(of("base@>=2"), Some(4));
    assert_eq!(of("base@>=5"), None);
    assert_eq!(of("base@1"), Some(1));
    assert_eq!(of("base@3"), None);
    assert_eq!(of("base@2026.1"), Some(2));
}

#[test]
fn what_is_missing_or_wrong_has_its_place_and_a_suggestion() {
    assert_eq!(
        errors(
            "name = \"web\"\ninclude = [\"base\", \"bse@>=3\", \"x y\", \"base@2\", \"web\"]",
            &[],
            &[base()]
        ),
        [
            "configuration.toml:2:20: there is no bse@>=3; did you mean \"base\"?",
            "configuration.toml:2:31: \"x y\" is not a configuration name: expected 1 to 64 characters out of a-z, A-Z, 0-9, '-', \
             '_' and '.', beginning with a letter or a digit",
            "configuration.toml:2:38: base is included twice",
            "configuration.toml:2:48: web is this configuration itself",
        ]
    );
    assert_eq!(
        errors("include = \"base\"", &[], &[base()]),
        ["configuration.toml:1:11: include cannot be text: write for example include = [\"base@>=3\"]"]
    );
    assert_eq!(
        includes("include = [\"base\", \"x y\"]\nbroken = ["),
        ["base".parse::<Include>().unwrap()]
    );
}

#[test]
fn a_circle_is_an_error() {
    let web = published("web", 1, &step("a"), &[file("a.sh")], "a", &[]);
    let base = published("base", 2, "include = [\"web\"]", &[], "", &[web]);
    assert_eq!(
        errors("include = [\"base\"]", &[], &[base]),
        ["configuration.toml:1:12: a circle: base release 2 includes web release 1, which is this configuration"]
    );
}

#[test]
fn files_steps_and_places_that_are_in_conflict_are_errors() {
    let own =
        |toml: &str, tree: Vec<TreeEntry>| errors(&format!("include = [\"base\"]\n{toml}"), &sorted(tree), &[base()]);
    assert_eq!(
        own(&step("own"), vec![file("own.sh"), file("first.sh")]),
        [
            "configuration.toml:1:12: base release 3 has \"first.sh\", and so has this directory: the files of all share one \
             directory; rename one of them"
        ]
    );
    assert_eq!(
        own(&step("first").replace("first.sh", "own.sh"), vec![file("own.sh")]),
        ["configuration.toml:3:6: two steps are called \"first\", one of them of base release 3"]
    );
    assert_eq!(
        own(
            "[[step]]\nfile = \"index.html\"\ndest = \"/srv/index.html\"\n",
            vec![file("index.html")]
        ),
        [
            "configuration.toml:4:8: step \"index.html\" places \"/srv/index.html\", and so does step \"site\" of base release 3"
        ]
    );
    assert_eq!(
        own(
            &step("own"),
            vec![file("own.sh"), directory("site"), file("site/more.html")]
        ),
        [
            "configuration.toml:1:12: step \"site\" of base release 3 uses all of \"site\", and this directory has \
             \"site/more.html\" in it: rename one of the directories"
        ]
    );
    assert_eq!(
        own(&format!("{}needs = [\"frist\"]\n", step("own")), vec![file("own.sh")]),
        ["configuration.toml:5:10: step \"own\" needs \"frist\", and there is no such step; did you mean \"first\"?"]
    );
}

#[test]
fn variables_that_two_set_differently_are_to_be_set() {
    let other = published(
        "other",
        1,
        &format!("{}[vars]\nport = 81\n", step("o")),
        &[file("o.sh")],
        "o",
        &[],
    );
    let both = [base(), other];
    assert_eq!(
        errors("include = [\"base\", \"other\"]", &[], &both),
        [
            "configuration.toml:1:20: base release 3 and other release 1 set the variable \"port\" to different values: set it \
             in [vars] here"
        ]
    );
    let list = published(
        "web",
        1,
        "include = [\"base\", \"other\"]\n[vars]\nport = 1\n",
        &[],
        "",
        &both,
    );
    assert_eq!(list.settings.vars["port"], 1);
}
