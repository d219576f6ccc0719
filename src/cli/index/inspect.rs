//! `builder index inspect`: what an index lists.
//!
//! Source: Docker's `buildx imagetools inspect`: its text, and the fields that its templates have.

use super::PLACES;
use crate::cli::Environment;
use crate::cli::failure::{Class, Failure};
use crate::cli::format::FormatError;
use crate::cli::inspect::subject::{Places, Shown};
use crate::cli::registry;
use crate::cli::template::{Escapes, Kind, Template, Value as Data};
use crate::oci::{Descriptor, Platform, Reference};
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write};

/// What `builder index inspect` takes.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = PLACES)]
pub struct InspectArgs {
    /// The index, or an image
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Print as `json`, or by a Go template, as '{{json .Manifest}}'
    #[arg(long, value_name = "FORMAT", conflicts_with = "raw")]
    pub format: Option<String>,
    /// Print the index's own bytes
    #[arg(long)]
    pub raw: bool,
    /// There are no builder instances
    #[arg(long, value_name = "NAME", hide = true)]
    pub builder: Option<String>,
    /// Whom to trust.
    #[command(flatten)]
    pub tls: registry::TlsArgs,
}

/// Prints what an index lists.
///
/// # Errors
///
/// The failure to show.
pub(super) fn run(
    args: &InspectArgs,
    environment: &Environment,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let template = match args.format.as_deref() {
        None | Some("") => None,
        Some("json") => Some(Template::parse("{{json .}}", Escapes::Kept)),
        Some(text) if text.contains("{{") => Some(Template::parse(text, Escapes::Kept)),
        Some(text) => {
            let message = format!("unknown format `{text}`: expected json or a Go template");
            return Err(Failure::new(Class::Usage, message)
                .with_hint("a template has fields: --format '{{json .Manifest}}'"));
        }
    };
    let template = template.transpose().map_err(|error| FormatError::from(error).failure())?;
    let places = Places::new(environment, args.tls.verifies);
    let found = places.document(&place(&args.name)?, template.is_some())?;
    let written = match &template {
        _ if args.raw => raw(&found.bytes, out),
        None => out.write_all(text(&args.name, &found).as_bytes()),
        Some(template) => {
            let name = name(&args.name, &found);
            let rendered = template.render(&data(&name, &found));
            let rendered = rendered.map_err(|error| FormatError::from(error).failure())?;
            writeln!(out, "{rendered}")
        }
    };
    written.map_err(|error| FormatError::from(error).failure())
}

/// Prints the bytes of a document: to a terminal goes nothing that steers it, and to a file what has
/// the digest.
pub(super) fn raw(bytes: &[u8], out: &mut dyn Write) -> io::Result<()> {
    match io::stdout().is_terminal() {
        true => out.write_all(bytes),
        false => io::stdout().lock().write_all(bytes),
    }
}

/// Brings a name into the form of places that `builder inspect` reads.
fn place(text: &str) -> Result<String, Failure> {
    use crate::cli::copy::Endpoint;
    Ok(match super::place::parse(text)? {
        Endpoint::Registry(name) => format!("docker://{name}"),
        Endpoint::Store(name) => name,
        _ => text.to_owned(),
    })
}

fn name(typed: &str, found: &Shown) -> String {
    found.name.as_ref().map_or_else(|| typed.to_owned(), Reference::to_string)
}

/// Returns the text that buildx prints.
fn text(typed: &str, found: &Shown) -> String {
    let name = name(typed, found);
    let top = &found.top;
    let mut text =
        format!("Name:      {name}\nMediaType: {}\nDigest:    {}\n", top.media_type, top.digest);
    let Some(index) = &found.index else { return text };
    notes(&mut text, "", &index.annotations);
    text.push_str("\nManifests:\n");
    for (number, child) in index.manifests.iter().enumerate() {
        if number > 0 {
            text.push('\n');
        }
        entry(&mut text, found.name.as_ref(), child);
    }
    crate::show::lines(&text).into_owned()
}

