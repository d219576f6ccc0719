//! Links that change while they are gone through, on the rungs where no mount holds a place.

use crate::kit::pod::Pod;
use crate::kit::swapping::Swapping;
use crate::kit::{Kit, make_dir, users, write_file};
use std::fs;
use std::path::PathBuf;

/// A directory of the pod that the builder may read and write, and no step.
fn outside(kit: &Kit) -> PathBuf {
    let outside = kit.beside("outside");
    make_dir(&outside);
    write_file(&outside.join("f"), b"hush");
    if let Some(user) = kit.user() {
        std::os::unix::fs::chown(&outside, Some(user.uid), Some(user.gid)).unwrap();
    }
    outside
}

/// Links that a stage made are gone through by COPY and by a mount.
fn links_of_a_stage_lead_nowhere(kit: &Kit, pod: Pod) {
    let outside = outside(kit);
    kit.dockerfile(&format!(
        "FROM fixture/base AS swap\n\
         RUN mkdir /real && echo open > /real/f && ln -s /../../../../../..{0} /way\n\
         FROM fixture/base\nCOPY --from=swap /way /way\n\
         RUN --mount=type=bind,from=swap,source=/,target=/m ! cat /m/way/f && ! cat /way/f\n\
         COPY --from=swap /real/f /way/made\n",
        outside.display()
    ));
    let outcome = kit.build().in_pod(pod).run();
    assert_ne!(outcome.status, Some(4), "{}\n{}", outcome.text(), outcome.log());
    let made: Vec<_> = fs::read_dir(&outside).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(made, ["f"]);
}

/// Another process swaps a directory of the context for a link while it is copied.
fn links_of_a_context_show_nothing(kit: &Kit, pod: Pod) {
    let outside = outside(kit);
    kit.file("way/f", "open").dockerfile(
        "FROM fixture/base\nCOPY . /all\nRUN ! grep -rs hus[h] /all | grep .\n\
         COPY way/* /some/\nRUN ! grep -rs hus[h] /some | grep .\n\
         COPY way/f /one\nRUN ! grep -s hus[h] /one | grep .\n",
    );
    let (mut builds, mut looked) = (0, 0);
    Swapping::during(&kit.path(""), &outside, || {
        while builds < 6 || looked == 0 && builds < 60 {
            let outcome = kit.build().arg("--no-cache").in_pod(pod).run();
            let (text, log) = (outcome.text(), outcome.log());
            assert_ne!(outcome.status, Some(4), "a step saw it: {text}\n{log}");
            builds += 1;
            // A COPY may fail when its path is not there at that moment.
            looked += i32::from(!text.contains("COPY . /all"));
        }
    });
    assert!(looked > 0, "of {builds} builds none came to look");
}

#[test]
fn links_that_change_lead_out_of_no_root_directory() {
    if Pod::can_run() {
        links_of_a_stage_lead_nowhere(&Kit::new(), Pod::Docker);
        links_of_a_context_show_nothing(&Kit::new(), Pod::Docker);
    }
}

#[test]
fn links_that_change_lead_out_of_no_tree_whose_paths_are_resolved() {
    if Pod::can_run() {
        let kit = || Kit::of(users::without_ranges());
        links_of_a_stage_lead_nowhere(&kit(), Pod::Restricted);
        links_of_a_context_show_nothing(&kit(), Pod::Restricted);
    }
}
