//! Delivery of a built image: outputs, registries, the files that name it.

use super::Caller;
use super::check;
use super::failure::{Class, Failure};
use super::load::Loaded;
use super::request::DeliverySpec;
use super::transfers::{self, Pushes};
use crate::dockerfile::lint::Finding;
use crate::export::{
    self, Dest, ExportError, OutputKind, OutputSpec, PackedProduct, Product, Push,
};
use crate::image::{self, Selector, StoreSource};
use crate::oci::{DEFAULT_TAG, Reference, canonical_json};
use crate::plan::Plan;
use crate::progress::{Vertex, Warning};
use crate::registry::Client;
use crate::solve::{self, Job};

/// Says what is wrong with an output that is pushed, given the names of the image.
///
/// # Errors
///
/// A sentence for the user.
pub fn check_push(spec: &OutputSpec, tags: &[Reference]) -> Result<(), String> {
    let names = spec.names.iter().chain(tags);
    if names.clone().next().is_none() {
        return Err(
            "an image is pushed by its names: give it one with -t HOST/REPOSITORY:TAG".to_owned()
        );
    }
    let has_tag = |name: &&Reference| name.tag().is_some_and(|tag| tag != DEFAULT_TAG);
    if let Some(name) = names.clone().find(has_tag).filter(|_| spec.push.by_digest) {
        return Err(format!("{} has a tag, and push-by-digest=true sets none", name.familiar()));
    }
    Ok(())
}

/// Puts what was built where it was asked for; returns it as the first output packed it.
pub(super) fn deliver(
    loaded: &Loaded<'_>,
    caller: &dyn Caller,
    job: &Job<'_>,
    solved: &solve::Solved,
    findings: &[Finding],
) -> Result<Option<PackedProduct>, Failure> {
    let request = loaded.request;
    if !job.options.wants_image {
        return Ok(None);
    }
    let delivery = &request.delivery;
    let wanted = job.plan.targets.iter().map(|target| target.wanted.clone());
    let images: Vec<_> = wanted.zip(solve::images_of(job, solved)).collect();
    let product = match &*images {
        [(_, image)] if !request.source.has_index => Product::Image(image),
        images => Product::Index(images),
    };
    let vertex = Vertex::internal("exporting to image");
    let context = export::Context {
        store: job.store,
        progress: job.progress,
        vertex: vertex.digest,
        cancel: job.cancel,
    };
    let shown = vertex.digest;
    job.progress.started(vertex);
    let result = outputs(&context, product, delivery, job.options.epoch, caller)
        .map_err(|error| match error {
            ExportError::Cancelled => Failure::new(Class::Interrupted, "interrupted"),
            error @ ExportError::SamePath { .. } => Failure::of(Class::Usage, &error),
            error => Failure::of(Class::Environment, &error),
        })
        .and_then(|(packed, parcels)| {
            send(&parcels, &context, || caller.client(request.verifies_tls, job.progress))?;
            // What was pushed is what others can ask for by its digest.
            let pushed = parcels.into_iter().next().map(|parcel| parcel.packed);
            Ok((pushed.or_else(|| packed.clone()), packed))
        });
    transfers::ended(job.progress, shown, &result);
    let (facts, packed) = result?;
    for spec in delivery.all_outputs() {
        for line in made(spec, packed.as_ref(), delivery, job) {
            job.progress.made(line);
        }
    }
    if let Some(path) = &delivery.metadata_file {
        let given = delivery.outputs.iter().flat_map(|spec| &spec.names);
        let mut names: Vec<Reference> = Vec::new();
        for name in delivery.tags.iter().chain(given) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        let mut metadata = export::metadata(facts.as_ref(), &names);
        // As buildx has it: builder, node, build.
        metadata["buildx.build.ref"] = format!("builder/builder/{}", job.build).into();
        if delivery.metadata_has_warnings && !findings.is_empty() {
            let warnings = check::warnings(findings, loaded);
            let warnings = warnings.iter().map(Warning::to_json);
            metadata["buildx.build.warnings"] = warnings.collect::<Vec<_>>().into();
        }
        metadata["builder.usage"] = usage(job.plan, &solved.steps);
        let mut text = canonical_json(&metadata);
        text.push(b'\n');
        export::write_whole(path, &text).map_err(|e| Failure::of(Class::Environment, &e))?;
    }
    if let (Some(path), Some(packed)) = (&delivery.id_file, &packed) {
        export::write_whole(path, packed.id().to_string().as_bytes())
            .map_err(|e| Failure::of(Class::Environment, &e))?;
    }
    Ok(packed)
}

