//! The table: the sentences of a report, each with its two builds.

use super::{
    APT, COPY, MAKE, OLD, World, base, behind_copy, depends, files, variable, with_times,
    would_copy,
};
use crate::cache::Cost;
use crate::explain::report_tests::{chain, first, hit, made, output, ran};
use crate::history::{Basis, BuildId, Miss, Origin, Outcome, StepOutcome, StepRecord};
use crate::store::Key;

/// The sentences as the source has them, what a report shows then, the build in which that is true,
/// and the near one.
type Pair = (&'static [&'static str], &'static str, fn(&mut World), fn(&mut World));

pub(super) const PAIRS: &[Pair] = &[
    (
        &["--no-cache was given (or --no-cache-filter)"],
        "--no-cache was given (or --no-cache-filter)",
        |w| _ = w.miss(0, Miss::NoCache),
        |w| _ = w.miss(0, Miss::Key),
    ),
    (
        &["no build to compare with is in the history"],
        "no build to compare with is in the history",
        |w| {
            w.before.clear();
            w.miss(0, Miss::Key);
        },
        |w| _ = w.miss(0, Miss::Key),
    ),
    (
        &["no result of it on these files is in the cache"],
        "no result of it on these files is in the cache",
        |w| {
            w.before.clear();
            w.miss(3, Miss::Parent);
        },
        |w| {
            w.before.clear();
            w.miss(3, Miss::Key);
        },
    ),
    (
        &["what it copied changed while it was copied, so the result was not kept"],
        "what it copied changed while it was copied, so the result was not kept",
        |w| {
            w.earlier(1).is_unsound = true;
            w.miss(1, Miss::Key);
        },
        |w| _ = w.miss(1, Miss::Key),
    ),
    (
        &["a new step"],
        "a new step",
        |w| {
            w.earlier(0).instruction = "WORKDIR /".into();
            w.miss(0, Miss::Key);
        },
        |w| _ = w.miss(0, Miss::Key),
    ),
    (
        &["no earlier build was for this platform"],
        "no earlier build was for this platform",
        |w| {
            w.now.about.platform = "linux/amd64,linux/arm64".into();
            w.now.steps[1].targets = vec!["linux/arm64".into()];
            w.miss(1, Miss::Key);
        },
        // One platform instead of another is a difference of the inputs.
        |w| {
            w.now.about.platform = "linux/arm64".into();
            w.edited(1, COPY, &["files .=tree:1", "platform=linux/arm64"]);
        },
    ),
    (
        &["ran emulated, by {}"],
        "ran emulated, by /usr/bin/qemu-aarch64-static",
        |w| w.miss(1, Miss::Key).emulator = Some("/usr/bin/qemu-aarch64-static".into()),
        |w| _ = w.miss(1, Miss::Key),
    ),
    (
        &["no earlier build came this far"],
        "no earlier build came this far",
        |w| {
            w.earlier(3).key = None;
            w.miss(3, Miss::Key);
        },
        |w| _ = w.miss(3, Miss::Key),
    ),
    (
        &["it failed in build {build} (exit status {exit})"],
        "it failed in build 00000000001 (exit status 2)",
        |w| {
            w.earlier(3).outcome = StepOutcome::Failed { exit: Some(2), cost: Cost::default() };
            w.miss(3, Miss::Key);
        },
        |w| {
            w.earlier(3).outcome = StepOutcome::Failed { exit: Some(2), cost: Cost::default() };
            w.edited(3, "build: RUN strip /out", &["argv=other"]);
        },
    ),
    (
        &["it failed in build {build}"],
        "it failed in build 00000000001",
        |w| {
            w.earlier(3).outcome = StepOutcome::Failed { exit: None, cost: Cost::default() };
            w.miss(3, Miss::Key);
        },
        |w| _ = w.miss(3, Miss::Key),
    ),
    (
        &["its record", "{what} was removed after build {build} (prune, GC or repair)"],
        "its record was removed after build 00000000001 (prune, GC or repair)",
        |w| _ = w.miss(1, Miss::Key),
        |w| files(w, 1, 2),
    ),
    (
        &["the layer it made"],
        "the layer it made was removed after build 00000000001 (prune, GC or repair)",
        |w| _ = w.miss(1, Miss::Layer),
        |w| _ = w.miss(1, Miss::Key),
    ),
    (
        &["{what} was removed (prune, GC or repair)"],
        "the layer it made was removed (prune, GC or repair)",
        |w| w.edited(1, COPY, &["files .=tree:2"]).miss = Some(Miss::Layer),
        |w| _ = w.miss(1, Miss::Layer),
    ),
    (
        &["its record is damaged"],
        "its record is damaged",
        |w| _ = w.miss(1, Miss::Damaged),
        |w| _ = w.miss(1, Miss::Format),
    ),
    (
        &["recorded by another version of builder, with other keys"],
        "recorded by another version of builder, with other keys",
        |w| w.miss(1, Miss::Key).key = Some(Key::from_bytes([7; 32])),
        |w| _ = w.miss(1, Miss::Key),
    ),
    (
        &["{name} follows something else than before"],
        "[build 3/9] follows something else than before",
        |w| {
            w.now.steps[2].from = Origin::Step { number: 0 };
            w.on_others(2, 60);
            w.on_others(3, 61);
        },
        |w| {
            w.edited(1, COPY, &["files .=tree:2"]).output = Some(output(60));
            w.on_others(2, 60);
            w.on_others(3, 61);
        },
    ),
    (
        &["{name} made other files"],
        "[build 2/9] made other files",
        |w| {
            w.edited(1, COPY, &["files .=tree:2"]).output = Some(output(60));
            w.on_others(2, 60);
        },
        |w| {
            files(w, 1, 2);
            w.miss(2, Miss::Key);
        },
    ),
    (
        &["{name} made the same files with other times"],
        "[build 2/9] made the same files with other times",
        |w| {
            w.earlier(1).output = Some(with_times(output(3), 1));
            w.edited(1, COPY, &["files .=tree:2"]).output = Some(with_times(output(3), 2));
            w.on_others(2, 60);
        },
        |w| {
            w.earlier(1).output = Some(with_times(output(3), 1));
            w.edited(1, COPY, &["files .=tree:2"]).output = Some(with_times(output(60), 2));
            w.on_others(2, 60);
        },
    ),
    (
        &["{name} was found with other files", "found again, other than in build {with}:"],
        "found again, other than in build 00000000001: files .: 1 changed",
        |w| {
            let copy = made(1, COPY, &["files .=tree:2"], 2, hit(5));
            w.now.steps[1] = StepRecord { output: Some(output(60)), ..copy };
            w.on_others(2, 60);
        },
        |w| {
            w.edited(1, COPY, &["files .=tree:2"]).output = Some(output(60));
            w.on_others(2, 60);
        },
    ),
    (
        &["{name} was found with other times of files"],
        "[build 2/9] was found with other times of files",
        |w| {
            w.now.steps[1].output = Some(with_times(output(3), 1));
            w.on_others(2, 60);
        },
        |w| {
            w.now.steps[1].output = Some(with_times(output(60), 1));
            w.on_others(2, 60);
        },
    ),
    (
        &[", broken by {}"],
        "[build 2/9] made other files, broken by [build 1/9]",
        |w| {
            w.edited(0, APT, &["argv=other"]).output = Some(output(50));
            w.on_others(1, 50);
            w.now.steps[1].output = Some(output(60));
            w.on_others(2, 60);
        },
        |w| {
            w.edited(1, COPY, &["files .=tree:2"]).output = Some(output(60));
            w.on_others(2, 60);
        },
    ),
    (
        &["hits only if {name} makes the same files as {builds}", "in build {}"],
        "hits only if [build 2/9] makes the same files as in build 00000000001",
        |w| {
            would_copy(w);
            w.would(2, depends(1, &[1]));
        },
        |w| {
            would_copy(w);
            w.would(2, StepOutcome::WouldRun);
        },
    ),
    (
        &["in build {}"],
        "as in build 00000000001 or 00000000000",
        |w| {
            would_copy(w);
            w.would(2, depends(1, &[1, 0]));
        },
        |w| {
            would_copy(w);
            w.would(2, depends(1, &[1]));
        },
    ),
    (
        &["hits only if what it reads of {name} is as {builds}"],
        "hits only if what it reads of [build 2/9] is as in build 00000000001",
        |w| {
            would_copy(w);
            w.would(3, depends(1, &[1]));
        },
        |w| {
            would_copy(w);
            w.would(2, depends(1, &[1]));
        },
    ),
    (
        &["it follows {} now, and followed {}"],
        "it follows [build 1/9] now, and followed [build 2/9]",
        |w| {
            w.now.steps[2].from = Origin::Step { number: 0 };
            w.on_others(2, 60);
        },
        |w| _ = w.miss(2, Miss::Key),
    ),
    (
        &["the order of {}"],
        "the order of env B, env A",
        |w| variable(w, &["env A=1", "env B=1"], &["env B=1", "env A=1"]),
        |w| variable(w, &["env A=1", "env B=1"], &["env A=2", "env B=1"]),
    ),
    (
        &["files {}{by}", " (from {})"],
        "files . (from [build 1/9]): 1 changed",
        |w| {
            files(w, 1, 2);
            w.now.steps[1].reads = vec![Origin::Step { number: 0 }];
        },
        |w| files(w, 1, 2),
    ),
    (
        &["mount {}"],
        "mount /m: 1 changed",
        |w| w.inputs(2, MAKE, &["files of mount /m=tree:1"], &["files of mount /m=tree:2"]),
        |w| w.inputs(2, MAKE, &["files of mount /m=tree:1"], &["files of mount /n=tree:2"]),
    ),
    (
        &["base image {}"],
        "base image debian:12: sha256:",
        |w| base(w, OLD, ("debian:12", Some(b"new"))),
        |w| base(w, OLD, ("debian:13", Some(b"new"))),
    ),
    (
        &["another digest"],
        "→ another digest",
        |w| base(w, OLD, ("debian:12", None)),
        |w| base(w, OLD, ("debian:12", Some(b"new"))),
    ),
    (
        &["base image"],
        "base image: debian:12 → debian:13",
        |w| base(w, OLD, ("debian:13", Some(b"new"))),
        |w| base(w, OLD, ("debian:12", Some(b"new"))),
    ),
    (
        &["base image {}: other files"],
        "base image debian:12: other files",
        |w| base(w, OLD, OLD),
        |w| base(w, OLD, ("debian:12", Some(b"new"))),
    ),
    (
        &["base image {}: recorded on another one only"],
        "base image debian:bookworm: recorded on another one only",
        |w| {
            w.before.clear();
            w.on_others(0, 50);
        },
        |w| w.on_others(0, 50),
    ),
    (
        &["{name}: new (hidden)"],
        "ARG A_TOKEN: new (hidden)",
        |w| variable(w, &[], &["arg A_TOKEN=1"]),
        |w| variable(w, &["arg A_TOKEN=2"], &["arg A_TOKEN=1"]),
    ),
    (
        &["{name}: gone (hidden)"],
        "ENV A_TOKEN: gone (hidden)",
        |w| variable(w, &["env A_TOKEN=1"], &[]),
        |w| variable(w, &["env A_TOKEN=2"], &["env A_TOKEN=1"]),
    ),
    (
        &["{name}: another value (hidden)"],
        "ARG A_TOKEN: another value (hidden)",
        |w| variable(w, &["arg A_TOKEN=2"], &["arg A_TOKEN=1"]),
        |w| variable(w, &[], &["arg A_TOKEN=1"]),
    ),
    (
        &["{name}: changed; one of the two listings is not kept"],
        "files .: changed; one of the two listings is not kept",
        |w| files(w, 99, 2),
        |w| files(w, 1, 2),
    ),
    (
        &["capabilities, links or names that listings do not show"],
        "files .: capabilities, links or names that listings do not show",
        |w| files(w, 1, 6),
        |w| files(w, 1, 2),
    ),
    (
        &[" with all its {count} entries"],
        "with all its 26 entries",
        |w| files(w, 1, 11),
        |w| files(w, 1, 7),
    ),
    (&["… and {more} more"], "… and 5 more", |w| files(w, 1, 7), |w| files(w, 1, 2)),
    (
        &["only write permission of group and others differs, as under another umask"],
        "only write permission of group and others differs, as under another umask",
        |w| files(w, 1, 3),
        |w| files(w, 1, 2),
    ),
    (
        &["content ({} → {} bytes)"],
        "src/a.c: content (1 → 3 bytes)",
        |w| files(w, 1, 5),
        |w| files(w, 1, 2),
    ),
    (
        &[" (another directory; the same name, target and stages)"],
        "00000000001 (another directory; the same name, target and stages)",
        |w| w.basis = Some(Basis::Name),
        |w| w.basis = Some(Basis::Place),
    ),
    (
        &[" (another directory or target; the nearest with the same steps)"],
        "00000000001 (another directory or target; the nearest with the same steps)",
        |w| w.basis = Some(Basis::Steps),
        |w| w.basis = Some(Basis::Name),
    ),
    (
        &["made the same files as before", ": what follows is undisturbed"],
        "made the same files as before: what follows is undisturbed",
        |w| files(w, 1, 2),
        |w| {
            files(w, 1, 2);
            w.now.steps[0].output = Some(output(50));
            w.now.steps[1].parent = Some(chain(50));
        },
    ),
    (
        &[", on top of other files of {}"],
        "made the same files as before, on top of other files of [build 1/9]",
        |w| {
            w.edited(0, APT, &["argv=other"]).output = Some(output(50));
            w.on_others(1, 50);
        },
        |w| _ = w.miss(1, Miss::Key),
    ),
    (
        &[", on top of files with other times of {}"],
        "made the same files as before, on top of files with other times of [build 1/9]",
        |w| {
            w.edited(0, APT, &["argv=other"]).output = Some(with_times(output(2), 1));
            w.on_others(1, 50);
        },
        |w| {
            w.edited(0, APT, &["argv=other"]).output = Some(output(50));
            w.on_others(1, 50);
        },
    ),
    (
        &[", on another base image"],
        "made the same files as before, on another base image",
        |w| base(w, OLD, ("debian:12", Some(b"new"))),
        |w| _ = w.miss(0, Miss::Key),
    ),
    (
        &[", on top of others"],
        "made the same files as before, on top of others",
        |w| {
            w.now.steps[2].from = Origin::Step { number: 0 };
            w.on_others(2, 60);
        },
        |w| _ = w.miss(2, Miss::Key),
    ),
    (
        &[", with other times"],
        "made the same files as before, with other times",
        |w| {
            w.earlier(1).output = Some(with_times(output(3), 1));
            w.edited(1, COPY, &["files .=tree:2"]).output = Some(with_times(output(3), 2));
        },
        |w| files(w, 1, 2),
    ),
    (
        &["A build now: ", "nothing was run or written"],
        "A build now: nothing was run or written",
        |w| w.now.outcome = Outcome::Predicted,
        |_| (),
    ),
    (&["still running"], "still running", |w| w.now.outcome = Outcome::Running, |_| ()),
    (
        &["failed: {}"],
        "build 00000000002: failed: no such file",
        |w| w.now.outcome = Outcome::Failed { message: "no such file".into() },
        |w| w.now.outcome = Outcome::Cancelled,
    ),
    (
        &["killed before its end"],
        "killed before its end",
        |w| w.now.outcome = Outcome::Interrupted,
        |w| w.now.outcome = Outcome::Cancelled,
    ),
    (
        &["{}, {}, target {}, {}"],
        "/src/app, Dockerfile, target build, linux/amd64",
        |_| (),
        |w| w.now.about.target = "final".into(),
    ),
    (
        &["compared with build {earlier}{}"],
        "compared with build 00000000001",
        |_| (),
        |w| w.before.clear(),
    ),
    (&["line {}"], "COPY . /src line 3", |w| _ = w.miss(1, Miss::Key), |_| ()),
    (&["first broken step:"], "first broken step:", |w| _ = w.miss(1, Miss::Key), |_| ()),
    (
        &["compared with build {with}:"],
        "compared with build 00000000001:",
        |w| {
            let mut near = first();
            near.id = BuildId::at(1_000);
            near.steps[3].key = None;
            near.steps[3].outcome = StepOutcome::NotReached;
            near.steps[2].inputs = w.now.steps[2].inputs.clone();
            w.before[0].steps[0] = made(0, APT, &["argv=then"], 1, ran(5));
            w.before.insert(0, near);
            w.edited(3, "build: RUN strip /out", &["argv=other"]);
        },
        |w| _ = w.edited(3, "build: RUN strip /out", &["argv=other"]),
    ),
    (
        &["exit status {exit}", ", {} failed"],
        "1 of 4 steps ran, 1 failed",
        |w| {
            w.edited(3, "build: RUN strip /out", &["argv=other"]).outcome =
                StepOutcome::Failed { exit: Some(3), cost: Cost::default() };
        },
        |w| _ = w.edited(3, "build: RUN strip /out", &["argv=other"]),
    ),
    (
        &["all {count} {steps} cached"],
        "all 4 steps cached",
        |_| (),
        |w| w.now.steps[3].outcome = StepOutcome::NotReached,
    ),
    (
        &["{} of {count} {steps} cached"],
        "3 of 4 steps cached",
        |w| w.now.steps[3].outcome = StepOutcome::NotReached,
        |_| (),
    ),
    (&["{misses} of {count} {steps} would run"], "1 of 4 steps would run", would_copy, |w| {
        _ = w.miss(1, Miss::Key);
    }),
    (
        &["{misses} of {count} {steps} would run, {unknown} more may", ": {} to {}"],
        "1 of 4 steps would run, 1 more may: 0 ms to 3.0 s",
        |w| {
            would_copy(w);
            w.would(2, depends(1, &[1]));
        },
        |w| {
            would_copy(w);
            w.would(2, StepOutcome::WouldRun);
        },
    ),
    (
        &["{misses} of {count} {steps} ran"],
        "1 of 4 steps ran",
        |w| _ = w.miss(1, Miss::Key),
        would_copy,
    ),
    (
        &[", and {} not measured yet"],
        "would run: about 3.0 s, and 1 not measured yet",
        |w| {
            would_copy(w);
            w.would(2, StepOutcome::WouldRun);
            w.earlier(1).outcome = StepOutcome::NotReached;
        },
        |w| {
            would_copy(w);
            w.would(2, StepOutcome::WouldRun);
        },
    ),
    (
        &["; the cache {saves} {}"],
        "; the cache saved 27.0 s",
        |w| _ = w.miss(1, Miss::Key),
        |w| w.now.steps.iter_mut().for_each(|step| step.outcome = hit(0)),
    ),
    (
        &[
            "build with --normalize-modes, so that a checkout under another umask is the same context",
            "only the write permission of group and others differs, of {}",
            ", saves {}",
            "1 file",
        ],
        "hint: build with --normalize-modes, so that a checkout under another umask is the same \
         context (only the write permission of group and others differs, of 1 file, saves 5.0 s)",
        |w| files(w, 1, 3),
        |w| {
            files(w, 1, 3);
            w.now.steps[1].outcome = ran(0);
        },
    ),
    (
        &[
            "add to .dockerignore: {}",
            "nothing else changed in what the step copies ({}){support}",
            ", and the step behind it made the same files",
        ],
        "hint: add to .dockerignore: .git (nothing else changed in what the step copies (1 file), \
         and the step behind it made the same files, saves 10.0 s)",
        |w| behind_copy(w, 4, MAKE, 4),
        |w| behind_copy(w, 4, MAKE, 71),
    ),
    (
        &[", and {count} steps behind it made the same files"],
        "(1 file), and 2 steps behind it made the same files",
        |w| {
            behind_copy(w, 4, MAKE, 4);
            w.on_others(3, 78);
        },
        |w| {
            behind_copy(w, 4, MAKE, 4);
            w.on_others(3, 78);
            w.now.steps[3].output = Some(output(90));
        },
    ),
    (
        &[
            "copy only what line {} needs before it, and move the COPY of line {} below it",
            "line {} ({took}) installs packages by name",
        ],
        "hint: copy only what line 4 needs before it, and move the COPY of line 3 below it (line 4 \
         (5.0 s) installs packages by name, saves 5.0 s)",
        |w| behind_copy(w, 5, "build: RUN apt-get install -y git", 71),
        |w| behind_copy(w, 5, "build: RUN apt-get install -y git && make", 71),
    ),
    (
        &["line {line} ({took}) made the same files from {count} different sources"],
        "(line 4 (5.0 s) made the same files from 3 different sources, saves 5.0 s)",
        |w| {
            behind_copy(w, 5, MAKE, 4);
            let mut older = first();
            older.id = BuildId::at(0);
            older.steps[2] = made(2, MAKE, &["argv=x"], 79, ran(5));
            older.steps[2].output = Some(output(4));
            w.before.push(older);
        },
        |w| behind_copy(w, 5, MAKE, 4),
    ),
    (
        &["line {} runs `{command}` ({took}), and {unchanged} did not change"],
        "(line 4 runs `npm ci` (5.0 s), and package.json did not change, saves 5.0 s)",
        |w| behind_copy(w, 5, "build: RUN npm ci", 71),
        |w| behind_copy(w, 8, "build: RUN npm ci", 71),
    ),
    (
        &[
            "keep what `{}` downloads: RUN --mount=type=cache,target={directory} on line {}",
            "it ran in {runs} of the last {builds} builds, {}",
        ],
        "hint: keep what `npm ci` downloads: RUN --mount=type=cache,target=/root/.npm on line 4 (it \
         ran in 2 of the last 2 builds, 10.0 s)",
        |w| behind_copy(w, 5, "build: RUN npm ci", 71),
        |w| behind_copy(w, 5, "build: RUN --mount=type=cache,target=/root/.npm npm ci", 71),
    ),
    (
        &[
            "declare ARG {name} below line {}, with what uses it",
            "{name} changed, and {} it broke {} not mention it and made the same files",
            "the step",
        ],
        "hint: declare ARG V below line 2, with what uses it (V changed, and the step it broke does \
         not mention it and made the same files, saves 5.0 s)",
        |w| variable(w, &["arg V=1"], &["arg V=2"]),
        |w| {
            variable(w, &["arg V=1"], &["arg V=2"]);
            w.now.steps[0].output = Some(output(50));
        },
    ),
    (
        &["{} steps"],
        "(V changed, and 2 steps it broke do not mention it and made the same files",
        |w| {
            variable(w, &["arg V=1"], &["arg V=2"]);
            w.inputs(2, MAKE, &["argv=m", "arg V=1"], &["argv=m", "arg V=2"]);
        },
        |w| variable(w, &["arg V=1"], &["arg V=2"]),
    ),
    (&["{count} files"], "of 2 files, saves 5.0 s)", |w| files(w, 1, 9), |w| files(w, 1, 3)),
];
