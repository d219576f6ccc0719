//! Whole files, planned: which steps there are, what they read, the results of the configuration.

use super::*;
use crate::dockerfile;
use serde_json::{Value, json};

/// Knows `base` (with a trigger in `trigger`) and the context `files`.
#[derive(Default)]
struct Fixture {
    asked: Vec<String>,
}

impl Resolver for Fixture {
    fn resolve(
        &mut self,
        name: &str,
        _platform: &Platform,
    ) -> Result<Resolved, Box<dyn std::error::Error + Send + Sync>> {
        self.asked.push(name.to_owned());
        let config = |extra: Value| {
            let mut config = json!({"Env": ["PATH=/bin", "BASE=1"], "Cmd": ["sh"]});
            config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            Config::from_json(json!({"architecture": "amd64", "os": "linux", "config": config}))
        };
        let image = self.asked.len() - 1;
        let image = |config| Resolved::Image { image, name: name.to_owned(), config };
        match name {
            "files" => Ok(Resolved::Context(name.to_owned())),
            "trigger" => {
                Ok(image(config(json!({"OnBuild": ["COPY --from=other /o /o", "RUN t"]}))))
            }
            "missing" => Err("not here".into()),
            _ => Ok(image(config(json!({})))),
        }
    }
}

fn try_plan(
    text: &str,
    edit: impl FnOnce(&mut PlanRequest<'_>),
) -> Result<(Plan, Vec<String>), PlanError> {
    let file = dockerfile::parse(text.as_bytes()).unwrap();
    let mut request = PlanRequest {
        dockerfile: &file,
        build_args: BTreeMap::new(),
        target: None,
        platform: None,
        names_platforms: false,
        build_platform: Platform::new("linux", "amd64", ""),
        labels: BTreeMap::new(),
        named_contexts: BTreeSet::from(["files".to_owned()]),
        no_cache: NoCache::Never,
    };
    edit(&mut request);
    let mut fixture = Fixture::default();
    let plan = plan(&request, &mut fixture)?;
    Ok((plan, fixture.asked))
}

#[track_caller]
fn planned(text: &str) -> Plan {
    try_plan(text, |_| {}).unwrap_or_else(|e| panic!("{e}")).0
}

#[track_caller]
fn refused(text: &str) -> String {
    match try_plan(text, |_| {}) {
        Ok(_) => panic!("{text:?} was planned"),
        Err(PlanError::Dockerfile(errors)) => errors[0].message.clone(),
        Err(error) => error.to_string(),
    }
}

fn names(plan: &Plan) -> Vec<&str> {
    plan.steps.iter().map(|step| step.name.as_str()).collect()
}

fn history(plan: &Plan) -> Vec<String> {
    plan.targets[0].config.history().into_iter().map(|entry| entry.created_by).collect()
}

fn run(plan: &Plan, index: usize) -> &Run {
    match &plan.steps[index].op {
        Op::Run(run) => run,
        op => panic!("step {index} is {op:?}"),
    }
}

fn copy(plan: &Plan, index: usize) -> &Copy {
    match &plan.steps[index].op {
        Op::Copy(copy) => copy,
        op => panic!("step {index} is {op:?}"),
    }
}

#[test]
fn steps_are_numbered_as_buildkit_numbers_them() {
    let plan = planned("FROM base\nRUN a\nENV X=1\nWORKDIR /w\nCOPY x .\n");
    assert_eq!(names(&plan), ["[2/4] RUN a", "[3/4] WORKDIR /w", "[4/4] COPY x ."]);
    assert_eq!(plan.bases[0].step_name, "[1/4] FROM base");
    let plan = planned("FROM base AS b\nRUN a\nFROM scratch\nCOPY --from=b /x /y\n");
    assert_eq!(names(&plan), ["[b 2/2] RUN a", "[stage-1 1/1] COPY --from=b /x /y"]);
}

#[test]
fn only_what_the_target_needs_is_planned_or_asked_for() {
    let text = "FROM base AS a\nRUN a\nFROM missing AS b\nRUN b\nFROM base AS c\nRUN c\n";
    let (plan, asked) = try_plan(text, |r| r.target = Some("C".into())).unwrap();
    assert_eq!(names(&plan), ["[c 2/2] RUN c"]);
    assert_eq!(asked, ["base"]);
}

#[test]
fn variables_are_those_before_the_instruction() {
    let plan = planned("FROM base\nARG A=1\nENV B=$A C=${B:-none}\nRUN x\nENV A=2\nRUN y\n");
    let env = |index: usize| -> Vec<String> {
        run(&plan, index).env.iter().map(|(n, v)| format!("{n}={v}")).collect()
    };
    assert_eq!(env(0), ["PATH=/bin", "BASE=1", "A=1", "B=1", "C=none"]);
    assert_eq!(env(1), ["PATH=/bin", "BASE=1", "A=2", "B=1", "C=none"]);
    let kept: Vec<String> =
        plan.targets[0].config.env().iter().map(|(n, v)| format!("{n}={v}")).collect();
    assert_eq!(kept, ["PATH=/bin", "BASE=1", "B=1", "C=none", "A=2"]);
    assert_eq!(run(&plan, 0).args, ["A"]);
}

#[test]
fn global_arguments_are_seen_where_they_are_declared_again() {
    let text = "ARG V=1\nARG W=$V\nFROM base:$W AS a\nARG V\nRUN x\nFROM a\nRUN y\n";
    let (plan, asked) = try_plan(text, |_| {}).unwrap();
    assert_eq!(asked, ["base:1"]);
    assert!(run(&plan, 0).env.contains(&("V".into(), "1".into())));
    assert!(!run(&plan, 0).env.iter().any(|(name, _)| name == "W"));
    assert!(run(&plan, 1).env.contains(&("V".into(), "1".into())), "stages inherit arguments");
    let args = |r: &mut PlanRequest<'_>| r.build_args = BTreeMap::from([("V".into(), "2".into())]);
    assert_eq!(try_plan(text, args).unwrap().1, ["base:2"]);
}

#[test]
fn unused_build_arguments_are_named() {
    let given = |r: &mut PlanRequest<'_>| {
        for name in ["A", "B", "http_proxy", "BUILDKIT_X", "TARGETARCH"] {
            r.build_args.insert(name.into(), "1".into());
        }
    };
    let (plan, _) = try_plan("FROM base\nARG A\nRUN x\n", given).unwrap();
    assert_eq!(plan.unused_args, ["B"]);
    assert_eq!(run(&plan, 0).proxy.len(), 2);
}

