//! Two real users of the machine without privileges: one with subordinate ids, one without.
//!
//! They are made once and stay, without a home and without a password: removing them while other
//! tests run would pull the rug from under those.

use super::host::tool;
use std::fs;

/// A user of the machine.
#[derive(Debug, Clone)]
pub struct User {
    pub name: &'static str,
    pub uid: u32,
    pub gid: u32,
}

/// A user with 65536 ids in `/etc/subuid` and `/etc/subgid`.
pub fn with_ranges() -> User {
    user("builder-test-many", true)
}

/// A user who has no id but the own one.
pub fn without_ranges() -> User {
    user("builder-test-one", false)
}

/// Where the ranges of the tests begin: far from those of the machine's people.
const FIRST: u32 = 1_500_000_000;

fn user(name: &'static str, has_ranges: bool) -> User {
    // One test at a time looks and makes.
    let lock =
        fs::File::create(std::env::temp_dir().join("builder-test-users.lock")).expect("lock");
    lock.lock().expect("lock");
    let find = || {
        let passwd = fs::read_to_string("/etc/passwd").expect("/etc/passwd");
        let line = passwd.lines().find(|line| line.starts_with(&format!("{name}:")))?.to_owned();
        let mut fields = line.split(':').skip(2).map(|field| field.parse::<u32>().expect("an id"));
        Some(User { name, uid: fields.next()?, gid: fields.next()? })
    };
    let user = find().unwrap_or_else(|| {
        tool(&["useradd", "--no-create-home", "--user-group", "--shell=/bin/sh", name]);
        find().expect("useradd makes it")
    });
    for path in ["/etc/subuid", "/etc/subgid"] {
        let text = fs::read_to_string(path).unwrap_or_default();
        let mut wanted: String = text
            .split_inclusive('\n')
            .filter(|line| !line.starts_with(&format!("{name}:")))
            .collect();
        if has_ranges {
            wanted.push_str(&format!("{name}:{FIRST}:65536\n"));
        }
        if wanted != text {
            fs::write(path, wanted).expect("write the ranges");
        }
    }
    user
}
