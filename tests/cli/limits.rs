//! Limits: they hold, and a step that dies of one says which.

use crate::kit::Kit;

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

#[test]
fn privileged_process_limit_stops_a_fork_bomb() {
    let kit = Kit::new();
    kit.dockerfile(
        "FROM fixture/base\nRUN for i in $(seq 200); do sleep 100 & done; jobs | wc -l\n",
    );
    let outcome = kit.build().args(["--pids-limit", "20"]).run();
    assert!(outcome.log().contains("can't fork"), "{}\n{}", outcome.text(), outcome.log());
}
