//! Texts of the help beside the flags: groups of commands, examples, environment variables, exit statuses.
//!
//! The same definition makes `--help`, `builder help CMD`, the man pages and the completions. It is put
//! together only when one of these is asked for, so that no other command pays for it.

use super::Cli;
use super::failure::{Class, Failure};
use super::format::{Columns, ListFormat};
use super::template::Value;
use clap::{Command, CommandFactory as _};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The commands by what they are about, in the order of the help. Each command is in one group.
const GROUPS: &[(&str, &[&str])] = &[
    ("Building", &["build", "check", "explain", "history", "kaniko"]),
    (
        "Images",
        &[
            "run", "images", "inspect", "diff", "tag", "rmi", "pull", "push", "copy", "index",
            "login", "logout", "import", "load", "save",
        ],
    ),
    ("Cache", &["df", "prune", "mounts", "store"]),
    ("Machine", &["config", "doctor", "plugin", "version", "completions", "man", "help"]),
];

/// Help texts of one command.
struct Page {
    command: &'static str,
    /// Command lines with what they do.
    examples: &'static [(&'static str, &'static str)],
    /// Names of [`VARIABLES`].
    variables: &'static [&'static str],
    /// Statuses besides 0 and 2, of [`STATUSES`].
    statuses: &'static [u8],
}

/// Environment variables, with what they set.
const VARIABLES: &[(&str, &str)] = &[
    ("BUILDER_ROOT", "directory of the store"),
    ("BUILDER_CONFIG", "same as --config"),
    ("XDG_CONFIG_HOME", "directory of the user's builder/config.toml"),
    ("BUILDER_THREADS", "number of threads that read, hash and compress"),
    ("BUILDER_LOG", "what to log: a level, or ROOM=LEVEL,… (see --debug)"),
    ("BUILDER_LOG_FILE", "file that the log is appended to, instead of stderr"),
    ("BUILDER_MIN_FREE", "bytes of the disk that stay free (0 for no limit)"),
    ("BUILDER_KEEP_STORAGE", "bytes of cache that collection after a build keeps"),
    ("BUILDER_GC", "0 switches collection after builds off"),
    ("BUILDER_USERNS", "same as --userns"),
    ("BUILDER_ALLOW_LINK_LOCAL", "1 is the same as --allow-link-local"),
    ("BUILDKIT_PROGRESS", "same as --progress"),
    ("BUILDKIT_COLORS", "colours of progress, such as run=cyan:error=255,0,0"),
    ("BUILDKIT_TTY_LOG_LINES", "lines of output below a running step"),
    ("BUILDKIT_STEP_LOG_MAX_SIZE", "bytes of a step's output that are shown"),
    ("BUILDKIT_STEP_LOG_MAX_SPEED", "bytes of output for each second that are shown"),
    ("BUILDKIT_BUILD_NAME", "name of the build in the history"),
    ("BUILDX_GIT_LABELS", "1 labels the image with commit, repository and Dockerfile"),
    ("BUILDX_GIT_INFO", "0 leaves repository and commit out of the history"),
    ("BUILDX_GIT_CHECK_DIRTY", "1 marks a commit whose files were changed with -dirty"),
    ("BUILDX_METADATA_WARNINGS", "1 adds warnings to --metadata-file"),
    ("SOURCE_DATE_EPOCH", "time of the image, in seconds since 1970; context: that of the context"),
    ("DOCKER_DEFAULT_PLATFORM", "same as --platform"),
    ("DOCKER_CONFIG", "directory of Docker's config.json with logins"),
    ("REGISTRY_AUTH_FILE", "file with logins, as Podman writes it"),
    ("SSL_CERT_FILE", "certificates of trusted authorities"),
    ("SSH_AUTH_SOCK", "socket of the agent for --ssh default"),
    ("NO_COLOR", "no colours if it is not empty"),
];

/// Exit statuses, with their meaning.
const STATUSES: &[(u8, &str)] = &[
    (0, "success"),
    (1, "the images differ"),
    (2, "the command line is wrong"),
    (3, "the Dockerfile is wrong"),
    (4, "a RUN step failed"),
    (5, "the machine: disk full, a kernel feature missing, a file unreadable"),
    (6, "the network or a registry"),
    (70, "a bug in builder"),
    (125, "builder itself failed; other statuses are those of the command"),
    (126, "the command cannot be executed"),
    (127, "the command was not found"),
    (130, "interrupted"),
];

const REGISTRY: &[&str] =
    &["BUILDER_ROOT", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "SSL_CERT_FILE", "BUILDKIT_PROGRESS"];
