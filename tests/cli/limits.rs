//! Limits: they hold, and a step that dies of one says which.

use crate::kit::running::{Running, Signal};
use crate::kit::wait::eventually;
use crate::kit::{Kit, host};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn privileged_step_over_its_memory_limit_is_explained() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN dd if=/dev/zero of=/dev/null bs=200M count=1\n");
    let outcome = kit.build().args(["--memory", "64m"]).fails(4);
    outcome.says(&["RUN dd", "137", "memory limit of 64 MiB", "peak", "Dockerfile:2"]);
}

#[test]
fn privileged_step_under_its_memory_limit_is_left_alone() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN dd if=/dev/zero of=/dev/null bs=20M count=1\n");
    kit.build().args(["--memory", "64m"]).ok();
}

#[test]
fn privileged_kill_that_was_not_the_kernels_is_not_blamed_on_memory() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN sh -c 'kill -9 $$'\n");
    let outcome = kit.build().args(["--memory", "64m"]).fails(4);
    outcome.says(&["137"]);
    assert!(!outcome.text().contains("memory limit"), "{}", outcome.text());
}

/// Programs size themselves by it: the JVM, Go's and .NET's runtimes.
#[test]
fn privileged_a_command_sees_its_own_limits_and_cannot_change_them() {
    let kit = Kit::new();
    let is_v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let (memory, cpus) = if is_v2 {
        ("memory.max", "cpu.max")
    } else {
        ("memory/memory.limit_in_bytes", "cpu/cpu.cfs_quota_us")
    };
    kit.dockerfile(&format!(
        "FROM fixture/base\nWORKDIR /sys/fs/cgroup\n\
         RUN echo \"sees $(cat {memory}) and $(cat {cpus})\"; ! echo 1 > {memory} && ! mkdir {memory}.d\n"
    ));
    let outcome = kit.build().args(["--memory", "64m", "--cpus", "0.5"]).ok();
    assert!(outcome.log().contains("sees 67108864 and 50000"), "{}", outcome.log());
    if !is_v2 {
        kit.dockerfile(
            "FROM fixture/base\nRUN for c in memory cpu cpuacct cpuset pids; do \
             grep -q \" /sys/fs/cgroup/.* cgroup ro,.*,$c[, ]\" /proc/mounts && test -e /sys/fs/cgroup/$c/cgroup.procs || exit 1; done\n",
        );
        kit.build().ok();
    }
}

#[test]
fn privileged_process_limit_stops_a_fork_bomb() {
    let kit = Kit::new();
    kit.dockerfile(
        "FROM fixture/base\nRUN for i in $(seq 200); do sleep 100 & done; jobs | wc -l\n",
    );
    let outcome = kit.build().args(["--pids-limit", "20"]).run();
    assert!(outcome.log().contains("can't fork"), "{}\n{}", outcome.text(), outcome.log());
    outcome.says(&["its limit of 20 processes and threads", "--pids-limit 40"]);
    let run = kit.builder(["run", "--pids-limit", "20", "fixture/base"]);
    kit.build().args(["-t", "fixture/base", "--pids-limit=-1"]).ok();
    let outcome = run.args(["sh", "-c", "for i in $(seq 200); do sleep 100 & done"]).any();
    outcome.says(&["its limit of 20 processes and threads"]);
}

#[test]
fn privileged_a_fork_bomb_meets_the_default_limit() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN for i in $(seq 3000); do sleep 100 & done\n");
    let outcome = kit.build().run();
    assert!(outcome.log().contains("can't fork"), "{}\n{}", outcome.text(), outcome.log());
    outcome.says(&["its limit of 2048 processes and threads", "--pids-limit 4096"]);
    kit.dockerfile("FROM fixture/base\nRUN for i in $(seq 100); do sleep 100 & done\n");
    let outcome = kit.build().ok();
    assert!(!outcome.text().contains("its limit"), "{}", outcome.text());
}

#[test]
fn privileged_a_limit_of_namespaces_is_named() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN true\n");
    for (kind, status) in [("user", 0), ("net", 0), ("pid", 5), ("ipc", 5), ("mnt", 5)] {
        let setup = format!("echo 0 > /proc/sys/user/max_{kind}_namespaces");
        let run = kit.build_showing("plain").arg("--no-cache").in_user_namespace_after(&setup);
        run.exits(status).says(&["the limit of namespaces is reached", "user.max_user_namespaces"]);
    }
}

/// Four stages whose commands note who else runs, and a last one that tells what they saw. Each waits
/// until two have come, so that a build that runs one at a time gets stuck and says so.
const CROWD: &str = "FROM fixture/base AS s0
ARG NUMBER
RUN mkdir /out
FROM s0 AS s1
RUN --mount=type=cache,id=crowd,target=/c N=1; eval \"$JOB\"
FROM s0 AS s2
RUN --mount=type=cache,id=crowd,target=/c N=2; eval \"$JOB\"
FROM s0 AS s3
RUN --mount=type=cache,id=crowd,target=/c N=3; eval \"$JOB\"
FROM s0 AS s4
RUN --mount=type=cache,id=crowd,target=/c N=4; eval \"$JOB\"
FROM s0
COPY --from=s1 /out /out1
COPY --from=s2 /out /out2
COPY --from=s3 /out /out3
COPY --from=s4 /out /out4
RUN --mount=type=cache,id=crowd,target=/c sort -n /c/seen | tail -1 | sed s/^/most:/
";

