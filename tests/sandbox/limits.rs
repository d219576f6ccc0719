//! Control groups and resource limits.

use builder::sandbox::Ulimit;

use super::kit::Kit;

#[test]
fn privileged_memory_over_the_limit_is_killed_and_explained() {
    let Some(kit) = Kit::new() else { return };
    let mut spec = kit.spec("head -c 200m /dev/zero | tail -c 150m | wc -c");
    spec.argv = vec!["/bin/sh".into(), "-c".into(), "exec tail -c 190m /dev/zero".into()];
    spec.policy.limits.memory = Some(64 << 20);
    spec.policy.limits.memory_swap = Some(64 << 20);
    let outcome = match kit.try_run(&spec, Vec::new(), &mut |_, _| {}) {
        Ok(outcome) => outcome,
        Err(error) => {
            cannot_run_here!(optional: "{error}");
            return;
        }
    };
    assert_eq!(outcome.exit.status, 137, "{outcome:?}");
    let oom = outcome.exit.oom.expect("the kernel's counter tells");
    assert_eq!(oom.limit, Some(64 << 20));
    assert!(oom.peak > 48 << 20 && oom.peak <= 64 << 20, "{oom:?}");
    assert!(kit.sh("exit 137").exit.oom.is_none());
}

#[test]
fn privileged_limits_stand_in_the_kernel_s_files() {
    let Some(kit) = Kit::new() else { return };
    let mut spec = kit.spec("for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; wait");
    spec.policy.limits.pids = Some(5);
    match kit.try_run(&spec, Vec::new(), &mut |_, _| {}) {
        Ok(outcome) => {
            assert!(outcome.stderr.contains("Resource temporarily"), "{outcome:?}");
            assert!(outcome.exit.usage.max_pids.is_none_or(|pids| pids <= 5));
        }
        Err(error) => cannot_run_here!(optional: "{error}"),
    }

    let mut spec = kit.spec("nproc");
    spec.policy.limits.cpus = Some(0.5);
    spec.policy.limits.cpu_shares = Some(512);
    spec.policy.limits.cpuset_cpus = Some("0".into());
    match kit.try_run(&spec, Vec::new(), &mut |_, _| {}) {
        Ok(outcome) => assert_eq!(outcome.stdout, "1\n", "{outcome:?}"),
        Err(error) => cannot_run_here!(optional: "{error}"),
    }
}

#[test]
fn privileged_a_cpu_quota_slows_down() {
    let Some(kit) = Kit::new() else { return };
    let mut spec = kit.spec("i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done");
    spec.policy.limits.cpus = Some(0.1);
    match kit.try_run(&spec, Vec::new(), &mut |_, _| {}) {
        Ok(outcome) => {
            let usage = outcome.exit.usage;
            let cpu = usage.cpu_user_us + usage.cpu_system_us;
            assert!(cpu > 0 && usage.wall_us > cpu, "{usage:?}");
        }
        Err(error) => cannot_run_here!(optional: "{error}"),
    }
}

#[test]
fn privileged_usage_is_counted() {
    let Some(kit) = Kit::new() else { return };
    let usage = kit
        .sh("head -c 8m /dev/zero > /big; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")
        .exit
        .usage;
    assert!(usage.cpu_user_us > 0 && usage.wall_us >= usage.cpu_user_us / 4, "{usage:?}");
    assert!(usage.peak_memory.is_some_and(|peak| peak > 100_000), "{usage:?}");
}

#[test]
fn privileged_ulimits_hold_or_are_errors() {
    let Some(kit) = Kit::new() else { return };
    let mut spec = kit.spec("ulimit -n; ulimit -Hn");
    spec.policy.ulimits = vec![Ulimit { name: "nofile".into(), soft: Some(64), hard: Some(128) }];
    assert_eq!(kit.run(&spec).stdout, "64\n128\n");
    spec.policy.ulimits = vec![Ulimit { name: "nosuch".into(), soft: None, hard: None }];
    let error = kit.try_run(&spec, Vec::new(), &mut |_, _| {}).unwrap_err();
    assert_eq!(error.to_string(), "unknown ulimit nosuch");
}
