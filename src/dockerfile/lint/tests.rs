//! The rules, each with files that it finds something in and files that it leaves alone.

use super::{Finding, Input, Options, check, violation};
use crate::dockerfile::ast::Dockerfile;
use crate::dockerfile::ignore::Matcher;
use crate::dockerfile::parse;
use crate::oci::{Config, Platform};
use crate::plan::{NoCache, PlanRequest, Resolved, Resolver, Scope, Survey, platform_args};
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;

/// Images: `base` sets HOME, `shelly` a shell, `elsewhere` is for another platform, `onbuild` has a
/// trigger; `unknown` is not here.
struct Images;

impl Resolver for Images {
    fn resolve(
        &mut self,
        name: &str,
        platform: &Platform,
    ) -> Result<Resolved, Box<dyn Error + Send + Sync>> {
        let bare = name.split([':', '@']).next().unwrap_or_default();
        let mut config = Config::empty(platform);
        config.set_env("HOME", "/root");
        config.set_diff_ids(&[crate::oci::Digest::of(b"layer")]);
        match bare {
            "unknown" => return Ok(Resolved::Unknown),
            "shelly" => config.set_shell(&["/bin/bash".to_owned(), "-c".to_owned()]),
            "elsewhere" => config.set_platform(&"linux/s390x".parse()?),
            "onbuild" => config.set_on_build(&["COPY $NOWHERE /".to_owned()]),
            _ => {}
        }
        Ok(Resolved::Image { image: 0, name: name.to_owned(), config })
    }
}

/// What surrounds a file.
#[derive(Default)]
struct World<'a> {
    args: &'a [(&'a str, &'a str)],
    target: Option<&'a str>,
    ignore: Option<&'a str>,
    files: &'a [&'a str],
    wants_advice: bool,
    all: bool,
}

impl World<'_> {
    fn findings(&self, text: &str) -> (Options, Vec<Finding>) {
        let file: Dockerfile = parse(text.as_bytes()).unwrap();
        let build_args: BTreeMap<String, String> =
            self.args.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let request = PlanRequest {
            dockerfile: &file,
            build_args: build_args.clone(),
            target: self.target.map(str::to_owned),
            platform: None,
            names_platforms: false,
            build_platform: "linux/amd64".parse().unwrap(),
            labels: BTreeMap::new(),
            named_contexts: BTreeSet::new(),
            no_cache: NoCache::Never,
        };
        let scope = if self.all { Scope::All } else { Scope::Target };
        let survey = Survey::new(&request, scope, &mut Images).ok();
        let options = Options::of(&file, &build_args).unwrap();
        let secret_files: Vec<String> = self.files.iter().map(|f| (*f).to_owned()).collect();
        let ignore = self.ignore.map(|text| Matcher::parse(text.as_bytes()).unwrap());
        let input = Input {
            file: &file,
            options: &options,
            build_args: &build_args,
            platform_args: &platform_args(&request),
            stages: &survey.as_ref().map(Survey::facts).unwrap_or_default(),
            target: survey.as_ref().map_or(0, Survey::target),
            ignore: ignore.as_ref(),
            wants_advice: self.wants_advice,
            secret_files: &secret_files,
        };
        let findings = check(&input);
        (options, findings)
    }

    /// Checks which rules find something, and on which lines.
    #[track_caller]
    fn finds(&self, text: &str, want: &[(&str, u32)]) {
        let (_, findings) = self.findings(text);
        let got: Vec<(&str, u32)> = findings.iter().map(|f| (f.rule.name, f.lines.first)).collect();
        assert_eq!(got, want, "{text}\n{findings:#?}");
    }
}

#[track_caller]
fn finds(text: &str, want: &[(&str, u32)]) {
    World::default().finds(text, want);
}

#[track_caller]
fn advises(text: &str, want: &[(&str, u32)]) {
    World { wants_advice: true, ..World::default() }.finds(text, want);
}