#[test]
fn history_reads_as_buildkits() {
    let plan = planned(
        "FROM base\nARG A=1\nRUN echo $A\nENV X=y Z=\"a b\"\nCMD [\"a\",\"b c\"]\nEXPOSE 80\n\
         LABEL k=v\nUSER u\nWORKDIR /w\nCOPY --chown=1 a b c/\nVOLUME /v\nENTRYPOINT e\n\
         HEALTHCHECK --interval=5s CMD x\nSHELL [\"/bin/bash\",\"-c\"]\nRUN [\"x\"]\n",
    );
    assert_eq!(
        history(&plan),
        [
            "ARG A=1",
            "RUN |1 A=1 /bin/sh -c echo $A # buildkit",
            "ENV X=y Z=a b",
            "CMD [\"a\" \"b c\"]",
            "EXPOSE [80/tcp]",
            "LABEL k=v",
            "USER u",
            "WORKDIR /w",
            "COPY --chown=1 a b c/ # buildkit",
            "VOLUME [/v]",
            "ENTRYPOINT [\"/bin/sh\" \"-c\" \"e\"]",
            "HEALTHCHECK {Test:[CMD-SHELL x] Interval:5s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}",
            "SHELL [/bin/bash -c]",
            "RUN |1 A=1 x # buildkit",
        ]
    );
}

#[test]
fn an_entrypoint_clears_an_inherited_command_only() {
    assert_eq!(planned("FROM base\nENTRYPOINT e\n").targets[0].config.cmd(), None);
    let kept = planned("FROM base\nCMD c\nENTRYPOINT e\n").targets[0].config.cmd();
    assert_eq!(kept.unwrap().last().unwrap(), "c");
}

