//! The system call filter: Docker's default profile, or one in Docker's JSON form, as classic BPF.
//!
//! A filter is a choice of architecture, then a balanced tree over ranges of call numbers, so that
//! any call is decided in about ten steps and the kernel, which runs a new filter once for each
//! call number to cache what is always allowed, is done quickly. Loading a linear filter of the
//! same content takes several times as long as starting a process.
//!
//! Each architecture the kernel can run programs for has its own table, as numbers differ: x86-64
//! with i386 and x32, AArch64 with 32-bit ARM. A call by any other architecture fails, it does not
//! kill. Numbers above all that we know answer `ENOSYS`, so that libraries fall back as they do on
//! an older kernel; known but refused ones answer `EPERM`.
//!
//! Source: moby/profiles `seccomp/default.json`; seccomp(2); the kernel's `seccomp_data`.

mod bpf;
mod profile;
mod supervisor;

pub(super) use bpf::Program;
use profile::{Action, Argument, Comparison, Profile, Rule};
pub(super) use supervisor::MARK;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::caps;
use super::policy::{SandboxPolicy, Seccomp};
use super::spec::{RunSpec, Security};
use super::supervisor::Task;
use crate::sys::notify::Call;

/// Numbers by name, and rules of the default profile.
const TABLE: &str = include_str!("syscalls.txt");

/// An architecture's place in a line of [`TABLE`], its `AUDIT_ARCH` number, and the bit that marks
/// its calls among those of another architecture with the same number.
#[derive(Debug, Clone, Copy)]
struct Arch {
    column: usize,
    audit: u32,
    mark: u32,
    is_64: bool,
}

/// Bit that x32 calls have set in their numbers.
const X32_BIT: u32 = 0x4000_0000;

const X86_64: Arch = Arch { column: 1, audit: 0xc000_003e, mark: 0, is_64: true };
const I386: Arch = Arch { column: 2, audit: 0x4000_0003, mark: 0, is_64: false };
const X32: Arch = Arch { column: 3, audit: 0xc000_003e, mark: X32_BIT, is_64: true };
const AARCH64: Arch = Arch { column: 4, audit: 0xc000_00b7, mark: 0, is_64: true };
const ARM: Arch = Arch { column: 5, audit: 0x4000_0028, mark: 0, is_64: false };

/// The architectures of this machine's kernel.
const NATIVE: &[Arch] =
    if cfg!(target_arch = "aarch64") { &[AARCH64, ARM] } else { &[X86_64, I386, X32] };

/// Column of the rule.
const RULE: usize = 6;

/// The flags of clone(2) that make namespaces.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

/// Families of sockets that a command may make: all that a kernel implements, without those that
/// reach past the sandbox (vsock) or have been ways into kernels with no use in a build (alg).
const SOCKET_FAMILIES: &[u64] = &[
    13, 14, 15, 16, 17, 18, 21, 22, 24, 26, 27, 28, 29, 30, 31, 32, 33, 35, 36, 39, 41, 42, 43, 44,
    45,
];

/// Values of personality(2) that programs of distributions ask for: Linux, 32 bits,
/// ADDR_NO_RANDOMIZE aside, and the question which one holds.
const PERSONALITIES: &[u64] = &[0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

fn lines() -> impl Iterator<Item = Vec<&'static str>> {
    TABLE
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .filter(|fields| fields.len() > RULE)
}