const REGISTRY_NO_PROGRESS: &[&str] =
    &["BUILDER_ROOT", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "SSL_CERT_FILE"];
const STORE: &[&str] = &["BUILDER_ROOT"];

const fn page(
    command: &'static str,
    examples: &'static [(&'static str, &'static str)],
    variables: &'static [&'static str],
    statuses: &'static [u8],
) -> Page {
    Page { command, examples, variables, statuses }
}

const PAGES: &[Page] = &[
    page(
        "build",
        &[
            ("builder build -t app .", "build the Dockerfile in this directory"),
            ("builder build --target test --progress=plain .", "build one stage, with a log"),
            ("builder build -o type=local,dest=out .", "write the files of the image to out/"),
            ("builder build --push -t registry.example/team/app .", "build and push"),
            ("builder build --secret id=token,src=token.txt .", "for RUN --mount=type=secret"),
        ],
        &[
            "BUILDER_ROOT",
            "BUILDER_THREADS",
            "BUILDER_LOG",
            "BUILDER_LOG_FILE",
            "BUILDER_MIN_FREE",
            "BUILDER_KEEP_STORAGE",
            "BUILDER_GC",
            "BUILDER_USERNS",
            "BUILDER_ALLOW_LINK_LOCAL",
            "BUILDKIT_PROGRESS",
            "BUILDKIT_COLORS",
            "BUILDKIT_TTY_LOG_LINES",
            "BUILDKIT_STEP_LOG_MAX_SIZE",
            "BUILDKIT_STEP_LOG_MAX_SPEED",
            "BUILDKIT_BUILD_NAME",
            "BUILDX_GIT_LABELS",
            "BUILDX_GIT_INFO",
            "BUILDX_GIT_CHECK_DIRTY",
            "BUILDX_METADATA_WARNINGS",
            "SOURCE_DATE_EPOCH",
            "DOCKER_DEFAULT_PLATFORM",
            "DOCKER_CONFIG",
            "REGISTRY_AUTH_FILE",
            "SSL_CERT_FILE",
            "SSH_AUTH_SOCK",
            "NO_COLOR",
        ],
        &[3, 4, 5, 6, 70, 130],
    ),
    page(
        "check",
        &[
            ("builder check", "check the Dockerfile in this directory"),
            ("builder check --format json .", "for editors and CI"),
        ],
        STORE,
        &[3],
    ),
    page(
        "explain",
        &[
            ("builder explain", "why the steps of the last build ran"),
            ("builder explain .", "what a build of this directory would do now"),
            ("builder explain --format html . > page.html", "the same as a page"),
            ("builder explain --audit .", "run cached steps again and compare"),
        ],
        STORE,
        &[3, 4, 5, 6],
    ),
    page(
        "history",
        &[
            ("builder history app", "the steps that made an image"),
            ("builder history builds", "the builds that were made"),
            ("builder history ls --filter status=error", "those that failed"),
            ("builder history export -o builds.tar.gz --all", "for another machine"),
            ("builder history --usage", "time and memory of each step of the last build"),
        ],
        STORE,
        &[5],
    ),
    page(
        "run",
        &[
            ("builder run -it app sh", "a shell in an image"),
            ("builder run -p 8080:80 -v data:/data app", "with a port and a volume"),
        ],
        &["BUILDER_ROOT", "BUILDER_USERNS", "BUILDER_ALLOW_LINK_LOCAL", "DOCKER_DEFAULT_PLATFORM"],
        &[125, 126, 127],
    ),
    page(
        "images",
        &[
            ("builder images --filter reference='team/*'", "images whose name matches"),
            (r"builder images --format '{{.Repository}}:{{.Tag}}'", "names only"),
        ],
        STORE,
        &[5],
    ),
    page(
        "inspect",
        &[
            ("builder inspect app", "configuration and layers as JSON"),
            ("builder inspect --format '{{json .Config.Env}}' app", "a part of it"),
            ("builder inspect docker://debian:bookworm", "an image of a registry, not pulled"),
        ],
        REGISTRY_NO_PROGRESS,
        &[5, 6],
    ),
    page(
        "diff",
        &[("builder diff app:1 app:2", "configuration, layers and files that differ")],
        STORE,
        &[1, 5],
    ),
    page("tag", &[("builder tag app app:1.0", "a second name for app")], STORE, &[5]),
    page("rmi", &[("builder rmi app:1.0", "remove a name; prune frees the space")], STORE, &[5]),
    page("pull", &[("builder pull debian:bookworm", "fetch an image")], REGISTRY, &[5, 6]),
    page("push", &[("builder push registry.example/team/app", "send it")], REGISTRY, &[5, 6]),
    page(
        "copy",
        &[("builder copy app docker://registry.example/app", "from the store to a registry")],
        REGISTRY,
        &[5, 6],
    ),
    page(
        "index",
        &[
            (
                "builder index create -t registry.example/app registry.example/app:amd64 registry.example/app:arm64",
                "join what separate jobs pushed",
            ),
            ("builder index inspect debian:bookworm", "the platforms of an image in a registry"),
            (
                "builder index create -t registry.example/app --append store:app",
                "add an image of the store, or replace that for its platform",
            ),
        ],
        REGISTRY,
        &[5, 6],
    ),
    page(
        "login",
        &[("builder login -u me --password-stdin HOST < file", "without the password in `ps`")],
        &["DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "SSL_CERT_FILE"],
        &[5, 6],
    ),
    page(
        "logout",
        &[("builder logout registry.example", "forget the login")],
        &["DOCKER_CONFIG", "REGISTRY_AUTH_FILE"],
        &[5],
    ),
    page(
        "import",
        &[("builder import rootfs.tar.gz base:1", "an image with one layer")],
        STORE,
        &[5],
    ),
    page("load", &[("builder load -i image.tar", "read what `docker save` wrote")], STORE, &[5]),
    page("save", &[("builder save -o image.tar app", "write an archive")], STORE, &[5]),
    page("df", &[("builder df -v", "every layer, with its size and last use")], STORE, &[5]),
    page(
        "prune",
        &[
            ("builder prune --dry-run", "what would be removed"),
            ("builder prune --all", "everything that no named image needs"),
            ("builder prune --filter type=mount --filter until=7d", "cache mounts of last week"),
        ],
        STORE,
        &[5],
    ),
    page("mounts", &[("builder mounts export dir", "cache mounts to an OCI layout")], STORE, &[5]),
    page("store", &[("builder store verify --repair", "check and repair")], STORE, &[5]),
    page(
        "config",
        &[
            ("builder config show", "each default, and the file, line or variable it comes from"),
            ("builder --config ci.toml build .", "build with other defaults"),
        ],
        &["BUILDER_CONFIG", "XDG_CONFIG_HOME"],
        &[],
    ),
    page("doctor", &[("builder doctor", "what works here, and how to fix the rest")], STORE, &[5]),
    page(
        "plugin",
        &[
            ("builder plugin install --alias", "`docker build` runs builder from now on"),
            ("builder plugin uninstall", "as before"),
        ],
        &["DOCKER_CONFIG"],
        &[5],
    ),
    page(
        "kaniko",
        &[
            (
                "builder kaniko --context dir:///src --destination registry.example/app:1",
                "and push",
            ),
            ("builder kaniko -c . --no-push --tar-path app.tar", "into an archive"),
        ],
        &["BUILDER_ROOT", "DOCKER_CONFIG", "SSL_CERT_FILE"],
        &[3, 4, 5, 6],
    ),
    page("version", &[], &[], &[]),
    page(
        "completions",
        &[("builder completions bash > /etc/bash_completion.d/builder", "for all users")],
        &[],
        &[],
    ),
    page(
        "man",
        &[("builder man /usr/local/share/man/man1", "one page for each command")],
        &[],
        &[5],
    ),
];

/// Returns the command line with all texts of the help.
pub(super) fn command() -> Command {
    let mut command = Cli::command();
    let groups = groups(&command);
    let header = command.get_styles().get_header();
    let template = format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n\
         {groups}{header}Options:{header:#}\n{{options}}{{after-help}}"
    );
    command = command.help_template(template);
    for page in PAGES {
        command = command.mut_subcommand(page.command, |sub| {
            let before = sub.get_after_help().map(|text| format!("{text}\n\n")).unwrap_or_default();
            let text = format!("{before}{}", page.text());
            sub.after_long_help(text)
        });
    }
    command
}

/// Lists the commands by group.
fn groups(command: &Command) -> String {
    let header = command.get_styles().get_header();
    let literal = command.get_styles().get_literal();
    let mut text = String::new();
    for (name, commands) in GROUPS {
        let _ = writeln!(text, "{header}{name}:{header:#}");
        for name in *commands {
            let about = command.find_subcommand(name).and_then(Command::get_about);
            let about = about.map_or("Show the help of a command".to_owned(), ToString::to_string);
            let _ = writeln!(text, "  {literal}{name:<12}{literal:#}{about}");
        }
        text.push('\n');
    }
    text
}

impl Page {
    fn text(&self) -> String {
        let mut text = String::new();
        if !self.examples.is_empty() {
            text.push_str("Examples:\n");
        }
        for (line, what) in self.examples {
            let _ = writeln!(text, "  {line}\n          {what}");
        }
        let known = VARIABLES.iter().filter(|(name, _)| self.variables.contains(name));
        for (number, (name, what)) in known.enumerate() {
            let heading = if number == 0 { "\nEnvironment:\n" } else { "" };
            let _ = writeln!(text, "{heading}  {name:<28}{what}");
        }
        text.push_str("\nExit status:\n");
        let statuses = STATUSES.iter();
        for (status, what) in
            statuses.filter(|(status, _)| matches!(status, 0 | 2) || self.statuses.contains(status))
        {
            let _ = writeln!(text, "  {status:<6}{what}");
        }
        text.trim_matches('\n').to_owned()
    }
}

/// What `builder version` takes.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct VersionArgs {
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// Print as `json`, or by a Go template, as '{{.Version}}'
    #[arg(short, long, value_name = "FORMAT", conflicts_with = "json")]
    format: Option<String>,
}

