//! Paths that an image, a Dockerfile or a user chose, aimed at what processes outside have open: at the
//! descriptors of the builder and of its caller, who holds a directory, a file and a terminal.
//!
//! In each mode the same attempts are made. A directory with a secret, a program and nothing else is the
//! canary: it is never read, run or written.

use super::kit::{Kit, Outcome, make_dir, users};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What stands in the secret; a command that prints it was outside.
const SECRET: &str = "hush-from-outside";

/// What the program outside prints.
const RAN: &str = "ran-from-outside";

/// The numbers that the caller's descriptors have, and those that the builder's are likely to.
const HELD: [u32; 4] = [6, 7, 8, 9];

struct Mode {
    kit: Kit,
    /// Arguments of every command.
    flags: &'static [&'static str],
    is_on_overlay: bool,
    /// Control groups, owned by the kit's user, that the command is started in.
    groups: Vec<PathBuf>,
    user: Option<users::User>,
}

impl Mode {
    fn root(flags: &'static [&'static str]) -> Self {
        Self { kit: Kit::new(), flags, is_on_overlay: false, groups: Vec::new(), user: None }
    }

    fn of(user: users::User) -> Self {
        let kit = Kit::of(user.clone());
        let mode =
            Self { kit, flags: &[], is_on_overlay: false, groups: Vec::new(), user: Some(user) };
        std::os::unix::fs::chown(mode.canary(), mode.uid(), mode.uid()).unwrap();
        for entry in fs::read_dir(mode.canary()).unwrap().flatten() {
            std::os::unix::fs::chown(entry.path(), mode.uid(), mode.uid()).unwrap();
        }
        mode
    }

    fn uid(&self) -> Option<u32> {
        self.user.as_ref().map(|user| user.uid)
    }

    /// A directory of the caller's own, made at the first call.
    fn canary(&self) -> PathBuf {
        let canary = self.kit.beside("canary");
        if !canary.exists() {
            make_dir(&canary);
            fs::write(canary.join("secret"), SECRET).unwrap();
            fs::write(canary.join("prog"), format!("#!/bin/sh\necho {RAN}\n")).unwrap();
            fs::set_permissions(canary.join("prog"), fs::Permissions::from_mode(0o755)).unwrap();
            fs::set_permissions(&canary, fs::Permissions::from_mode(0o700)).unwrap();
        }
        canary
    }

    /// Runs a command of the program while its caller holds the canary, a file in it and a terminal.
    fn run(&self, run: super::kit::Run) -> Outcome {
        let run = if self.is_on_overlay { run.on_overlay() } else { run };
        let inner = run.into_command();
        let hold = "exec 9<\"$0\" 8<\"$0/secret\" 7</ 6<>/dev/ptmx || exit 99\nexec \"$@\"";
        let mut words: Vec<String> = Vec::new();
        if let Some(user) = &self.user {
            let groups: Vec<&str> = self.groups.iter().map(|path| path.to_str().unwrap()).collect();
            let join = format!(
                "for g in {}; do echo $$ > $g/cgroup.procs || exit 98; done\nexec \"$@\"",
                groups.join(" ")
            );
            words.extend(["sh", "-c", &join, "sh", "setpriv"].map(str::to_owned));
            let ids = [format!("--reuid={}", user.uid), format!("--regid={}", user.gid)];
            words.extend(ids);
            words.push("--clear-groups".to_owned());
        }
        let canary = self.canary();
        words.extend(["sh", "-c", hold, canary.to_str().unwrap()].map(str::to_owned));
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(inner.get_program()).args(inner.get_args()).env_clear();
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(inner.get_current_dir().unwrap());
        let output = command.stdin(Stdio::null()).output().unwrap();
        Outcome::of(output)
    }

    fn build(&self, dockerfile: &str) -> Outcome {
        self.kit.dockerfile(dockerfile);
        self.run(self.kit.build().args(self.flags).args(["--network=none", "--no-cache"]))
    }

    /// Runs a command of the image `base`.
    fn command(&self, flags: &[&str], words: &[&str]) -> Outcome {
        let run = self.kit.builder(["run", "--network=none"]).args(self.flags).args(flags);
        self.run(run.arg("base").args(words))
    }

    #[track_caller]
    fn refused(&self, what: &str, outcome: &Outcome) {
        let said = format!("{}{}{}", outcome.stdout(), outcome.text(), outcome.log());
        assert_ne!(outcome.status, Some(0), "{what} is refused:\n{said}");
        assert!(!matches!(outcome.status, Some(98 | 99 | 70) | None), "{what} was tried:\n{said}");
        self.unharmed(what, outcome);
    }

    #[track_caller]
    fn unharmed(&self, what: &str, outcome: &Outcome) {
        let said = format!("{}{}{}", outcome.stdout(), outcome.text(), outcome.log());
        assert!(!said.contains(SECRET), "{what} read the secret:\n{said}");
        assert!(!said.contains(RAN), "{what} ran a program outside:\n{said}");
        let canary = self.canary();
        assert_eq!(fs::read_to_string(canary.join("secret")).unwrap(), SECRET, "{what}");
        assert_eq!(fs::read_dir(&canary).unwrap().count(), 2, "{what} made nothing outside");
    }
}

