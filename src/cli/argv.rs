//! The words of a command line before clap reads them: docker's groups of commands (`image build`,
//! `buildx build`, `system df`), and calls by docker's client, whose plugin this program can be.
//!
//! Docker's client calls a plugin as `docker-NAME [FLAGS OF DOCKER] NAME WORD…`; before that it asks
//! `docker-NAME docker-cli-plugin-metadata`. The protocol is that of the directory
//! `cli-plugins/manager` in the sources of docker's client.

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// Word with which docker's client asks for a plugin's description.
const METADATA: &str = "docker-cli-plugin-metadata";

/// Flags of docker's client that have a value and may stand before the command.
const DOCKER_VALUES: &[&str] = &[
    "--config",
    "-c",
    "--context",
    "-H",
    "--host",
    "-l",
    "--log-level",
    "--tlscacert",
    "--tlscert",
    "--tlskey",
];

/// Commands of docker, buildx and buildah that have another name here: group, commands, name.
const GROUPS: &[(&str, &[&str], &str)] = &[
    ("image", &["build"], "build"),
    ("image", &["ls", "list"], "images"),
    ("image", &["rm", "remove"], "rmi"),
    ("image", &["history"], "history"),
    ("image", &["import"], "import"),
    ("image", &["inspect"], "inspect"),
    ("image", &["load"], "load"),
    ("image", &["prune"], "prune"),
    ("image", &["pull"], "pull"),
    ("image", &["push"], "push"),
    ("image", &["save"], "save"),
    ("image", &["tag"], "tag"),
    ("builder", &["build"], "build"),
    ("builder", &["prune"], "prune"),
    ("buildx", &["build", "b"], "build"),
    ("buildx", &["du"], "df"),
    ("buildx", &["history"], "history"),
    ("buildx", &["imagetools"], "index"),
    ("buildx", &["prune"], "prune"),
    ("system", &["df"], "df"),
    ("system", &["prune"], "prune"),
    ("container", &["run"], "run"),
];

/// Commands of buildx that manage its builders. Pipelines call them before they build.
const BUILDERS: &[&str] = &["create", "install", "rm", "stop", "uninstall", "use"];

/// What a command line is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Words for clap, the program's name first.
    Command(Vec<OsString>),
    /// Docker's client asks for the description of its plugin.
    Metadata,
    /// There is nothing to do, for this reason.
    Nothing(String),
}

/// A command line as it was typed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) line: Line,
    /// Directory of docker's configuration, where docker's client was given one.
    pub(super) docker_config: Option<OsString>,
    /// Flags of docker's client that name an engine.
    pub(super) engine_flags: Vec<String>,
}

impl Call {
    /// Reads the words of a command line, the program's name first.
    pub(super) fn read(words: impl IntoIterator<Item = OsString>) -> Self {
        let mut words: Vec<OsString> = words.into_iter().collect();
        let (mut docker_config, mut engine_flags) = (None, Vec::new());
        let program = words.first().and_then(|word| Path::new(word).file_name());
        // The name that kaniko's program has.
        if program.is_some_and(|name| name == "executor") {
            let is_of_ours = words.get(1).is_some_and(|word| word == "version");
            if !is_of_ours {
                words.insert(1, "kaniko".into());
            }
            return Self { line: Line::Command(words), docker_config, engine_flags };
        }
        if let Some(plugin) =
            program.and_then(OsStr::to_str).and_then(|p| p.strip_prefix("docker-"))
        {
            if words.get(1).is_some_and(|word| word == METADATA) {
                return Self { line: Line::Metadata, docker_config, engine_flags };
            }
            let (mut rest, mut is_debug) = (1, false);
            while let Some(flag) = words.get(rest).and_then(|word| word.to_str()) {
                let Some(flag) = flag.starts_with('-').then_some(flag) else { break };
                let (name, mut value) = match flag.split_once('=') {
                    Some((name, value)) => (name, Some(OsString::from(value))),
                    None => (flag, None),
                };
                if value.is_none() && DOCKER_VALUES.contains(&name) {
                    rest += 1;
                    value = words.get(rest).cloned();
                }
                match name {
                    "--config" => docker_config = value,
                    "-D" | "--debug" => is_debug = value.is_none_or(|value| value != "false"),
                    "-c" | "--context" | "-H" | "--host" => engine_flags.push(name.to_owned()),
                    _ => {}
                }
                rest += 1;
            }
            if words.get(rest).is_some_and(|word| word == plugin) {
                let name = OsString::from(format!("docker {plugin}"));
                let debug = is_debug.then(|| OsString::from("--debug"));
                words.splice(..=rest, [name].into_iter().chain(debug));
            } else {
                // Called without docker's client.
                (docker_config, engine_flags) = (None, Vec::new());
            }
        }
        Self { line: without_group(words), docker_config, engine_flags }
    }
}