#[test]
fn triggers_run_first_and_reach_other_images() {
    let (plan, asked) = try_plan("FROM trigger\nRUN own\n", |_| {}).unwrap();
    assert_eq!(
        names(&plan),
        ["[2/4] ONBUILD COPY --from=other /o /o", "[3/4] ONBUILD RUN t", "[4/4] RUN own"]
    );
    assert_eq!(asked, ["trigger", "other"]);
    assert!(plan.targets[0].config.on_build().is_empty());
    let plan = planned("FROM base AS a\nONBUILD RUN late\nRUN now\nFROM a\nRUN own\n");
    assert_eq!(
        names(&plan),
        ["[a 2/2] RUN now", "[stage-1 1/2] ONBUILD RUN late", "[stage-1 2/2] RUN own"]
    );
}

#[test]
fn heredocs_are_texts_scripts_or_what_the_shell_makes_of_them() {
    let plan = planned(
        "FROM base\nRUN <<EOF\necho $a\nEOF\nRUN <<EOF\n#!/bin/x\ny\nEOF\nRUN cat <<A && <<B\n1\nA\n2\nB\n",
    );
    assert_eq!(run(&plan, 0).argv[2], "echo $a\n");
    assert_eq!(run(&plan, 1).argv[2], "/dev/pipes/EOF");
    let script = ("/dev/pipes/EOF".to_owned(), b"#!/bin/x\ny\n".to_vec());
    assert_eq!(run(&plan, 1).script, Some(script));
    assert_eq!(run(&plan, 2).argv[2], "cat <<A && <<B\n1\nA\n2\nB");
    let plan = planned("FROM base\nENV X=1\nCOPY <<A <<\"B\" /d/\n$X\nA\n$X\nB\n");
    let inline =
        |name: &str, data: &str| CopySource::Inline { name: name.into(), data: data.into() };
    assert_eq!(copy(&plan, 0).sources, [inline("A", "1\n"), inline("B", "$X\n")]);
}

#[test]
fn bytes_that_are_not_text_reach_files_but_no_command() {
    let file = |text: &[u8]| {
        let file = dockerfile::parse(text).unwrap();
        let request = PlanRequest {
            dockerfile: &file,
            build_args: BTreeMap::new(),
            target: None,
            platform: None,
            names_platforms: false,
            build_platform: Platform::new("linux", "amd64", ""),
            labels: BTreeMap::new(),
            named_contexts: BTreeSet::new(),
            no_cache: NoCache::Never,
        };
        plan(&request, &mut Fixture::default())
    };
    let planned = file(b"FROM base\nCOPY <<'A' <<B /d/\n\xFF\nA\n\xFF\nB\n").unwrap();
    let inline =
        |name: &str, data: &[u8]| CopySource::Inline { name: name.into(), data: data.into() };
    let want = [inline("A", b"\xFF\n"), inline("B", "\u{fffd}\n".as_bytes())];
    assert_eq!(copy(&planned, 0).sources, want);
    let planned = file(b"FROM base\nRUN <<A\n#!/x\n\xFF\nA\n").unwrap();
    assert_eq!(run(&planned, 0).script.as_ref().unwrap().1, b"#!/x\n\xFF\n");
    for text in [b"FROM base\nRUN \xFF\n" as &[u8], b"FROM base\nRUN <<A\n\xFF\nA\n"] {
        let Err(PlanError::Dockerfile(errors)) = file(text) else { panic!("no error") };
        let [error] = &errors[..] else { panic!("{errors:?}") };
        assert_eq!(error.message, "RUN holds bytes that are not UTF-8");
        assert_eq!(text[error.span.start], 0xFF);
    }
}

#[test]
fn failing_variable_is_pointed_at() {
    let source = "FROM base\nENV A=1 B=\"x ${A} ${C:?no}\" D=$A\n";
    let Err(PlanError::Dockerfile(errors)) = try_plan(source, |_| ()) else { panic!("no error") };
    assert_eq!(&source[errors[0].span.start..errors[0].span.end], "${C:?no}");
}

