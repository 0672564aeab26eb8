//! Which modules of cloud-init see to what a user-data file says.

/// Keys of cloud-config and the module that each is for, in the order in which cloud-init runs them.
const MODULES: [(&str, &str); 27] = [
    ("bootcmd", "bootcmd"),
    ("write_files", "write_files"),
    ("growpart", "growpart"),
    ("resize_rootfs", "resizefs"),
    ("disk_setup", "disk_setup"),
    ("fs_setup", "disk_setup"),
    ("mounts", "mounts"),
    ("swap", "mounts"),
    ("hostname", "set_hostname"),
    ("fqdn", "set_hostname"),
    ("manage_etc_hosts", "update_etc_hosts"),
    ("ca_certs", "ca_certs"),
    ("groups", "users_groups"),
    ("users", "users_groups"),
    ("ssh_authorized_keys", "ssh"),
    ("chpasswd", "set_passwords"),
    ("ssh_pwauth", "set_passwords"),
    ("locale", "locale"),
    ("apt", "apt_configure"),
    ("yum_repos", "yum_add_repo"),
    ("ntp", "ntp"),
    ("timezone", "timezone"),
    ("runcmd", "runcmd"),
    ("package_update", "package_update_upgrade_install"),
    ("package_upgrade", "package_update_upgrade_install"),
    ("packages", "package_update_upgrade_install"),
    ("final_message", "final_message"),
];

/// The modules for the keys at the top of `text`, in cloud-init's own order.
pub(super) fn modules(text: &str) -> Result<Vec<String>, String> {
    const ADVICE: &str = "name the modules that are to run, such as modules = [\"write_files\"]";
    if text.lines().next().map(str::trim_end) != Some("#cloud-config") {
        return Err(format!("its first line is not #cloud-config; {ADVICE}"));
    }
    let keys: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_alphabetic()))
        .filter_map(|line| line.split_once(':').map(|(key, _)| key.trim()))
        .collect();
    if let Some(unknown) = keys.iter().find(|key| !MODULES.iter().any(|(known, _)| known == *key)) {
        return Err(format!("it is not known which module sees to {unknown:?}; {ADVICE}"));
    }
    let mut modules: Vec<String> = Vec::new();
    for (key, module) in MODULES {
        if keys.contains(&key) && modules.iter().all(|known| known != module) {
            modules.push(module.to_owned());
            // What `runcmd` writes is run by another.
            if module == "runcmd" {
                modules.push("scripts_user".to_owned());
            }
        }
    }
    if modules.is_empty() {
        return Err(format!("it says nothing; {ADVICE}"));
    }
    // It runs what runcmd wrote, after packages are there.
    if let Some(at) = modules.iter().position(|module| module == "scripts_user") {
        let last = modules.remove(at);
        modules.push(last);
    }
    Ok(modules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_follow_from_the_keys_in_the_order_of_cloud_init() {
        let text =
            "#cloud-config\nruncmd:\n  - echo hi\npackages: [curl]\npackage_update: true\nwrite_files:\n- path: /x\n";
        assert_eq!(
            modules(text).unwrap(),
            [
                "write_files",
                "runcmd",
                "package_update_upgrade_install",
                "scripts_user"
            ]
        );
        assert!(modules("#cloud-config\nsnap: {}\n").unwrap_err().contains("\"snap\""));
        assert!(modules("#!/bin/sh\n").unwrap_err().contains("#cloud-config"));
        assert!(modules("#cloud-config\n# nothing\n").unwrap_err().contains("nothing"));
    }
}