/// Returns what `builder version` prints.
///
/// # Errors
///
/// A failure of class usage for a format that cannot be used.
pub(super) fn version(args: &VersionArgs) -> Result<String, Failure> {
    let (version, commit) = (env!("CARGO_PKG_VERSION"), env!("BUILDER_COMMIT"));
    let platform = crate::oci::Platform::host().to_string();
    match args.format.as_deref() {
        None if !args.json => {
            Ok(format!("builder {version}\ncommit   {commit}\nplatform {platform}\n"))
        }
        None | Some("json") => {
            let document =
                serde_json::json!({ "version": version, "commit": commit, "platform": platform });
            Ok(format!("{document}\n"))
        }
        Some(format) => {
            let texts = [version, commit, &platform].map(Value::text);
            let names = VERSION.iter().map(|(name, _)| *name);
            let mut row: Vec<_> = names.zip(texts).collect();
            // Docker's client has the part of the program in front.
            let own = Value::row(row.clone());
            row.extend([("Client", own.clone()), ("Server", own)]);
            let mut out = Vec::new();
            ListFormat::parse(format, VERSION)
                .and_then(|format| format.write(&[Value::row(row)], &mut out))
                .map_err(|error| error.failure())?;
            Ok(String::from_utf8_lossy(&out).into_owned())
        }
    }
}

