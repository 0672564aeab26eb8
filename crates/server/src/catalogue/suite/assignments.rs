//! Releases, and who gets them.

use potluck_model::Digest;
use potluck_model::api::{Labels, Target};

use super::{NOW, assign, assigned, join, label, publish, release};
use crate::catalogue::{Catalogue, Published, Unassign};

pub(super) fn releases_follow_one_another(c: &dyn Catalogue) {
    let web = "web".parse().unwrap();
    assert_eq!(c.publish(release("web", 2)).unwrap(), Published::Conflict { newest: 0 });
    assert_eq!(c.configuration(&web).unwrap(), None);
    publish(c, "web", 1);
    let first = release("web", 1);
    assert_eq!(c.publish(first.clone()).unwrap(), Published::Same(first.release));
    let mut other = release("web", 1);
    other.release.list = Digest::of(b"another");
    assert_eq!(c.publish(other).unwrap(), Published::Conflict { newest: 1 });
    let mut named = release("web", 2);
    named.release.version = Some("2026.1".parse().unwrap());
    assert!(matches!(c.publish(named).unwrap(), Published::New(_)));
    let mut again = release("web", 3);
    again.release.version = Some("2026.1".parse().unwrap());
    assert!(matches!(
        c.publish(again).unwrap(),
        Published::VersionTaken { release: 2, .. }
    ));
    publish(c, "db", 1);
    let told: Vec<(String, Vec<u64>)> = c
        .configurations()
        .unwrap()
        .into_iter()
        .map(|one| (one.name.to_string(), one.releases.iter().map(|r| r.release).collect()))
        .collect();
    assert_eq!(told, [("db".to_owned(), vec![1]), ("web".to_owned(), vec![2, 1])]);
    let numbers = |text| -> Vec<u64> {
        let found = c.releases(&web, text).unwrap();
        found.iter().map(|release| release.release).collect()
    };
    assert_eq!(numbers("2026.1"), [2]);
    assert_eq!(numbers("1"), [1]);
    assert!(numbers("3").is_empty() && numbers("-1").is_empty());
}

pub(super) fn the_newest_release_is_followed(c: &dyn Catalogue) {
    publish(c, "web", 1);
    publish(c, "db", 1);
    let node = join(c, 1, label("role", "web"));
    assert_eq!(assigned(c, node), None);
    assign(c, "web", None, Target::All);
    assert_eq!(assigned(c, node), Some(("web".into(), 1)));
    let late = join(c, 2, Labels::new());
    assert_eq!(assigned(c, late), Some(("web".into(), 1)), "who joins later as well");
    let change = c.change().unwrap();
    publish(c, "web", 2);
    assert!(c.change().unwrap() > change);
    assert_eq!(assigned(c, node), Some(("web".into(), 2)));
    assign(c, "web", Some(1), Target::Where("role=web".into()));
    assert_eq!(assigned(c, node), Some(("web".into(), 1)));
    publish(c, "web", 3);
    assert_eq!(assigned(c, node), Some(("web".into(), 1)), "a pinned release stays");
    assert_eq!(assigned(c, late), Some(("web".into(), 3)));
    assert!(c.set_labels(late, label("role", "web")).unwrap());
    assert_eq!(assigned(c, late), Some(("web".into(), 1)));
    assign(c, "db", None, Target::Node(late));
    assert_eq!(assigned(c, late), Some(("db".into(), 1)));
    let taken = c.unassign(Unassign::Configuration("web".parse().unwrap())).unwrap();
    assert_eq!(taken.len(), 2);
    assert_eq!(assigned(c, node), None);
    assert_eq!(assigned(c, late), Some(("db".into(), 1)));
}

pub(super) fn sequences_grow_with_what_is_assigned(c: &dyn Catalogue) {
    let node = join(c, 1, Labels::new());
    let sequence = || c.node(node).unwrap().unwrap().sequence;
    publish(c, "web", 1);
    assert_eq!(sequence(), NOW.0, "that of joining");
    assign(c, "web", None, Target::All);
    let first = sequence();
    assert!(
        first >= NOW.0,
        "never below the time, so that a restored copy is not behind"
    );
    publish(c, "db", 1);
    assign(c, "web", Some(1), Target::All);
    assert_eq!(sequence(), first, "the same release by another assignment is no change");
    publish(c, "web", 2);
    assert_eq!(sequence(), first, "pinned");
    let id = assign(c, "web", None, Target::All);
    let second = sequence();
    assert!(second > first);
    assert_eq!(c.unassign(Unassign::Id(id)).unwrap().len(), 1);
    assert!(sequence() > second, "being unassigned is a change as well");
    assert!(c.unassign(Unassign::Id(id)).unwrap().is_empty());
    let change = c.change().unwrap();
    c.set_halted(true).unwrap();
    assert!(c.halted().unwrap() && c.change().unwrap() > change);
}

pub(super) fn a_target_has_one_assignment(c: &dyn Catalogue) {
    publish(c, "web", 1);
    let first = assign(c, "web", None, Target::All);
    let other = assign(c, "web", None, Target::Where("a=b".into()));
    let second = assign(c, "web", Some(1), Target::All);
    assert!(second > other && other > first);
    let all = c.assignments().unwrap();
    assert_eq!(all.iter().map(|one| one.id).collect::<Vec<_>>(), [other, second]);
    assert_eq!(all[1].release, Some(1));
    assert!(all[1].waves[0].started && all[1].waves[0].percent == 100);
}
