//! `builder kaniko`: jobs that were written for kaniko's executor, as they stand.
//!
//! Its flags become those of `builder build`, and what it says of registries a `registries.toml`.

mod flags;

pub use flags::KanikoArgs;

use super::failure::{Class, Failure, cannot};
use super::{Cli, Command, Environment, build, truth};
use crate::oci::Reference;
use clap::CommandFactory as _;
use serde::Serialize;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Where kaniko's image has docker's configuration.
const DOCKER_CONFIG: &str = "/kaniko/.docker";

/// Runs `builder kaniko`.
///
/// # Errors
///
/// The failure to show.
pub fn run(args: &KanikoArgs, environment: &Environment) -> Result<(), Failure> {
    for (flag, reason) in args.ineffective.given() {
        environment.warn(&format!("{flag} has no effect: {reason}"));
    }
    if args.verbosity.is_some() {
        environment.warn("--verbosity has no effect: BUILDKIT_PROGRESS says how progress is shown");
    }
    if let Some(repo) = &args.cache_repo {
        environment.warn(&format!(
            "--cache-repo {repo} is not used: caches in registries are not supported yet"
        ));
    }
    let metadata = tempfile::NamedTempFile::new()
        .map_err(|error| cannot("create", "a temporary file", &error))?;
    let mut words = args.words(&|name| environment.variable(name))?;
    words.push(format!("--metadata-file={}", metadata.path().display()));
    let context = words.pop_context();
    if let Some(path) = &context.archive {
        let file = File::open(path).map_err(|error| cannot("read", path, &error))?;
        rustix::stdio::dup2_stdin(&file).map_err(|error| cannot("read", path, &error.into()))?;
    }
    let line = ["builder", "build"].map(str::to_owned).into_iter().chain(words.list);
    let line = line.chain(["--".to_owned(), context.text]);
    let definition = environment.config.apply(Cli::command(), "build", &[])?;
    let cli: Cli = truth::parse_as(&|| definition.clone(), line.map(OsString::from))
        .map_err(|error| Failure::new(Class::Usage, error.to_string().trim().to_owned()))?;
    let Command::Build(command) = cli.command else { unreachable!("the words are those of build") };
    build::run(&command, environment)?;
    args.write_digests(metadata.path())
}

/// The words of `builder build` that mean what kaniko's flags mean.
#[derive(Debug, Default)]
struct Words {
    list: Vec<String>,
    context: Context,
}

impl Words {
    fn push(&mut self, word: String) {
        self.list.push(word);
    }

    fn pop_context(&mut self) -> Context {
        std::mem::take(&mut self.context)
    }
}

/// A context as `builder build` takes it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Context {
    text: String,
    /// An archive that is to be standard input.
    archive: Option<PathBuf>,
}

fn usage(message: impl Into<String>) -> Failure {
    Failure::new(Class::Usage, message)
}