#[track_caller]
fn says(text: &str, want: &str) {
    let (_, findings) = World::default().findings(text);
    let got: Vec<String> = findings.iter().map(Finding::short).collect();
    assert_eq!(got, [want], "{text}");
}

#[test]
fn messages_are_buildkits() {
    for (text, want) in [
        ("FROM base AS Web\n", "StageNameCasing: Stage name 'Web' should be lowercase (line 1)"),
        (
            "FROM base as web\n",
            "FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 1)",
        ),
        (
            "FROM base\nRUN a\nrun b\n",
            "ConsistentInstructionCasing: Command 'run' should match the case of the command majority (uppercase) (line 3)",
        ),
        (
            "FROM base AS a\nFROM base AS a\n",
            "DuplicateStageName: Duplicate stage name \"a\", stage names should be unique (line 2)",
        ),
        (
            "FROM base AS scratch\n",
            "ReservedStageName: Stage name should not use the same name as reserved stage \"scratch\" (line 1)",
        ),
        (
            "FROM base\nCMD a\n",
            "JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals (line 2)",
        ),
        (
            "FROM base\nMAINTAINER me\n",
            "MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 2)",
        ),
        (
            "FROM base\nWORKDIR a\n",
            "WorkdirRelativePath: Relative workdir \"a\" can have unexpected results if the base image changes (line 2)",
        ),
        (
            "FROM base\nENV PATH=$PAHT\n",
            "UndefinedVar: Usage of undefined variable '$PAHT' (did you mean $PATH?) (line 2)",
        ),
        (
            "FROM base\nENV a b\n",
            "LegacyKeyValueFormat: \"ENV key=value\" should be used instead of legacy \"ENV key value\" format (line 2)",
        ),
        (
            "FROM elsewhere:1\n",
            "InvalidBaseImagePlatform: Base image elsewhere:1 was pulled with platform \"linux/s390x\", expected \"linux/amd64\" for current build (line 1)",
        ),
        (
            "FROM --platform=$TARGETPLATFORM base\n",
            "RedundantTargetPlatform: Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior (line 1)",
        ),
        (
            "FROM base\nARG API_KEY\n",
            "SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ARG \"API_KEY\") (line 2)",
        ),
        (
            "FROM --platform=linux/amd64 base\n",
            "FromPlatformFlagConstDisallowed: FROM --platform flag should not use constant value \"linux/amd64\" (line 1)",
        ),
        (
            "FROM base\nEXPOSE 80/TCP\n",
            "ExposeProtoCasing: Defined protocol '80/TCP' in EXPOSE instruction should be lowercase (line 2)",
        ),
        (
            "FROM base\nEXPOSE 80:80\n",
            "ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, found '80:80' (line 2)",
        ),
    ] {
        says(text, want);
    }
}

#[test]
fn cases_and_names() {
    finds("FROM base AS web\nFROM web AS other\n", &[]);
    finds("from base as web\n", &[]);
    finds("from base AS web\n", &[("FromAsCasing", 1)]);
    // Mixed case is one rule's business, not two.
    finds("From base as web\nFROM web\n", &[("ConsistentInstructionCasing", 1)]);
    finds("from base\ncopy a b\nRUN x\n", &[("ConsistentInstructionCasing", 3)]);
    // At a draw, upper case wins.
    finds("FROM base\nrun x\n", &[("ConsistentInstructionCasing", 2)]);
    // ARGs before the first FROM have no vote.
    finds("arg a\narg b\nFROM base\n", &[]);
    finds(
        "FROM base AS context\nFROM context AS Context\n",
        &[
            ("ReservedStageName", 1),
            ("StageNameCasing", 2),
            ("ReservedStageName", 2),
            ("DuplicateStageName", 2),
        ],
    );
}