/// Builds Docker's default profile for a set of capabilities.
fn default_profile(capabilities: u64) -> Profile {
    let allow = |name: &str, arguments: Vec<Argument>| Rule {
        names: vec![name.to_owned()],
        action: Action::Allow,
        arguments,
    };
    let on_first = |comparison, value| vec![Argument { index: 0, comparison, value, second: 0 }];
    let mut rules = Vec::new();
    let is_admin = capabilities & caps::parse("SYS_ADMIN").unwrap_or(0) != 0;
    for fields in lines() {
        let name = fields[0];
        match fields[RULE] {
            "allow" => rules.push(allow(name, Vec::new())),
            "deny" => {}
            "socket" => {
                rules.push(allow(name, on_first(Comparison::Less, 12)));
                rules.extend(
                    SOCKET_FAMILIES.iter().map(|&f| allow(name, on_first(Comparison::Equal, f))),
                );
            }
            "personality" => rules
                .extend(PERSONALITIES.iter().map(|&p| allow(name, on_first(Comparison::Equal, p)))),
            "clone" | "clone3" if is_admin => rules.push(allow(name, Vec::new())),
            "clone" => {
                let arguments = vec![Argument {
                    index: 0,
                    comparison: Comparison::MaskedEqual,
                    value: CLONE_NAMESPACES,
                    second: 0,
                }];
                rules.push(allow(name, arguments));
            }
            // Its flags are behind a pointer, out of a filter's sight: libraries fall back to
            // clone.
            "clone3" => rules.push(Rule {
                names: vec![name.to_owned()],
                action: Action::Errno(libc::ENOSYS as u16),
                arguments: Vec::new(),
            }),
            list => {
                let any = list.split('|').filter_map(caps::parse).fold(0, |a, b| a | b);
                if capabilities & any != 0 {
                    rules.push(allow(name, Vec::new()));
                }
            }
        }
    }
    Profile { default: Action::Errno(libc::EPERM as u16), rules }
}

/// Returns the filter that a spec asks for, `None` for none.
///
/// # Errors
///
/// A message, when the spec's own profile cannot be understood.
pub(super) fn for_spec(spec: &RunSpec) -> Result<Option<Program>, String> {
    filter(&spec.policy, spec.security)
}

/// As [`for_spec`], from the parts of a spec that it depends on.
pub(super) fn filter(
    policy: &SandboxPolicy,
    security: Security,
) -> Result<Option<Program>, String> {
    let base = match security {
        Security::Default => caps::DEFAULT,
        Security::Insecure => caps::ALL,
    };
    let capabilities = caps::select(base, &policy.cap_add, &policy.cap_drop)?;
    let profile = match (&policy.seccomp, security) {
        (Seccomp::Unconfined, _) | (Seccomp::Default, Security::Insecure) => return Ok(None),
        (Seccomp::Default, Security::Default) => default_profile(capabilities),
        (Seccomp::Profile(json), _) => profile::parse(json, capabilities)?,
    };
    compile(&profile, REFUSED, NATIVE).map(Some)
}

/// What a call by an architecture that this machine should not have gets from a filter of ours.
const REFUSED: Action = Action::Errno(libc::EPERM as u16);

/// Returns the filter that hands some calls to the supervisor. All else passes: the confinement is
/// in the other filter's, whose refusals outrank this one's questions.
///
/// # Errors
///
/// None that tests do not find.
pub(super) fn for_supervisor(task: Task) -> Result<Program, String> {
    let rules = match task {
        Task::Devices => supervisor::devices(),
        Task::Owners => supervisor::appearances(),
        Task::Paths => supervisor::paths(),
        Task::Everything => return for_all_paths(),
    };
    compile(&Profile { default: Action::Allow, rules }, Action::Allow, NATIVE)
}

/// Returns the filter that leaves a command no socket but those of files, where it cannot have a network
/// namespace.
///
/// # Errors
///
/// None that tests do not find.
pub(super) fn offline() -> Result<Program, String> {
    let other = Argument {
        index: 0,
        comparison: Comparison::NotEqual,
        value: libc::AF_UNIX as u64,
        second: 0,
    };
    let refuse = |name: &str, errno: i32, arguments: Vec<Argument>| Rule {
        names: vec![name.to_owned()],
        action: Action::Errno(errno as u16),
        arguments,
    };
    let rules = vec![
        refuse("socket", libc::EAFNOSUPPORT, vec![other.clone()]),
        refuse("socketpair", libc::EAFNOSUPPORT, vec![other]),
        // What these make is behind a pointer.
        refuse("socketcall", libc::ENOSYS, Vec::new()),
        refuse("io_uring_setup", libc::ENOSYS, Vec::new()),
    ];
    compile(&Profile { default: Action::Allow, rules }, REFUSED, NATIVE)
}

