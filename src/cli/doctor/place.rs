//! Where we run, and which commands can be run there: a suggestion that cannot work is none.

use rustix::fs::{Access, access};
use std::fs;
use std::path::Path;

/// Says whether this is a container, whose kernel settings and devices are the machine's.
pub(super) fn is_container() -> bool {
    ["/.dockerenv", "/run/.containerenv"].iter().any(|path| Path::new(path).exists())
        || fs::read("/proc/1/environ").is_ok_and(|text| {
            text.split(|byte| *byte == 0).any(|entry| entry.starts_with(b"container="))
        })
}

/// Returns a command that only root of the machine can run, and says where.
pub(super) fn as_root_of_the_machine(command: &str) -> String {
    let (uid, _) = user();
    match (is_container(), uid) {
        (true, _) => format!("on the machine that runs the container, as root: {command}"),
        (false, 0) => command.to_owned(),
        (false, _) => format!("sudo {command}"),
    }
}

/// Returns the id and the name of the user who started us, whatever we are root of.
pub(super) fn user() -> (u32, String) {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let inside = rustix::process::geteuid().as_raw();
    let outside = map.lines().find_map(|line| {
        let numbers: Vec<u32> = line.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let [first, outer, count] = numbers.as_slice() else { return None };
        let offset = inside.checked_sub(*first).filter(|offset| offset < count)?;
        outer.checked_add(offset)
    });
    let uid = outside.unwrap_or(inside);
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    (uid, name_of(uid, &passwd))
}

/// Returns the name of a user in the text of `/etc/passwd`; the number if it has none.
fn name_of(uid: u32, passwd: &str) -> String {
    let number = uid.to_string();
    let entry = passwd.lines().find(|line| line.split(':').nth(2) == Some(number.as_str()));
    entry.and_then(|line| line.split(':').next()).map_or(number.clone(), str::to_owned)
}

/// Says whether a program is installed in one of the usual directories.
pub(super) fn has_program(name: &str) -> bool {
    ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin", "/bin", "/sbin"]
        .iter()
        .any(|dir| access(format!("{dir}/{name}"), Access::EXEC_OK).is_ok())
}

/// Returns the command that installs a package here, by the package manager that is here.
pub(super) fn install(package: &str) -> String {
    // The package of newuidmap has several names.
    let (debian, other) = match package {
        "uidmap" => ("uidmap", "shadow-utils"),
        package => (package, package),
    };
    let command = if has_program("apt-get") {
        format!("apt-get install {debian}")
    } else if has_program("dnf") {
        format!("dnf install {other}")
    } else if has_program("zypper") {
        format!("zypper install {}", if package == "uidmap" { "shadow" } else { other })
    } else if has_program("apk") {
        format!("apk add {}", if package == "uidmap" { "shadow-uidmap" } else { other })
    } else if has_program("pacman") {
        format!("pacman -S {}", if package == "uidmap" { "shadow" } else { other })
    } else {
        return format!("install {package}");
    };
    let (uid, _) = user();
    if uid == 0 { command } else { format!("sudo {command}") }
}

/// Returns what gives the user subordinate ids.
pub(super) fn more_ids() -> String {
    if !has_program("newuidmap") {
        return install("uidmap");
    }
    let (uid, name) = user();
    let lines = |path| fs::read_to_string(path).unwrap_or_default();
    let has_range = |text: String| {
        let number = uid.to_string();
        text.lines().any(|line| line.split(':').next().is_some_and(|o| o == name || o == number))
    };
    if has_range(lines("/etc/subuid")) && has_range(lines("/etc/subgid")) {
        // The ranges are there, and newuidmap could not use them.
        return match is_container() {
            true => "start the container with newuidmap's capabilities: --cap-add SETUID,SETGID"
                .to_owned(),
            false => as_root_of_the_machine("chmod u+s /usr/bin/newuidmap /usr/bin/newgidmap"),
        };
    }
    let range = "100000-165535";
    let command = match has_program("usermod") {
        true => format!("usermod --add-subuids {range} --add-subgids {range} {name}"),
        false => format!("sh -c 'echo {name}:100000:65536 | tee -a /etc/subuid >> /etc/subgid'"),
    };
    if uid == 0 { command } else { format!("sudo {command}") }
}

/// Returns what starts a build in control groups of its own, where a service manager is there to
/// ask.
pub(super) fn delegation() -> Option<String> {
    if !has_program("systemd-run") || !Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    let (uid, _) = user();
    let bus = format!("/run/user/{uid}/bus");
    match uid {
        0 => Some("systemd-run --scope -p Delegate=yes builder build …".to_owned()),
        _ if Path::new(&bus).exists() => {
            Some("systemd-run --user --scope -p Delegate=yes builder build …".to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_the_name_of_its_number() {
        let passwd = "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n";
        assert_eq!(name_of(1000, passwd), "ann");
        assert_eq!(name_of(0, passwd), "root");
        assert_eq!(name_of(7, passwd), "7");
        assert!(!user().1.is_empty());
    }
}
