//! `USER` against the image's own `/etc/passwd` and `/etc/group`.
//!
//! | written | user | group | supplementary groups |
//! |---|---|---|---|
//! | two numbers, `5:6`, or `root` for one | as written | as written | none |
//! | a number, `5` | the id, whatever names there are | of the first entry with that id, else 0 | of that entry's name |
//! | a name | of the first entry of that name; an error without one | of that entry | of the name |
//! | with `:GROUP` | as above | the id, or that of the first entry of the name | none |
//! | nothing, or `:GROUP` | 0, as a number | | |
//!
//! What follows a second colon is ignored. Fields of an entry that are missing or are not numbers
//! count as 0. The group is always among the supplementary groups as well.
//!
//! Source: BuildKit executor/oci/user.go, moby/sys/user `GetExecUser`, and runc for HOME
//! (behaviour).

use std::collections::BTreeSet;

/// The ids that a command runs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups besides `gid`.
    pub groups: Vec<u32>,
    /// Home directory of the first entry with this id, `/` where `passwd` has none.
    pub home: String,
}

/// Largest id that is accepted where it stands alone or with a name, as in BuildKit.
const ID_MAX: i64 = i32::MAX as i64;

/// Maximum number of supplementary groups of a process (`NGROUPS_MAX`).
const GROUPS_MAX: usize = 65_536;

struct Passwd<'a> {
    name: &'a str,
    uid: i64,
    gid: i64,
    home: &'a str,
}

/// Parses a field of a file: what is not a number is 0.
fn field(text: Option<&str>) -> i64 {
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn passwd_lines(text: &str) -> impl Iterator<Item = Passwd<'_>> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().unwrap_or("");
        let (uid, gid) = (fields.nth(1), fields.next());
        Passwd { name, uid: field(uid), gid: field(gid), home: fields.nth(1).unwrap_or("") }
    })
}

/// Yields name, gid and members of each group.
fn group_lines(text: &str) -> impl Iterator<Item = (&str, i64, &str)> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().unwrap_or("");
        (name, field(fields.nth(1)), fields.next().unwrap_or(""))
    })
}

/// Reads both parts of `UID:GID`; `None` unless both are numbers or `root`.
fn two_numbers(user: &str) -> Option<(u32, u32)> {
    let (uid, gid) = user.split_once(':')?;
    let id = |text: &str| match text {
        "root" => Some(0),
        text if text.bytes().all(|b| b.is_ascii_digit()) => {
            text.parse().ok().filter(|&id: &u32| id != u32::MAX)
        }
        _ => None,
    };
    Some((id(uid)?, id(gid)?))
}

/// Converts an id; what is out of range is an error that names it.
fn id(value: i64) -> Result<u32, String> {
    u32::try_from(value).ok().filter(|_| value <= ID_MAX).ok_or_else(|| {
        format!("user and group ids range from 0 to {ID_MAX}, and {value} is outside")
    })
}