#[test]
fn variables_of_from_lines() {
    finds("ARG tag=1\nFROM base:$tag\n", &[]);
    finds("FROM base$nope\n", &[("UndefinedArgInFrom", 1)]);
    finds("ARG nope\nFROM base$nope\n", &[]);
    finds("ARG VERSION\nFROM base:$VERSION\n", &[("InvalidDefaultArgInFrom", 2)]);
    let given = World { args: &[("VERSION", "1")], ..World::default() };
    given.finds("ARG VERSION\nFROM base:$VERSION\n", &[("InvalidDefaultArgInFrom", 2)]);
    given.finds("ARG VERSION=2\nFROM base:$VERSION\n", &[]);
    finds("FROM --platform=$BUILDPLATFORM base\n", &[]);
    finds("FROM --platform=$TARGETOS/$TARGETARCH base\n", &[]);
    finds("FROM --platform=linux/arm64 base AS tools-arm64\n", &[]);
    finds("FROM --platform=linux/arm64 base AS linux\n", &[]);
    finds("FROM --platform=$BULIDPLATFORM base\n", &[("UndefinedArgInFrom", 1)]);
}

#[test]
fn variables_of_instructions() {
    finds("FROM base\nCOPY $a /$b\n", &[("UndefinedVar", 2), ("UndefinedVar", 2)]);
    finds("FROM base\nARG a\nCOPY x$a $HOME\n", &[]);
    finds("FROM base\nCOPY $a /\nARG a\n", &[("UndefinedVar", 2)]);
    finds("FROM base AS one\nARG a=1\nFROM one\nCOPY $a /\n", &[]);
    finds("ARG a=1\nFROM base\nCOPY x$a /\n", &[("UndefinedVar", 3)]);
    // The shell's variables are the shell's.
    finds("FROM base\nRUN echo $a\nENTRYPOINT [\"$a\"]\n", &[]);
    finds("FROM base\nRUN --mount=type=cache,target=/$a x\n", &[("UndefinedVar", 2)]);
    finds("FROM base\nEXPOSE 80$a\n", &[]);
    // What is used twice in an instruction is reported once.
    finds("FROM base\nENV x=$a y=$a\n", &[("UndefinedVar", 2)]);
    finds("FROM base\nENV a=1 b=$a\n", &[("UndefinedVar", 2)]);
    finds("FROM base\nLABEL x=$BUILDKIT_SBOM_SCAN_STAGE\n", &[]);
    // A default that is not used is not read.
    finds("FROM base\nARG x=$a\n", &[("UndefinedVar", 2)]);
    World { args: &[("x", "1")], ..World::default() }.finds("FROM base\nARG x=$a\n", &[]);
    // Nothing is said of an image of which nothing is known.
    finds("FROM unknown\nCOPY $a /\n", &[]);
    // A value that fails is still used.
    finds("FROM base\nCOPY ${a:?no} /\n", &[("UndefinedVar", 2)]);
    finds("FROM base\nCOPY <<EOF /f\n$a\nEOF\n", &[("UndefinedVar", 2)]);
    finds("FROM base\nCOPY <<'EOF' /f\n$a\nEOF\n", &[]);
}

#[test]
fn triggers_are_found_at_the_from_that_brings_them() {
    finds("FROM base\nRUN x\nFROM onbuild\n", &[("UndefinedVar", 3)]);
}

#[test]
fn only_the_last_of_a_kind_counts() {
    finds(
        "FROM base\nCMD [\"a\"]\nENTRYPOINT [\"a\"]\nCMD [\"b\"]\nHEALTHCHECK CMD a\nENTRYPOINT [\"b\"]\nHEALTHCHECK NONE\n",
        &[
            ("MultipleInstructionsDisallowed", 2),
            ("MultipleInstructionsDisallowed", 3),
            ("MultipleInstructionsDisallowed", 5),
        ],
    );
    finds("FROM base AS a\nCMD [\"a\"]\nFROM a\nCMD [\"b\"]\n", &[]);
}

#[test]
fn a_chosen_shell_is_meant() {
    finds("FROM base\nENTRYPOINT a\n", &[("JSONArgsRecommended", 2)]);
    finds("FROM base\nSHELL [\"/bin/x\"]\nCMD a\n", &[]);
    finds("FROM base AS a\nSHELL [\"/bin/x\"]\nFROM a\nCMD a\n", &[]);
    finds("FROM shelly\nCMD a\n", &[]);
}