/// Returns the filter under which no call reaches a file by a path, unless the supervisor says so. Calls
/// of other architectures, and numbers newer than the table, would pass it by: they fail.
fn for_all_paths() -> Result<Program, String> {
    let arch = NATIVE[0];
    let newest = lines().filter_map(|fields| fields[arch.column].parse::<u32>().ok()).max();
    let mut program = bpf::up_to(arch.audit, newest.unwrap_or(0), REFUSED);
    let profile = Profile { default: Action::Allow, rules: supervisor::all_paths() };
    program.extend(compile(&profile, REFUSED, &[arch])?);
    Ok(program)
}

/// Says whether a filter decides about a call by every architecture of this machine.
pub(super) fn decides(program: &Program, number: u32, arguments: [u64; 6]) -> bool {
    NATIVE.iter().all(|arch| bpf::ends(program, arch.audit, number | arch.mark, arguments))
}

/// Returns the name of a call.
pub(super) fn call_name(call: &Call) -> Option<&'static str> {
    static NAMES: LazyLock<BTreeMap<(u32, u32), &'static str>> = LazyLock::new(|| {
        let mut names = BTreeMap::new();
        for fields in lines() {
            for arch in NATIVE {
                if let Ok(number) = fields[arch.column].parse::<u32>() {
                    names.insert((arch.audit, number | arch.mark), fields[0]);
                }
            }
        }
        names
    });
    NAMES.get(&(call.arch, call.number)).copied()
}

/// Says whether an architecture has 32 bits.
pub(super) fn is_narrow(audit: u32) -> bool {
    NATIVE.iter().any(|arch| arch.audit == audit && !arch.is_64)
}

/// Says what a spec's filter depends on, so that it is built once for many.
pub(super) fn cache_key(spec: &RunSpec) -> String {
    let SandboxPolicy { seccomp, cap_add, cap_drop, .. } = &spec.policy;
    format!("{:?} {seccomp:?} {cap_add:?} {cap_drop:?}", spec.security)
}

/// Translates a profile for some architectures.
fn compile(profile: &Profile, foreign: Action, arches: &[Arch]) -> Result<Program, String> {
    let mut tables = Vec::new();
    for arch in arches {
        let mut numbers = BTreeMap::new();
        for fields in lines() {
            if let Ok(number) = fields[arch.column].parse::<u32>() {
                numbers.insert(fields[0], number);
            }
        }
        let mut decisions: BTreeMap<u32, Vec<&Rule>> = BTreeMap::new();
        for rule in &profile.rules {
            for name in &rule.names {
                // A name that this architecture lacks can never be called there.
                if let Some(&number) = numbers.get(name.as_str()) {
                    decisions.entry(number).or_default().push(rule);
                }
            }
        }
        // Private calls of ARM have numbers far above all others; they are no sign of the future.
        let newest = numbers.values().copied().filter(|n| *n < 0xf_0000).max().unwrap_or(0);
        tables.push(bpf::Table {
            audit: arch.audit,
            mark: arch.mark,
            is_64: arch.is_64,
            decisions,
            newest,
        });
    }
    bpf::assemble(profile.default, foreign, &tables)
}

#[cfg(test)]
mod tests {
    use super::bpf::interpret;
    use super::*;

    const ALLOWED: u32 = 0x7fff_0000;
    const EPERM: u32 = 0x0005_0001;
    const ENOSYS: u32 = 0x0005_0026;

    fn default_for(capabilities: u64, arches: &[Arch]) -> Program {
        compile(&default_profile(capabilities), REFUSED, arches).unwrap()
    }

    #[track_caller]
    fn check(program: &Program, arch: Arch, number: u32, first: u64, expected: u32) {
        let answer = interpret(program, arch.audit, number | arch.mark, [first, 0, 0, 0, 0, 0]);
        assert_eq!(answer, expected, "{arch:?} call {number} with {first:#x}");
    }

