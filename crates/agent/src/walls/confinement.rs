//! What the network process gives up. All of it holds for its threads and children, and nothing of it can be undone.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope, path_beneath_rules,
};
use rustix::thread::{CapabilitySet, CapabilitySets, Gid, Uid};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use super::{Handover, OwnUser};

/// The newest version of Landlock whose rights are used. Kernels that have an older one enforce what that one knows.
const LANDLOCK: ABI = ABI::V6;
/// What may be read, and executed: programs (nmcli) and libraries (the C library's name service), settings of the network,
/// what the kernel says of the machine. The user's permissions hold beside this.
const READABLE: [&str; 13] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/etc",
    "/run",
    "/proc",
    "/sys",
    "/dev/null",
    "/dev/urandom",
];
/// What the network process never does, and what attackers like to do: look into other processes, change what is mounted,
/// make namespaces, load code into the kernel, set the clock, and kernel interfaces that are large and seldom used.
const DENIED: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];
/// Sockets other than those of the network itself, of this machine, and of the kernel's news about routes.
const SOCKETS: [libc::c_int; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// What the network process has given up.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Confinement {
    /// It has a user of its own; else why not, if it is known.
    user: Option<String>,
    without_user: Option<String>,
    /// It can never get privileges, and it has none.
    no_privileges: bool,
    /// Of the file system it has only what it needs.
    landlock: bool,
    /// System calls that it does not need are refused.
    seccomp: bool,
}

impl Confinement {
    /// In words that programs can compare, at most 60 characters.
    pub(crate) fn words(&self) -> String {
        let parts = [
            (self.user.is_some(), "user"),
            (self.no_privileges, "no-privileges"),
            (self.landlock, "landlock"),
            (self.seccomp, "seccomp"),
        ];
        let there: Vec<&str> = parts.iter().filter(|(is, _)| *is).map(|(_, word)| *word).collect();
        if there.is_empty() {
            "none".into()
        } else {
            there.join(" ")
        }
    }

    /// Says in the log what is in force, and what is not.
    pub(crate) fn report(&self) {
        match &self.without_user {
            Some(why) => tracing::warn!(
                walls = self.words(),
                "the process that talks to the network has no user of its own: {why}"
            ),
            None => tracing::info!(
                walls = self.words(),
                user = self.user,
                "the network process is confined"
            ),
        }
        if !self.landlock {
            tracing::warn!("this kernel has no Landlock: the user's permissions alone limit what files are reached");
        }
        if !self.seccomp {
            tracing::warn!("system calls are not filtered: there is no seccomp here, or not for this processor");
        }
    }
}

impl fmt::Display for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words())
    }
}

/// Gives up, in this process, all that the network process does not need. To be called before there is a second thread, as what
/// is given up is given up by the calling thread and those that it starts. Fails where a privilege that is there cannot be
/// given up; what the kernel does not have is left out.
pub fn confine(handover: &Handover) -> io::Result<Confinement> {
    give_up_capabilities(handover.user.as_ref())?;
    rustix::thread::set_no_new_privs(true)?;
    let landlock = landlock(&handover.data).map_err(io::Error::other)?;
    let seccomp = seccomp()?;
    // The kernel forgets it when the user changes.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    let parent = rustix::process::getppid().map(|parent| parent.as_raw_nonzero().get());
    if parent != i32::try_from(handover.keeper).ok() {
        return Err(io::Error::other("the keeper has ended"));
    }
    Ok(Confinement {
        user: handover.user.as_ref().map(|user| user.name.clone()),
        without_user: handover.without.clone(),
        no_privileges: true,
        landlock,
        seccomp,
    })
}

fn give_up_capabilities(user: Option<&OwnUser>) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        for bit in 0..u64::BITS {
            let capability = CapabilitySet::from_bits_retain(1 << bit);
            match rustix::thread::remove_capability_from_bounding_set(capability) {
                // Beyond the last that the kernel has; or there is no right to, and then the sets below are empty as well.
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::PERM) => break,
                other => other?,
            }
        }
    }
    if let Some(user) = user {
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        rustix::thread::set_thread_groups(&[])?;
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    }
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::clear_ambient_capability_set()?;
    Ok(rustix::thread::set_capabilities(None, none)?)
}