#[test]
fn mistakes_that_do_not_depend_on_each_other_come_together() {
    for (source, want) in [
        (
            "FROM base AS a\nSTOPSIGNAL NOPE\nEXPOSE x\nFROM base\nCOPY --from=a --chmod=9 a b\n",
            &["NOPE", "x", "COPY"] as &[&str],
        ),
        ("FROM base\nENV A=${B:?no}\nEXPOSE x\nLABEL a=$A\n", &["${B:?no}"]),
        ("FROM base\nVOLUME $A\nARG A=${B:?no}\nEXPOSE x\n", &["VOLUME", "${B:?no}"]),
    ] {
        let Err(PlanError::Dockerfile(errors)) = try_plan(source, |_| ()) else { panic!("none") };
        let got: Vec<&str> = errors.iter().map(|e| &source[e.span.start..e.span.end]).collect();
        assert_eq!(got, want);
    }
}

#[test]
fn sources_are_contexts_stages_images_or_elsewhere() {
    let plan = planned(
        "FROM base AS a\nRUN x\nFROM scratch\nCOPY a /\nCOPY --from=a a /\nCOPY --from=img a /\n\
         COPY --from=files a /\nADD https://h/f https://h/r.git /d/\n",
    );
    let trees: Vec<Tree> = (1..5).map(|index| copy(&plan, index).tree).collect();
    assert_eq!(trees[0], Tree::Context(ContextId(0)));
    assert_eq!(trees[1], Tree::Files(Files::Step(StepId(0))));
    assert!(matches!(trees[2], Tree::Files(Files::Base(_))));
    assert_eq!(trees[3], Tree::Context(ContextId(1)));
    assert_eq!(plan.contexts, [None, Some("files".to_owned())]);
    let elsewhere =
        [CopySource::Url("https://h/f".into()), CopySource::Git("https://h/r.git".into())];
    assert_eq!(copy(&plan, 5).sources, elsewhere);
}

#[test]
fn a_stage_from_a_directory_is_one_copy_of_it() {
    let plan = planned("FROM files\nRUN x\n");
    assert_eq!(copy(&plan, 0).tree, Tree::Context(ContextId(1)));
    assert_eq!(plan.steps[1].parent, Files::Step(StepId(0)));
}

#[test]
fn mounts_have_absolute_targets_and_defaults() {
    let plan = planned(
        "FROM base AS a\nFROM base\nWORKDIR /w\nRUN --mount=target=x,from=a,source=y \
         --mount=type=cache,target=/c --mount=type=secret,id=s --mount=type=tmpfs,target=/t x\n",
    );
    let mounts = &run(&plan, 1).mounts;
    let targets: Vec<&str> = mounts.iter().map(|mount| mount.target.as_str()).collect();
    assert_eq!(targets, ["/w/x", "/c", "/run/secrets/s", "/t"]);
    assert!(
        matches!(&mounts[0].kind, MountKind::Bind { source, is_read_only: true, .. } if source == "/y")
    );
    assert!(
        matches!(&mounts[1].kind, MountKind::Cache { id, start: CacheStart::Empty, .. } if id == "/c")
    );
    assert!(matches!(mounts[2].kind, MountKind::Secret { mode: 0o400, .. }));
}