fn entry(text: &mut String, name: Option<&Reference>, child: &Descriptor) {
    let digest = child.digest;
    let name = name.map_or_else(|| digest.to_string(), |name| format!("{}@{digest}", name.name()));
    let platform = child.platform.as_ref();
    let shown = platform.and_then(Platform::of_json).map_or("none".to_owned(), |p| p.to_string());
    let _ = write!(
        text,
        "  Name:        {name}\n  MediaType:   {}\n  Platform:    {shown}\n",
        child.media_type
    );
    let field = |name: &str| platform.and_then(|platform| platform.get(name));
    if let Some(version) = field("os.version").and_then(Value::as_str) {
        let _ = writeln!(text, "  OSVersion:   {version}");
    }
    if let Some(features) = field("os.features").and_then(Value::as_array) {
        let features: Vec<_> = features.iter().filter_map(Value::as_str).collect();
        let _ = writeln!(text, "  OSFeatures:  {}", features.join(", "));
    }
    if !child.urls.is_empty() {
        let _ = writeln!(text, "  URLs:        {}", child.urls.join(", "));
    }
    notes(text, "  ", &child.annotations);
}

fn notes(
    text: &mut String,
    margin: &str,
    annotations: &std::collections::BTreeMap<String, String>,
) {
    let width = annotations.keys().map(|name| name.chars().count()).max().unwrap_or(0) + 1;
    for (number, (name, value)) in annotations.iter().enumerate() {
        if number == 0 {
            let _ = writeln!(text, "{margin}Annotations:");
        }
        let _ = writeln!(text, "{margin}  {:<width$} {value}", format!("{name}:"));
    }
}

/// Returns what a template sees: fields by the names that Go has for them; as JSON, by those of the
/// documents.
fn data(name: &str, found: &Shown) -> Data {
    let mut manifest = match &found.index {
        Some(_) => serde_json::from_slice(&found.bytes).unwrap_or_default(),
        None => json!(found.top),
    };
    if let Value::Object(fields) = &mut manifest {
        fields.insert("digest".to_owned(), json!(found.top.digest));
        fields.insert("size".to_owned(), json!(found.bytes.len()));
        fields.entry("mediaType").or_insert_with(|| json!(found.top.media_type));
    }
    let image = match found.configs.as_slice() {
        [one] if found.index.is_none() => image(one.as_json()),
        all => Data::map(all.iter().map(|one| (one.platform().to_string(), image(one.as_json())))),
    };
    let lower =
        [("name", Data::text(name)), ("manifest", named(&manifest, MANIFEST)), ("image", image)];
    let upper = ["Name", "Manifest", "Image"].into_iter().zip(lower.clone());
    let mut zeros: Vec<_> = upper.map(|(name, (_, value))| (name, value)).collect();
    // There are no attestations that could be shown.
    zeros.extend([("SBOM", Data::Unset(Kind::Object)), ("Provenance", Data::Unset(Kind::Object))]);
    let fields: Map<String, Value> =
        lower.iter().map(|(name, value)| ((*name).to_owned(), value.to_json())).collect();
    let of = |wanted: &str, _: &Value| {
        let found = lower.iter().find(|(name, _)| *name == wanted);
        found.map_or(Data::Nil, |(_, value)| value.clone())
    };
    Data::object_of(&fields, &zeros, of)
}

fn image(config: &Value) -> Data {
    named(config, IMAGE)
}

/// A field: its name in JSON, in Go, and the fields that it has, or those of its items.
struct Field {
    json: &'static str,
    go: &'static str,
    fields: &'static [Field],
}

const fn field(json: &'static str, go: &'static str, fields: &'static [Field]) -> Field {
    Field { json, go, fields }
}

const PLATFORM: &[Field] = &[
    field("architecture", "Architecture", &[]),
    field("os", "OS", &[]),
    field("os.version", "OSVersion", &[]),
    field("os.features", "OSFeatures", &[]),
    field("variant", "Variant", &[]),
];

const DESCRIPTOR: &[Field] = &[
    field("mediaType", "MediaType", &[]),
    field("digest", "Digest", &[]),
    field("size", "Size", &[]),
    field("urls", "URLs", &[]),
    field("annotations", "Annotations", &[]),
    field("platform", "Platform", PLATFORM),
    field("artifactType", "ArtifactType", &[]),
];

const MANIFEST: &[Field] = &[
    field("schemaVersion", "SchemaVersion", &[]),
    field("mediaType", "MediaType", &[]),
    field("digest", "Digest", &[]),
    field("size", "Size", &[]),
    field("manifests", "Manifests", DESCRIPTOR),
    field("annotations", "Annotations", &[]),
    field("platform", "Platform", PLATFORM),
];

