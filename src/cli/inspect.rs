//! `builder inspect`: all about an image, as JSON or by a template.
//!
//! The image is in the store, or somewhere else and is left there: of a registry only the manifest
//! and the config are read.

pub(super) mod subject;

use super::failure::{Class, Failure};
use super::format::FormatError;
use super::image_arg::ImageCommandError;
use super::template::{Escapes, Kind, Template, Value as Data};
use super::{Environment, platforms, registry};
use crate::image::Chosen;
use crate::oci::Platform;
use serde_json::{Value, json};
use std::io::{self, IsTerminal as _, Write};
use subject::{Part, Places, Subject};

/// Show details of images.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Places:
  NAME, ID                   the store
  docker://NAME              a registry; nothing is pulled
  oci:DIR[:TAG]              an OCI layout
  oci-archive:FILE[:NAME]    an OCI layout in a tar")]
pub struct InspectArgs {
    /// The images
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
    /// Print as `json` on one line, or by a Go template, as '{{.Id}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Print the manifest's own bytes, or with `--raw=config` the config's. Of an image that has
    /// several platforms that is the list of them, unless --platform picks one
    #[arg(long, value_name = "WHAT", num_args = 0..=1, require_equals = true, default_missing_value = "manifest", value_parser = ["manifest", "config"])]
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
    /// Whom to trust.
    #[command(flatten)]
    pub tls: registry::TlsArgs,
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
/// The failure to show, for an unknown image or format; what is known of the other images is
/// printed.
pub fn run(
    args: &InspectArgs,
    environment: &Environment,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let images = |error: ImageCommandError| Failure::of_images(&error);
    let format = Details::parse(args.format.as_deref()).map_err(images)?;
    let platform = platforms::parse(&args.platform).map_err(|e| Failure::of(Class::Usage, &e))?;
    let places = Places::new(environment, args.tls.verifies);
    if let Some(raw) = &args.raw {
        let part = if raw == "config" { Part::Config } else { Part::Manifest };
        for text in &args.images {
            let bytes = places.raw(text, part, platform.as_ref())?;
            // To a terminal goes nothing that steers it, and to a file the bytes that have the digest.
            let written = match io::stdout().is_terminal() {
                true => out.write_all(&bytes),
                false => io::stdout().lock().write_all(&bytes),
            };
            written.map_err(|error| Failure::output(&error))?;
        }
        return Ok(());
    }
    let (mut all, mut failures) = (Vec::new(), Vec::new());
    for text in &args.images {
        match places.subject(text, platform.as_ref()) {
            Ok(subject) => all.push(details(&subject)),
            Err(failure) if failure.class == Class::Interrupted => return Err(failure),
            Err(failure) => failures.push(failure),
        }
    }
    show(&format, &all, out).map_err(|error| error.failure())?;
    let mut failures = failures.into_iter();
    match failures.next() {
        None => Ok(()),
        Some(mut first) => {
            first.others = failures.collect();
            Err(first)
        }
    }
}

fn show(format: &Details, all: &[Value], out: &mut dyn Write) -> Result<(), FormatError> {
    match format {
        Details::Json { is_indented } => {
            let written = match is_indented {
                true => serde_json::to_writer_pretty(&mut *out, all),
                false => serde_json::to_writer(&mut *out, all),
            };
            written.map_err(io::Error::from)?;
            writeln!(out)?;
        }
        Details::Lines(template) => {
            for details in all {
                writeln!(out, "{}", template.render(&value("", details))?)?;
            }
        }
    }
    Ok(())
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
            ("Platforms", list.clone()),
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
fn details(subject: &Subject) -> Value {
    let mut value = match &subject.image {
        Some(image) => of_image(subject, image),
        None => json!({
            "RepoTags": subject.tags,
            "RepoDigests": subject.digests,
            "Descriptor": subject.top,
        }),
    };
    if let Some(listed) = &subject.platforms {
        value["Platforms"] = listed
            .iter()
            .map(|(image, is_here)| {
                let platform = image.platform.as_ref().and_then(Platform::of_json);
                let mut listed = json!({
                    "Platform": platform.map(|platform| platform.to_string()),
                    "Digest": image.digest,
                    "MediaType": image.media_type,
                });
                if let Some(is_here) = is_here {
                    listed["Available"] = json!(is_here);
                }
                listed
            })
            .collect();
    }
    if let Some(id) = &subject.index_id {
        value["Id"] = json!(id);
        value["Descriptor"] = json!(subject.top);
    }
    value
}

fn of_image(subject: &Subject, (descriptor, manifest, config): &Chosen) -> Value {
    let platform = config.platform();
    let json = config.as_json();
    let mut value = json!({
        "Id": manifest.config.digest,
        "RepoTags": subject.tags,
        "RepoDigests": subject.digests,
        "Created": config.created(),
        "Author": config.author(),
        "Architecture": platform.architecture,
        "Os": platform.os,
        "Size": subject.size,
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
    value
}
