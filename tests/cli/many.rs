//! Many builds in one store at the same moment.

use crate::kit::wait::eventually;
use crate::kit::{Kit, State};
use std::collections::BTreeMap;
use std::process::Stdio;

/// How many builds.
const BUILDS: usize = 8;

#[test]
fn privileged_eight_builds_at_once_run_each_step_once_over_all() {
    let kit = Kit::new();
    let ran = build_at_once(&kit, || ());
    for (step, times) in &ran {
        assert_eq!(*times, 1, "{step}");
    }
    assert_eq!(ran.len(), 4 + BUILDS, "{ran:?}");
}

/// `prune --all` takes records too, so a step of one build may run in the next; no layer or image
/// that a build uses is taken.
#[test]
fn privileged_collection_beside_eight_builds_breaks_none_of_them() {
    let kit = Kit::new();
    build_at_once(&kit, || drop(kit.builder(["prune", "--all"]).ok()));
}

/// Builds images of some steps that all have and some that are one build's own; `beside` is called
/// again and again until the builds have ended. Returns how often each step ran.
fn build_at_once(kit: &Kit, mut beside: impl FnMut()) -> BTreeMap<String, usize> {
    kit.file("tree/f", "f");
    for number in 0..BUILDS {
        kit.file(
            &format!("Dockerfile.{number}"),
            format!(
                "FROM fixture/base AS shared\nCOPY tree /tree\nRUN for i in $(seq 3000); do :; done; date +%N > /shared\n\
                 RUN cat /shared > /again\nFROM shared\nCOPY --from=shared /again /copied\nRUN echo {number} > /own\n"
            ),
        );
    }
    let mut children: Vec<_> = (0..BUILDS)
        .map(|number| {
            let run = kit.build().arg("-f").arg(kit.path(&format!("Dockerfile.{number}")));
            let mut command = run.args(["-t", &format!("image:{number}")]).into_command();
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    eventually("all builds end", || {
        beside();
        children.iter_mut().all(|child| child.try_wait().unwrap().is_some())
    });
    let mut ran: BTreeMap<String, usize> = BTreeMap::new();
    for child in children {
        let outcome = crate::kit::Outcome::of(child.wait_with_output().unwrap());
        assert_eq!(outcome.status, Some(0), "{}{}", outcome.text(), outcome.log());
        for step in outcome.steps() {
            assert!(matches!(step.state, State::Ran | State::Cached), "{step:?}");
            if step.state == State::Ran {
                *ran.entry(step.instruction().to_owned()).or_default() += 1;
            }
        }
    }
    kit.builder(["store", "verify"]).ok();
    for number in 0..BUILDS {
        let image = format!("image:{number}");
        let told = kit.builder(["run", &image, "cat", "/own", "/shared", "/again"]).ok().stdout();
        let lines: Vec<_> = told.lines().collect();
        assert_eq!((lines[0], lines[1]), (number.to_string().as_str(), lines[2]));
    }
    ran
}