impl KanikoArgs {
    /// Returns the words of `builder build`. `variable` reads the environment.
    fn words(&self, variable: &dyn Fn(&str) -> Option<String>) -> Result<Words, Failure> {
        if self.destination.is_empty() && !self.no_push {
            return Err(usage("no destination is named")
                .with_hint("name one with --destination NAME, or build only: --no-push"));
        }
        let mut words = Words { context: self.context()?, ..Words::default() };
        let mut flag = |name: &str, value: &str| words.list.push(format!("--{name}={value}"));
        flag("file", &self.dockerfile);
        self.destination.iter().for_each(|name| flag("tag", name));
        self.build_arg.iter().for_each(|arg| flag("build-arg", arg));
        self.label.iter().for_each(|label| flag("label", label));
        self.target.iter().for_each(|stage| flag("target", stage));
        self.custom_platform.iter().for_each(|platform| flag("platform", platform));
        let mut compression = String::new();
        if let Some(kind) = &self.compression {
            compression += &format!(",compression={kind},force-compression=false");
        }
        if let Some(level) = self.compression_level {
            compression += &format!(",compression-level={level}");
        }
        if !self.no_push {
            flag("output", &format!("type=registry{compression}"));
        }
        // The first output is the one whose digest is written down: that of the tar has another form.
        if let Some(path) = &self.oci_layout_path {
            flag("output", &format!("type=oci,tar=false,{}{compression}", dest(path)?));
        }
        if let Some(path) = &self.tar_path {
            flag("output", &format!("type=docker,{}", dest(path)?));
        }
        if self.reproducible {
            flag("timestamp", "0");
        }
        if self.cache == Some(false) {
            words.list.push("--no-cache".to_owned());
        }
        if self.registries.insecure_pull || self.registries.skip_tls_verify_pull {
            words.list.push("--tls-verify=false".to_owned());
        }
        // Kaniko's variables for the repository of a context: for its host, and for no other.
        let of_git = ["GIT_TOKEN", "GIT_PASSWORD"];
        let is_set = |name: &&&str| variable(name).is_some_and(|value| !value.is_empty());
        if let Some(rest) = self.context.strip_prefix("git://")
            && let Some(name) = of_git.iter().find(is_set)
        {
            let host = rest.split(['/', '#']).next().unwrap_or_default();
            let host = host.rsplit('@').next().unwrap_or_default();
            words.list.push(format!("--secret=id=GIT_AUTH_TOKEN.{host},env={name}"));
        }
        Ok(words)
    }

    /// Returns the context as `builder build` takes it.
    fn context(&self) -> Result<Context, Failure> {
        if let Some(bucket) = &self.bucket {
            return Err(usage("a context in a bucket is not read").with_hint(format!(
                "pass it on: gcloud storage cat {bucket} | builder kaniko --context tar://stdin …"
            )));
        }
        let sub = self.context_sub_path.as_deref().unwrap_or_default().trim_matches('/');
        let (scheme, rest) = self.context.split_once("://").unwrap_or(("dir", &self.context));
        let of = |text: String| Ok(Context { text, archive: None });
        match scheme {
            "dir" if sub.is_empty() => of(rest.to_owned()),
            "dir" => of(format!("{}/{sub}", rest.trim_end_matches('/'))),
            "tar" if !sub.is_empty() => Err(usage("--context-sub-path of an archive is not there")
                .with_hint("unpack it, and name the directory: --context dir://PATH")),
            "tar" if rest == "stdin" => of("-".to_owned()),
            "tar" => Ok(Context { text: "-".to_owned(), archive: Some(rest.into()) }),
            "git" => of(self.repository(rest, sub)?),
            "http" | "https" if sub.is_empty() => of(self.context.clone()),
            "http" | "https" => of(format!("{}#:{sub}", self.context)),
            "s3" => Err(usage("a context in a bucket is not read").with_hint(format!(
                "pass it on: aws s3 cp {} - | builder kaniko --context tar://stdin …",
                self.context
            ))),
            "gs" => Err(usage("a context in a bucket is not read").with_hint(format!(
                "pass it on: gcloud storage cat {} | builder kaniko --context tar://stdin …",
                self.context
            ))),
            other => Err(usage(format!(
                "unknown kind of context `{other}://`: expected dir, tar, git or https"
            ))),
        }
    }

