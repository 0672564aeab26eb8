//! Looks at this machine: the facts of conditions and templates. Cheap enough to be done anew for each run.

use std::fs;
use std::path::Path;

use potluck_model::facts::{Fact, Facts};

use crate::machine::{Machine, PackageManager};

/// The most characters of a fact that is text.
const CHARS_MAX: usize = 255;

/// Every fact of `potluck_model::facts::FACTS`. `root` is where paths of the machine are (`--root`): it says which distribution
/// it is, and how much room there is.
pub fn facts(machine: &Machine, root: &Path) -> Facts {
    let mut facts = Facts::default();
    let mut text =
        |name: &str, value: &str| facts.set(name, Fact::Text(value.trim().chars().take(CHARS_MAX).collect()));
    let uname = rustix::system::uname();
    text("arch", std::env::consts::ARCH);
    text("os", std::env::consts::OS);
    text("hostname", &uname.nodename().to_string_lossy());
    text("kernel", &uname.release().to_string_lossy());
    text("container", &container());
    text("init", if machine.systemd { "systemd" } else { "" });
    text(
        "package_manager",
        match machine.packages {
            Some(PackageManager::Dpkg) => "dpkg",
            Some(PackageManager::Rpm) => "rpm",
            None => "",
        },
    );
    // Makers who do not care write such things.
    let told = |path: &str| match read(Path::new(path)).trim() {
        "To Be Filled By O.E.M." | "Default string" | "System manufacturer" | "System Product Name" => String::new(),
        value => value.to_owned(),
    };
    text("vendor", &told("/sys/class/dmi/id/sys_vendor"));
    text("product", &told("/sys/class/dmi/id/product_name"));
    let mut release = read(&root.join("etc/os-release"));
    if release.is_empty() {
        release = read(&root.join("usr/lib/os-release"));
    }
    text("distribution", &os_release(&release, "ID"));
    text("distribution_like", &os_release(&release, "ID_LIKE"));
    text("distribution_version", &os_release(&release, "VERSION_ID"));
    let mut number = |name: &str, value: u64| facts.set(name, Fact::Number(i64::try_from(value).unwrap_or(i64::MAX)));
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    number("cpu_count", processors as u64);
    number("memory_mb", memory_kib(&read(Path::new("/proc/meminfo"))) >> 10);
    let free = rustix::fs::statvfs(root).map_or(0, |found| found.f_bavail.saturating_mul(found.f_frsize));
    number("root_free_mb", free >> 20);
    facts
}

fn read(path: &Path) -> String {
    fs::read(path).map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Systemd writes it down; containers of others can be told by what they leave behind.
fn container() -> String {
    let told = read(Path::new("/run/systemd/container"));
    if !told.trim().is_empty() {
        return told;
    }
    let environment = fs::read("/proc/1/environ").unwrap_or_default();
    let variable = environment
        .split(|byte| *byte == 0)
        .find_map(|variable| variable.strip_prefix(b"container="));
    if let Some(value) = variable {
        return String::from_utf8_lossy(value).into_owned();
    }
    for (path, name) in [("/.dockerenv", "docker"), ("/run/.containerenv", "podman")] {
        if Path::new(path).exists() {
            return name.to_owned();
        }
    }
    String::new()
}

/// A value of os-release(5), without quotes.
fn os_release(text: &str, key: &str) -> String {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .find(|(found, _)| *found == key)
        .map_or_else(String::new, |(_, value)| {
            value.trim().trim_matches(['"', '\'']).to_owned()
        })
}

fn memory_kib(text: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use potluck_model::facts::{FACTS, FactType};

    use super::*;

    #[test]
    fn every_fact_is_there_and_of_its_type() {
        let facts = facts(&Machine::detect(), Path::new("/"));
        assert_eq!(facts.0.len(), FACTS.len());
        for known in FACTS {
            let kind = match &facts.0[known.name] {
                Fact::Text(_) => FactType::Text,
                Fact::Number(_) => FactType::Number,
                Fact::Flag(_) => FactType::Flag,
            };
            assert_eq!(kind, known.kind, "{}", known.name);
        }
        assert!(facts.0["memory_mb"] != Fact::Number(0) && facts.0["hostname"] != Fact::Text(String::new()));
    }

    #[test]
    fn the_distribution_is_that_of_the_root() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc")).unwrap();
        fs::write(
            root.path().join("etc/os-release"),
            "NAME=\"Some Linux\"\nID=some\nID_LIKE=\"debian ubuntu\"\nVERSION_ID='12'\n",
        )
        .unwrap();
        let facts = facts(&Machine::default(), root.path());
        assert_eq!(facts.0["distribution"], Fact::Text("some".into()));
        assert_eq!(facts.0["distribution_like"], Fact::Text("debian ubuntu".into()));
        assert_eq!(facts.0["distribution_version"], Fact::Text("12".into()));
    }
}