/// What a command in a directory outside would do.
const LOOK: &str = "cat secret ../canary/secret; ./prog; echo > written; pwd";

fn attempts(mode: &Mode) {
    mode.canary();
    let made = mode.build(
        "FROM fixture/base\nRUN mkdir /v && ln -s /proc/self/fd/9 /link && ln -s /link /second\n",
    );
    assert_eq!(made.status, Some(0), "{}{}", made.text(), made.log());
    let tag = mode.run(mode.kit.build().args(mode.flags).args(["--network=none", "-t", "base"]));
    assert_eq!(tag.status, Some(0), "{}{}", tag.text(), tag.log());

    working_directories(mode);
    programs(mode);
    places_of_mounts(mode);
    own_places(mode);
}

fn working_directories(mode: &Mode) {
    let mut places: Vec<String> = (3..24).map(|n| format!("/proc/self/fd/{n}")).collect();
    for n in HELD {
        places.push(format!("/proc/1/fd/{n}"));
    }
    for place in [
        "/proc/self/fd/9/../canary",
        "/dev/fd/9",
        "/proc/thread-self/fd/9",
        "/proc/self/task/1/fd/9",
        "/proc/1/root",
        "/proc/1/cwd",
        "/proc/self/root/proc/self/cwd",
        "/proc/self/exe",
        "/proc/self/fd/9/made/here",
        "/link",
        "/second/made",
        "/v/../link",
    ] {
        places.push(place.to_owned());
    }
    for place in &places {
        let outcome = mode.command(&["-w", place], &["sh", "-c", LOOK]);
        mode.refused(&format!("run -w {place}"), &outcome);
    }
    // A number that is not open is a missing name, and `..` takes it back: that is inside.
    let up = HELD.map(|n| format!("/proc/self/fd/{n}/.."));
    for place in up.into_iter().chain(["/v/../../link/..".to_owned()]) {
        let outcome = mode.command(&["-w", &place], &["sh", "-c", LOOK]);
        mode.unharmed(&format!("run -w {place}"), &outcome);
    }
    for place in ["/proc/self/fd/9", "/proc/1/fd/7", "/link", "/second", "/dev/fd/8"] {
        let outcome = mode.build(&format!(
            "FROM fixture/base\nRUN ln -s /proc/self/fd/9 /link && ln -s link /second\n\
             WORKDIR {place}\nRUN {LOOK}\n"
        ));
        mode.refused(&format!("WORKDIR {place}"), &outcome);
    }
    // The same in an image's config.
    let image = mode.run(
        mode.kit
            .dockerfile("FROM fixture/base\nWORKDIR /proc/self/fd/9\n")
            .build()
            .args(mode.flags)
            .args(["-t", "inside"]),
    );
    assert_eq!(image.status, Some(0), "{}", image.text());
    let run = mode.kit.builder(["run", "--network=none"]).args(mode.flags);
    mode.refused("an image's WorkingDir", &mode.run(run.args(["inside", "sh", "-c", LOOK])));
    // A volume that is read-only stays so.
    let canary = mode.canary();
    let volume = format!("{}:/v:ro", canary.display());
    for place in (3..16).map(|n| format!("/proc/self/fd/{n}")).chain(["/v".to_owned()]) {
        let outcome = mode.command(
            &["-v", &volume, "-w", &place],
            &["sh", "-c", "echo > written && echo > secret"],
        );
        mode.refused(&format!("run -v :ro -w {place}"), &outcome);
    }
}

