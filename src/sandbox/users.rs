//! `USER` against the image's own `/etc/passwd` and `/etc/group`.
//!
//! Source: the OCI runtimes' rules, as BuildKit and Docker apply them: a name or number is looked
//! up in `passwd`; a number that is not there is taken as it is with group 0; supplementary groups
//! come from `group` only when no group was named.

/// Whom a command runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Home folder, `/` where `passwd` has none.
    pub home: String,
}

/// Largest id that a runtime accepts.
const ID_MAX: u32 = i32::MAX as u32;

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn passwd_lines(text: &str) -> impl Iterator<Item = Passwd<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let mut fields = fields.skip(1);
        let uid = fields.next()?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1).unwrap_or("");
        Some(Passwd { name, uid, gid, home })
    })
}

/// Yields name, gid and members of each group.
fn group_lines(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or("")))
    })
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|&id| id <= ID_MAX)
}

/// Finds whom `user` means.
///
/// # Errors
///
/// A message for the user, when a name is in neither file or a number is too large.
pub(super) fn look_up(user: &str, passwd: &str, group: &str) -> Result<Identity, String> {
    let (user, named_group) = match user.split_once(':') {
        Some((user, group)) => (user, group),
        None => (user, ""),
    };
    let wanted = if user.is_empty() { "0" } else { user };
    let found = passwd_lines(passwd).find(|p| p.name == wanted || p.uid.to_string() == wanted);
    let mut identity = match &found {
        Some(p) => Identity {
            uid: p.uid,
            gid: p.gid,
            groups: Vec::new(),
            home: if p.home.is_empty() { "/".into() } else { p.home.into() },
        },
        None => Identity {
            uid: number(wanted).ok_or_else(|| {
                format!("unable to find user {wanted}: no such user in /etc/passwd")
            })?,
            gid: 0,
            groups: Vec::new(),
            home: "/".into(),
        },
    };
    if named_group.is_empty() {
        let name = found.map_or(wanted, |p| p.name);
        for (_, gid, members) in group_lines(group) {
            if members.split(',').any(|member| member == name) && !identity.groups.contains(&gid) {
                identity.groups.push(gid);
            }
        }
    } else {
        identity.gid = group_lines(group)
            .find(|(name, gid, _)| *name == named_group || gid.to_string() == named_group)
            .map(|(_, gid, _)| gid)
            .or_else(|| number(named_group))
            .ok_or_else(|| {
                format!("unable to find group {named_group}: no such group in /etc/group")
            })?;
    }
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# a comment\nbroken\napp:x:12:34::/app:/bin/sh\nempty:x:13:35:::\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:root,app\ndocker:x:20:app\napp:x:34:\n";

    #[track_caller]
    fn check(user: &str, uid: u32, gid: u32, groups: &[u32], home: &str) {
        let expected = Identity { uid, gid, groups: groups.to_vec(), home: home.into() };
        assert_eq!(look_up(user, PASSWD, GROUP), Ok(expected), "{user}");
    }

    #[test]
    fn users_are_found_as_docker_finds_them() {
        check("", 0, 0, &[10], "/root");
        check("root", 0, 0, &[10], "/root");
        check("app", 12, 34, &[10, 20], "/app");
        check("12", 12, 34, &[10, 20], "/app");
        check("app:docker", 12, 20, &[], "/app");
        check("app:99", 12, 99, &[], "/app");
        check("99", 99, 0, &[], "/");
        check("99:1", 99, 1, &[], "/");
        check("empty", 13, 35, &[], "/");
    }

    #[test]
    fn unknown_names_and_huge_numbers_are_refused() {
        for user in ["nobody", "4294967295", "-1", "app:nogroup"] {
            assert!(look_up(user, PASSWD, GROUP).is_err(), "{user}");
        }
    }

    #[test]
    fn an_image_without_passwd_still_has_numbers_and_root() {
        assert_eq!(look_up("", "", "").unwrap().uid, 0);
        assert_eq!(look_up("5:6", "", "").unwrap().gid, 6);
    }
}
