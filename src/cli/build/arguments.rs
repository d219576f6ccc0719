//! `--build-arg`s, and those among them that speak to the builder rather than to the Dockerfile.
//!
//! | argument | what it does |
//! |---|---|
//! | `BUILDKIT_SYNTAX` | which frontend reads the file, whatever its `# syntax=` says; only Dockerfile's is known |
//! | `BUILDKIT_CONTEXT_KEEP_GIT_DIR` | keeps `.git` of a context that is a git repository |
//! | `BUILDKIT_SANDBOX_HOSTNAME` | the host name in RUN steps |
//! | `BUILDKIT_CACHE_MOUNT_NS` | sets the cache mounts of builds apart; planning reads it |
//! | `BUILDKIT_DOCKERFILE_CHECK` | options of the checks, which read it |
//! | `BUILDKIT_MULTI_PLATFORM` | the result is an index, even of one platform |
//! | `BUILDKIT_BUILD_NAME` | the build's name in the history |
//! | `SOURCE_DATE_EPOCH` | the time of the image; `context` for that of the context |
//!
//! Source: Dockerfile reference, "BuildKit built-in build args"; BuildKit
//! `frontend/dockerui/config.go`.

use crate::cli::Environment;
use crate::cli::failure::{Class, Failure};
use crate::cli::registry::docker_config;
use crate::dockerfile;
use crate::sys::foreign::Given;
use std::collections::BTreeMap;

/// The frontend that is part of the program, as BuildKit names its own.
const BUILT_IN: &str = "dockerfile.v0";

/// Largest configuration of docker's that is read, in bytes.
const CONFIG_MAX: u64 = 16 << 20;

/// The arguments of a build.
#[derive(Debug)]
pub(super) struct BuildArguments {
    /// All, by name.
    pub(super) all: BTreeMap<String, String>,
    /// Whether a git repository keeps its `.git` as a context.
    pub(super) keeps_git_dir: bool,
    /// The host name in RUN steps.
    pub(super) hostname: Option<String>,
    /// Seconds since 1970 that all times of the image are.
    pub(super) epoch: Option<i64>,
    /// Whether the time of the image is that of the context.
    pub(super) has_epoch_of_context: bool,
    /// The build's name in the history.
    pub(super) build_name: Option<String>,
    /// Whether the result is an index, even of one platform.
    pub(super) has_index: bool,
}

impl BuildArguments {
    /// Reads `NAME=VALUE`s; a `NAME` alone has the environment's value, and is not given where that
    /// has none. `timestamp` goes before `SOURCE_DATE_EPOCH`.
    ///
    /// # Errors
    ///
    /// A failure of class usage for a value that means nothing.
    pub(super) fn read(
        texts: &[String],
        timestamp: Option<i64>,
        environment: &Environment,
    ) -> Result<Self, Failure> {
        let mut all = BTreeMap::new();
        for text in texts {
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (text.as_str(), environment.variable(text)),
            };
            if let Some(value) = value {
                all.insert(name.to_owned(), value);
            }
        }
        let given: Vec<String> = all.keys().map(|name| name.to_ascii_lowercase()).collect();
        for (name, value) in proxies(environment) {
            // What the command line says counts for both cases of a name.
            if !given.contains(&name.to_ascii_lowercase()) {
                all.insert(name, value);
            }
        }
        if let Some(image) = all.get("BUILDKIT_SYNTAX")
            && image != BUILT_IN
            && !dockerfile::is_dockerfile_frontend(image)
        {
            let message = format!(
                "--build-arg BUILDKIT_SYNTAX={image}: frontend {image:?} is not supported: only docker/dockerfile is"
            );
            return Err(Failure::new(Class::Usage, message));
        }
        let (epoch, has_epoch_of_context) = match (timestamp, epoch(&all, environment)?) {
            (Some(seconds), _) => (Some(seconds), false),
            (None, Some(Epoch::At(seconds))) => (Some(seconds), false),
            (None, Some(Epoch::Context)) => (None, true),
            (None, None) => (None, false),
        };
        let named = |name: &str| all.get(name).cloned().or_else(|| environment.variable(name));
        let build_name = named("BUILDKIT_BUILD_NAME").filter(|name| !name.is_empty());
        if let Some(epoch) = epoch {
            all.entry("SOURCE_DATE_EPOCH".to_owned()).or_insert_with(|| epoch.to_string());
        }
        Ok(Self {
            keeps_git_dir: truth(&all, "BUILDKIT_CONTEXT_KEEP_GIT_DIR")?,
            hostname: all.get("BUILDKIT_SANDBOX_HOSTNAME").filter(|name| !name.is_empty()).cloned(),
            epoch,
            has_epoch_of_context,
            build_name,
            has_index: truth(&all, "BUILDKIT_MULTI_PLATFORM")?,
            all,
        })
    }
}

/// Returns the build arguments that `proxies` of docker's configuration stands for, as docker's
/// command line makes them. A file that cannot be read has none: what needs it for logins reports
/// it.
fn proxies(environment: &Environment) -> Vec<(String, String)> {
    const NAMES: [(&str, &str); 5] = [
        ("httpProxy", "HTTP_PROXY"),
        ("httpsProxy", "HTTPS_PROXY"),
        ("ftpProxy", "FTP_PROXY"),
        ("noProxy", "NO_PROXY"),
        ("allProxy", "ALL_PROXY"),
    ];
    let config = docker_config(environment).and_then(|path| {
        let given = Given::open(&path, &environment.cancel).ok()?;
        let bytes = given.read_to_limit(CONFIG_MAX).ok()?;
        serde_json::from_slice::<serde_json::Value>(&bytes).ok()
    });
    let Some(config) = config else { return Vec::new() };
    let values = &config["proxies"]["default"];
    let given = NAMES.iter().filter_map(|(key, name)| Some((name, values[key].as_str()?)));
    given
        .filter(|(_, value)| !value.is_empty())
        .flat_map(|(name, value)| {
            [(*name).to_owned(), name.to_ascii_lowercase()].map(|name| (name, value.to_owned()))
        })
        .collect()
}

/// A truth value as Go reads it; false where it is not given or empty.
fn truth(all: &BTreeMap<String, String>, name: &str) -> Result<bool, Failure> {
    match all.get(name).map_or("", String::as_str) {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        other => {
            let message = format!("--build-arg {name}={other}: expected true or false");
            Err(Failure::new(Class::Usage, message))
        }
    }
}

/// What `SOURCE_DATE_EPOCH` says.
enum Epoch {
    At(i64),
    Context,
}

fn epoch(
    all: &BTreeMap<String, String>,
    environment: &Environment,
) -> Result<Option<Epoch>, Failure> {
    let given = all.get("SOURCE_DATE_EPOCH").cloned();
    match given.or_else(|| environment.variable("SOURCE_DATE_EPOCH")).as_deref() {
        None | Some("") => Ok(None),
        Some("context") => Ok(Some(Epoch::Context)),
        Some(text) => text.parse().map(|at| Some(Epoch::At(at))).map_err(|_| {
            let message = format!("invalid SOURCE_DATE_EPOCH: {text}");
            Failure::new(Class::Usage, message)
                .with_hint("give seconds since 1970, or `context` for the time of the context")
        }),
    }
}