    #[test]
    fn every_call_of_every_architecture_gets_its_rule() {
        for arches in [&[X86_64, I386, X32][..], &[AARCH64, ARM]] {
            let program = default_for(caps::DEFAULT, arches);
            for &arch in arches {
                for fields in lines() {
                    let Ok(number) = fields[arch.column].parse() else { continue };
                    let expected = match fields[RULE] {
                        "allow" | "socket" | "personality" | "clone" => ALLOWED,
                        "clone3" => ENOSYS,
                        list if list.split('|').any(|cap| {
                            caps::parse(cap).is_some_and(|bit| bit & caps::DEFAULT != 0)
                        }) =>
                        {
                            ALLOWED
                        }
                        // ARM's private calls lie above all that is counted as known.
                        _ if number >= 0xf_0000 => ENOSYS,
                        _ => EPERM,
                    };
                    check(&program, arch, number, 0, expected);
                }
                check(&program, arch, 4000, 0, ENOSYS);
            }
        }
    }

    #[test]
    fn arguments_decide_where_they_must() {
        let program = default_for(caps::DEFAULT, NATIVE);
        let (clone, socket, personality) =
            if cfg!(target_arch = "aarch64") { (220, 198, 92) } else { (56, 41, 135) };
        let native = NATIVE[0];
        check(&program, native, clone, 0x0001_0000, ALLOWED);
        check(&program, native, clone, 0x1000_0000, EPERM);
        check(&program, native, clone, 0x0002_0011, EPERM);
        check(&program, native, socket, 2, ALLOWED);
        check(&program, native, socket, 16, ALLOWED);
        check(&program, native, socket, 38, EPERM);
        check(&program, native, socket, 40, EPERM);
        check(&program, native, socket, 1 << 32, EPERM);
        check(&program, native, personality, 0xffff_ffff, ALLOWED);
        check(&program, native, personality, 0x4_0000, EPERM);
    }

    #[test]
    fn capabilities_open_their_calls() {
        let program = default_for(caps::DEFAULT | caps::parse("SYS_ADMIN").unwrap(), NATIVE);
        let mount = if cfg!(target_arch = "aarch64") { 40 } else { 165 };
        check(&program, NATIVE[0], mount, 0, ALLOWED);
        check(&program, NATIVE[0], 435, 0, ALLOWED);
    }

    #[test]
    fn a_foreign_architecture_is_refused_and_not_killed() {
        let program = default_for(caps::DEFAULT, NATIVE);
        assert_eq!(interpret(&program, 0x1234, 1, [0; 6]), EPERM);
    }

    #[test]
    fn any_call_is_decided_in_few_steps() {
        let program = default_for(caps::DEFAULT, &[X86_64, I386, X32]);
        assert!(program.len() < 1500, "{} instructions", program.len());
        for number in 0..500 {
            let steps = bpf::steps(&program, X86_64.audit, number);
            assert!(steps < 20 || number == 41 || number == 135, "call {number}: {steps} steps");
        }
    }

    #[test]
    fn without_network_there_are_sockets_of_files_only() {
        let program = offline().unwrap();
        const NO_FAMILY: u32 = 0x0005_0061;
        let (arch, socket, socketpair) =
            if cfg!(target_arch = "aarch64") { (AARCH64, 198, 199) } else { (X86_64, 41, 53) };
        for (family, expected) in [(1, ALLOWED), (2, NO_FAMILY), (10, NO_FAMILY), (16, NO_FAMILY)] {
            check(&program, arch, socket, family, expected);
            check(&program, arch, socketpair, family, expected);
        }
        check(&program, arch, socket, (1 << 32) + 2, NO_FAMILY);
        check(&program, arch, 425, 0, ENOSYS);
        if cfg!(target_arch = "x86_64") {
            check(&program, I386, 102, 1, ENOSYS);
            check(&program, I386, 359, 2, NO_FAMILY);
            check(&program, X32, socket, 2, NO_FAMILY);
        }
    }

