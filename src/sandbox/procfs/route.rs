//! Which paths are answered, and what each of them means: a list of all that a command may see.
//!
//! A path is taken apart by its text alone. What is not listed here is not there, or refused.

use rustix::io::Errno;

/// What a path of a call means, where it is one that is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Named {
    /// Below `/proc`: the names that follow.
    Proc(Vec<Vec<u8>>),
    /// `/dev/ptmx`.
    Multiplexer,
    /// `/dev/pts` or below: the names that follow.
    Terminals(Vec<Vec<u8>>),
}

/// Says what an absolute path means, or one that starts at the absolute path `base`, which has no
/// links; `None` for one that is the kernel's. `follows`: whether a link at the end is followed.
pub(in super::super) fn named(base: &[u8], path: &[u8], follows: bool) -> Option<Named> {
    let mut parts: Vec<&[u8]> = Vec::new();
    let is_absolute = path.starts_with(b"/");
    if !is_absolute {
        parts.extend(base.split(|&byte| byte == b'/').filter(|part| !part.is_empty()));
    }
    let mut certain = parts.len();
    for part in path.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            // In /proc it depends on what the parts mean.
            b".." if parts.first() == Some(&&b"proc"[..]) => parts.push(part),
            b".." if parts.is_empty() => {}
            b".." if parts.len() <= certain => {
                parts.pop();
                certain = parts.len();
            }
            // A part that may be a link.
            b".." => return None,
            _ => parts.push(part),
        }
    }
    let is_directory = path.ends_with(b"/") || path.ends_with(b"/.");
    let follows = follows || is_directory;
    let own =
        |number: &[u8]| -> Vec<Vec<u8>> { vec![b"self".to_vec(), b"fd".to_vec(), number.to_vec()] };
    let mut names: Vec<Vec<u8>> = match parts.as_slice() {
        [b"proc", rest @ ..] => rest.iter().map(|part| part.to_vec()).collect(),
        [b"dev", b"fd"] if follows => vec![b"self".to_vec(), b"fd".to_vec()],
        [b"dev", b"fd", number, rest @ ..] => {
            let mut names = own(number);
            names.extend(rest.iter().map(|part| part.to_vec()));
            names
        }
        [b"dev", b"stdin"] if follows => own(b"0"),
        [b"dev", b"stdout"] if follows => own(b"1"),
        [b"dev", b"stderr"] if follows => own(b"2"),
        [b"dev", b"ptmx"] | [b"dev", b"pts", b"ptmx"] if follows => {
            return Some(Named::Multiplexer);
        }
        [b"dev", b"pts", rest @ ..] => {
            return Some(Named::Terminals(rest.iter().map(|part| part.to_vec()).collect()));
        }
        _ => return None,
    };
    if is_directory && !names.is_empty() {
        names.push(b".".to_vec());
    }
    Some(Named::Proc(names))
}

/// Whose directory of `/proc` is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// The caller.
    Caller,
    /// The thread that calls.
    Thread,
    /// The process of this number.
    Process(i32),
}

/// A directory of `/proc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Directory {
    Top,
    Process,
    Thread,
    Descriptors,
    DescriptorFacts,
    Tasks,
    Namespaces,
    Attributes,
    Network,
    /// Settings of the kernel, or what turns out to be one of them.
    Settings,
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Directory(Directory),
    /// A file of a process; whether its own process may write to it.
    File {
        is_writable: bool,
    },
    /// A file that is the same for all, of which a copy is handed out.
    Copy,
    /// The mounts, which a root directory that is not a mount has none of.
    Mounts,
    /// The same with more facts.
    MountInfo,
    /// A link to a name of `/proc`, by itself.
    Link,
    /// What a descriptor leads to.
    Descriptor,
    /// The program of a process.
    Program,
    /// Its working or root directory.
    Place,
    /// A namespace, which can be named only.
    Namespace,
    /// What is below a directory that one of these links leads to.
    Beyond(Vec<u8>),
}

/// What a path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    /// Whose directory `path` starts at; `None` for `/proc` itself.
    pub who: Option<Who>,
    /// Names that are those of procfs, none of them a link but perhaps the last.
    pub path: String,
    pub kind: Kind,
}

/// Files that are the same for all, with nothing in them but facts about the machine.
pub(super) const COMMON: &[&str] = &[
    "cgroups",
    "cmdline",
    "consoles",
    "cpuinfo",
    "crypto",
    "devices",
    "diskstats",
    "filesystems",
    "interrupts",
    "loadavg",
    "meminfo",
    "misc",
    "modules",
    "partitions",
    "softirqs",
    "stat",
    "swaps",
    "uptime",
    "version",
    "vmstat",
    "zoneinfo",
];