const IMAGE: &[Field] = &[
    field("created", "Created", &[]),
    field("author", "Author", &[]),
    field("architecture", "Architecture", &[]),
    field("variant", "Variant", &[]),
    field("os", "OS", &[]),
    field("config", "Config", &[]),
    field("rootfs", "RootFS", &[field("type", "Type", &[]), field("diff_ids", "DiffIDs", &[])]),
    field(
        "history",
        "History",
        &[
            field("created", "Created", &[]),
            field("created_by", "CreatedBy", &[]),
            field("author", "Author", &[]),
            field("comment", "Comment", &[]),
            field("empty_layer", "EmptyLayer", &[]),
        ],
    ),
];

/// Makes a value whose fields go by the names of JSON and by those of Go; fields that JSON leaves
/// out are empty.
fn named(json: &Value, fields: &'static [Field]) -> Data {
    match json {
        Value::Array(items) => Data::List(items.iter().map(|item| named(item, fields)).collect()),
        Value::Object(map) if !fields.is_empty() => {
            let inner = |name: &str| {
                let field = fields.iter().find(|field| field.json == name);
                field.map_or(&[] as &'static [Field], |field| field.fields)
            };
            let of = |name: &str, value: &Value| named(value, inner(name));
            let zeros: Vec<_> = fields
                .iter()
                .map(|field| match map.get(field.json) {
                    Some(value) => (field.go, named(value, field.fields)),
                    None => (field.go, Data::text("")),
                })
                .collect();
            Data::object_of(map, &zeros, of)
        }
        other => Data::of_json(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Config, Digest, Index, media_type};
    use std::collections::BTreeMap;

    fn found() -> Shown {
        let children = ["linux/arm64", "linux/amd64"].map(|platform| {
            let mut child =
                Descriptor::new(media_type::OCI_MANIFEST, Digest::of(platform.as_bytes()), 7);
            child.platform = Some(platform.parse::<Platform>().unwrap().to_json());
            child
        });
        let notes = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let index = Index::joined(children.to_vec(), notes, false);
        let bytes = crate::oci::canonical_json(&index);
        let top = Descriptor::new(media_type::OCI_INDEX, Digest::of(&bytes), bytes.len() as u64);
        let name = Some("a.example/b:1".parse().unwrap());
        let configs = ["linux/arm64", "linux/amd64"].map(|p| Config::empty(&p.parse().unwrap()));
        Shown { name, top, bytes, index: Some(index), configs: configs.to_vec() }
    }

    #[test]
    fn the_text_is_that_of_buildx() {
        let found = found();
        let amd64 = Digest::of(b"linux/amd64");
        let expected = format!(
            "Name:      a.example/b:1\nMediaType: application/vnd.oci.image.index.v1+json\n\
             Digest:    {}\nAnnotations:\n  a: b\n\nManifests:\n\
             \x20 Name:        a.example/b@{amd64}\n\
             \x20 MediaType:   application/vnd.oci.image.manifest.v1+json\n\
             \x20 Platform:    linux/amd64\n\n",
            found.top.digest
        );
        let text = text("a.example/b:1", &found);
        assert!(text.starts_with(&expected), "{text}");
    }

    #[test]
    fn templates_have_the_names_of_go_and_of_json() {
        let found = found();
        for (format, expected) in [
            ("{{.Name}}", "a.example/b:1".to_owned()),
            ("{{.Manifest.Digest}}", found.top.digest.to_string()),
            (
                "{{range .Manifest.Manifests}}{{.Platform.OS}}/{{.Platform.Architecture}} {{end}}",
                "linux/amd64 linux/arm64 ".to_owned(),
            ),
            ("{{(index .Image \"linux/arm64\").Architecture}}", "arm64".to_owned()),
            ("{{len (index .Image \"linux/arm64\").History}}", "0".to_owned()),
            ("{{json .Manifest.Annotations}}", "{\"a\":\"b\"}".to_owned()),
            ("{{.Provenance}}", "<nil>".to_owned()),
        ] {
            let template = Template::parse(format, Escapes::Kept).unwrap();
            let rendered = template.render(&data("a.example/b:1", &found));
            assert_eq!(rendered.unwrap_or_else(|e| e.to_string()), expected, "{format}");
        }
        let template = Template::parse("{{json .}}", Escapes::Kept).unwrap();
        let all: Value =
            serde_json::from_str(&template.render(&data("n", &found)).unwrap()).unwrap();
        assert_eq!(all["manifest"]["manifests"][1]["platform"]["architecture"], "arm64");
        assert_eq!(all["image"]["linux/amd64"]["os"], "linux");
        assert_eq!(all.as_object().unwrap().len(), 3);
    }
}
