//! `builder tag`: another name for an image.

use super::image_arg::{self, ImageCommandError};
use crate::oci::Reference;
use crate::store::Store;

/// Give an image another name.
#[derive(Debug, Clone, clap::Args)]
pub struct TagArgs {
    /// The image
    #[arg(value_name = "SOURCE_IMAGE[:TAG]")]
    pub source: String,
    /// Its new name
    #[arg(value_name = "TARGET_IMAGE[:TAG]")]
    pub target: String,
}

/// Names an image; a name another image had moves.
///
/// # Errors
///
/// [`ImageCommandError`] for an unknown image or a bad name.
pub fn run(args: &TagArgs, store: &Store) -> Result<(), ImageCommandError> {
    let target = Reference::parse(&args.target)?;
    if target.digest().is_some() {
        return Err(ImageCommandError::TagWithDigest { name: args.target.clone() });
    }
    let found = image_arg::image(store, &args.source)?;
    store.tag(&target.or_latest().to_string(), &found.descriptor)?;
    Ok(())
}