    /// Returns the address of a repository: `HOST/PATH[#REFERENCE][#COMMIT]` with a directory in it.
    fn repository(&self, text: &str, sub: &str) -> Result<String, Failure> {
        let mut parts = text.split('#');
        let path = parts.next().unwrap_or_default();
        let mut reference = parts.rfind(|part| !part.is_empty()).unwrap_or_default().to_owned();
        for option in self.git.iter().flat_map(|options| options.split(',')) {
            match option.split_once('=') {
                Some(("branch", branch)) if reference.is_empty() => {
                    branch.clone_into(&mut reference);
                }
                // A clone has one commit and its submodules, whatever is asked for.
                Some(("branch" | "single-branch" | "depth" | "recurse-submodules", _)) => {}
                Some(("insecure-skip-tls", "false")) => {}
                _ => {
                    return Err(usage(format!(
                        "--git {option} is not there: expected branch, single-branch, depth or \
                         recurse-submodules"
                    )));
                }
            }
        }
        let end = path.strip_suffix(".git").map_or(".git", |_| "");
        let sub = if sub.is_empty() { String::new() } else { format!(":{sub}") };
        let fragment = match (reference.is_empty(), sub.is_empty()) {
            (true, true) => String::new(),
            _ => format!("#{reference}{sub}"),
        };
        Ok(format!("https://{path}{end}{fragment}"))
    }

    /// Returns where docker's configuration is, as kaniko's image has it.
    pub(super) fn docker_config() -> Option<String> {
        Path::new(DOCKER_CONFIG).join("config.json").exists().then(|| DOCKER_CONFIG.to_owned())
    }

    /// Returns the text of a `registries.toml` that says what the flags say.
    ///
    /// # Errors
    ///
    /// A usage failure for a flag that is not of its form.
    pub(super) fn registries(&self) -> Result<String, Failure> {
        let args = &self.registries;
        let mut file = RegistriesToml::default();
        let pair = |flag: &str, text: &str, form: &str| match text.split_once('=') {
            Some((host, value)) if !host.is_empty() && !value.is_empty() => {
                Ok((host.to_owned(), value.to_owned()))
            }
            _ => Err(usage(format!("{flag} {text:?}: expected {form}"))),
        };
        let of_destinations = args.insecure || args.skip_tls_verify;
        let destinations = self.destination.iter().filter(|_| of_destinations);
        let hosts = destinations.map(|name| host_of(name)).collect::<Result<Vec<_>, _>>()?;
        let named = args.insecure_registry.iter().chain(&args.skip_tls_verify_registry);
        for host in hosts.iter().chain(named) {
            file.registry.entry(host.clone()).or_default().insecure = true;
        }
        for text in &args.registry_certificate {
            let (host, path) = pair("--registry-certificate", text, "HOST=FILE")?;
            file.registry.entry(host).or_default().ca.push(absolute(&path)?);
        }
        for text in &args.registry_client_cert {
            let (host, value) = pair("--registry-client-cert", text, "HOST=CERT,KEY")?;
            let (cert, key) = value.split_once(',').ok_or_else(|| {
                usage(format!("--registry-client-cert {text:?}: expected HOST=CERT,KEY"))
            })?;
            let keypair = Keypair { cert: absolute(cert)?, key: absolute(key)? };
            file.registry.entry(host).or_default().keypair.push(keypair);
        }
        for mirror in &args.registry_mirror {
            file.registry.entry("docker.io".to_owned()).or_default().mirrors.push(mirror.clone());
        }
        for text in &args.registry_map {
            let (host, mirror) = pair("--registry-map", text, "HOST=HOST")?;
            let host = if host == "index.docker.io" { "docker.io".to_owned() } else { host };
            file.registry.entry(host).or_default().mirrors.push(mirror);
        }
        if args.skip_default_registry_fallback {
            for table in file.registry.values_mut() {
                table.mirrors_only = !table.mirrors.is_empty();
            }
        }
        file.tries = args.push_retry.max(args.image_download_retry).map(|n| n.saturating_add(1));
        toml::to_string(&file).map_err(|error| usage(error.to_string()))
    }

