//! The table of rules: what `builder check` looks for, under the names that `skip=` takes.
//!
//! # Not here
//!
//! The conditions, in the files of the families; why each rule is worth its noise and how to fix
//! what it finds, in `docs/checks.md`, which has a section for each name in this table.
//!
//! Source: BuildKit `frontend/dockerfile/linter/ruleset.go`, of August 2026, for names,
//! descriptions and addresses of the rules it has; the rest are ours.

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// BuildKit warns of it: shown after every build, and an error under `error=true`.
    Warning,
    /// BuildKit has it switched off: a warning once `experimental=` names it.
    Experimental,
    /// Ours: shown by `builder check` only, and never an error, so that a file that builds with
    /// `docker build` also builds here.
    Advice,
}

/// Something to look for.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name, as BuildKit writes names.
    pub name: &'static str,
    /// What it asks for, in a sentence without a full stop.
    pub description: &'static str,
    /// How to fix what it finds: an imperative without a full stop.
    pub fix: &'static str,
    /// How much a finding weighs.
    pub severity: Severity,
    /// The last part of the address where Docker explains it.
    slug: &'static str,
}

impl Rule {
    /// Where Docker explains it; `None` for rules that Docker does not have or not explain.
    pub fn url(&self) -> Option<String> {
        (!self.slug.is_empty())
            .then(|| format!("https://docs.docker.com/go/dockerfile/rule/{}/", self.slug))
    }

    /// Finds a rule by its name.
    pub fn named(name: &str) -> Option<&'static Self> {
        RULES.iter().copied().find(|rule| rule.name == name)
    }
}

macro_rules! rules {
    ($($constant:ident = $severity:ident $name:literal $slug:literal $description:literal $fix:literal;)*) => {
        /// All rules: BuildKit's in its order, then ours.
        pub static RULES: &[&Rule] = &[$(&$constant),*];
        $(
            #[doc = $description]
            pub(super) static $constant: Rule = Rule {
                name: $name,
                description: $description,
                fix: $fix,
                severity: Severity::$severity,
                slug: $slug,
            };
        )*
    };
}