fn programs(mode: &Mode) {
    for program in [
        "/proc/self/exe",
        "/proc/1/exe",
        "/proc/self/fd/9/prog",
        "/proc/self/fd/7/../bin/sh",
        "/proc/1/root/bin/sh",
        "/dev/fd/9/prog",
        "/link/prog",
        "/exe",
        "/script",
        "/outer",
    ] {
        for form in ["RUN [\"PROGRAM\"]", "SHELL [\"PROGRAM\"]\nRUN true"] {
            let outcome = mode.build(&format!(
                "FROM fixture/base\nRUN ln -s /proc/self/fd/9 /link && ln -s /proc/self/exe /exe && \
                 printf '#!/proc/self/exe\\n' > /script && printf '#!/script\\n' > /outer && \
                 chmod 755 /script /outer\n{}\n",
                form.replace("PROGRAM", program)
            ));
            mode.refused(&format!("{form} {program}"), &outcome);
        }
    }
    for path in ["/proc/self/fd/9", "/link", "/proc/self/cwd", "/proc/self/fd/9:/proc/1/cwd"] {
        let outcome = mode.build(&format!(
            "FROM fixture/base\nRUN ln -s /proc/self/fd/9 /link\nWORKDIR /bin\nENV PATH={path}\nRUN [\"prog\"]\n"
        ));
        mode.refused(&format!("PATH={path}"), &outcome);
    }
    let outcome = mode.command(&["--entrypoint", "/proc/self/fd/9/prog"], &[]);
    mode.refused("--entrypoint", &outcome);
    // What is ordinary goes on: scripts, relative programs, a PATH with a missing part.
    let outcome = mode.build(
        "FROM fixture/base\nWORKDIR /w\nRUN printf '#!/bin/sh\\necho \"as $0 $1\"\\n' > prog && chmod 755 prog\n\
         ENV PATH=/none:/w:/bin\nRUN [\"./prog\", \"one\"]\nRUN [\"prog\", \"two\"]\nRUN [\"/w/../w/prog\", \"three\"]\n",
    );
    assert_eq!(outcome.status, Some(0), "{}{}", outcome.text(), outcome.log());
    for line in ["as ./prog one", "as /w/prog two", "as /w/../w/prog three"] {
        assert!(outcome.log().contains(line), "{line}: {}", outcome.log());
    }
}

/// Targets that lead into `/proc`, `/sys` or `/dev`, and generated files that are links.
fn places_of_mounts(mode: &Mode) {
    let links = "RUN ln -s /proc/sys /to-proc && ln -s ../sys/kernel /to-sys && ln -s /dev /to-dev && \
                 ln -s /proc/self/fd/9 /link\n";
    for target in [
        "/proc",
        "/proc/sys/kernel",
        "/proc/self/fd/9",
        "/proc/self/root/x",
        "/to-proc/kernel",
        "/to-sys",
        "/to-dev/shm",
        "/link",
        "/link/made",
        "/dev/fd/9",
        "/v/../proc/sys",
    ] {
        let outcome = mode.build(&format!(
            "FROM fixture/base\n{links}RUN --mount=type=tmpfs,target={target} {LOOK}\n"
        ));
        mode.refused(&format!("a mount on {target}"), &outcome);
    }
    for link in [
        "/proc/self/fd/9/made",
        "/proc/sys/kernel/core_pattern",
        "/proc/1/cwd/x",
        "/dev/null",
        "/sys/x",
    ] {
        for name in ["hosts", "resolv.conf"] {
            let text = format!("FROM fixture/base\nCOPY links /etc\nRUN {LOOK}\n");
            let path = mode.kit.path(&format!("links/{name}"));
            make_dir(path.parent().unwrap());
            std::os::unix::fs::symlink(link, &path).unwrap();
            let outcome = mode.build(&text);
            fs::remove_file(&path).unwrap();
            mode.refused(&format!("/etc/{name} -> {link}"), &outcome);
        }
    }
}