/// Whether the kernel enforces it, or some of it.
fn landlock(data: &Path) -> Result<bool, RulesetError> {
    let own = AccessFs::from_all(LANDLOCK)
        & !(AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev);
    let Ok(data) = PathFd::new(data) else {
        return Ok(false);
    };
    // Usually in /run or /etc; elsewhere where another system brings this one its names.
    let names = Path::new("/etc/resolv.conf").canonicalize().ok();
    let names = names.as_deref().and_then(Path::parent);
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?
        .add_rules(path_beneath_rules(READABLE, AccessFs::from_read(LANDLOCK)))?
        .add_rules(path_beneath_rules(names, AccessFs::ReadFile | AccessFs::ReadDir))?
        .add_rules(path_beneath_rules(["/dev/null"], AccessFs::from_file(LANDLOCK)))?
        .add_rule(PathBeneath::new(data, own))?
        .restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

/// Whether there is a filter for this processor, and the kernel took it.
fn seccomp() -> io::Result<bool> {
    let Ok(arch) = TargetArch::try_from(std::env::consts::ARCH) else {
        return Ok(false);
    };
    let mut denied: BTreeMap<i64, Vec<SeccompRule>> = DENIED.iter().map(|call| (*call, Vec::new())).collect();
    let argument = |index, operator, value| SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value);
    let rule = |conditions: Result<Vec<_>, _>| conditions.and_then(SeccompRule::new).map_err(io::Error::other);
    let others = SOCKETS
        .iter()
        .map(|family| argument(0, SeccompCmpOp::Ne, *family as u64));
    let raw = || argument(1, SeccompCmpOp::MaskedEq(0xf), libc::SOCK_RAW as u64);
    let internet = |family: libc::c_int| vec![argument(0, SeccompCmpOp::Eq, family as u64), raw()];
    denied.insert(
        libc::SYS_socket,
        vec![
            rule(others.collect())?,
            rule(internet(libc::AF_INET).into_iter().collect())?,
            rule(internet(libc::AF_INET6).into_iter().collect())?,
        ],
    );
    let new_user = libc::CLONE_NEWUSER as u64;
    let clone = argument(0, SeccompCmpOp::MaskedEq(new_user), new_user);
    denied.insert(libc::SYS_clone, vec![rule(clone.map(|clone| vec![clone]))?]);
    // Its flags cannot be looked at: the C library then uses the other.
    let unknown = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    for (calls, errno) in [(denied, libc::EPERM), (unknown, libc::ENOSYS)] {
        let filter = SeccompFilter::new(calls, SeccompAction::Allow, SeccompAction::Errno(errno as u32), arch);
        let program: BpfProgram = filter.and_then(TryInto::try_into).map_err(io::Error::other)?;
        match seccompiler::apply_filter(&program) {
            Err(seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error))
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EINVAL | libc::ENOSYS | libc::EPERM | libc::EACCES)
                ) =>
            {
                return Ok(false);
            }
            other => other.map_err(io::Error::other)?,
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::UdpSocket;

    use rustix::net::{AddressFamily, SocketType, socket};

    use super::*;

    /// What is given up is given up by one thread: here, by that of a test.
    fn confined(data: &Path, test: impl FnOnce(bool, bool) + Send) {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                rustix::thread::set_no_new_privs(true).unwrap();
                let landlock = landlock(data).unwrap();
                test(landlock, seccomp().unwrap());
            });
            thread.join().unwrap();
        });
    }

    #[test]
    fn the_network_process_writes_in_its_directory_and_nowhere_else() {
        let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(other.path().join("secret"), "x").unwrap();
        confined(own.path(), |landlock, _| {
            assert!(landlock, "this test needs a kernel with Landlock");
            let file = own.path().join("file");
            fs::write(&file, "#!/bin/sh\n").unwrap();
            fs::rename(&file, own.path().join("renamed")).unwrap();
            let denied =
                |result: io::Result<()>| assert_eq!(result.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
            denied(fs::write(other.path().join("file"), "x"));
            denied(fs::read(other.path().join("secret")).map(drop));
            denied(fs::remove_file(other.path().join("secret")));
            denied(fs::write("/run/potluck-was-here", "x"));
            assert!(fs::read("/etc/hostname").is_ok() || fs::read("/etc/passwd").is_ok());
            // What was fetched is not executed here.
            let renamed = own.path().join("renamed");
            fs::set_permissions(&renamed, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            denied(std::process::Command::new(&renamed).status().map(drop));
        });
    }

    #[test]
    fn system_calls_that_the_network_process_does_not_need_are_refused() {
        let own = tempfile::tempdir().unwrap();
        confined(own.path(), |_, seccomp| {
            assert!(
                seccomp,
                "this test needs a kernel with seccomp, on a processor that there is a filter for"
            );
            UdpSocket::bind("127.0.0.1:0").unwrap();
            assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7);
            let raw = socket(AddressFamily::INET, SocketType::RAW, None);
            assert_eq!(raw.unwrap_err(), rustix::io::Errno::PERM);
            let packets = socket(AddressFamily::PACKET, SocketType::DGRAM, None);
            assert_eq!(packets.unwrap_err(), rustix::io::Errno::PERM);
            assert_eq!(rustix::process::chroot("/").unwrap_err(), rustix::io::Errno::PERM);
            let unshared = std::process::Command::new("unshare").args(["-U", "true"]).status();
            assert!(!unshared.is_ok_and(|status| status.success()));
        });
    }
}
