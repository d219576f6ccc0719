//! `builder inspect`: all about an image, as JSON.

use super::format::FormatError;
use super::image_arg::{self, ImageCommandError};
use super::images::unpacked_size;
use super::template::{Escapes, Kind, Template, Value as Data};
use crate::image;
use crate::oci::{Manifest, Platform, Reference};
use crate::store::Store;
use serde_json::{Value, json};
use std::io::Write;

/// Show details of images.
#[derive(Debug, Clone, clap::Args)]
pub struct InspectArgs {
    /// The images
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
    /// Print as `json` on one line, or by a Go template, as '{{.Id}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Print the manifest's own bytes, or with `--raw=config` the config's
    #[arg(long, value_name = "WHAT", num_args = 0..=1, require_equals = true, default_missing_value = "manifest")]
    pub raw: Option<String>,
    /// The platform, of an image that has several
    #[arg(long)]
    pub platform: Vec<String>,
    /// Of what kind the names are: there are images only
    #[arg(long, value_name = "image", value_parser = ["image"], hide = true)]
    pub r#type: Option<String>,
    /// Show sizes, which are always shown
    #[arg(short, long, hide = true)]
    pub size: bool,
}

/// How details are printed.
enum Details {
    /// An array, on one line or indented.
    Json { is_indented: bool },
    /// A line for each image.
    Lines(Template),
}

impl Details {
    fn parse(format: Option<&str>) -> Result<Self, ImageCommandError> {
        match format {
            None | Some("") => Ok(Self::Json { is_indented: true }),
            Some("json") => Ok(Self::Json { is_indented: false }),
            Some(text) if !text.contains("{{") => Err(ImageCommandError::Format {
                text: text.to_owned(),
                expected: "json or a Go template such as '{{.Id}}'",
            }),
            Some(text) => {
                let template = Template::parse(text, Escapes::Kept).map_err(FormatError::from)?;
                Ok(Self::Lines(template))
            }
        }
    }
}

/// Prints an array with one object per image, a line per image, or the raw bytes of documents.
///
/// # Errors
///
/// [`ImageCommandError`] for an unknown image or format; what is known of the other images is
/// printed.
pub fn run(
    args: &InspectArgs,
    store: &Store,
    out: &mut dyn Write,
) -> Result<(), ImageCommandError> {
    let format = Details::parse(args.format.as_deref())?;
    let platform = super::import::platform(&args.platform)?;
    if let Some(raw) = &args.raw {
        for text in &args.images {
            let found = image_arg::image(store, text)?;
            let (descriptor, manifest) = image::manifest(store, &found.descriptor, &platform)?;
            let digest = match raw.as_str() {
                "manifest" => descriptor.digest,
                "config" => manifest.config.digest,
                _ => {
                    return Err(ImageCommandError::Format {
                        text: raw.clone(),
                        expected: "manifest or config",
                    });
                }
            };
            out.write_all(&store.read_blob(&digest)?)?;
        }
        return Ok(());
    }
    let (mut all, mut errors) = (Vec::new(), Vec::new());
    for text in &args.images {
        match details(store, text, &platform) {
            Ok(details) => all.push(details),
            Err(error) => errors.push(error),
        }
    }
    match format {
        Details::Json { is_indented } => {
            let written = match is_indented {
                true => serde_json::to_writer_pretty(&mut *out, &all),
                false => serde_json::to_writer(&mut *out, &all),
            };
            written.map_err(std::io::Error::from)?;
            writeln!(out)?;
        }
        Details::Lines(template) => {
            for details in &all {
                let text = template.render(&value("", details)).map_err(FormatError::from)?;
                writeln!(out, "{text}")?;
            }
        }
    }
    match errors.len() {
        0 => Ok(()),
        1 => Err(errors.remove(0)),
        _ => Err(ImageCommandError::Several(errors)),
    }
}