/// Links and files in place of what we mount on.
fn own_places(mode: &Mode) {
    for name in ["proc", "sys", "dev"] {
        for target in ["real", "/real", "bin", "/none", "/proc/self/fd/9"] {
            let link = mode.kit.path(&format!("root/{name}"));
            make_dir(link.parent().unwrap());
            std::os::unix::fs::symlink(target, &link).unwrap();
            make_dir(&mode.kit.path("root/real"));
            let outcome = mode.build(&format!(
                "FROM scratch\nCOPY --from=fixture/base /bin /bin\nCOPY root /\nRUN echo > /{name}/sys/kernel/core_pattern; {LOOK}\n"
            ));
            fs::remove_file(&link).unwrap();
            mode.refused(&format!("/{name} -> {target}"), &outcome);
            let said = format!("{}{}", outcome.text(), outcome.log());
            assert!(said.contains(&format!("/{name} of the image is a link")), "{said}");
        }
    }
}

#[test]
fn privileged_no_path_leads_out_for_root() {
    attempts(&Mode::root(&[]));
}

#[test]
fn privileged_no_path_leads_out_with_the_hosts_ids() {
    attempts(&Mode::root(&["--userns=host"]));
}

#[test]
fn privileged_no_path_leads_out_of_a_store_on_an_overlay() {
    attempts(&Mode { is_on_overlay: true, ..Mode::root(&[]) });
}

#[test]
fn privileged_no_path_leads_out_for_a_user_with_ranges() {
    attempts(&Mode::of(users::with_ranges()));
}

#[test]
fn privileged_no_path_leads_out_for_a_user_with_one_id() {
    attempts(&Mode::of(users::without_ranges()));
}

/// As a user manager delegates one, in every hierarchy that the machine has.
#[test]
fn privileged_no_path_leads_out_for_a_user_with_a_group_of_its_own() {
    let mut mode = Mode::of(users::with_ranges());
    let user = mode.user.clone().unwrap();
    let name = format!("builder-escape-{}", std::process::id());
    let top = Path::new("/sys/fs/cgroup");
    let mut hierarchies = vec![top.to_owned()];
    hierarchies.extend(fs::read_dir(top).into_iter().flatten().flatten().map(|entry| entry.path()));
    for hierarchy in hierarchies.iter().filter(|path| path.join("cgroup.procs").exists()) {
        let group = hierarchy.join(&name);
        if group.exists() || fs::create_dir(&group).is_err() {
            continue;
        }
        for entry in ["", "cgroup.procs", "tasks", "cgroup.threads", "cgroup.subtree_control"] {
            std::os::unix::fs::chown(group.join(entry), Some(user.uid), Some(user.gid)).ok();
        }
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(text) = fs::read_to_string(hierarchy.join(file)) {
                fs::write(group.join(file), text).ok();
            }
        }
        mode.groups.push(group);
    }
    let groups = mode.groups.clone();
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| attempts(&mode)));
    for group in groups {
        for inner in fs::read_dir(&group).into_iter().flatten().flatten() {
            fs::remove_dir(inner.path()).ok();
        }
        fs::remove_dir(&group).ok();
    }
    if let Err(panic) = done {
        std::panic::resume_unwind(panic);
    }
}

