//! What a build gives: an image, or an index of its images for several platforms.

use super::{
    Annotation, AnnotationTarget, Context, ExportError, PackOptions, Packed, annotation, blob, put,
    put_image,
};
use crate::image::{Image, ImageLayer};
use crate::oci::{Descriptor, Digest, Index, Platform, canonical_json};
use std::collections::BTreeMap;

/// What a build has made.
#[derive(Debug, Clone, Copy)]
pub enum Product<'a> {
    /// An image.
    Image(&'a Image),
    /// Images that an index lists, each with the platform it is for. A base without an image for
    /// a platform may have given one for another: its configuration says so, the index does not.
    Index(&'a [(Platform, Image)]),
}

impl<'a> Product<'a> {
    /// Returns the images, at least one, with their platforms.
    pub fn images(self) -> Vec<(Platform, &'a Image)> {
        match self {
            Self::Image(image) => vec![(image.config.platform(), image)],
            Self::Index(images) => {
                images.iter().map(|(platform, image)| (platform.clone(), image)).collect()
            }
        }
    }
}

/// A [`Product`] all of whose blobs are in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedProduct {
    /// The images, at least one.
    pub images: Vec<Packed>,
    /// The index, with the annotations of its own entry in a layout; `None` for an image alone.
    pub index: Option<Descriptor>,
}

impl PackedProduct {
    /// Returns what a name stands for: the index, or the manifest of the image alone.
    pub fn top(&self) -> &Descriptor {
        self.index.as_ref().unwrap_or(&self.images[0].manifest)
    }

    /// Returns the digest that stands for it as an id: of the config of an image alone, or of the
    /// index.
    pub fn id(&self) -> Digest {
        self.index.as_ref().map_or(self.images[0].config.digest, |index| index.digest)
    }

    /// Returns what the index of a store or of a layout has of it.
    pub(super) fn listed(&self) -> Descriptor {
        self.index.clone().unwrap_or_else(|| self.images[0].listed())
    }

    /// Returns the image that a reader takes who knows no index: the one for this machine, or the
    /// first.
    pub(super) fn preferred(&self) -> &Packed {
        let host = Platform::host();
        let ranked = self.images.iter().filter_map(|one| Some((host.rank(&one.platform)?, one)));
        ranked.min_by_key(|(rank, _)| *rank).map_or(&self.images[0], |(_, one)| one)
    }
}

impl Packed {
    /// Returns what an index has of the image.
    pub(super) fn listed(&self) -> Descriptor {
        let mut descriptor = self.manifest.clone();
        descriptor.platform = Some(self.platform.to_json());
        descriptor.annotations.extend(self.descriptor_annotations.clone());
        descriptor
    }
}

/// Makes the blobs of a product: those of each image, and the index.
///
/// # Errors
///
/// As [`pack`](super::pack).
pub fn pack_product(
    context: &Context<'_>,
    product: Product<'_>,
    options: &PackOptions,
) -> Result<PackedProduct, ExportError> {
    let images = pack_all(context, &product.images(), options)?;
    let index = match product {
        Product::Image(_) => None,
        Product::Index(_) => Some(put_index(context, &images, options)?),
    };
    Ok(PackedProduct { images, index })
}

/// Packs images whose layers are compressed side by side, each layer once.
fn pack_all(
    context: &Context<'_>,
    images: &[(Platform, &Image)],
    options: &PackOptions,
) -> Result<Vec<Packed>, ExportError> {
    let (mut layers, mut known) = (Vec::new(), BTreeMap::new());
    let places = images.iter().map(|(_, image)| {
        let place = |layer: &ImageLayer| {
            let received = layer.descriptor.as_ref().map(|blob| blob.digest);
            *known.entry((layer.layer.id, layer.diff_id, received)).or_insert_with(|| {
                layers.push(layer.clone());
                layers.len() - 1
            })
        };
        image.layers.iter().map(place).collect()
    });
    let places: Vec<Vec<usize>> = places.collect();
    let blobs = blob::layer_blobs(context, &layers, options)?;
    let pack = |((platform, image), places): (&(Platform, &Image), Vec<usize>)| {
        let blobs = places.into_iter().map(|place| blobs[place].clone()).collect();
        put_image(context, (platform, image), blobs, options)
    };
    images.iter().zip(places).map(pack).collect()
}

fn put_index(
    context: &Context<'_>,
    images: &[Packed],
    options: &PackOptions,
) -> Result<Descriptor, ExportError> {
    let children = images.iter().map(Packed::listed).collect();
    let annotations = of_index(&options.annotations, AnnotationTarget::Index);
    let index = Index::joined(children, annotations, options.is_docker);
    let media_type = index.media_type.clone().unwrap_or_default();
    let mut descriptor = put(context.store, &canonical_json(&index), &media_type)?;
    descriptor.annotations = of_index(&options.annotations, AnnotationTarget::IndexDescriptor);
    Ok(descriptor)
}

/// Returns the annotations of an index. It is of no platform, and none chooses among them.
pub(super) fn of_index(
    annotations: &[Annotation],
    target: AnnotationTarget,
) -> BTreeMap<String, String> {
    annotation::chosen(annotations, target, &Platform::host())
}
