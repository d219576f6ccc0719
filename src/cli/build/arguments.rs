//! `--build-arg`s, and those among them that speak to the builder rather than to the Dockerfile.
//!
//! | argument | what it does |
//! |---|---|
//! | `BUILDKIT_SYNTAX` | which frontend reads the file; only Dockerfile's is known |
//! | `BUILDKIT_CONTEXT_KEEP_GIT_DIR` | keeps `.git` of a context that is a git repository |
//! | `BUILDKIT_SANDBOX_HOSTNAME` | the host name in RUN steps |
//! | `BUILDKIT_CACHE_MOUNT_NS` | sets the cache mounts of builds apart; planning reads it |
//! | `BUILDKIT_DOCKERFILE_CHECK` | options of the checks, which read it |
//! | `BUILDKIT_MULTI_PLATFORM` | looked at, and without effect: one platform is built |
//! | `SOURCE_DATE_EPOCH` | the time of the image |
//!
//! Source: Dockerfile reference, "BuildKit built-in build args"; BuildKit `frontend/dockerui/config.go`.

use crate::cli::Environment;
use crate::cli::failure::{Class, Failure};
use crate::dockerfile;
use std::collections::BTreeMap;

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
}

impl BuildArguments {
    /// Reads `NAME=VALUE`s; a `NAME` alone has the environment's value, and is not given where that has
    /// none. `timestamp` goes before `SOURCE_DATE_EPOCH`.
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
        if let Some(image) = all.get("BUILDKIT_SYNTAX")
            && !dockerfile::is_dockerfile_frontend(image)
        {
            let message = format!(
                "--build-arg BUILDKIT_SYNTAX={image}: frontend {image:?} is not supported: only docker/dockerfile is"
            );
            return Err(Failure::new(Class::Usage, message));
        }
        truth(&all, "BUILDKIT_MULTI_PLATFORM")?;
        let epoch = match timestamp {
            Some(seconds) => Some(seconds),
            None => epoch(&all, environment)?,
        };
        if let Some(epoch) = epoch {
            all.entry("SOURCE_DATE_EPOCH".to_owned()).or_insert_with(|| epoch.to_string());
        }
        Ok(Self {
            keeps_git_dir: truth(&all, "BUILDKIT_CONTEXT_KEEP_GIT_DIR")?,
            hostname: all.get("BUILDKIT_SANDBOX_HOSTNAME").filter(|name| !name.is_empty()).cloned(),
            epoch,
            all,
        })
    }
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

fn epoch(
    all: &BTreeMap<String, String>,
    environment: &Environment,
) -> Result<Option<i64>, Failure> {
    let given = all.get("SOURCE_DATE_EPOCH").cloned();
    match given.or_else(|| environment.variable("SOURCE_DATE_EPOCH")).as_deref() {
        None | Some("") => Ok(None),
        Some(text) => text
            .parse()
            .map(Some)
            .map_err(|_| Failure::new(Class::Usage, format!("invalid SOURCE_DATE_EPOCH: {text}"))),
    }
}