/// Files of a process or a thread.
pub(super) const OF_PROCESS: &[&str] = &[
    "auxv",
    "cgroup",
    "cmdline",
    "comm",
    "coredump_filter",
    "cpuset",
    "environ",
    "gid_map",
    "io",
    "limits",
    "loginuid",
    "maps",
    "numa_maps",
    "oom_adj",
    "oom_score",
    "oom_score_adj",
    "personality",
    "projid_map",
    "sched",
    "schedstat",
    "sessionid",
    "setgroups",
    "smaps",
    "smaps_rollup",
    "stat",
    "statm",
    "status",
    "uid_map",
    "wchan",
];

/// Files that a process may write about itself: its name, and that it is to be killed sooner.
const WRITABLE: [&str; 2] = ["comm", "oom_score_adj"];

/// Memory, and what says where it is or what a process waits for.
const REFUSED: &[&str] =
    &["clear_refs", "map_files", "mem", "pagemap", "stack", "syscall", "timerslack_ns"];

/// Directories of a process, and its links.
pub(super) const DIRECTORIES: [(&str, Directory); 6] = [
    ("attr", Directory::Attributes),
    ("fd", Directory::Descriptors),
    ("fdinfo", Directory::DescriptorFacts),
    ("net", Directory::Network),
    ("ns", Directory::Namespaces),
    ("task", Directory::Tasks),
];
pub(super) const LINKS: [(&str, Kind); 3] =
    [("cwd", Kind::Place), ("exe", Kind::Program), ("root", Kind::Place)];

/// What was found on the way.
#[derive(Clone)]
struct Step {
    at: Directory,
    who: Option<Who>,
    path: String,
}

impl Step {
    fn below(&self, name: &str, at: Directory) -> Self {
        Self { at, who: self.who, path: self.joined(name) }
    }

    fn joined(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}/{name}", self.path) }
    }
}

/// Finds what names below `/proc` lead to; `None` where they lead out of it.
///
/// # Errors
///
/// `ENOENT` for what is not there, `EACCES` for what is refused, `ENOTDIR`.
pub(super) fn route(names: &[Vec<u8>], follows: bool) -> Result<Option<Route>, Errno> {
    let mut stack = vec![Step { at: Directory::Top, who: None, path: String::new() }];
    let mut names = names.iter();
    while let Some(name) = names.next() {
        let name = std::str::from_utf8(name).map_err(|_| Errno::NOENT)?;
        let rest: Vec<&[u8]> = names.as_slice().iter().map(Vec::as_slice).collect();
        let is_last = rest.is_empty();
        match name {
            "." => continue,
            ".." => {
                stack.pop();
                if stack.is_empty() {
                    return Ok(None);
                }
                continue;
            }
            _ => {}
        }
        let Some(step) = stack.last() else { return Ok(None) };
        let end = |kind: Kind| Ok(Some(Route { who: step.who, path: step.joined(name), kind }));
        let kind = match (step.at, name) {
            (Directory::Top, "self" | "thread-self" | "mounts" | "net") if is_last && !follows => {
                return end(Kind::Link);
            }
            (Directory::Top, "self") => {
                let who = Some(Who::Caller);
                stack.push(Step { at: Directory::Process, who, path: String::new() });
                continue;
            }
            (Directory::Top, "thread-self") => {
                let who = Some(Who::Thread);
                stack.push(Step { at: Directory::Thread, who, path: String::new() });
                continue;
            }
            (Directory::Top, "mounts") => {
                let path = name.to_owned();
                return finish(Route { who: Some(Who::Caller), path, kind: Kind::Mounts }, &rest);
            }
            (Directory::Top, "net") => {
                let (at, who) = (Directory::Network, Some(Who::Caller));
                stack.push(Step { at, who, path: "net".to_owned() });
                continue;
            }
            (Directory::Top, "sys") => {
                stack.push(step.below(name, Directory::Settings));
                continue;
            }
            (Directory::Top, _) if COMMON.contains(&name) => Kind::Copy,
            (Directory::Top, _) => {
                let who = Some(Who::Process(number(name)?));
                stack.push(Step { at: Directory::Process, who, path: String::new() });
                continue;
            }
            (Directory::Process | Directory::Thread, "mounts") => Kind::Mounts,
            (Directory::Process | Directory::Thread, "mountinfo") => Kind::MountInfo,
            (Directory::Thread, "children") => Kind::File { is_writable: false },
            (Directory::Process | Directory::Thread, _) => {
                let is_thread = step.at == Directory::Thread;
                let below = DIRECTORIES
                    .iter()
                    .find(|(known, at)| *known == name && !(is_thread && *at == Directory::Tasks));
                if let Some((_, at)) = below {
                    stack.push(step.below(name, *at));
                    continue;
                }
                match LINKS.iter().find(|(known, _)| *known == name) {
                    Some((_, kind)) => kind.clone(),
                    None if OF_PROCESS.contains(&name) => {
                        Kind::File { is_writable: WRITABLE.contains(&name) }
                    }
                    None if REFUSED.contains(&name) => return Err(Errno::ACCESS),
                    None => return Err(Errno::NOENT),
                }
            }
            (Directory::Descriptors, _) => number(name).map(|_| Kind::Descriptor)?,
            (Directory::DescriptorFacts, _) => {
                number(name).map(|_| Kind::File { is_writable: false })?
            }
            (Directory::Tasks, _) => {
                number(name)?;
                stack.push(step.below(name, Directory::Thread));
                continue;
            }
            (Directory::Namespaces, _) => Kind::Namespace,
            (Directory::Attributes, "current") => Kind::File { is_writable: false },
            (Directory::Attributes, _) => return Err(Errno::NOENT),
            (Directory::Network, _) => Kind::Copy,
            (Directory::Settings, _) => {
                stack.push(step.below(name, Directory::Settings));
                continue;
            }
        };
        return finish(Route { who: step.who, path: step.joined(name), kind }, &rest);
    }
    let Some(Step { at, who, path }) = stack.pop() else { return Ok(None) };
    Ok(Some(Route { who, path, kind: Kind::Directory(at) }))
}

