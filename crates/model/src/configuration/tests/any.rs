//! Whatever is written is resolved, or refused with a place.

use proptest::prelude::*;

use super::bare::bare;
use super::{file, ids, resolve, sample};

proptest! {
    #[test]
    fn any_text_is_resolved_or_refused_with_a_place(text in "(\\[\\[step\\]\\]\n|run|file|dest|mode|exit|name|=| |\n|\"|'|\\{|\\}|tune.sh|0644|é|,|\\[|\\]){0,24}") {
        match resolve("x", Some(&text), &sample(), None) {
            Ok(resolved) => prop_assert!(!resolved.steps.is_empty()),
            Err(errors) => {
                prop_assert!(!errors.is_empty());
                for error in errors {
                    prop_assert!(error.at.is_some(), "{}", error);
                }
            }
        }
    }

    #[test]
    fn any_bare_directory_is_resolved_or_refused(names in prop::collection::btree_set("[0-9]{0,3}[-_.]?[a-zé#]{0,4}(\\.sh|\\.deb|\\.rpm|\\.tar|\\.zip|-1\\.rpm|_2\\.deb)?", 0..8)) {
        let tree = names.iter().filter(|name| !name.is_empty()).map(|name| file(name)).collect();
        if let Ok(resolved) = bare(tree) {
            let mut ids = ids(&resolved.steps);
            ids.sort_unstable();
            ids.dedup();
            prop_assert_eq!(ids.len(), resolved.steps.len());
            prop_assert!(resolved.warnings.is_empty());
        }
    }
}