/// Returns what a template sees of a field of the details. Fields that Go's types have are there
/// with their zero values where JSON leaves them out.
fn value(name: &str, json: &Value) -> Data {
    let text = || Data::text("");
    let (list, map) = (Data::Unset(Kind::List), Data::Unset(Kind::Map));
    let object = Data::Unset(Kind::Object);
    let zeros: Vec<(&'static str, Data)> = match name {
        "" => vec![
            ("Author", text()),
            ("Comment", text()),
            ("DockerVersion", text()),
            ("OsVersion", text()),
            ("Parent", text()),
            ("Variant", text()),
        ],
        "Config" => vec![
            ("ArgsEscaped", Data::Bool(false)),
            ("AttachStderr", Data::Bool(false)),
            ("AttachStdin", Data::Bool(false)),
            ("AttachStdout", Data::Bool(false)),
            ("Cmd", list.clone()),
            ("Domainname", text()),
            ("Entrypoint", list.clone()),
            ("Env", list.clone()),
            ("ExposedPorts", map.clone()),
            ("Healthcheck", object.clone()),
            ("Hostname", text()),
            ("Image", text()),
            ("Labels", map.clone()),
            ("OnBuild", list.clone()),
            ("OpenStdin", Data::Bool(false)),
            ("Shell", list.clone()),
            ("StdinOnce", Data::Bool(false)),
            ("StopSignal", text()),
            ("StopTimeout", object.clone()),
            ("Tty", Data::Bool(false)),
            ("User", text()),
            ("Volumes", map.clone()),
            ("WorkingDir", text()),
        ],
        "Healthcheck" => vec![
            ("Interval", Data::Int(0)),
            ("Retries", Data::Int(0)),
            ("StartInterval", Data::Int(0)),
            ("StartPeriod", Data::Int(0)),
            ("Test", list.clone()),
            ("Timeout", Data::Int(0)),
        ],
        "RootFS" => vec![("BaseLayer", text()), ("Type", text())],
        _ => Vec::new(),
    };
    match (name, json) {
        ("Labels" | "Annotations" | "annotations", _) => Data::of_json(json),
        // Of these the keys are all there is.
        ("ExposedPorts" | "Volumes", Value::Object(keys)) => {
            let empty = || Data::row(Vec::<(String, Data)>::new());
            Data::map(keys.keys().map(|key| (key.clone(), empty())))
        }
        (_, Value::Object(fields)) => Data::object_of(fields, &zeros, value),
        (_, Value::Array(items)) => {
            Data::List(items.iter().map(|item| value(name, item)).collect())
        }
        _ => Data::of_json(json),
    }
}

/// Returns what `docker image inspect` shows, as far as it has a meaning here.
fn details(store: &Store, text: &str, platform: &Platform) -> Result<Value, ImageCommandError> {
    let found = image_arg::image(store, text)?;
    let (descriptor, manifest, config): (_, Manifest, _) =
        image::read(store, &found.descriptor, platform)?;
    let names: Vec<Reference> = store
        .images()?
        .into_iter()
        .filter(|image| image.descriptor.digest == found.descriptor.digest)
        .filter_map(|image| Reference::parse(&image.name?).ok())
        .collect();
    let tags: Vec<_> = names.iter().map(Reference::familiar).collect();
    let mut digests: Vec<_> = names
        .iter()
        .map(|name| format!("{}@{}", name.familiar_name(), descriptor.digest))
        .collect();
    digests.dedup();
    let platform = config.platform();
    let size = unpacked_size(store, &manifest, &config)?;
    let json = config.as_json();
    let mut value = json!({
        "Id": manifest.config.digest,
        "RepoTags": tags,
        "RepoDigests": digests,
        "Created": config.created(),
        "Author": config.author(),
        "Architecture": platform.architecture,
        "Os": platform.os,
        "Size": size,
        "RootFS": {
            "Type": "layers",
            "Layers": config.diff_ids().unwrap_or_default(),
        },
        "Config": json.get("config").cloned().unwrap_or_else(|| json!({})),
        "Descriptor": descriptor,
        "Manifest": {
            "MediaType": manifest.media_type,
            "Layers": manifest.layers,
            "Annotations": manifest.annotations,
        },
    });
    if !platform.variant.is_empty() {
        value["Variant"] = json!(platform.variant);
    }
    Ok(value)
}