/// Replaces a command of a group, as docker has them, by the command of ours.
fn without_group(mut words: Vec<OsString>) -> Line {
    let Some(first) = first_word(&words) else { return Line::Command(words) };
    let word = |at: usize| words.get(at).and_then(|word| word.to_str()).unwrap_or_default();
    let (group, command) = (word(first), word(first + 1));
    if group == "bud" {
        words[first] = "build".into();
    } else if let Some((_, _, ours)) =
        GROUPS.iter().find(|(name, commands, _)| *name == group && commands.contains(&command))
    {
        words.splice(first..=first + 1, [OsString::from(ours)]);
    } else if group == "buildx" && BUILDERS.contains(&command) {
        return Line::Nothing(format!(
            "`buildx {command}` has no effect: there are no builder instances, builds run here"
        ));
    }
    Line::Command(words)
}

/// Finds the first word that is not a flag of ours before the command.
pub(super) fn first_word(words: &[OsString]) -> Option<usize> {
    let mut at = 1;
    while let Some(word) = words.get(at) {
        match word.to_str() {
            Some("--root" | "--config") => at += 2,
            Some(flag) if flag.starts_with('-') => at += 1,
            _ => return Some(at),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Call {
        Call::read(line.split(' ').map(OsString::from))
    }

    fn command(line: &str) -> String {
        match read(line).line {
            Line::Command(words) => {
                words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
            }
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn commands_in_groups_are_ours() {
        for (typed, ours) in [
            ("builder build -t x .", "builder build -t x ."),
            ("builder buildx build -t x .", "builder build -t x ."),
            ("builder buildx b .", "builder build ."),
            ("builder image build .", "builder build ."),
            ("builder builder build .", "builder build ."),
            ("builder bud .", "builder build ."),
            ("builder --root /s image ls", "builder --root /s images"),
            ("builder --root=/s image rm x", "builder --root=/s rmi x"),
            ("builder --config /d image ls", "builder --config /d images"),
            ("builder system df -v", "builder df -v"),
            ("builder buildx imagetools create -t a b", "builder index create -t a b"),
            // What a command runs, or builds, is not one of its groups.
            ("builder run x image ls", "builder run x image ls"),
            ("builder build image", "builder build image"),
            ("builder image frobnicate", "builder image frobnicate"),
            ("builder", "builder"),
        ] {
            assert_eq!(command(typed), ours, "{typed}");
        }
        assert!(matches!(read("builder buildx create --use").line, Line::Nothing(_)));
        assert_eq!(command("/kaniko/executor -d x"), "/kaniko/executor kaniko -d x");
        assert_eq!(command("executor version"), "executor version");
    }

    #[test]
    fn docker_calls_its_plugin() {
        let plugin = "/h/.docker/cli-plugins/docker-ocibuilder";
        assert_eq!(read(&format!("{plugin} docker-cli-plugin-metadata")).line, Line::Metadata);
        for (typed, ours) in [
            ("ocibuilder build -t x .", "docker ocibuilder build -t x ."),
            ("--log-level debug -D ocibuilder build .", "docker ocibuilder --debug build ."),
            ("--debug ocibuilder image ls", "docker ocibuilder --debug images"),
            ("--debug=false ocibuilder build .", "docker ocibuilder build ."),
            ("--config /c --host=tcp://h ocibuilder image ls", "docker ocibuilder images"),
            // A user's own call.
            ("images -q", &*format!("{plugin} images -q")),
            ("--version", &*format!("{plugin} --version")),
        ] {
            assert_eq!(command(&format!("{plugin} {typed}")), ours, "{typed}");
        }
        let call = read(&format!("{plugin} --config /c -H tcp://h ocibuilder images"));
        assert_eq!(call.docker_config, Some("/c".into()));
        assert_eq!(call.engine_flags, ["-H"]);
    }
}