/// Finds the ids that `user` means.
///
/// # Errors
///
/// A message for the user, when a name is in neither file or a number is too large.
pub(super) fn look_up(user: &str, passwd: &str, group: &str) -> Result<Identity, String> {
    let home = |uid: u32| {
        let found = passwd_lines(passwd).find(|entry| entry.uid == i64::from(uid));
        found.map(|entry| entry.home).filter(|home| !home.is_empty()).unwrap_or("/").to_owned()
    };
    if let Some((uid, gid)) = two_numbers(user) {
        return Ok(Identity { uid, gid, groups: Vec::new(), home: home(uid) });
    }
    let mut parts = user.split(':');
    let wanted = parts.next().filter(|user| !user.is_empty()).unwrap_or("0");
    let named_group = parts.next().unwrap_or("");
    let number: Option<i64> = wanted.parse().ok();
    let found = passwd_lines(passwd)
        .find(|entry| number.map_or(entry.name == wanted, |number| entry.uid == number));
    let (uid, mut gid) = match (&found, number) {
        (Some(entry), _) => (id(entry.uid)?, id(entry.gid)?),
        (None, Some(number)) => (id(number)?, 0),
        (None, None) => {
            return Err(format!("unable to find user {wanted}: no such user in /etc/passwd"));
        }
    };
    let (mut groups, mut known) = (Vec::new(), BTreeSet::new());
    if named_group.is_empty() {
        for (_, member_of, members) in group_lines(group) {
            let Some(found) = &found else { break };
            if members.split(',').any(|member| member == found.name) {
                let member_of = id(member_of)?;
                if known.insert(member_of) {
                    groups.push(member_of);
                }
                if groups.len() > GROUPS_MAX {
                    return Err(format!(
                        "user {wanted} is a member of more than {GROUPS_MAX} groups in /etc/group"
                    ));
                }
            }
        }
    } else {
        let number: Option<i64> = named_group.parse().ok();
        let found = group_lines(group)
            .find(|(name, gid, _)| number.map_or(*name == named_group, |number| *gid == number));
        gid = match (found, number) {
            (Some((_, gid, _)), _) => id(gid)?,
            (None, Some(number)) => id(number)?,
            (None, None) => {
                return Err(format!(
                    "unable to find group {named_group}: no such group in /etc/group"
                ));
            }
        };
    }
    Ok(Identity { uid, gid, groups, home: home(uid) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_of_more_groups_than_the_kernel_knows_is_refused() {
        let passwd = "u:x:1:1::/:\n";
        let groups =
            |count: usize| (0..count).fold(String::new(), |text, n| text + &format!("g:x:{n}:u\n"));
        let found = look_up("u", passwd, &groups(GROUPS_MAX).repeat(2)).unwrap();
        assert_eq!(found.groups.len(), GROUPS_MAX);
        assert!(look_up("u", passwd, &groups(GROUPS_MAX + 1)).is_err());
    }

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
    fn a_number_is_an_id_also_where_a_name_is_of_digits() {
        let passwd =
            "1234:x:55:66::/n:/bin/sh\nplain:x:77:88::/p:/bin/sh\nsame:x:77:99::/s:/bin/sh\n";
        let group = "500:x:600:\nstaff:x:700:1234,same\n";
        let ids = |user| {
            let found = look_up(user, passwd, group).unwrap();
            (found.uid, found.gid, found.groups, found.home)
        };
        assert_eq!(ids("1234"), (1234, 0, vec![], "/".into()));
        assert_eq!(ids("77"), (77, 88, vec![], "/p".into()));
        assert_eq!(ids("same"), (77, 99, vec![700], "/p".into()), "HOME goes by the id");
        assert_eq!(ids("plain:500").1, 500);
        assert_eq!(ids("plain:staff").1, 700);
        assert_eq!(ids("+77").0, 77);
    }

    #[test]
    fn a_second_colon_ends_what_counts() {
        assert_eq!(look_up("1:2:3", PASSWD, GROUP).map(|i| (i.uid, i.gid)), Ok((1, 2)));
        assert_eq!(look_up("app:docker:x", PASSWD, GROUP).map(|i| (i.uid, i.gid)), Ok((12, 20)));
        assert_eq!(
            look_up("app:", PASSWD, GROUP).map(|i| (i.gid, i.groups)),
            Ok((34, vec![10, 20]))
        );
        assert_eq!(look_up(":5", PASSWD, GROUP).map(|i| (i.uid, i.gid)), Ok((0, 5)));
        assert_eq!(look_up(":wheel", PASSWD, GROUP).map(|i| (i.uid, i.gid)), Ok((0, 10)));
        assert_eq!(look_up("", "", "").map(|i| (i.uid, i.gid)), Ok((0, 0)));
        assert!(look_up("5:6x", PASSWD, GROUP).is_err());
    }

    #[test]
    fn two_numbers_need_no_files_and_have_the_whole_range() {
        assert_eq!(look_up("root:5", "root:x:9:9:::", "").map(|i| (i.uid, i.gid)), Ok((0, 5)));
        let found = look_up("4294967294:4294967294", "", "").unwrap();
        assert_eq!((found.uid, found.gid), (u32::MAX - 1, u32::MAX - 1));
    }

    #[test]
    fn fields_that_are_not_numbers_are_zero() {
        assert_eq!(look_up("bad", "bad:x:y:z\n", "").map(|i| (i.uid, i.gid)), Ok((0, 0)));
        assert_eq!(look_up("broken", PASSWD, "").map(|i| (i.uid, i.gid)), Ok((0, 0)));
    }

    #[test]
    fn unknown_names_and_huge_numbers_are_refused() {
        for user in ["nobody", "4294967295", "-1", "app:nogroup", "app:-1", "-5:nogroup"] {
            assert!(look_up(user, PASSWD, GROUP).is_err(), "{user}");
        }
    }

    #[test]
    fn an_image_without_passwd_still_has_numbers_and_root() {
        assert_eq!(look_up("", "", "").unwrap().uid, 0);
        assert_eq!(look_up("5:6", "", "").unwrap().gid, 6);
    }
}
