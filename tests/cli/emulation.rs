//! RUN steps of other platforms: emulators that are registered for them only, and what is said of
//! it.

use crate::kit::emulation::{self, FOREIGN, PLATFORMS};
use crate::kit::{Archive, Kit, Outcome, Run, base, host, users};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// A kit with a busybox of the platforms, each as an image of QEMU's name for it, and the emulators
/// in `PATH` of what [`build`] runs.
fn kit_of(kit: Kit, platforms: &[&str]) -> Kit {
    for (platform, _, qemu) in PLATFORMS {
        if platforms.contains(&platform) {
            kit.import_foreign(platform, &format!("localhost:1/{qemu}"));
        }
    }
    kit.emulators(platforms);
    kit
}

/// A build for one platform, shown as plain text, with the kit's emulators in `PATH`.
fn build(kit: &Kit, platform: &str) -> Run {
    let path = emulation::path_with(&kit.beside("emulators"));
    kit.build_showing("plain").arg(format!("--platform={platform}")).env("PATH", path)
}

/// What the machine's own instance of binfmt_misc has, and where any is mounted.
fn of_machine() -> (Vec<String>, Vec<String>) {
    let entries = fs::read_dir("/proc/sys/fs/binfmt_misc").into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    (names, host::mounts_with("binfmt"))
}

#[test]
fn commands_of_all_platforms_run_in_one_build_and_the_machine_stays_as_it_was() {
    if !emulation::can_run() {
        return;
    }
    let before = of_machine();
    let platforms = PLATFORMS.map(|(platform, ..)| platform);
    let kit = kit_of(Kit::new(), &platforms);
    let mut text = String::new();
    for (platform, _, qemu) in PLATFORMS {
        text += &format!(
            "FROM --platform={platform} localhost:1/{qemu} AS {qemu}\n\
             RUN uname -m > /{qemu} && echo \"$0\" >> /{qemu} && (exec -a uname busybox) >> /{qemu}; \\\n    \
             ls /proc/sys/fs/binfmt_misc >> /{qemu}; ! echo 1 > /proc/sys/fs/binfmt_misc/status\n"
        );
    }
    text += "FROM scratch\n";
    for (_, _, qemu) in PLATFORMS {
        text += &format!("COPY --from={qemu} /{qemu} /\n");
    }
    kit.dockerfile(&text);
    let archive = kit.out("all.tar");
    let run = build(&kit, FOREIGN).arg(format!("--output=type=oci,dest={}", archive.display()));
    let said = run.ok();
    let image = Archive::open(&archive);
    for (platform, _, qemu) in PLATFORMS {
        let machine = match qemu {
            "arm" => "armv7l",
            // The kernel runs these itself.
            "i386" if cfg!(target_arch = "x86_64") => "x86_64",
            qemu => qemu,
        };
        assert_eq!(image.text(qemu), format!("{machine}\n/bin/sh\nLinux\n"), "{platform}");
        let emulator = format!("{}/emulators/qemu-{qemu}-static", kit.beside("").display());
        let emulator = emulator.replace("//", "/");
        let marked = said.text().contains(&format!("emulated: {platform} by {emulator}"));
        assert_eq!(marked, machine != "x86_64", "{platform}: {}", said.text());
    }
    assert_eq!(of_machine(), before);
    // Nothing ran, and so nothing is marked.
    assert!(!build(&kit, FOREIGN).ok().text().contains("emulated: "));
    assert_eq!(of_machine(), before);
}

#[test]
fn a_command_cannot_change_its_emulator_and_keeps_its_credentials() {
    if !emulation::can_run() {
        return;
    }
    let kit = kit_of(Kit::new(), &["linux/arm64"]);
    // mov x8, #175 (geteuid); svc #0; mov x8, #93 (exit); svc #0
    let code = [0xe8, 0x15, 0x80, 0xd2, 1, 0, 0, 0xd4, 0xa8, 0x0b, 0x80, 0xd2, 1, 0, 0, 0xd4];
    kit.file("euid", elf(183, &code)).dockerfile(
        "FROM localhost:1/aarch64\n\
         COPY --chmod=4755 euid /euid\n\
         COPY --chmod=0755 euid /plain\n\
         RUN sleep 100 & for at in /proc/$!/exe /proc/1/exe; do \
                 ! { echo x > $at; } 2> /dev/null || exit 1; ! cp /bin/busybox $at 2> /dev/null || exit 1; \
             done; kill $!; ! mount -t binfmt_misc none /tmp 2> /dev/null\n\
         USER app\n\
         RUN /euid && ! /plain\n",
    );
    let said = build(&kit, "linux/arm64").ok();
    assert_eq!(said.text().matches("emulated: ").count(), 2, "{}", said.text());
}