/// On a volume a node would be one of the machine's, outside of the step and without `nodev`.
#[test]
fn privileged_devices_are_made_on_file_systems_of_the_step_only() {
    use std::os::unix::fs::FileTypeExt as _;
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN mkdir /v && ln -s /v /link\n")
        .build()
        .args(["-t", "base"])
        .ok();
    let volume = kit.beside("volume");
    make_dir(&volume);
    fs::set_permissions(&volume, fs::Permissions::from_mode(0o777)).unwrap();
    let shown = format!("{}:/v", volume.display());
    let script = "mknod /v/d b 7 0; cd /v && mknod e b 7 0; mknod /link/f c 1 1; mknod /proc/self/cwd/g c 1 1; \
                  chroot /v /busybox mknod /h b 7 0; mkdir /v/in; mknod /v/in/i b 7 0; \
                  mknod /own b 7 0 && mknod /dev/own c 1 1 && mknod /dev/shm/own c 1 1 && ls -l /own && mv /own /v/moved; true";
    fs::copy(super::kit::base::BUSYBOX, volume.join("busybox")).unwrap();
    let outcome =
        kit.builder(["run", "--network=none", "-v", &shown, "base", "sh", "-c", script]).run();
    let mut waiting = vec![volume];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let kind = entry.file_type().unwrap();
            assert!(!kind.is_block_device() && !kind.is_char_device(), "{:?}", entry.path());
            if kind.is_dir() {
                waiting.push(entry.path());
            }
        }
    }
    assert!(outcome.stdout().contains("/own"), "{}{}", outcome.stdout(), outcome.text());
}

#[test]
fn privileged_the_primary_group_is_among_the_groups() {
    let kit = Kit::new();
    kit.dockerfile(
        "FROM fixture/base\nUSER app\nRUN grep -E '^Groups:[[:space:]]100 1001 ?$' /proc/self/status\n\
         USER app:users\nRUN grep -E '^Groups:[[:space:]]100 ?$' /proc/self/status\n\
         USER 5:6\nRUN grep -E '^Groups:[[:space:]]6 ?$' /proc/self/status\n\
         USER root\nRUN grep -E '^Groups:[[:space:]]0 ?$' /proc/self/status\n",
    );
    kit.build().ok();
}

#[test]
fn privileged_a_missing_working_directory_is_the_users() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN ln -s /far/away /link && mkdir /there\n")
        .build()
        .args(["-t", "base"])
        .ok();
    let run = |flags: &[&str], words: &str| {
        kit.builder(["run", "--network=none"]).args(flags).args(["base", "sh", "-c", words]).ok()
    };
    let seen = run(&["-u", "app", "-w", "/a/b/c"], "stat -c '%U:%G %a' /a /a/b /a/b/c; pwd");
    assert_eq!(seen.stdout(), "app:app 755\napp:app 755\napp:app 755\n/a/b/c\n");
    let seen = run(&["-u", "5:6", "-w", "/there/x"], "stat -c '%u:%g %a' /there /there/x");
    assert_eq!(seen.stdout(), "0:0 755\n5:6 755\n");
    let seen = run(&["-u", "app", "-w", "/link/x"], "pwd; stat -c %U /far /far/away/x");
    assert_eq!(seen.stdout(), "/far/away/x\napp\napp\n");
    let seen = run(&["-w", "/n"], "stat -c '%u:%g' .");
    assert_eq!(seen.stdout(), "0:0\n");
}

/// A user's namespace gets no new sysfs where the machine shows none.
#[test]
fn rootless_commands_run_where_the_machine_has_no_sys() {
    let user = users::with_ranges();
    let kit = Kit::of(user.clone());
    kit.dockerfile(
        "FROM fixture/base\nRUN test -d /sys && test -z \"$(ls /sys)\" && ! mkdir /sys/x\n",
    );
    let inner = kit.build().arg("--network=none").into_command();
    let mut command = Command::new("unshare");
    let script = "umount -R -l /sys && exec setpriv \"$@\"";
    command.args(["--mount", "--", "sh", "-c", script, "sh"]);
    command.args([format!("--reuid={}", user.uid), format!("--regid={}", user.gid)]);
    command.arg("--clear-groups").arg(inner.get_program()).args(inner.get_args()).env_clear();
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.current_dir(kit.beside("tmp")).stdin(Stdio::null()).output().unwrap();
    let outcome = Outcome::of(output);
    assert_eq!(outcome.status, Some(0), "{}{}", outcome.text(), outcome.log());
}