/// Returns what an output made, for the end of the progress: names, digest, and where it is.
fn made(
    spec: &OutputSpec,
    packed: Option<&PackedProduct>,
    delivery: &DeliverySpec,
    job: &Job<'_>,
) -> Vec<String> {
    let names: Vec<_> = delivery.tags.iter().chain(&spec.names).map(Reference::familiar).collect();
    let image = match (names.as_slice(), packed) {
        ([], Some(packed)) => format!("image {}", packed.top().digest),
        (names, Some(packed)) => format!("image {} {}", names.join(", "), packed.top().digest),
        (_, None) => "image".to_owned(),
    };
    let to = match &spec.dest {
        Some(Dest::Stdout) => "written to the standard output".to_owned(),
        Some(Dest::Path(path)) => format!("written to {}", path.display()),
        None => format!("loaded into {}", spec.kind.name()),
    };
    match spec.kind {
        OutputKind::CacheOnly => Vec::new(),
        OutputKind::Local | OutputKind::Tar => vec![format!("files {to}")],
        OutputKind::Oci | OutputKind::Docker => vec![format!("{image} {to}")],
        OutputKind::Image => {
            let root = job.store.root().display();
            let pushed = spec.push.is_wanted.then(|| match (names.as_slice(), packed) {
                (names, Some(packed)) if spec.push.by_digest => {
                    format!("pushed {} by its digest {}", names.join(", "), packed.top().digest)
                }
                (names, _) => format!("pushed {}", names.join(", ")),
            });
            let name_hint = if names.is_empty() { "; give it a name with -t" } else { "" };
            let stored = match spec.is_stored {
                true => format!("{image} in the store {root}{name_hint}"),
                false => format!("{image}, not kept in the store"),
            };
            [Some(stored), pushed].into_iter().flatten().collect()
        }
    }
}

/// What each step that ran used, for the metadata file.
fn usage(plan: &Plan, steps: &[solve::StepReport]) -> serde_json::Value {
    let ran = plan.steps.iter().zip(steps).filter(|(_, report)| report.end == solve::StepEnd::Ran);
    ran.map(|(step, report)| {
        let mut entry = serde_json::to_value(report.cost).unwrap_or_default();
        entry["step"] = step.name.as_str().into();
        entry
    })
    .collect()
}

/// An image that is to go to the registries of its names.
struct Parcel {
    packed: PackedProduct,
    names: Vec<Reference>,
    push: Push,
}

/// Pushes what outputs asked for.
fn send(
    parcels: &[Parcel],
    context: &export::Context<'_>,
    client: impl FnOnce() -> Result<Client, Failure>,
) -> Result<(), Failure> {
    if parcels.is_empty() {
        return Ok(());
    }
    let export::Context { store, progress, vertex, cancel } = *context;
    let pushes = Pushes { client: client()?, store, progress, cancel };
    for Parcel { packed, names, push } in parcels {
        let image = image::survey(store, &StoreSource(store), packed.top(), Selector::All)
            .map_err(|error| transfers::failure_of(&error))?;
        for name in names {
            let tag = name.tag().filter(|_| !push.by_digest).map(str::to_owned);
            pushes.push(&image, name, tag.as_slice(), vertex)?;
        }
    }
    Ok(())
}

/// Makes every output; without any, the image goes into the store.
fn outputs(
    context: &export::Context<'_>,
    product: Product<'_>,
    delivery: &DeliverySpec,
    epoch: Option<i64>,
    caller: &dyn Caller,
) -> Result<(Option<PackedProduct>, Vec<Parcel>), ExportError> {
    let (mut packed, mut parcels) = (None, Vec::new());
    for spec in delivery.all_outputs() {
        // Known only now, where it is the context's.
        let spec = &OutputSpec { epoch: spec.epoch.or(epoch), ..spec.clone() };
        let mut names = delivery.tags.clone();
        names.extend(spec.names.iter().cloned());
        let mut stdout = caller.stdout();
        let is_kept = spec.is_stored && !spec.push.by_digest;
        let in_store = if is_kept { &names[..] } else { &[][..] };
        let one = export::export(context, product, in_store, spec, &mut stdout)?;
        if let Some(packed) = &one
            && spec.kind == OutputKind::Image
        {
            let canonical = if spec.push.has_canonical_name { &names[..] } else { &[][..] };
            let dangling = spec.dangling_name.as_ref().filter(|_| names.is_empty());
            let digest = packed.top().digest;
            let with_digest = canonical.iter().chain(dangling).map(|name| name.with_digest(digest));
            if spec.is_stored {
                export::tag(context.store, packed, &with_digest.collect::<Vec<_>>())?;
            }
            if spec.push.is_wanted {
                parcels.push(Parcel { packed: packed.clone(), names, push: spec.push });
            }
        }
        packed = packed.or(one);
    }
    Ok((packed, parcels))
}