rules! {
    STAGE_NAME_CASING = Warning "StageNameCasing" "stage-name-casing"
        "Stage names should be lowercase"
        "write the name after AS in lower case";
    FROM_AS_CASING = Warning "FromAsCasing" "from-as-casing"
        "The 'as' keyword should match the case of the 'from' keyword"
        "write FROM and AS both in upper or both in lower case";
    NO_EMPTY_CONTINUATION = Warning "NoEmptyContinuation" "no-empty-continuation"
        "Empty continuation lines will become errors in a future release"
        "delete the empty line, or begin it with #";
    CONSISTENT_INSTRUCTION_CASING = Warning "ConsistentInstructionCasing" "consistent-instruction-casing"
        "All commands within the Dockerfile should use the same casing (either upper or lower)"
        "write all instructions in the case that most of the file has";
    DUPLICATE_STAGE_NAME = Warning "DuplicateStageName" "duplicate-stage-name"
        "Stage names should be unique"
        "give each stage a name of its own";
    RESERVED_STAGE_NAME = Warning "ReservedStageName" "reserved-stage-name"
        "Reserved words should not be used as stage names"
        "give the stage a name other than scratch and context";
    JSON_ARGS_RECOMMENDED = Warning "JSONArgsRecommended" "json-args-recommended"
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals"
        "write the command as a JSON array, or choose a shell with SHELL";
    MAINTAINER_DEPRECATED = Warning "MaintainerDeprecated" "maintainer-deprecated"
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author"
        "write LABEL org.opencontainers.image.authors=\"…\"";
    UNDEFINED_ARG_IN_FROM = Warning "UndefinedArgInFrom" "undefined-arg-in-from"
        "FROM command must use declared ARGs"
        "declare the argument with ARG before the first FROM";
    WORKDIR_RELATIVE_PATH = Warning "WorkdirRelativePath" "workdir-relative-path"
        "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes"
        "begin the path with /";
    UNDEFINED_VAR = Warning "UndefinedVar" "undefined-var"
        "Variables should be defined before their use"
        "declare the variable with ARG or ENV before this line, in this stage";
    MULTIPLE_INSTRUCTIONS_DISALLOWED = Warning "MultipleInstructionsDisallowed" "multiple-instructions-disallowed"
        "Multiple instructions of the same type should not be used in the same stage"
        "delete this one: only the last of the stage counts";
    LEGACY_KEY_VALUE_FORMAT = Warning "LegacyKeyValueFormat" "legacy-key-value-format"
        "Legacy key/value format with whitespace separator should not be used"
        "put = between name and value, and quotes around a value with spaces";
    INVALID_BASE_IMAGE_PLATFORM = Warning "InvalidBaseImagePlatform" ""
        "Base image platform does not match expected target platform"
        "use an image for the platform, or build for the image's with --platform";
    REDUNDANT_TARGET_PLATFORM = Warning "RedundantTargetPlatform" "redundant-target-platform"
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior"
        "delete the flag";
    SECRETS_USED_IN_ARG_OR_ENV = Warning "SecretsUsedInArgOrEnv" "secrets-used-in-arg-or-env"
        "Sensitive data should not be used in the ARG or ENV commands"
        "hand it to the step that needs it: RUN --mount=type=secret";
    INVALID_DEFAULT_ARG_IN_FROM = Warning "InvalidDefaultArgInFrom" "invalid-default-arg-in-from"
        "Default value for global ARG results in an empty or invalid base image name"
        "give the ARG a default that makes a whole name";
    FROM_PLATFORM_FLAG_CONST_DISALLOWED = Warning "FromPlatformFlagConstDisallowed" "from-platform-flag-const-disallowed"
        "FROM --platform flag should not use a constant value"
        "delete the flag and build with --platform, use $BUILDPLATFORM, or name the stage after the platform";
    COPY_IGNORED_FILE = Warning "CopyIgnoredFile" "copy-ignored-file"
        "Attempting to Copy file that is excluded by .dockerignore"
        "copy something else, or take the pattern out of the ignore file";
    INVALID_DEFINITION_DESCRIPTION = Experimental "InvalidDefinitionDescription" "invalid-definition-description"
        "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment."
        "begin the comment with the name, or put a line with # alone below it";
    EXPOSE_PROTO_CASING = Warning "ExposeProtoCasing" "expose-proto-casing"
        "Protocol in EXPOSE instruction should be lowercase"
        "write the protocol in lower case";
    EXPOSE_INVALID_FORMAT = Warning "ExposeInvalidFormat" "expose-invalid-format"
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release"
        "name the container's port only; publish it when the container is started";
    BROKEN_JSON_FORM = Advice "BrokenJsonForm" ""
        "What begins like a JSON array and is none is text for the shell, or words as they stand"
        "put each argument in double quotes, with commas between them and no comma at the end";
    APT_GET_UPDATE_ALONE = Advice "AptGetUpdateAlone" ""
        "apt-get update should stand in the RUN that installs, or a cached list is older than what is installed from it"
        "join both: RUN apt-get update && apt-get install -y …";
    APT_LISTS_KEPT = Advice "AptListsKept" ""
        "The package lists that apt-get update fetched should not stay in the layer"
        "end the RUN with && rm -rf /var/lib/apt/lists/*, or mount a cache there";
    COPY_BEFORE_INSTALL = Advice "CopyBeforeInstall" ""
        "A COPY of the whole context before dependencies are installed makes every change install them again"
        "copy the files that list the dependencies, install, then copy the rest";
    SECRET_FILE_IN_CONTEXT = Advice "SecretFileInContext" ""
        "A file that looks like a secret should not be copied into the image with its directory"
        "add the file to .dockerignore, and hand it to the step that needs it: RUN --mount=type=secret";
    UNPINNED_BASE_IMAGE = Advice "UnpinnedBaseImage" ""
        "A base image without a tag, or with the tag latest, is another one tomorrow"
        "name a version, or a digest with @sha256:…";
    ADD_WITHOUT_CHECKSUM = Advice "AddWithoutChecksum" ""
        "A file added from an address should be checked, since the address may serve another one tomorrow"
        "add --checksum=sha256:…";
    PIPE_WITHOUT_PIPEFAIL = Advice "PipeWithoutPipefail" ""
        "A download that fails in front of a pipe goes unnoticed, and what the step made of it is cached"
        "begin the RUN with set -o pipefail in a shell that has it: SHELL [\"/bin/bash\", \"-o\", \"pipefail\", \"-c\"]";
    LOST_SHELL_STATE = Advice "LostShellState" ""
        "A directory or variable that a shell sets is gone when its RUN ends"
        "use WORKDIR or ENV, or join the command with the one that needs it";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_can_be_found_by_its_name() {
        for rule in RULES {
            assert_eq!(Rule::named(rule.name), Some(*rule));
            assert!(!rule.fix.ends_with('.'), "{}", rule.name);
        }
    }

    #[test]
    fn only_rules_of_docker_have_an_address() {
        for rule in RULES.iter().filter(|rule| rule.severity == Severity::Advice) {
            assert_eq!(rule.url(), None, "{}", rule.name);
        }
        assert_eq!(
            UNDEFINED_VAR.url().as_deref(),
            Some("https://docs.docker.com/go/dockerfile/rule/undefined-var/")
        );
    }

    /// What the page must have for each rule, in this order.
    const PARTS: [&str; 3] = ["Why:", "Fix:", "```dockerfile"];

    #[test]
    fn every_rule_has_its_section_in_the_docs() {
        let page = include_str!("../../../docs/checks.md");
        for rule in RULES {
            let head = format!("\n### {}\n", rule.name);
            let (_, section) = page.split_once(&head).unwrap_or_else(|| panic!("{}", rule.name));
            let mut section = section.split("\n### ").next().unwrap_or_default();
            for part in PARTS {
                section = match section.split_once(part) {
                    Some((_, rest)) => rest,
                    None => panic!("{}: the section has no `{part}`", rule.name),
                };
            }
        }
        let sections = page.matches("\n### ").count();
        assert_eq!(sections, RULES.len(), "docs/checks.md has a section for a rule that is gone");
    }
}