#[test]
fn relative_directories_want_an_absolute_one_first() {
    finds("FROM base\nWORKDIR a\nWORKDIR b\n", &[("WorkdirRelativePath", 2)]);
    finds("FROM base AS a\nWORKDIR /a\nFROM a\nWORKDIR b\n", &[]);
    finds("FROM base\nWORKDIR $HOME\n", &[]);
}

#[test]
fn secrets_are_known_by_parts_of_names() {
    finds(
        "FROM base\nARG a_token=1 AUTH=2\nENV public_key=1 TOKEN_FILE=/x MONKEY=1 Secret=1\nENV auth_version=1\n",
        &[("SecretsUsedInArgOrEnv", 2), ("SecretsUsedInArgOrEnv", 2), ("SecretsUsedInArgOrEnv", 3)],
    );
}

#[test]
fn ports_are_container_ports_in_lower_case() {
    finds(
        "FROM base\nEXPOSE 80/TcP 127.0.0.1:1:1/udp [::1]:2:2 3-4:3-4 5\n",
        &[
            ("ExposeInvalidFormat", 2),
            ("ExposeInvalidFormat", 2),
            ("ExposeProtoCasing", 2),
            ("ExposeInvalidFormat", 2),
        ],
    );
}

#[test]
fn hidden_sources_are_known_without_looking() {
    let ignore = |ignore| World { ignore: Some(ignore), ..World::default() };
    let file = "FROM base\nCOPY ./a/../a/x b /\nADD a /\n";
    ignore("a\n").finds(file, &[("CopyIgnoredFile", 2), ("CopyIgnoredFile", 3)]);
    ignore("a\n!a/x\n").finds(file, &[]);
    ignore("# a\n").finds(file, &[]);
    ignore("a\n").finds("FROM base AS a\nFROM base\nCOPY --from=a a /\n", &[]);
    ignore("*\n").finds("FROM base\nCOPY . /\n", &[("CopyIgnoredFile", 2)]);
    ignore(".*\n").finds("FROM base\nCOPY . /\n", &[]);
    ignore("**\n").finds("FROM base\nADD http://x/y /\n", &[]);
}

#[test]
fn stages_that_do_not_count_are_checked_only_for_their_spelling() {
    let file = "FROM base AS one\nENV a $b\nMAINTAINER x\nFROM base AS two\n";
    finds(file, &[("MaintainerDeprecated", 3)]);
    let all = World { all: true, ..World::default() };
    all.finds(
        file,
        &[("UndefinedVar", 2), ("LegacyKeyValueFormat", 2), ("MaintainerDeprecated", 3)],
    );
    let one = World { target: Some("one"), ..World::default() };
    one.finds(
        file,
        &[("UndefinedVar", 2), ("LegacyKeyValueFormat", 2), ("MaintainerDeprecated", 3)],
    );
}

#[test]
fn the_build_argument_replaces_the_directive() {
    let file = "FROM base as a\ncopy x y\n";
    let with = |text| World {
        args: Box::leak(Box::new([(super::CHECK_ARGUMENT, text)])),
        ..World::default()
    };
    with("skip=FromAsCasing").finds(file, &[("ConsistentInstructionCasing", 2)]);
    with("skip=all;error=true").finds(file, &[]);
    let (options, findings) = with("skip=FromAsCasing;error=true").findings(file);
    assert_eq!(
        violation(&options, &findings).as_deref(),
        Some("lint violation found for rules: ConsistentInstructionCasing")
    );
    let args = [(super::CHECK_ARGUMENT, "error=true")];
    let (options, findings) = World { args: &args, ..World::default() }.findings("FROM base\n");
    assert_eq!(violation(&options, &findings), None);
}

