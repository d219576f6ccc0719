//! `builder buildx`: what pipelines ask buildx of its builder instances, before they build.
//!
//! There is one, this program. Commands that build, list or remove have names of their own here:
//! [`super::argv`].

use super::Environment;
use super::failure::Failure;
use super::format::{Columns, ListFormat};
use super::template::Value;
use crate::oci::Platform;

/// The version of buildx whose command line is understood. Pipelines compare it with the one in
/// which a flag appeared.
const BUILDX: &str = "v0.30.1";

/// The name of the one instance, as docker has it.
const NAME: &str = "default";

/// What a template of `buildx ls` can show.
const COLUMNS: &Columns = &[
    ("Name", "NAME/NODE"),
    ("DriverEndpoint", "DRIVER/ENDPOINT"),
    ("Status", "STATUS"),
    ("Buildkit", "BUILDKIT"),
    ("Platforms", "PLATFORMS"),
    ("Current", "CURRENT"),
];

/// The commands of buildx about builder instances.
#[derive(Debug, clap::Subcommand)]
pub enum BuildxCommand {
    /// List builder instances
    Ls {
        /// How to show them: table, json or a Go template
        #[arg(long, value_name = "FORMAT", default_value = "table")]
        format: String,
        /// Show everything
        #[arg(long)]
        no_trunc: bool,
    },
    /// Show a builder instance
    Inspect {
        /// Its name; there is one, under any name
        name: Option<String>,
        /// The same
        #[arg(long, value_name = "NAME")]
        builder: Option<String>,
        /// Start it; it always is
        #[arg(long)]
        bootstrap: bool,
    },
    /// Show the version of buildx whose command line this is, and that of this program
    Version,
}

/// Runs a command of buildx.
///
/// # Errors
///
/// A failure of class usage for a format that cannot be used.
pub fn run(command: &BuildxCommand, environment: &Environment) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    let platform = Platform::host().to_string();
    let text = match command {
        BuildxCommand::Version => {
            format!("buildx {BUILDX} builder {version} {}\n", env!("BUILDER_COMMIT"))
        }
        BuildxCommand::Inspect { name, builder, .. } => {
            let name = name.as_deref().or(builder.as_deref()).unwrap_or(NAME);
            let name = crate::show::harmless(name, false);
            format!(
                "Name:          {name}\nDriver:        builder\n\nNodes:\nName:             {name}\n\
                 Endpoint:         this machine\nStatus:           running\n\
                 BuildKit version: {BUILDX}\nPlatforms:        {platform}\n"
            )
        }
        BuildxCommand::Ls { format, .. } => {
            let texts = [NAME, "builder", "running", BUILDX, &platform].map(Value::text);
            let names = COLUMNS.iter().map(|(name, _)| *name);
            let mut row: Vec<_> = names.zip(texts).collect();
            row.push(("Current", Value::Bool(true)));
            let mut out = Vec::new();
            ListFormat::parse(format, COLUMNS)
                .and_then(|format| format.write(&[Value::row(row)], &mut out))
                .map_err(|error| error.failure())?;
            String::from_utf8_lossy(&out).into_owned()
        }
    };
    environment.print(&text);
    Ok(())
}