/// A program of one segment, 64 bits, little-endian.
fn elf(machine: u16, code: &[u8]) -> Vec<u8> {
    let (start, address) = (120u64, 0x10_0000u64);
    let size = start + code.len() as u64;
    let mut out = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0".to_vec();
    out.extend(machine.to_le_bytes());
    out.extend(1u32.to_le_bytes());
    for value in [address + start, 64, 0] {
        out.extend(value.to_le_bytes());
    }
    out.extend(0u32.to_le_bytes());
    for value in [64u16, 56, 1, 0, 0, 0] {
        out.extend(value.to_le_bytes());
    }
    out.extend(1u32.to_le_bytes());
    out.extend(5u32.to_le_bytes());
    for value in [0, address, address, size, size, 0x1_0000] {
        out.extend(value.to_le_bytes());
    }
    out.extend(code);
    out
}

#[test]
fn without_an_emulator_a_step_fails_before_it_runs_and_says_how_it_can() {
    if !emulation::can_run() {
        return;
    }
    let kit = kit_of(Kit::new(), &[FOREIGN]);
    kit.dockerfile("FROM localhost:1/riscv64\nRUN --mount=type=cache,target=/c echo ran\n");
    let plain = || kit.build_showing("plain").arg(format!("--platform={FOREIGN}"));
    let empty = kit.beside("home");
    if !host_has_handler(&kit) {
        let said = plain().env("PATH", emulation::path_with(&empty)).fails(5);
        said.says(&[
            "programs of linux/riscv64 do not run here: this machine has no handler for them",
            "no qemu-riscv64-static and no qemu-riscv64 in ",
            "apt-get install qemu-user-static",
            "--emulator image:tonistiigi/binfmt",
            "FROM --platform=$BUILDPLATFORM",
        ]);
        assert!(!said.text().contains("exec format error"), "{}", said.text());
        // Commands that have no namespace of their own could have none but the machine's.
        build(&kit, FOREIGN).arg("--userns=host").fails(5).says(&[
            "commands have no user namespace of their own",
            "docker run --privileged --rm tonistiigi/binfmt --install riscv64",
        ]);
        kit.file("Insecure", "FROM localhost:1/riscv64\nRUN --security=insecure true\n");
        let run =
            build(&kit, FOREIGN).args(["-f", "context/Insecure", "--allow=security.insecure"]);
        run.fails(5).says(&["--security=insecure has no user namespace of its own"]);
        // The program says more than the platform of the base.
        build(&kit, "linux/amd64")
            .env("PATH", emulation::path_with(&empty))
            .fails(5)
            .says(&["InvalidBaseImagePlatform", "programs of linux/riscv64 do not run here"]);
    }
    // One that needs libraries cannot be used in the root of a step.
    let linked = kit.beside("linked");
    fs::create_dir(&linked).unwrap();
    let shell = ["/usr/bin/env", "/bin/cat"].iter().find(|path| is_linked(Path::new(path)));
    if let Some(shell) = shell {
        fs::copy(shell, linked.join("qemu-riscv64")).unwrap();
        let said = plain().arg(format!("--emulator={}", linked.display())).fails(5);
        said.says(&["linked dynamically", "qemu-user-static"]);
    }
    plain().arg("--emulator=/no/qemu").fails(2).says(&["--emulator /no/qemu: No such file"]);
    plain().arg("--emulator=a/b:1").fails(2).says(&["--emulator image:a/b:1"]);
}

fn is_linked(program: &Path) -> bool {
    let bytes = fs::read(program).unwrap_or_default();
    bytes.windows(7).any(|window| window == b"ld-linu")
}

