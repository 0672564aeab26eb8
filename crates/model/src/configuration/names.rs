//! What the name of a file says: its type, and how a step that uses it is called.

use crate::StepId;

/// Ends of names of archives that can be unpacked.
pub(super) const ARCHIVES: [&str; 5] = [".tar", ".tar.gz", ".tgz", ".tar.zst", ".zip"];
/// Ends of names of archives that cannot.
const OTHER_ARCHIVES: [&str; 6] = [".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".7z", ".rar"];
/// Ends of names of packages.
pub(super) const PACKAGES: [&str; 2] = [".deb", ".rpm"];

fn strip_end<'a>(name: &'a str, ends: &[&str]) -> Option<&'a str> {
    ends.iter().find_map(|end| {
        let at = name.len().checked_sub(end.len())?;
        let (stem, found) = name.split_at_checked(at)?;
        (found.eq_ignore_ascii_case(end) && !stem.is_empty()).then_some(stem)
    })
}

pub(super) fn is_archive(path: &str) -> bool {
    strip_end(path, &ARCHIVES).is_some()
}

pub(super) fn is_other_archive(path: &str) -> bool {
    strip_end(path, &OTHER_ARCHIVES).is_some()
}

pub(super) fn is_package(path: &str) -> bool {
    strip_end(path, &PACKAGES).is_some()
}

pub(super) fn is_script(path: &str) -> bool {
    strip_end(path, &[".sh"]).is_some()
}

pub(super) fn is_yaml(path: &str) -> bool {
    strip_end(path, &[".yml", ".yaml"]).is_some()
}

pub(super) fn base(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, base)| base)
}

/// The name of the software in a package: `nginx` for `nginx_1.26_amd64.deb` and `nginx-1.26.x86_64.rpm`.
pub(super) fn of_package(path: &str) -> &str {
    let stem = strip_end(base(path), &PACKAGES).unwrap_or_else(|| base(path));
    let version = stem
        .match_indices(['_', '-'])
        .find(|(at, separator)| {
            let next = stem[at + 1..].chars().next();
            *separator == "_" || next.is_some_and(|next| next.is_ascii_digit())
        })
        .map_or(stem.len(), |(at, _)| at);
    if version == 0 { stem } else { &stem[..version] }
}

pub(super) fn of_archive(path: &str) -> &str {
    strip_end(base(path), &ARCHIVES).unwrap_or_else(|| base(path))
}

/// Without the end that says that it is a template.
pub(super) fn of_template(path: &str) -> &str {
    strip_end(base(path), &[".j2", ".jinja", ".tmpl"]).unwrap_or_else(|| base(path))
}

pub(super) fn of_script(path: &str) -> &str {
    let base = base(path);
    match base.rsplit_once('.') {
        Some((stem, _)) if !stem.is_empty() => stem,
        _ => base,
    }
}

/// The id that `name` makes, with what an id may not hold replaced.
pub(super) fn to_id(name: &str) -> StepId {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let id: String = name
        .trim_start_matches(|c: char| !c.is_ascii_alphanumeric())
        .chars()
        .map(|c| if good(c) { c } else { '-' })
        .take(64)
        .collect();
    id.parse()
        .unwrap_or_else(|_| "step".parse().expect("a letter begins it, and it is short"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_called_after_their_software() {
        for (path, name) in [
            ("nginx_1.26_amd64.deb", "nginx"),
            ("pkg/nginx-1.26.x86_64.rpm", "nginx"),
            ("python3-requests-2.31.0-1.noarch.rpm", "python3-requests"),
            ("nginx.deb", "nginx"),
            ("libc6-dev_2.36_amd64.deb", "libc6-dev"),
        ] {
            assert_eq!(of_package(path), name);
        }
    }

    #[test]
    fn ids_are_made_of_any_name() {
        for (name, id) in [
            ("tune", "tune"),
            ("a b/é", "a-b--"),
            ("..", "step"),
            (".bashrc", "bashrc"),
        ] {
            assert_eq!(to_id(name).as_str(), id);
        }
        assert_eq!(to_id(&"x".repeat(100)).as_str().len(), 64);
    }

    #[test]
    fn types_are_told_by_the_end_of_the_name() {
        assert!(is_archive("a.tar.gz") && is_archive("A.ZIP") && !is_archive(".zip") && !is_archive("é"));
        assert!(is_other_archive("a.tar.xz") && is_package("a.deb") && !is_package("deb"));
    }
}