    /// Writes the files that later jobs read.
    fn write_digests(&self, metadata: &Path) -> Result<(), Failure> {
        let files = [
            &self.digest_file,
            &self.image_name_with_digest_file,
            &self.image_name_tag_with_digest_file,
        ];
        if files.iter().all(|file| file.is_none()) {
            return Ok(());
        }
        let text = std::fs::read(metadata).map_err(|error| cannot("read", metadata, &error))?;
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        let Some(digest) = value["containerimage.digest"].as_str() else {
            return Err(Failure::new(Class::Bug, "the build has no digest"));
        };
        let mut with_name = String::new();
        let mut with_tag = String::new();
        for name in &self.destination {
            let full = name.parse::<Reference>().map_err(|error| usage(error.to_string()))?;
            let full = full.or_latest().to_string();
            let untagged = full.rsplit_once(':').map_or(full.as_str(), |(name, _)| name);
            with_name += &format!("{untagged}@{digest}\n");
            with_tag += &format!("{full}@{digest}\n");
        }
        for (file, text) in files.into_iter().zip([digest.to_owned(), with_name, with_tag]) {
            if let Some(path) = file {
                std::fs::write(path, text).map_err(|error| cannot("write", path, &error))?;
            }
        }
        Ok(())
    }
}

/// Returns the host that a name is pushed to.
fn host_of(name: &str) -> Result<String, Failure> {
    let name = name.parse::<Reference>().map_err(|error| usage(error.to_string()))?;
    let name = name.to_string();
    Ok(name.split('/').next().unwrap_or_default().to_owned())
}

/// Returns the field of an output that names a path, whatever is in it.
fn dest(path: &str) -> Result<String, Failure> {
    Ok(format!("\"dest={}\"", absolute(path)?.replace('"', "\"\"")))
}

fn absolute(path: &str) -> Result<String, Failure> {
    let path = std::path::absolute(path).map_err(|error| cannot("resolve", path, &error))?;
    Ok(path.display().to_string())
}

/// A `registries.toml`; see [`crate::registry::Settings`].
#[derive(Debug, Default, Serialize)]
struct RegistriesToml {
    #[serde(skip_serializing_if = "Option::is_none")]
    tries: Option<u32>,
    registry: BTreeMap<String, Table>,
}

#[derive(Debug, Default, Serialize)]
struct Table {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mirrors: Vec<String>,
    #[serde(rename = "mirrors-only")]
    mirrors_only: bool,
    insecure: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ca: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    keypair: Vec<Keypair>,
}

