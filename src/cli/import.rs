//! `builder import`: a root filesystem's tar becomes a base image.

use super::image_arg::ImageCommandError;
use super::platforms;
use crate::image::{self, ImportOptions};
use crate::oci::{Descriptor, Platform, Reference};
use crate::store::Store;
use crate::sys::cancel::Cancel;
use crate::sys::foreign::Given;
use jiff::Timestamp;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Make a base image of a root filesystem's tar.
#[derive(Debug, Clone, clap::Args)]
pub struct ImportArgs {
    /// The tar, plain or compressed; `-` for stdin
    #[arg(value_name = "ROOTFS.tar[.gz|.zst]")]
    pub file: PathBuf,
    /// The image's name
    #[arg(value_name = "NAME[:TAG]")]
    pub name: String,
    /// A note for the image's history
    #[arg(short, long, default_value = "imported")]
    pub message: String,
    /// What the image runs on; this machine's platform otherwise
    #[arg(long)]
    pub platform: Vec<String>,
}

/// Imports a tar and prints the image's digest; `now` becomes its creation time.
///
/// # Errors
///
/// [`ImageCommandError`]; nothing is named then.
pub fn run(
    args: &ImportArgs,
    store: &Store,
    now: Timestamp,
    stdin: impl Read + Send,
    cancel: &Cancel,
    out: &mut dyn Write,
) -> Result<(), ImageCommandError> {
    let name = Reference::parse(&args.name)?;
    if name.digest().is_some() {
        return Err(ImageCommandError::TagWithDigest { name: args.name.clone() });
    }
    let options = ImportOptions {
        platform: platform(&args.platform)?,
        created: now.to_string(),
        message: args.message.clone(),
    };
    let image = match open(&args.file, cancel)? {
        Some(file) => {
            let shown = args.file.display().to_string();
            image::import_rootfs(store, file, &shown, &options, cancel)?
        }
        None => image::import_rootfs(store, stdin, "stdin", &options, cancel)?,
    };
    if let Some(manifest) = &image.manifest {
        let manifest =
            Descriptor { platform: Some(options.platform.to_json()), ..manifest.clone() };
        store.tag(&name.or_latest().to_string(), &manifest)?;
        writeln!(out, "{}", manifest.digest)?;
    }
    Ok(())
}

/// Parses the `--platform` options of a command, the host's platform by default.
pub(super) fn platform(texts: &[String]) -> Result<Platform, ImageCommandError> {
    Ok(platforms::parse(texts)?.unwrap_or_else(Platform::host))
}

/// Opens a file argument; `None` for `-`.
pub(super) fn open(path: &Path, cancel: &Cancel) -> Result<Option<Given>, ImageCommandError> {
    if path.as_os_str() == "-" {
        return Ok(None);
    }
    let file = Given::open_stream(path, cancel)
        .map_err(|source| ImageCommandError::Open { path: path.to_owned(), source })?;
    Ok(Some(file))
}