/// The fields that a template of `builder version` can show.
const VERSION: &Columns = &[
    ("Version", "VERSION"),
    ("Commit", "COMMIT"),
    ("Platform", "PLATFORM"),
    ("Client", "CLIENT"),
    ("Server", "SERVER"),
];

/// What `builder completions` takes.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct CompletionsArgs {
    /// Shell to complete commands in
    shell: clap_complete::Shell,
}

/// Returns the completions for a shell.
pub(super) fn completions(args: &CompletionsArgs) -> String {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command(), "builder", &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// What `builder man` takes.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ManArgs {
    /// Directory to write the pages to; it is made if it does not exist
    dir: PathBuf,
}

/// Writes the man pages.
pub(super) fn man(args: &ManArgs) -> Result<(), Failure> {
    let written = std::fs::create_dir_all(&args.dir).and_then(|()| pages(&args.dir));
    written.map_err(|error| {
        let text = format!("cannot write man pages to {}: {error}", args.dir.display());
        Failure::new(Class::Environment, text)
    })
}

fn pages(dir: &Path) -> std::io::Result<()> {
    clap_mangen::generate_to(command(), dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_command_is_in_one_group_and_has_a_page() {
        let command = Cli::command();
        let shown = command.get_subcommands().filter(|sub| !sub.is_hide_set());
        let names: BTreeSet<&str> = shown.map(Command::get_name).collect();
        let grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| *names).copied().collect();
        let expected: BTreeSet<&str> = names.iter().copied().chain(["help"]).collect();
        assert_eq!(grouped.len(), expected.len());
        assert_eq!(grouped.into_iter().collect::<BTreeSet<_>>(), expected);
        assert_eq!(PAGES.iter().map(|page| page.command).collect::<BTreeSet<_>>(), names);
    }

    #[test]
    fn pages_name_variables_and_statuses_that_are_explained() {
        for page in PAGES {
            for name in page.variables {
                assert!(VARIABLES.iter().any(|(known, _)| known == name), "{name}");
            }
            for status in page.statuses {
                assert!(STATUSES.iter().any(|(known, _)| known == status), "{status}");
            }
        }
    }
}
