//! `builder save`: images of the store as one archive.

use super::image_arg::{self, ImageCommandError};
use crate::export::{
    self, Context, Dest, LayerOptions, OutputKind, OutputSpec, PackOptions, write_archive,
};
use crate::image;
use crate::oci::Reference;
use crate::progress::{Progress, Vertex};
use crate::store::Store;
use crate::sys::cancel::Cancel;
use std::io::Write;
use std::path::PathBuf;

/// Save images to an archive.
#[derive(Debug, Clone, clap::Args)]
pub struct SaveArgs {
    /// The images
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
    /// The archive; stdout otherwise
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// `docker`, which all tools read, or `oci`
    #[arg(long, value_name = "FORMAT", default_value = "docker")]
    pub format: String,
    /// The platform, of images that have several
    #[arg(long)]
    pub platform: Vec<String>,
}

/// Writes the images, with the names they are given by, to a file or to `stdout`.
///
/// Layers keep the blobs they have; those that were never compressed stay so, as in `docker save`.
///
/// # Errors
///
/// [`ImageCommandError`]; no file is left then.
pub fn run(
    args: &SaveArgs,
    store: &Store,
    progress: &Progress,
    cancel: &Cancel,
    is_terminal: bool,
    stdout: &mut dyn Write,
) -> Result<(), ImageCommandError> {
    let kind = match args.format.as_str() {
        "docker" => OutputKind::Docker,
        "oci" => OutputKind::Oci,
        _ => {
            return Err(ImageCommandError::Format {
                text: args.format.clone(),
                expected: "docker or oci",
            });
        }
    };
    if args.output.is_none() && is_terminal {
        return Err(ImageCommandError::Terminal);
    }
    let platform = super::import::platform(&args.platform)?;
    let vertex = Vertex::internal("[internal] saving images");
    let context = Context { store, progress, vertex: vertex.digest, cancel };
    let dest = args.output.clone().map_or(Dest::Stdout, Dest::Path);
    let mut spec = OutputSpec::new(kind, Some(dest));
    spec.layers =
        LayerOptions { compression: Some(export::Compression::Uncompressed), ..spec.layers };
    let options = PackOptions::of(&spec);
    let mut packed: Vec<(export::Packed, Vec<Reference>)> = Vec::new();
    for text in &args.images {
        let found = image_arg::image(store, text)?;
        let image = image::load_stored(store, &found.descriptor, &platform, cancel)?;
        let made = export::pack(&context, &image, &options)?;
        // An image given by its id goes without a name, as with Docker.
        let name = found
            .name
            .as_deref()
            .and_then(|name| Reference::parse(name).ok())
            .filter(|name| Reference::parse(text).is_ok_and(|t| t.or_latest() == *name));
        match packed.iter_mut().find(|(other, _)| *other == made) {
            Some((_, names)) => names.extend(name),
            None => packed.push((made, name.into_iter().collect())),
        }
    }
    let images: Vec<_> = packed.iter().map(|(made, names)| (made, names.as_slice())).collect();
    write_archive(&context, &images, &spec, stdout)?;
    Ok(())
}