#[test]
fn advice_is_no_violation_and_can_be_skipped() {
    let file = "FROM base\nRUN apt-get update\n";
    let error = World {
        args: &[(super::CHECK_ARGUMENT, "error=true")],
        wants_advice: true,
        ..World::default()
    };
    error.finds(file, &[("UnpinnedBaseImage", 1), ("AptGetUpdateAlone", 2)]);
    let (options, findings) = error.findings(file);
    assert_eq!(violation(&options, &findings), None);
    World {
        args: &[(super::CHECK_ARGUMENT, "skip=AptGetUpdateAlone")],
        wants_advice: true,
        ..World::default()
    }
    .finds(file, &[("UnpinnedBaseImage", 1)]);
    finds(file, &[]);
}

#[test]
fn bases_want_a_version() {
    advises("FROM base\n", &[("UnpinnedBaseImage", 1)]);
    advises("FROM base:latest\n", &[("UnpinnedBaseImage", 1)]);
    advises("FROM unknown\n", &[("UnpinnedBaseImage", 1)]);
    advises("FROM base:12 AS a\nFROM a\nFROM scratch\n", &[]);
    let digest = "0123456789abcdef".repeat(4);
    advises(&format!("FROM base@sha256:{digest}\n"), &[]);
}

#[test]
fn package_lists_are_fetched_used_and_removed_in_one_step() {
    let one = |line: &str, want: &[&str]| {
        let want: Vec<(&str, u32)> = want.iter().map(|rule| (*rule, 2)).collect();
        advises(&format!("FROM base:1\nRUN {line}\n"), &want);
    };
    one("apt-get update", &["AptGetUpdateAlone"]);
    one("apt update -q && echo install", &["AptGetUpdateAlone"]);
    one("apt-get update && apt-get -y install x", &["AptListsKept"]);
    one("apt-get update && apt-get install -y x && rm -rf /var/lib/apt/lists/*", &[]);
    one("--mount=type=cache,target=/var/lib/apt apt-get update && apt-get install -y x", &[]);
    one("echo 'apt-get update'", &[]);
    one("<<EOF\napt-get update\nEOF", &["AptGetUpdateAlone"]);
    one("<<EOF\n#!/usr/bin/python3\napt-get update\nEOF", &[]);
    one("[\"apt-get\", \"update\"]", &[]);
    // A stage that is only copied from may keep what it likes.
    advises(
        "FROM base:1 AS a\nRUN apt-get update && apt-get install -y x\nFROM base:1\nCOPY --from=a /x /\n",
        &[],
    );
}

#[test]
fn dependencies_are_installed_before_everything_is_copied() {
    let installs = |line: &str| format!("FROM base:1\nCOPY . /app\nRUN {line}\n");
    for line in [
        "npm ci",
        "cd /app && npm install --production",
        "pip install --no-cache-dir -r requirements.txt",
        "python3 -m pip install -r requirements.txt",
        "go mod download",
        "yarn",
    ] {
        advises(&installs(line), &[("CopyBeforeInstall", 2)]);
    }
    for line in ["npm install -g yarn", "pip install flask", "npm run build", "make install"] {
        advises(&installs(line), &[]);
    }
    advises(&installs("--mount=type=cache,target=/root/.npm npm ci"), &[]);
    advises("FROM base:1\nCOPY package.json .\nRUN npm ci\nCOPY . .\n", &[]);
    advises("FROM base:1\nCOPY . .\nRUN npm ci\nRUN npm ci\n", &[("CopyBeforeInstall", 2)]);
}

#[test]
fn secret_files_are_not_copied_with_their_directory() {
    let world = World { files: &[".env", "deploy/id_rsa"], wants_advice: true, ..World::default() };
    world.finds("FROM base:1\nCOPY . /\n", &[("SecretFileInContext", 2)]);
    world.finds("FROM base:1\nCOPY src deploy/ /\n", &[("SecretFileInContext", 2)]);
    world.finds("FROM base:1\nADD .env /\n", &[("SecretFileInContext", 2)]);
    world.finds("FROM base:1\nCOPY src /\n", &[]);
    world.finds("FROM base:1 AS a\nFROM base:1\nCOPY --from=a . /\n", &[]);
    let (_, findings) = world.findings("FROM base:1\nCOPY . /\n");
    assert_eq!(findings[0].message, ".env, deploy/id_rsa look secret and would be in the image");
}

