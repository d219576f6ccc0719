//! A real project, end to end: Debian, a compiler from its archive, a C program, a small image.

use crate::kit::{Archive, Counts, Kit, base, host};
use std::fs;

const MAKEFILE: &str = "CFLAGS = -O2 -static\nhello: main.o words.o\n\t$(CC) $(CFLAGS) -o $@ $^\n";
const MAIN: &str = "#include <stdio.h>\nconst char *word(void);\n\
                    int main(void) { printf(\"hello, %s\\n\", word()); return 0; }\n";
const WORDS: &str = "/* words */\nconst char *word(void) { return \"world\"; }\n";
const DOCKERFILE: &str = "\
FROM debian:bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev make
WORKDIR /project
COPY . .
RUN make
FROM fixture/base AS package
COPY --from=build /project/hello /package/bin/hello
RUN tar -czf /hello.tar.gz -C /package .
FROM fixture/base
COPY --from=package /package /
COPY --from=package /hello.tar.gz /
ENTRYPOINT [\"/bin/hello\"]
";

#[test]
fn privileged_c_project_with_a_compiler_from_debian() {
    if !host::has("mmdebstrap", "mmdebstrap") {
        return;
    }
    let kit = Kit::new();
    kit.builder(["import"]).arg(base::debian()).arg("debian:bookworm").ok();
    kit.file("Makefile", MAKEFILE).file("main.c", MAIN).file("words.c", WORDS);
    kit.file(".dockerignore", "Dockerfile\n").dockerfile(DOCKERFILE);
    let archive = kit.out("hello.tar");
    let output = format!("-otype=oci,dest={}", archive.display());

    kit.build().args(["-t", "hello", &output]).ok();
    let first = Archive::open(&archive);
    assert_eq!(kit.builder(["run", "hello"]).ok().stdout(), "hello, world\n");

    let again = kit.build().arg(&output).ok();
    assert_eq!(again.counts().ran, 0, "nothing runs twice");
    assert_eq!(Archive::open(&archive).digest, first.digest);

    kit.dockerfile(&format!("# a comment\n{DOCKERFILE}"));
    kit.build().arg(&output).ok();
    assert_eq!(Archive::open(&archive).digest, first.digest, "a comment changes nothing");

    let touched = fs::File::options().write(true).open(kit.path("words.c")).unwrap();
    touched.set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(kit.build().ok().counts().ran, 0, "nor does a time");

    kit.chmod("words.c", 0o755);
    let explained = kit.explain().ok().stdout();
    assert!(explained.contains("words.c") && explained.contains("0755"), "{explained}");
    let outcome = kit.build().ok();
    assert_eq!(&outcome.ran()[..2], ["COPY . .", "RUN make"], "only from that COPY on");

    kit.file("words.c", WORDS.replace("words */", "other words */")).chmod("words.c", 0o755);
    let outcome = kit.build().args(["-t", "hello"]).ok();
    assert_eq!(outcome.ran(), ["COPY . .", "RUN make"], "the same program, so what follows holds");
    assert_eq!(outcome.counts(), Counts { ran: 2, cached: 6 });
    let explained = kit.builder(["explain"]).ok().stdout();
    assert!(explained.contains("made the same files as before"), "{explained}");
    assert_eq!(kit.builder(["run", "hello"]).ok().stdout(), "hello, world\n");
}
