//! Names, needs, notifications and places: how steps fit together.

use super::*;

#[test]
fn what_is_notified_cannot_be_needed_by_what_comes_before() {
    let toml = "[[step]]\nid = \"a\"\nrun = \"tune.sh\"\nnotify = [\"b\"]\n\
                [[step]]\nid = \"b\"\nrun = \"tune.sh\"\n\
                [[step]]\nid = \"c\"\nrun = \"tune.sh\"\nneeds = [\"b\"]\n";
    assert_eq!(
        errors(toml),
        ["configuration.toml:11:10: step \"c\" needs \"b\", which is done at the end, because it is notified"]
    );
}

#[test]
fn steps_keep_the_order_of_the_file_and_are_moved_behind_their_needs() {
    let toml = |needs: &str| {
        format!(
            "[[step]]\nid = \"a\"\nrun = \"tune.sh\"\nneeds = [{needs}]\n\
             [[step]]\nid = \"b\"\nrun = \"tune.sh\"\n[[step]]\nid = \"c\"\nrun = \"tune.sh\"\n"
        )
    };
    assert_eq!(ids(&resolved(&toml("")).steps), ["a", "b", "c"]);
    assert_eq!(ids(&resolved(&toml("\"b\", \"b\"")).steps), ["b", "a", "c"]);
    assert_eq!(ids(&resolved(&toml("\"c\"")).steps), ["b", "c", "a"]);
}

#[test]
fn a_circle_of_needs_is_named() {
    let toml = "[[step]]\nid = \"a\"\nrun = \"tune.sh\"\nneeds = [\"b\"]\n\
                [[step]]\nid = \"b\"\nrun = \"tune.sh\"\nneeds = [\"a\"]\n";
    assert_eq!(
        errors(toml),
        ["configuration.toml:4:10: steps need each other in a circle: a needs b needs a"]
    );
}

#[test]
fn two_steps_of_one_name_are_refused() {
    let toml = "[[step]]\nrun = \"tune.sh\"\n[[step]]\nrun = \"tune.sh\"\n";
    assert_eq!(
        errors(toml),
        ["configuration.toml:3:1: two steps are called \"tune\"; give it an id of its own"]
    );
}

#[test]
fn two_steps_that_place_the_same_path_are_refused() {
    let place = |source: &str, dest: &str| {
        format!(
            "[[step]]\nid = \"{}\"\nfile = \"{source}\"\ndest = \"{dest}\"\n",
            dest.len()
        )
    };
    let both = |a: &str, b: &str| format!("{a}{b}");
    assert_eq!(
        errors(&both(&place("site", "/srv"), &place("app.conf", "/srv/index.html"))),
        ["configuration.toml:8:8: step \"15\" places \"/srv/index.html\", and so does step \"4\""]
    );
    assert_eq!(
        errors(&both(&place("site", "/srv"), &place("app.conf", "/srv/index.html/x"))).len(),
        1
    );
    assert_eq!(
        errors(&both(&place("site", "/"), &place("app.conf", "/latest"))).len(),
        1
    );
    // One directory for both is fine.
    resolved(&both(&place("site", "/srv"), &place("docs", "/srv/")));
}