/// Ends a path that goes on, or does not, behind something that is not a directory of `/proc`.
fn finish(route: Route, rest: &[&[u8]]) -> Result<Option<Route>, Errno> {
    if rest.is_empty() {
        return Ok(Some(route));
    }
    match route.kind {
        Kind::Descriptor | Kind::Place => {
            Ok(Some(Route { kind: Kind::Beyond(rest.join(&b'/')), ..route }))
        }
        Kind::Namespace | Kind::Program => Err(Errno::ACCESS),
        _ => Err(Errno::NOTDIR),
    }
}

/// Reads a number of a process or a descriptor, as the kernel writes it.
fn number(name: &str) -> Result<i32, Errno> {
    let is_plain = name == "0" || !name.starts_with('0');
    let digits = name.bytes().all(|byte| byte.is_ascii_digit());
    name.parse().ok().filter(|_| is_plain && digits).ok_or(Errno::NOENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str) -> Result<Option<Route>, Errno> {
        match named(b"/", path.as_bytes(), true) {
            Some(Named::Proc(names)) => route(&names, true),
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn paths_of_processes_are_known_by_all_their_spellings() {
        let own = |path: &str, kind| {
            Ok(Some(Route { who: Some(Who::Caller), path: path.to_owned(), kind }))
        };
        for path in
            ["/proc/self/fd/7", "/dev/fd/7", "//proc/./self//fd/7", "/../proc/self/fd/../fd/7"]
        {
            assert_eq!(of(path), own("fd/7", Kind::Descriptor), "{path}");
        }
        assert_eq!(of("/dev/stdin"), own("fd/0", Kind::Descriptor));
        assert_eq!(of("/proc/self/exe"), own("exe", Kind::Program));
        assert_eq!(of("/proc/mounts"), own("mounts", Kind::Mounts));
        assert_eq!(of("/proc/self/root/../etc"), own("root", Kind::Beyond(b"../etc".to_vec())));
        assert_eq!(of("/proc/self/fd/3/"), own("fd/3", Kind::Beyond(b".".to_vec())));
        assert_eq!(of("/proc/self/task/12/../comm"), Err(Errno::NOENT));
        let thread = own("task/12/comm", Kind::File { is_writable: true });
        assert_eq!(of("/proc/self/task/12/comm"), thread);
        assert_eq!(of("/proc/self/../../etc/passwd"), Ok(None));
    }

    #[test]
    fn what_is_not_listed_is_not_there() {
        for path in
            ["/proc/self/mem", "/proc/1/mem", "/proc/self/task/3/mem", "/proc/7/map_files/a"]
        {
            assert_eq!(of(path), Err(Errno::ACCESS), "{path}");
        }
        for path in [
            "/proc/kcore",
            "/proc/keys",
            "/proc/sysrq-trigger",
            "/proc/acpi",
            "/proc/01",
            "/proc/-1",
        ] {
            assert_eq!(of(path), Err(Errno::NOENT), "{path}");
        }
        assert_eq!(of("/proc/self/exe/x"), Err(Errno::ACCESS));
        assert_eq!(of("/proc/cpuinfo/x"), Err(Errno::NOTDIR));
    }

    #[test]
    fn only_paths_below_two_directories_are_answered() {
        for path in ["/etc/passwd", "/usr/../proc/self", "/dev/null", "/dev", "/procs", "x", "/"] {
            assert_eq!(named(b"/work", path.as_bytes(), true), None, "{path}");
        }
        assert_eq!(named(b"/", b"/dev/stdin", false), None, "the link itself");
        assert!(named(b"/work", b"../proc/version", true).is_some());
        assert!(named(b"/proc/self", b"fd/1", true).is_some());
        assert_eq!(named(b"/", b"dev/ptmx", true), Some(Named::Multiplexer));
    }
}