#[test]
fn what_cannot_be_is_refused_with_its_reason() {
    for (text, want) in [
        ("FROM base AS a\nCOPY --from=a x /\n", "circular dependency"),
        ("FROM base AS a\nCOPY --from=1 x /\nFROM base\nFROM a\n", "it needs to be defined before"),
        ("FROM base\nCOPY --from=7 x /\n", "invalid stage index 7"),
        ("FROM base\nCOPY --from=$x x /\n", "variable expansion is not supported"),
        ("FROM ${none}\n", "should not be blank"),
        ("FROM Not:A:Name\n", "failed to parse stage name"),
        ("FROM base\nSTOPSIGNAL NOPE\n", "invalid signal"),
        ("FROM base\nEXPOSE 80/foo\n", "unknown protocol"),
        ("FROM base\nCOPY https://h/x /\n", "can't be a URL"),
        ("FROM base\nADD --checksum=sha256:00 x /\n", "checksum requires"),
        ("FROM base\nCOPY --chmod=99999 x /\n", "is not a mode"),
        ("FROM missing\nRUN x\n", "cannot use image"),
        ("FROM base\nRUN --mount=type=bind,target=/ x\n", "invalid mount target"),
    ] {
        let message = refused(text);
        assert!(message.contains(want), "{text:?}: {message}");
    }
    let missing = try_plan("FROM base AS a\n", |r| r.target = Some("0".into()));
    assert!(matches!(missing, Err(PlanError::NoSuchTarget { .. })));
}

#[test]
fn thousands_of_stages_are_planned_without_recursion() {
    let mut text = "FROM scratch AS s0\nCOPY a /\n".to_owned();
    for number in 1..3000 {
        text += &format!("FROM s{} AS s{number}\nCOPY a /\n", number - 1);
    }
    assert_eq!(planned(&text).steps.len(), 3000);
}

#[test]
fn plans_for_several_platforms_share_what_does_not_differ() {
    let text = "FROM --platform=$BUILDPLATFORM base AS build\nRUN once\nARG TARGETARCH\n\
        RUN --mount=from=files,target=/f for $TARGETARCH\n\
        FROM scratch\nCOPY --from=build /one /\nCOPY --from=files /two /\n";
    let for_platform = |name: &str| {
        let edit = |request: &mut PlanRequest<'_>| {
            request.platform = Some(name.parse().unwrap());
            request.names_platforms = true;
            request.build_args.insert("UNUSED".to_owned(), String::new());
        };
        try_plan(text, edit).unwrap().0
    };
    let all = ["linux/arm64", "linux/amd64", "linux/arm/v7"];
    let mut plans = all.map(for_platform).into_iter();
    let merged = plans.next().unwrap().merged(plans);
    let found = names(&merged);
    assert_eq!(
        found[..4],
        [
            "[linux/amd64 build 2/3] RUN once",
            "[linux/amd64->arm64 build 3/3] RUN --mount=from=files,target=/f for arm64",
            "[linux/arm64 stage-1 1/2] COPY --from=build /one /",
            "[linux/arm64 stage-1 2/2] COPY --from=files /two /",
        ]
    );
    assert_eq!(found[4], "[linux/amd64 build 3/3] RUN --mount=from=files,target=/f for amd64");
    assert_eq!(
        found[7],
        "[linux/amd64->arm/v7 build 3/3] RUN --mount=from=files,target=/f for arm"
    );
    assert_eq!(found.len(), 10);
    assert_eq!((merged.bases.len(), merged.contexts.len()), (1, 2));
    assert_eq!(merged.bases[0].step_name, "[linux/amd64 build 1/3] FROM base");
    assert_eq!(merged.unused_args, ["UNUSED"]);
    for (target, name) in merged.targets.iter().zip(all) {
        assert_eq!(target.platform.to_string(), name);
        let made: Vec<_> = merged.made(target.files).iter().map(|id| id.0).collect();
        assert_eq!(target.made_by.iter().flatten().map(|id| id.0).collect::<Vec<_>>(), made);
        let Op::Copy(copy) = &merged.steps[made[0]].op else { panic!("a COPY") };
        let Tree::Files(Files::Step(built)) = copy.tree else { panic!("of a stage") };
        let own = merged.steps[built.0].place();
        assert!(own.contains(name.trim_start_matches("linux/")), "{own} for {name}");
        assert_eq!(merged.steps[built.0].parent, Files::Step(StepId(0)));
    }
    // Each step comes after all that it reads.
    for (index, step) in merged.steps.iter().enumerate() {
        for tree in step.trees().into_iter().chain([Tree::Files(step.parent)]) {
            if let Tree::Files(Files::Step(id)) = tree {
                assert!(id.0 < index, "{}", step.name);
            }
        }
    }
}