/// Whether this machine has a handler for the programs of [`FOREIGN`].
fn host_has_handler(kit: &Kit) -> bool {
    let run = kit.builder(["doctor", "--format=json"]);
    let json: serde_json::Value = serde_json::from_str(&run.run().stdout()).unwrap();
    let checks = json["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == "platforms").unwrap();
    let platforms = check["platforms"].as_array().unwrap();
    platforms.iter().any(|platform| platform["platform"] == FOREIGN && platform["runs"] == "host")
}

#[test]
fn an_emulator_is_named_by_path_directory_variable_or_image() {
    if !emulation::can_run() {
        return;
    }
    let kit = kit_of(Kit::new(), &[FOREIGN]);
    kit.dockerfile("FROM localhost:1/riscv64\nRUN uname -m\n");
    let program = kit.beside("emulators/qemu-riscv64-static");
    let other = kit.beside("any-name");
    fs::copy(&program, &other).unwrap();
    // In an image it may lie anywhere.
    let mut tar = tar::Builder::new(Vec::new());
    base::append(&mut tar, tar::EntryType::Directory, "opt", 0o755, None, b"");
    let bytes = fs::read(&program).unwrap();
    base::append(&mut tar, tar::EntryType::Regular, "opt/qemu-riscv64", 0o755, None, &bytes);
    kit.builder(["import", "-", "localhost:1/emulators"]).input(tar.into_inner().unwrap()).ok();
    kit.builder(["import", "-", "localhost:1/none"]).input(base::rootfs()).ok();
    let shown = |run: Run| {
        let said = run.arg("--no-cache").ok();
        assert!(said.text().contains(" riscv64\n"), "{}", said.text());
        let text = said.text().to_owned();
        text.lines().find_map(|line| line.split_once("riscv64 by ")).unwrap().1.to_owned()
    };
    let plain = || kit.build_showing("plain").arg(format!("--platform={FOREIGN}"));
    let flag = |text: &dyn std::fmt::Display| plain().arg(format!("--emulator={text}"));
    assert_eq!(shown(flag(&program.display())), program.display().to_string());
    assert_eq!(shown(flag(&kit.beside("emulators").display())), program.display().to_string());
    assert_eq!(shown(flag(&other.display())), other.display().to_string());
    assert_eq!(
        shown(flag(&format!("riscv64={},s390x=/bin/sh", other.display()))),
        other.display().to_string()
    );
    let image = "image:localhost:1/emulators";
    assert_eq!(shown(flag(&image)), format!("qemu-riscv64 of {image}"));
    // What was named goes before what is in PATH.
    assert_eq!(
        shown(build(&kit, FOREIGN).env("BUILDER_EMULATOR", image)),
        format!("qemu-riscv64 of {image}")
    );
    flag(&"riscv64=image:localhost:1/none").arg("--no-cache").fails(5).says(&["it has no qemu-"]);
    // Once all is cached, none is needed.
    flag(&"image:localhost:1/not-there").arg("--pull=never").ok();
    let run = flag(&"image:localhost:1/not-there").args(["--pull=never", "--no-cache"]);
    run.fails(5).says(&["--emulator image:localhost:1/not-there: no image"]);
    // `builder run` has the same.
    let run = |args: &[&str]| {
        let flag = format!("--platform={FOREIGN}");
        let run = kit.builder(["run", &flag]).args(args);
        run.args(["localhost:1/riscv64", "uname", "-m"])
    };
    assert_eq!(run(&["--emulator", image]).ok().stdout(), "riscv64\n");
    let path = emulation::path_with(&kit.beside("emulators"));
    assert_eq!(run(&[]).env("PATH", path).ok().stdout(), "riscv64\n");
    if !host_has_handler(&kit) {
        run(&[]).env("PATH", "/bin").fails(125).says(&["do not run here", "--emulator"]);
    }
}

#[test]
fn a_handler_of_the_host_is_used_if_it_works_in_the_root_of_a_step() {
    if !emulation::can_run() {
        return;
    }
    let kit = Kit::new();
    kit.emulators(&[FOREIGN]);
    let import =
        kit.builder(["import", &format!("--platform={FOREIGN}"), "-", "localhost:1/riscv64"]);
    import.input(emulation::rootfs(FOREIGN)).in_mounts_after("true").ok();
    kit.dockerfile("FROM localhost:1/riscv64\nRUN uname -m\n");
    // The magic of ELF programs for RISC-V, 64 bits.
    let magic = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xf3\x00";
    let mask = r"\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00\x00\xfe\xff\xff\xff";
    let emulator = kit.beside("emulators/qemu-riscv64-static");
    let host = |flags: &str| {
        format!(
            "mount -t binfmt_misc none /proc/sys/fs/binfmt_misc && \
             printf %s ':host:M::{magic}:{mask}:{}:{flags}' > /proc/sys/fs/binfmt_misc/register",
            emulator.display()
        )
    };
    let text = |run: Run| run.arg("--no-cache").ok().text().to_owned();
    let plain = || kit.build_showing("plain").arg(format!("--platform={FOREIGN}"));
    let said = text(plain().in_mounts_after(&host("POCF")));
    assert!(said.contains("riscv64 by the host's handler"), "{said}");
    // What was named goes before it.
    let named = plain().arg(format!("--emulator={}", emulator.display()));
    let said = text(named.in_mounts_after(&host("POCF")));
    assert!(said.contains(&format!("riscv64 by {}", emulator.display())), "{said}");
    // Without F the kernel looks for it in the root of the step, where it is not.
    let said = text(build(&kit, FOREIGN).in_mounts_after(&host("POC")));
    assert!(said.contains(&format!("riscv64 by {}", emulator.display())), "{said}");
}

/// What a build of all that a user without privileges can do says.
fn by_user(user: users::User) -> Outcome {
    let platforms = ["linux/arm64", FOREIGN];
    let kit = kit_of(Kit::of(user), &platforms);
    let directory = kit.beside("emulators");
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    kit.dockerfile(
        "FROM --platform=linux/arm64 localhost:1/aarch64 AS one\n\
         RUN uname -m > /m && id -u >> /m && chown 0:0 /m\n\
         RUN --security=insecure uname -m >> /m && id -u >> /m\n\
         FROM localhost:1/riscv64\n\
         COPY --from=one /m /one\n\
         RUN uname -m > /m && cat /one /m\n",
    );
    let path = emulation::path_with(&kit.beside("emulators"));
    let run = kit.build_showing("plain").env("PATH", path);
    run.args([&format!("--platform={FOREIGN}"), "--allow=security.insecure"]).ok()
}

#[test]
fn rootless_builds_register_emulators_with_and_without_subordinate_ids() {
    if !emulation::can_run() || !host::has("newuidmap", "uidmap") {
        return;
    }
    let before = of_machine();
    for user in [users::with_ranges(), users::without_ranges()] {
        let said = by_user(user);
        let lines: Vec<&str> = said
            .text()
            .lines()
            .filter_map(|line| line.rsplit(' ').next())
            .filter(|word| ["aarch64", "riscv64", "0"].contains(word))
            .collect();
        assert_eq!(lines, ["aarch64", "0", "aarch64", "0", "riscv64"], "{}", said.text());
        assert_eq!(said.text().matches("emulated: ").count(), 3, "{}", said.text());
    }
    assert_eq!(of_machine(), before);
}

#[test]
fn a_step_that_ran_emulated_is_marked_in_all_that_is_said_of_it() {
    if !emulation::can_run() {
        return;
    }
    let kit = kit_of(Kit::new(), &[FOREIGN]);
    kit.dockerfile("FROM localhost:1/riscv64\nRUN uname -m\nRUN false\n");
    let path = emulation::path_with(&kit.beside("emulators"));
    let platform = format!("--platform={FOREIGN}");
    let said = kit.build().arg(&platform).env("PATH", &path).exits(4);
    let emulator = kit.beside("emulators/qemu-riscv64-static").display().to_string();
    let marks: Vec<_> = said.steps().iter().map(|step| step.emulator.as_deref()).collect();
    assert_eq!(marks, [Some(&*emulator), Some(&*emulator)]);
    let explained = kit.builder(["explain"]).ok().stdout();
    assert_eq!(explained.matches("ran emulated, by ").count(), 2, "{explained}");
    let json = kit.builder(["explain", "--format=json"]).ok().json();
    let steps = json["steps"].as_array().unwrap();
    assert!(steps.iter().all(|step| step["emulator"] == *emulator), "{json}");
}

#[test]
fn a_step_that_is_much_slower_emulated_is_hinted_at_with_both_figures() {
    if !emulation::can_run() {
        return;
    }
    let kit = kit_of(Kit::new(), &[FOREIGN]);
    let count = "RUN i=0; while [ $i -lt 400000 ]; do i=$((i + 1)); done";
    kit.dockerfile(&format!(
        "FROM --platform=$BUILDPLATFORM fixture/base AS native\n{count}\n\
         FROM localhost:1/riscv64\nCOPY --from=native /etc/passwd /\n{count}\n"
    ));
    let said = build(&kit, FOREIGN).ok();
    let hint = said.text().lines().find(|line| line.contains(" s emulated, "));
    let hint = hint.unwrap_or_else(|| panic!("no hint: {}", said.text()));
    assert!(hint.contains("FROM --platform=$BUILDPLATFORM") && hint.contains("natively"), "{hint}");
    // Once it is cached, nothing is slow.
    assert!(!build(&kit, FOREIGN).ok().text().contains(" s emulated, "));
}
