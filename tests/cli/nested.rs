//! A store inside a container, where the root is an overlay and takes no further one on top.

use crate::kit::{Archive, Counts, Kit, Run};

const DOCKERFILE: &str = "\
FROM fixture/base AS one
RUN mkdir -p /d/sub && echo 1 > /d/f && echo 2 > /d/sub/g && echo top > /top && ln /d/f /d/hard && touch /d/empty
FROM one
RUN rm /d/f /top && rm -r /d/sub && mkdir /d/sub && echo new > /d/sub/h
RUN test ! -e /d/f && test ! -e /top && test ! -e /d/sub/g && test -e /d/empty && touch /top && rm /d/empty
COPY --from=one /d/f /again
RUN --mount=type=bind,from=one,source=/d,target=/mnt,rw rm /mnt/f && test -e /d/hard && test -s /again
WORKDIR /work
COPY f .
";

#[test]
fn privileged_store_on_an_overlay_makes_the_same_image() {
    let kit = Kit::new();
    kit.file("f", "1").dockerfile(DOCKERFILE);
    let build = || kit.build().env("SOURCE_DATE_EPOCH", "1600000000");
    let digest = |name: &str, lay: fn(Run) -> Run| {
        let archive = kit.out(name);
        let output = format!("-otype=oci,dest={},rewrite-timestamp=true", archive.display());
        lay(build().arg(output)).ok();
        Archive::open(&archive).digest
    };
    assert_eq!(digest("nested.tar", Run::on_overlay), digest("plain.tar", |run| run));
    // What the first build left there is good for another.
    let again = build().on_overlay().ok();
    assert_eq!(again.counts(), Counts { ran: 0, cached: 7 });
    kit.dockerfile(&format!("{DOCKERFILE}RUN test ! -e /d/empty && test ! -e /d/f && ls /d/sub\n"));
    assert_eq!(build().on_overlay().ok().counts(), Counts { ran: 1, cached: 7 });
    build().on_overlay().args(["-t", "nested"]).ok();
    kit.builder(["run", "nested", "sh", "-c", "echo x > /x && cat /x /again"]).on_overlay().ok();
    kit.dockerfile("FROM nested\nRUN test -e /top && test ! -s /top\n");
    build().on_overlay().ok();
}
