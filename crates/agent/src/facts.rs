//! What the node says of itself.

use potluck_model::api::Labels;

/// Host name, operating system and architecture. Values are at most 255 bytes.
pub(crate) fn facts() -> Labels {
    let uname = rustix::system::uname();
    let mut facts = vec![
        ("hostname", uname.nodename().to_string_lossy().into_owned()),
        ("kernel", uname.release().to_string_lossy().into_owned()),
        ("os", std::env::consts::OS.to_owned()),
        ("arch", std::env::consts::ARCH.to_owned()),
    ];
    // os-release(5): ID and VERSION_ID name the distribution.
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    for (key, field) in [("distribution", "ID="), ("distribution_version", "VERSION_ID=")] {
        if let Some(value) = release.lines().find_map(|line| line.strip_prefix(field)) {
            facts.push((key, value.trim_matches('"').to_owned()));
        }
    }
    facts
        .into_iter()
        .filter_map(|(key, value)| Some((key.parse().ok()?, value.chars().take(60).collect())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_knows_its_host_name_and_architecture() {
        let facts = facts();
        assert!(!facts[&"hostname".parse().unwrap()].is_empty());
        assert_eq!(facts[&"arch".parse().unwrap()], std::env::consts::ARCH);
    }
}
