//! Links that are swapped for directories while the builder mounts, copies and makes directories through them.

use super::kit::swapping::Swapping;
use super::kit::{self, Kit};
use std::fs;
use std::path::PathBuf;

/// A directory of the machine that nothing may touch.
fn outside(kit: &Kit) -> PathBuf {
    let outside = kit.beside("outside");
    kit::make_dir(&outside);
    outside
}

#[test]
fn privileged_links_of_a_stage_lead_nowhere_outside() {
    let kit = Kit::new();
    let outside = kit.beside("outside");
    kit::make_dir(&outside);
    kit.dockerfile(&format!(
        "FROM fixture/base AS swap\n\
         RUN mkdir /real && touch /real/f && (for i in $(seq 300); do rm -rf /way; ln -s {0} /way; \
             rm -f /way; mkdir /way; done; rm -rf /way; ln -s /../../../../../..{0} /way)\n\
         FROM fixture/base\n\
         COPY --from=swap /way /way\n\
         COPY --from=swap /real/f /way/f\n\
         RUN --mount=type=bind,from=swap,source=/,target=/m ls /m/way/ && exit 1 || true\n",
        outside.display()
    ));
    kit.build().run();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

/// Other steps of hostile builds write into a shared cache mount; here the test does it for them.
#[test]
fn privileged_mounts_below_a_directory_that_others_change_stay_inside() {
    let kit = Kit::new();
    let outside = outside(&kit);
    let mounts = "--mount=type=cache,id=shared,target=/c --mount=type=tmpfs,target=/c/way/made/tmp \
                  --mount=type=bind,source=f,target=/c/way/file --mount=type=cache,id=own,target=/c/way/cache";
    kit.file("f", "from the context");
    kit.dockerfile("FROM fixture/base\nRUN --mount=type=cache,id=shared,target=/c touch /c/here\n")
        .build()
        .ok();
    let shared = fs::read_dir(kit.store().join("mounts")).unwrap().flatten();
    let shared = shared.map(|entry| entry.path().join("fs")).find(|dir| dir.join("here").exists());
    let steps = (0..8).map(|n| format!("RUN {mounts} echo {n}\n")).collect::<Vec<_>>().concat();
    kit.dockerfile(&format!("FROM fixture/base\n{steps}"));
    Swapping::during(&shared.unwrap(), &outside, || {
        for _ in 0..20 {
            // A step may fail when its path is gone at that moment; it may not go elsewhere.
            kit.build().args(["--no-cache", "--keep-cache-mounts"]).run();
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "nothing is made outside");
        }
    });
}

#[test]
fn privileged_a_context_that_changes_while_it_is_copied_shows_nothing_of_outside() {
    let kit = Kit::new();
    let outside = outside(&kit);
    fs::write(outside.join("f"), "hush").unwrap();
    kit.file("way/f", "open").dockerfile(
        "FROM fixture/base\nCOPY . /all\nRUN ! grep -rs hus[h] /all | grep .\nCOPY way/* /some/\nRUN ! grep -rs hus[h] /some | grep .\n\
         COPY way/f /one\nRUN ! grep -s hus[h] /one | grep .\n",
    );
    Swapping::during(&kit.path(""), &outside, || {
        for _ in 0..20 {
            let outcome = kit.build().arg("--no-cache").run();
            assert_ne!(
                outcome.status,
                Some(4),
                "a step saw it: {}\n{}",
                outcome.text(),
                outcome.log()
            );
        }
    });
}