/// What each of them does.
const JOB: &str = "mkdir -p /c/now && mkdir /c/now/$N && ls /c/now | wc -l >> /c/seen && touch /c/came.$N; \
    i=0; while [ $(ls /c/came.* | wc -l) -lt 2 ]; do i=$((i+1)); [ $i -lt 2000 ] || exit 9; usleep 10000; done; \
    ls /c/now | wc -l >> /c/seen; rmdir /c/now/$N";

fn crowd(flags: &[&str]) -> String {
    let kit = Kit::new();
    kit.dockerfile(
        &CROWD.replace("ARG NUMBER\n", &format!("ENV JOB=\"{}\"\n", JOB.replace('$', "\\$"))),
    );
    let outcome = kit.build().args(flags).ok();
    let log = outcome.log();
    let at = log.find("most:").unwrap_or_else(|| panic!("{log}"));
    log[at + 5..at + 6].to_owned()
}

#[test]
fn privileged_a_memory_budget_lets_two_of_four_run_at_once() {
    assert_eq!(crowd(&["--memory", "32m", "--build-memory", "64m"]), "2");
    assert_eq!(crowd(&["--max-parallelism", "2"]), "2");
}

#[test]
fn a_step_that_may_use_more_than_the_build_is_refused() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN true\n");
    let run = kit.build().args(["--memory", "2g", "--build-memory", "1g"]);
    run.fails(2).says(&["--build-memory"]);
    for wrong in [
        &["--memory-swap", "1g"][..],
        &["--memory", "1g", "--memory-swap", "512m"],
        &["--device-read-bps", "/dev/null:1m"],
        &["--io-weight", "1"],
        &["--cpus", "1", "--cpu-quota", "5000"],
    ] {
        kit.build().args(wrong).fails(2);
    }
}

#[test]
fn privileged_limits_stand_in_the_control_group() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN --mount=type=cache,target=/c touch /c/up; cat /proc/self/cgroup; while [ ! -e /c/go ]; do usleep 10000; done\n");
    let run = kit.build().args([
        "--memory=64m",
        "--memory-swap=96m",
        "--cpu-quota=50000",
        "--cpu-period=200000",
        "--cpu-shares=512",
        "--cpuset-cpus=0",
        "--cpuset-mems=0",
        "--pids-limit=33",
    ]);
    let mut running = Running::start(run);
    let cache = cache_mount(&kit, "up");
    let pid = inside(&running);
    let setting = |v1: &[&str], v2: &str| -> String {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        for line in groups.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (names, path) = (fields.next().unwrap(), fields.next().unwrap());
            for mount in ["unified", names, ""] {
                for file in v1.iter().chain([&v2]) {
                    let path = format!("/sys/fs/cgroup/{mount}{path}/{file}");
                    if let Ok(text) = fs::read_to_string(path) {
                        return text.trim().to_owned();
                    }
                }
            }
        }
        panic!("no {v2} in {groups}");
    };
    assert_eq!(setting(&["memory.limit_in_bytes"], "memory.max"), (64 << 20).to_string());
    assert_eq!(setting(&["pids.max"], "pids.max"), "33");
    assert_eq!(setting(&["cpuset.cpus"], "cpuset.cpus"), "0");
    assert_eq!(setting(&["cpuset.mems"], "cpuset.mems"), "0");
    let quota = setting(&["cpu.cfs_quota_us"], "cpu.max");
    assert!(["50000", "50000 200000"].contains(&quota.as_str()), "{quota}");
    let weight = setting(&["cpu.shares"], "cpu.weight");
    assert!(["512", "20"].contains(&weight.as_str()), "{weight}");
    fs::write(cache.join("go"), "").unwrap();
    assert_eq!(running.end().code(), Some(0));
}

#[test]
fn privileged_storage_is_weighed_and_throttled() {
    let group = Path::new("/sys/fs/cgroup/blkio");
    if !group.join("blkio.bfq.io_serviced").exists() {
        cannot_run_here!(optional: "the kernel's groups of version 1 do not weigh storage");
        return;
    }
    let mut disks = fs::read_dir("/sys/block").unwrap().flatten();
    let disk = disks.find(|disk| Path::new("/dev").join(disk.file_name()).exists()).unwrap();
    let number = fs::read_to_string(disk.path().join("dev")).unwrap();
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN --mount=type=cache,target=/c touch /c/up; while [ ! -e /c/go ]; do usleep 10000; done\n");
    let device = Path::new("/dev").join(disk.file_name()).display().to_string();
    let run = kit.build().args(["--io-weight=200", "--device-read-bps"]);
    let run = run.arg(format!("{device}:1m")).arg(format!("--device-write-iops={device}:7"));
    let mut running = Running::start(run);
    let cache = cache_mount(&kit, "up");
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", inside(&running))).unwrap();
    let own = groups.lines().find_map(|line| line.split_once(":blkio:/")).unwrap().1;
    let setting = |file: &str| fs::read_to_string(group.join(own).join(file)).unwrap();
    assert_eq!(setting("blkio.bfq.weight").trim(), "200");
    let limit = |value: &str| format!("{} {value}\n", number.trim());
    assert_eq!(setting("blkio.throttle.read_bps_device"), limit("1048576"));
    assert_eq!(setting("blkio.throttle.write_iops_device"), limit("7"));
    fs::write(cache.join("go"), "").unwrap();
    assert_eq!(running.end().code(), Some(0));
}