#[test]
fn downloads_are_checked_and_their_failures_seen() {
    advises("FROM base:1\nADD https://x/y.tar /\n", &[("AddWithoutChecksum", 2)]);
    advises("FROM base:1\nADD --checksum=sha256:00 https://x/y.tar /\n", &[]);
    advises("FROM base:1\nADD https://x/y.git#v1 /\n", &[]);
    advises("FROM base:1\nRUN curl -fsSL https://x | sh\n", &[("PipeWithoutPipefail", 2)]);
    advises("FROM base:1\nRUN set -o pipefail && curl https://x | sh\n", &[]);
    advises("FROM base:1\nRUN set -eo pipefail; wget -qO- https://x | tar x\n", &[]);
    advises(
        "FROM base:1\nSHELL [\"/bin/bash\", \"-o\", \"pipefail\", \"-c\"]\nRUN curl https://x | sh\n",
        &[],
    );
    advises("FROM base:1\nRUN curl -o f https://x && cat f | sh\n", &[]);
}

#[test]
fn arrays_that_are_none_are_found() {
    let broken = |line: &str, want: &[&str]| {
        let want: Vec<(&str, u32)> = want.iter().map(|rule| (*rule, 2)).collect();
        advises(&format!("FROM base:1\n{line}\n"), &want);
    };
    broken("RUN ['a', 'b']", &["BrokenJsonForm"]);
    broken("CMD [\"a\", \"b\",]", &["BrokenJsonForm", "JSONArgsRecommended"]);
    broken("VOLUME [\"/a\" \"/b\"]", &["BrokenJsonForm"]);
    broken("RUN [ -f /x ] || touch /x", &[]);
    broken("RUN [ \"a\" ]", &[]);
}

#[test]
fn what_comments_say_counts() {
    finds("# check=skip=all\nFROM base as a\n", &[]);
    finds(
        "FROM base\n# check=skip=MaintainerDeprecated\nMAINTAINER a\nMAINTAINER b\n",
        &[("MaintainerDeprecated", 4)],
    );
    finds(
        "FROM base\n# check=skip=all // here\nARG password\nARG secret\n",
        &[("SecretsUsedInArgOrEnv", 4)],
    );
    let described = "# check=experimental=all\n\n# the base\nFROM base AS a\n# b is it\nARG b\n# what\nARG c d\n";
    finds(described, &[("InvalidDefinitionDescription", 4), ("InvalidDefinitionDescription", 8)]);
    finds("# the base\nFROM base AS a\n", &[]);
}

#[test]
fn empty_continuations_are_found_at_the_end_of_their_instruction() {
    finds("FROM base\nRUN a \\\n\n b\nRUN a \\\n# c\n b\n", &[("NoEmptyContinuation", 4)]);
}

#[test]
fn what_a_shell_sets_is_lost() {
    for line in ["cd /app", "export A=1", "A=1", "source venv/bin/activate", "cd /a && export B=1"]
    {
        advises(&format!("FROM base:1\nRUN {line}\n"), &[("LostShellState", 2)]);
    }
    for line in ["cd /app && make", "export A=1; make", "[\"cd\", \"/\"]", ""] {
        advises(&format!("FROM base:1\nRUN {line}\n"), &[]);
    }
}

#[test]
fn findings_point_at_the_word() {
    let file = "FROM base as web\nRUN x && curl y | sh\n";
    let (_, findings) = World { wants_advice: true, ..World::default() }.findings(file);
    let at = |rule: &str| {
        let finding = findings.iter().find(|f| f.rule.name == rule).unwrap();
        &file[finding.span.start..finding.span.end]
    };
    assert_eq!(at("UnpinnedBaseImage"), "base");
    assert_eq!(at("PipeWithoutPipefail"), "curl");
}
