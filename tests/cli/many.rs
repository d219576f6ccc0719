//! Many builds in one store at the same moment.

use crate::kit::{Kit, State};
use std::collections::BTreeMap;
use std::process::Stdio;

/// How many builds.
const BUILDS: usize = 8;

#[test]
fn privileged_eight_builds_at_once_run_each_step_once_over_all() {
    let kit = Kit::new();
    kit.file("tree/f", "f");
    // Some steps all have, and some are one build's own.
    for number in 0..BUILDS {
        kit.file(
            &format!("Dockerfile.{number}"),
            format!(
                "FROM fixture/base AS shared\nCOPY tree /tree\nRUN for i in $(seq 3000); do :; done; date +%N > /shared\n\
                 RUN cat /shared > /again\nFROM shared\nCOPY --from=shared /again /copied\nRUN echo {number} > /own\n"
            ),
        );
    }
    let children: Vec<_> = (0..BUILDS)
        .map(|number| {
            let run = kit.build().arg("-f").arg(kit.path(&format!("Dockerfile.{number}")));
            let mut command = run.args(["-t", &format!("image:{number}")]).into_command();
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    // Collection beside them takes nothing of theirs.
    let pruned = kit.builder(["prune", "--all"]).ok();
    let mut ran: BTreeMap<String, usize> = BTreeMap::new();
    let mut waited = 0;
    for child in children {
        let outcome = crate::kit::Outcome::of(child.wait_with_output().unwrap());
        assert_eq!(outcome.status, Some(0), "{}{}", outcome.text(), outcome.log());
        for step in outcome.steps() {
            assert!(matches!(step.state, State::Ran | State::Cached), "{step:?}");
            if step.state == State::Ran {
                *ran.entry(step.instruction().to_owned()).or_default() += 1;
            }
        }
        waited += outcome.log().matches("waiting for build ").count();
    }
    // Whatever was collected before anybody used it may be made again; nothing else is.
    let collected = pruned.stdout().contains("layer");
    for (step, times) in &ran {
        assert!(*times == 1 || collected, "{step} ran {times} times over all");
    }
    assert!(ran.len() >= 3 + BUILDS, "{ran:?}");
    println!("waited {waited} times for another build");
    kit.builder(["store", "verify"]).ok();
    for number in 0..BUILDS {
        let image = format!("image:{number}");
        let told = kit.builder(["run", &image, "cat", "/own", "/shared", "/again"]).ok().stdout();
        let lines: Vec<_> = told.lines().collect();
        assert_eq!((lines[0], lines[1]), (number.to_string().as_str(), lines[2]));
    }
}