#[derive(Debug, Serialize)]
struct Keypair {
    cert: String,
    key: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn parse(line: &str) -> KanikoArgs {
        let words = ["builder", "kaniko"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(words).unwrap().command {
            Command::Kaniko(args) => *args,
            _ => unreachable!(),
        }
    }

    fn words(line: &str) -> String {
        let words = parse(line).words(&|_| None).unwrap();
        format!("{} {}", words.list.join(" "), words.context.text)
    }

    #[test]
    fn flags_become_those_of_build() {
        for (line, expected) in [
            ("--no-push", "--file=Dockerfile /workspace/"),
            (
                "-c . -f ./x/Dockerfile -d a/b:1 -d c",
                "--file=./x/Dockerfile --tag=a/b:1 --tag=c --output=type=registry .",
            ),
            (
                "--context=dir:///w --context-sub-path=/sub/ --no-push --target t",
                "--file=Dockerfile --target=t /w/sub",
            ),
            (
                "--no-push --cache=false --reproducible --build-arg A=1 --label b=c",
                "--file=Dockerfile --build-arg=A=1 --label=b=c --timestamp=0 --no-cache /workspace/",
            ),
            (
                "--no-push --cache=true --cleanup --snapshotMode=redo --verbosity debug",
                "--file=Dockerfile /workspace/",
            ),
            (
                "--no-push --tarPath /o.tar",
                "--file=Dockerfile --output=type=docker,\"dest=/o.tar\" /workspace/",
            ),
            (
                "--no-push --oci-layout-path /o --custom-platform=linux/arm64",
                "--file=Dockerfile --platform=linux/arm64 --output=type=oci,tar=false,\"dest=/o\" /workspace/",
            ),
            ("--no-push -c git://host/o/r", "--file=Dockerfile https://host/o/r.git"),
            (
                "--no-push -c git://host/o/r.git#refs/heads/x",
                "--file=Dockerfile https://host/o/r.git#refs/heads/x",
            ),
            (
                "--no-push -c git://host/o/r#refs/heads/x#0123 --context-sub-path s",
                "--file=Dockerfile https://host/o/r.git#0123:s",
            ),
            (
                "--no-push -c git://host/o/r --git branch=b,recurse-submodules=true",
                "--file=Dockerfile https://host/o/r.git#b",
            ),
            ("--no-push -c tar://stdin", "--file=Dockerfile -"),
            (
                "-d a --insecure-pull",
                "--file=Dockerfile --tag=a --output=type=registry --tls-verify=false /workspace/",
            ),
        ] {
            assert_eq!(words(line), expected, "{line}");
        }
        assert_eq!(
            parse("-c tar:///c.tgz --no-push").context().unwrap().archive,
            Some("/c.tgz".into())
        );
        for line in ["-c s3://a/b --no-push", "-c floppy://x --no-push", ""] {
            assert_eq!(parse(line).words(&|_| None).unwrap_err().class, Class::Usage, "{line}");
        }
        let token = |name: &str| (name == "GIT_TOKEN").then(|| "token".to_owned());
        let list = |line| parse(line).words(&token).unwrap().list.join(" ");
        let of_host = list("--no-push -c git://me@git.example:8080/o/r#main");
        assert!(of_host.ends_with("--secret=id=GIT_AUTH_TOKEN.git.example:8080,env=GIT_TOKEN"));
        assert!(!list("--no-push -c dir:///w").contains("secret"), "for repositories alone");
        assert_eq!(dest("/a\"b,c").unwrap(), "\"dest=/a\"\"b,c\"");
        assert!(parse("--no-push -b gs://a/b -v debug").words(&|_| None).is_err());
    }

    #[test]
    fn flags_of_registries_become_a_file() {
        let text = parse(
            "-d one.example/a -d localhost:5000/b --insecure --insecure-registry two.example \
             --registry-certificate three.example=/ca.pem \
             --registry-client-cert three.example=/c.pem,/k.pem --registry-mirror m.example \
             --registry-mirror n.example --registry-map quay.io=q.example --push-retry 2",
        );
        let text = text.registries().unwrap();
        let mut settings = crate::registry::Settings::default();
        settings.add(&text, Path::new("the command line")).unwrap();
        assert_eq!(settings.tries, 3);
        let value: toml::Value = toml::from_str(&text).unwrap();
        let registry = &value["registry"];
        for host in ["one.example", "localhost:5000", "two.example"] {
            assert_eq!(registry[host]["insecure"], true.into(), "{text}");
        }
        assert_eq!(registry["docker.io"]["mirrors"].as_array().unwrap().len(), 2);
        assert_eq!(registry["quay.io"]["mirrors"][0], "q.example".into());
        assert_eq!(registry["three.example"]["ca"][0], "/ca.pem".into());
        let text = parse("--no-push --registry-mirror m.example --skip-default-registry-fallback");
        let text = text.registries().unwrap();
        assert!(text.contains("mirrors-only = true"), "{text}");
        assert!(parse("--no-push --registry-certificate x").registries().is_err());
    }

    #[test]
    fn every_flag_has_a_row_in_the_documents() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/kaniko.md");
        let text = std::fs::read_to_string(path).unwrap();
        let rows = text.lines().filter_map(|line| line.strip_prefix("| `--")?.split('`').next());
        let mut rows: Vec<&str> = rows.collect();
        rows.sort_unstable();
        let definition = Cli::command();
        let kaniko = definition.find_subcommand("kaniko").unwrap();
        let flags = kaniko.get_arguments().filter_map(clap::Arg::get_long);
        let mut flags: Vec<&str> = flags.collect();
        flags.sort_unstable();
        assert_eq!(flags, rows);
    }
}
