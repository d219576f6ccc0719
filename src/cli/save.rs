//! `builder save`: images of the store as one archive.

use super::image_arg::{self, ImageCommandError};
use super::platforms;
use crate::export::{
    self, Context, Dest, LayerOptions, OutputKind, OutputSpec, PackOptions, Saved, write_saved,
};
use crate::image::{self, Chosen, ImageError, StoredImage};
use crate::oci::{Descriptor, Platform, Reference};
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
    /// Platforms to save, of images that have several; all that are here by default
    #[arg(long, value_name = "PLATFORM")]
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
    let wanted = platforms::parse_all(&args.platform)?;
    let vertex = Vertex::internal("[internal] saving images");
    let context = Context { store, progress, vertex: vertex.digest, cancel };
    let dest = args.output.clone().map_or(Dest::Stdout, Dest::Path);
    let mut spec = OutputSpec::new(kind, Some(dest));
    spec.layers =
        LayerOptions { compression: Some(export::Compression::Uncompressed), ..spec.layers };
    let options = PackOptions::of(&spec);
    let mut images: Vec<(Saved, Vec<Reference>)> = Vec::new();
    for text in &args.images {
        let found = image_arg::image(store, text)?;
        let made = saved(&context, &found.descriptor, &wanted, &options)?;
        // An image given by its id goes without a name, as with Docker.
        let name = found
            .name
            .as_deref()
            .and_then(|name| Reference::parse(name).ok())
            .filter(|name| Reference::parse(text).is_ok_and(|t| t.or_latest() == *name));
        match images.iter_mut().find(|(other, _)| *other == made) {
            Some((_, names)) => names.extend(name),
            None => images.push((made, name.into_iter().collect())),
        }
    }
    write_saved(&context, &images, &spec, stdout)?;
    Ok(())
}

/// Returns what is saved of an image: of an index the images for the platforms `wanted`, or all that
/// are here. A single one goes as an image of its own, all of them as the index that they are of.
fn saved(
    context: &Context<'_>,
    top: &Descriptor,
    wanted: &[Platform],
    options: &PackOptions,
) -> Result<Saved, ImageCommandError> {
    let (store, cancel) = (context.store, context.cancel);
    let pack = |descriptor: &Descriptor, platform: &Platform| {
        let image = image::load_stored(store, descriptor, platform, cancel)?;
        Ok::<_, ImageCommandError>(export::pack(context, &image, options)?)
    };
    let found = StoredImage::read(store, top)?;
    let Some(index) = &found.index else {
        let host = Platform::host();
        return Ok(Saved { main: pack(top, wanted.first().unwrap_or(&host))?, whole: None });
    };
    let chosen = match wanted {
        [] => found.here.iter().collect(),
        wanted => found.of_platforms(wanted)?,
    };
    match chosen.as_slice() {
        [] => Err(found.lacks(&Platform::host()).into()),
        [(descriptor, _, config)] => {
            Ok(Saved { main: pack(descriptor, &config.platform())?, whole: None })
        }
        several => {
            let all = wanted.is_empty().then(|| image::complete(store, top)).transpose()?.flatten();
            let whole = match all {
                Some(whole) => whole,
                None => {
                    let kept = several.iter().map(|(descriptor, ..)| descriptor.digest).collect();
                    let part = image::put_index(store, &image::with_only(index, &kept))?;
                    // A manifest is here, and a layer of it is not.
                    let missing = || ImageError::MissingBlob {
                        name: "the store".to_owned(),
                        digest: part.digest,
                    };
                    image::complete(store, &part)?.ok_or_else(missing)?
                }
            };
            // Readers of `manifest.json`, which has no word for an index, get one of them.
            let host = Platform::host();
            let is_own = |one: &&&Chosen| host.rank(&one.2.platform()).is_some();
            let (descriptor, _, config) = several.iter().find(is_own).unwrap_or(&several[0]);
            let main = pack(descriptor, &config.platform())?;
            Ok(Saved { main, whole: Some(whole) })
        }
    }
}