    #[test]
    fn the_supervisor_is_asked_about_devices_only() {
        let program = for_supervisor(Task::Devices).unwrap();
        let (arch, call) =
            if cfg!(target_arch = "aarch64") { (AARCH64, 33) } else { (X86_64, 259) };
        for (mode, answer) in [
            (libc::S_IFCHR | 0o600, ASKED),
            (libc::S_IFBLK, ASKED),
            (libc::S_IFIFO | 0o644, ALLOWED),
            (0o644, ALLOWED),
        ] {
            let arguments = [0, 0, u64::from(mode), 0, 0, 0];
            assert_eq!(interpret(&program, arch.audit, call, arguments), answer, "{mode:o}");
        }
        assert_eq!(interpret(&program, 0x1234, call, [0; 6]), ALLOWED);
        let call = Call { id: 0, pid: 0, arch: arch.audit, number: call, arguments: [0; 6] };
        assert_eq!(call_name(&call), Some("mknodat"));
    }

    const ASKED: u32 = libc::SECCOMP_RET_USER_NOTIF;

    #[test]
    fn the_supervisor_of_one_id_is_asked_about_what_shows_it() {
        let program = for_supervisor(Task::Owners).unwrap();
        let [arch, fchownat, openat, prlimit64, read] = if cfg!(target_arch = "aarch64") {
            [AARCH64.audit, 54, 56, 261, 63]
        } else {
            [X86_64.audit, 260, 257, 302, 0]
        };
        let answer = |call, arguments| interpret(&program, arch, call, arguments);
        assert_eq!(answer(fchownat, [0; 6]), ASKED);
        assert_eq!(answer(read, [0; 6]), ALLOWED);
        let creation = (libc::O_CREAT | libc::O_RDWR) as u64;
        assert_eq!(answer(openat, [0, 0, creation, 0, 0, 0]), ASKED);
        assert_eq!(answer(openat, [0, 0, libc::O_RDWR as u64, 0, 0, 0]), ALLOWED);
        let limit = |resource, new| answer(prlimit64, [0, resource, new, 0, 0, 0]);
        let (locks, files) = (10, 7);
        assert_eq!(limit(locks, 0x1000), libc::SECCOMP_RET_ERRNO, "as if it were done");
        assert_eq!(limit(locks, 0), ALLOWED, "a question");
        assert_eq!(limit(files, 0x1000), ALLOWED);
    }

    #[test]
    fn a_profile_of_the_users_own_is_understood() {
        let json = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13},
            {"names": ["kill"], "action": "SCMP_ACT_KILL_PROCESS",
             "args": [{"index": 1, "value": 9, "op": "SCMP_CMP_EQ"}]},
            {"names": ["chroot"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_SYS_CHROOT"]}}
        ]}"#;
        let profile = profile::parse(json, caps::DEFAULT).unwrap();
        let program = compile(&profile, REFUSED, &[X86_64]).unwrap();
        check(&program, X86_64, 83, 0, 0x0005_000d);
        check(&program, X86_64, 0, 0, ALLOWED);
        check(&program, X86_64, 161, 0, ALLOWED);
        assert_eq!(interpret(&program, X86_64.audit, 62, [1, 9, 0, 0, 0, 0]), 0x8000_0000);
        assert_eq!(interpret(&program, X86_64.audit, 62, [1, 15, 0, 0, 0, 0]), ALLOWED);
        assert!(profile::parse("{", 0).is_err());
    }

    #[test]
    fn every_condition_of_a_long_rule_counts() {
        let rule = |count: usize| {
            let condition = r#"{"index": 1, "value": 4294967296, "op": "SCMP_CMP_NE"},
                {"index": 2, "value": 9, "op": "SCMP_CMP_LE"}"#;
            let conditions = vec![condition; count / 2].join(",");
            format!(
                r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                {{"names": ["kill"], "action": "SCMP_ACT_KILL_PROCESS", "args": [{conditions}]}}]}}"#
            )
        };
        let profile = profile::parse(&rule(32), caps::DEFAULT).unwrap();
        let program = compile(&profile, REFUSED, &[X86_64]).unwrap();
        for (arguments, expected) in
            [([0, 1, 9], 0x8000_0000), ([0, 1, 10], ALLOWED), ([0, 1 << 32, 9], ALLOWED)]
        {
            let [first, second, third] = arguments;
            let arguments = [first, second, third, 0, 0, 0];
            assert_eq!(interpret(&program, X86_64.audit, 62, arguments), expected, "{arguments:?}");
        }
        assert!(profile::parse(&rule(34), caps::DEFAULT).is_err());
    }
}
