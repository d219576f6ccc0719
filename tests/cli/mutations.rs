//! Ten contexts, ten mutations each: the steps that run are exactly those that must, no more.

use crate::kit::{Kit, Step};
use std::fs;
use std::os::unix::fs::{chown, symlink};

/// What a mutation does to a context that has `src/a`, `src/sub/b`, `src/l` (a link to `a`) and `doc`.
type Mutation = (&'static str, fn(&Kit));

const MUTATIONS: [Mutation; 10] = [
    ("content", |kit| _ = kit.file("src/a", "A")),
    ("mode", |kit| _ = kit.chmod("src/a", 0o755)),
    ("rename", |kit| fs::rename(kit.path("src/a"), kit.path("src/z")).unwrap()),
    ("delete", |kit| fs::remove_file(kit.path("src/sub/b")).unwrap()),
    ("add", |kit| _ = kit.file("src/new", "n")),
    ("link target", |kit| {
        fs::remove_file(kit.path("src/l")).unwrap();
        symlink("sub/b", kit.path("src/l")).unwrap();
    }),
    ("touch", |kit| {
        let file = fs::File::options().write(true).open(kit.path("src/a")).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
    }),
    ("chown", |kit| chown(kit.path("src/a"), Some(7), Some(8)).unwrap()),
    ("ignore file", |kit| _ = kit.file(".dockerignore", "# nothing that is here\n*.none\n")),
    ("comment", |kit| {
        let text = fs::read_to_string(kit.path("Dockerfile")).unwrap();
        kit.dockerfile(&format!("# why\n{text}\n# the end\n"));
    }),
];

/// A Dockerfile, and for each mutation the steps that must run, by the first letters of the alphabet in
/// the order of the Dockerfile; `-` for none.
struct Context {
    name: &'static str,
    text: &'static str,
    ran: [&'static str; 10],
}

const CONTEXTS: [Context; 10] = [
    Context {
        name: "one COPY of a directory, and a RUN on it",
        text: "COPY src /src\nRUN true",
        ran: ["ab", "ab", "ab", "ab", "ab", "ab", "-", "-", "-", "-"],
    },
    Context {
        name: "one file",
        text: "COPY src/a /a\nRUN true",
        // Renamed, it is not there: that build fails.
        ran: ["ab", "ab", "!", "-", "-", "-", "-", "-", "-", "-"],
    },
    Context {
        name: "a file beside those that change",
        text: "COPY doc /doc\nRUN true",
        ran: ["-"; 10],
    },
    Context {
        name: "the RUN first",
        text: "RUN true\nCOPY src /src",
        ran: ["b", "b", "b", "b", "b", "b", "-", "-", "-", "-"],
    },
    Context {
        name: "a subdirectory",
        text: "COPY src/sub /sub\nRUN true",
        ran: ["-", "-", "-", "ab", "-", "-", "-", "-", "-", "-"],
    },
    Context {
        name: "a wildcard",
        text: "COPY src/[ab] /some/\nRUN true",
        ran: ["ab", "ab", "ab", "-", "-", "-", "-", "-", "-", "-"],
    },
    Context {
        name: "modes that the instruction sets",
        text: "COPY --chmod=644 src/sub /sub\nCOPY --chown=1:1 src/sub /own",
        ran: ["-", "-", "-", "ab", "-", "-", "-", "-", "-", "-"],
    },
    Context {
        name: "a stage of which one file is taken",
        text: "COPY src /src\nRUN cat /src/sub/b > /out 2>/dev/null || true\nFROM fixture/base\nCOPY --from=0 /out /out\nRUN true",
        // The file is what it was unless its source is deleted: the second stage is undisturbed.
        ran: ["ab", "ab", "ab", "abcd", "ab", "ab", "-", "-", "-", "-"],
    },
    Context {
        name: "a mount instead of a copy",
        text: "RUN --mount=target=/m,source=src ls /m\nRUN true",
        // It leaves nothing behind, so what follows is undisturbed.
        ran: ["a", "a", "a", "a", "a", "a", "-", "-", "-", "-"],
    },
    Context {
        name: "everything, the ignore file and the Dockerfile too",
        text: "COPY . /all\nRUN true",
        ran: ["ab", "ab", "ab", "ab", "ab", "ab", "-", "-", "ab", "ab"],
    },
];

fn kit(text: &str) -> Kit {
    let kit = Kit::new();
    kit.file("src/a", "a").file("src/sub/b", "b").symlink("a", "src/l").file("doc", "d");
    kit.file(".dockerignore", "*.none\n").dockerfile(&format!("FROM fixture/base\n{text}\n"));
    kit
}

#[test]
fn exactly_the_steps_run_that_must() {
    for context in &CONTEXTS {
        for ((mutation, mutate), expected) in MUTATIONS.iter().zip(context.ran) {
            let kit = kit(context.text);
            let first = kit.build().ok();
            mutate(&kit);
            if expected == "!" {
                kit.build().fails(3).says(&["src/a"]);
                continue;
            }
            let second = kit.build().ok();
            let steps: Vec<&str> = first.steps().iter().map(Step::instruction).collect();
            let letters: String = ('a'..)
                .zip(&steps)
                .filter(|(_, step)| second.ran().contains(step))
                .map(|(letter, _)| letter)
                .collect();
            let ran = if letters.is_empty() { "-" } else { &letters };
            let case = format!("{mutation} in {}", context.name);
            assert_eq!(ran, expected, "{case}: {steps:?}, ran {:?}", second.ran());
            assert_eq!(kit.build().ok().counts().ran, 0, "{case}: all is cached afterwards");
        }
    }
}

/// A project whose compiler leaves comments out, as all do, and stamps nothing into what it makes.
#[test]
fn edited_comment_compiles_again_and_packages_nothing() {
    let kit = Kit::new();
    kit.file("src/main.c", "int main() { return 0; } // one\n")
        .file("src/util.c", "int x; // two\n");
    kit.file("Makefile", "all");
    kit.dockerfile(
        "FROM fixture/base AS build\nCOPY Makefile /src/\nCOPY src /src\n\
         RUN mkdir /out; for f in /src/*.c; do sed 's,//.*,,' $f > /out/$(basename $f .c).o; done; cat /out/*.o > /out/app\n\
         FROM fixture/base AS package\nCOPY --from=build /out/app /pkg/app\nRUN tar -cf /pkg.tar -C /pkg app\n\
         FROM fixture/base\nCOPY --from=package /pkg.tar /\nRUN tar -xf /pkg.tar -C /usr\n",
    );
    let first = kit.image();
    kit.file("src/util.c", "int x; // two, better\n");
    let second = kit.build().ok();
    let ran: Vec<_> = second.ran().iter().map(|step| &step[..8]).collect();
    assert_eq!(ran, ["COPY src", "RUN mkdi"], "the compile step, and nothing after it");
    assert_eq!(kit.image().digest, first.digest);
    kit.file("src/util.c", "int y;\n");
    assert_eq!(kit.build().ok().counts().ran, 6, "code that differs goes all the way");
}

#[test]
fn modes_of_another_umask_are_the_same_context_where_asked_for() {
    let kit = kit("COPY src /src\nRUN true");
    let build = |kit: &Kit| kit.build().arg("--normalize-modes");
    build(&kit).ok();
    kit.chmod("src/a", 0o664).chmod("src", 0o775).chmod("src/sub", 0o777);
    assert_eq!(build(&kit).ok().counts().ran, 0);
    let told = kit.explain().ok().stdout();
    assert!(told.contains("only write permission of group and others differs"), "{told}");
    assert!(!told.contains("hint: "), "it would save less than anybody notices: {told}");
    kit.chmod("src/a", 0o764);
    assert_eq!(build(&kit).ok().counts().ran, 2, "a bit that means something");
    let image = build(&kit).image();
    assert_eq!((image.entry("src/a").mode, image.entry("src/sub").mode), (0o744, 0o755));
}
