//! What the node says of itself to the server.

use std::path::Path;

use potluck_model::api::Labels;
use potluck_model::facts::Fact;
use potluck_provision::Machine;

use crate::walls::Confinement;

/// The most characters of a value.
const CHARS_MAX: usize = 60;

/// The facts that stay as they are while the agent runs, without those that say nothing.
pub(crate) fn facts(confinement: &Confinement) -> Labels {
    let walls = ("walls".to_owned(), Fact::Text(confinement.words()));
    potluck_provision::facts(&Machine::detect(), Path::new("/"))
        .0
        .into_iter()
        .chain([walls])
        .filter(|(name, _)| name != "root_free_mb")
        .filter_map(|(name, fact)| {
            let value = match fact {
                Fact::Text(text) => text.chars().take(CHARS_MAX).collect(),
                Fact::Number(number) => number.to_string(),
                Fact::Flag(flag) => flag.to_string(),
            };
            (!value.is_empty()).then_some((name.parse().ok()?, value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_knows_its_host_name_and_architecture() {
        let facts = facts(&Confinement::default());
        assert!(!facts[&"hostname".parse().unwrap()].is_empty());
        assert_eq!(facts[&"arch".parse().unwrap()], std::env::consts::ARCH);
    }
}
