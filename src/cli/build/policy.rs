//! Flags of policies: rules on what a build may read from elsewhere.

use crate::cli::Environment;
use crate::cli::failure::{Class, Failure, cannot};
use crate::policy::{POLICY_MAX, Policies};
use crate::sys::foreign;
use std::path::{Path, PathBuf};

/// The variable with which docker's build names a policy.
const VARIABLE: &str = "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY";

/// What `builder build` takes of policies.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct PolicyArgs {
    /// File with rules on images, downloads and repositories, as BuildKit's JSON
    #[arg(long, value_name = "FILE")]
    pub source_policy_file: Vec<PathBuf>,
    /// `disabled=true` builds although a Dockerfile.rego is there, which is not evaluated
    #[arg(long, value_name = "disabled=true")]
    pub policy: Vec<String>,
}

impl PolicyArgs {
    /// Reads the policies that flags and the environment name.
    ///
    /// # Errors
    ///
    /// The failure to show: a file that cannot be read, or is not a policy.
    pub(super) fn policies(&self, environment: &Environment) -> Result<Policies, Failure> {
        let mut policies = Policies::default();
        let given = environment.variable(VARIABLE).filter(|path| !path.is_empty());
        let configured = environment.config.policies();
        for path in given
            .as_deref()
            .map(Path::new)
            .into_iter()
            .chain(configured.iter().map(PathBuf::as_path))
            .chain(self.source_policy_file.iter().map(PathBuf::as_path))
        {
            let text =
                foreign::read_at(path, POLICY_MAX).map_err(|error| cannot("read", path, &error))?;
            policies.add(&text, path).map_err(|error| {
                Failure::of(Class::Usage, &error)
                    .with_hint("the form of the file: docs/registries.md, source policies")
            })?;
        }
        Ok(policies)
    }

    /// Reads whether a policy in Rego is passed over.
    ///
    /// # Errors
    ///
    /// A usage failure for what would have one evaluated.
    pub(super) fn ignores_rego(&self) -> Result<bool, Failure> {
        let mut is_ignored = false;
        for value in &self.policy {
            match value.as_str() {
                "disabled=true" | "disabled" => is_ignored = true,
                "disabled=false" => is_ignored = false,
                other => {
                    let message = format!("--policy {other}: policies in Rego are not evaluated");
                    return Err(Failure::new(Class::Usage, message)
                        .with_hint("use rules in JSON: builder build --source-policy-file FILE"));
                }
            }
        }
        Ok(is_ignored)
    }
}