#[test]
fn privileged_usage_is_in_the_history_and_in_the_metadata() {
    let kit = Kit::new();
    kit.dockerfile(
        "FROM fixture/base\n\
         RUN i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; head -c 20m /dev/zero > /big\n\
         RUN (sleep 1 & sleep 1 & sleep 1 & true); exit 3\n",
    );
    kit.build().fails(4);
    let shown = kit.builder(["history", "--usage"]).ok().stdout();
    let rows: Vec<&str> = shown.lines().collect();
    assert!(rows[1].contains("USER") && rows[1].contains("PEAK"), "{shown}");
    assert!(rows[2].contains("MiB") && rows[2].ends_with("> /big"), "{shown}");
    assert!(rows[3].contains("(failed)") && rows[4].ends_with("all that ran"), "{shown}");
    let json = kit.builder(["history", "usage", "--format=json"]).ok().stdout();
    let steps: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(steps[0]["cpu_us"].as_u64().unwrap() > 0, "{json}");
    assert!(steps[0]["peak_memory"].as_u64().unwrap() > 100_000, "{json}");
    assert_eq!(steps[1]["outcome"], "failed");

    kit.dockerfile("FROM fixture/base\nRUN echo one > /one\nENV a=b\nRUN echo two > /two\n");
    let file = kit.out("metadata.json");
    kit.build().arg("--metadata-file").arg(&file).ok();
    let metadata: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let usage = metadata["builder.usage"].as_array().unwrap();
    assert_eq!(usage.len(), 2);
    assert!(usage[1]["step"].as_str().unwrap().ends_with("RUN echo two > /two"), "{usage:?}");
    assert!(usage[1]["wall_us"].as_u64().unwrap() > 0, "{usage:?}");
}

#[test]
fn privileged_ctrl_z_freezes_a_build_and_fg_lets_it_go_on() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN --mount=type=cache,target=/c touch /c/up; while [ ! -e /c/go ]; do usleep 10000; done; echo went on\n");
    let mut running = Running::start(kit.build());
    let cache = cache_mount(&kit, "up");
    let pid = inside(&running);
    running.signal(Signal::TSTP);
    eventually("we stop", || state(running.child.id()) == Some('T'));
    eventually("the command is frozen", || is_frozen(pid));
    fs::write(cache.join("go"), "").unwrap();
    assert!(running.child.try_wait().unwrap().is_none());
    running.signal(Signal::CONT);
    assert_eq!(running.end().code(), Some(0));
}

#[test]
fn privileged_a_stopped_build_can_be_killed() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN --mount=type=cache,target=/c touch /c/up; while :; do usleep 10000; done\n");
    let mut running = Running::start(kit.build());
    cache_mount(&kit, "up");
    let pid = inside(&running);
    running.signal(Signal::TSTP);
    // A CONT that came before the stop would be lost.
    eventually("we stop", || state(running.child.id()) == Some('T'));
    eventually("the command is frozen", || is_frozen(pid));
    running.signal(Signal::TERM);
    running.signal(Signal::CONT);
    assert_eq!(running.end().code(), Some(143));
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

/// Waits for a file in the only cache mount, and returns the mount's directory.
fn cache_mount(kit: &Kit, file: &str) -> PathBuf {
    let mounts = kit.store().join("mounts");
    let mut found = None;
    eventually("the command is up", || {
        let directories = fs::read_dir(&mounts).into_iter().flatten().flatten();
        found =
            directories.map(|entry| entry.path().join("fs")).find(|dir| dir.join(file).exists());
        found.is_some()
    });
    found.unwrap()
}

/// The command of a build: the child of its sandbox's init.
fn inside(running: &Running) -> u32 {
    let is_command = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t2"))
    };
    host::family(running.child.id()).into_iter().find(is_command).expect("a command runs")
}

/// The letter of a process's state.
fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

/// Whether the process's control group stands still.
fn is_frozen(pid: u32) -> bool {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    groups.lines().any(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(names), Some(path)) = (fields.next(), fields.next()) else { return false };
        let read = |mount: &str, file: &str| {
            fs::read_to_string(format!("/sys/fs/cgroup/{mount}{path}/{file}")).unwrap_or_default()
        };
        match names {
            "" => ["unified", ""].iter().any(|m| read(m, "cgroup.events").contains("frozen 1")),
            "freezer" => read("freezer", "freezer.state").starts_with("FROZEN"),
            _ => false,
        }
    })
}
