//! `--output`: what is to become of an image, as people write it.
//!
//! Source: Docker's `buildx build --output` (comma-separated fields, its short forms); BuildKit's
//! exporters for the fields' names.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// One `--output`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputSpec {
    /// What to make.
    pub kind: OutputKind,
    /// Where to put it; `None` for the store.
    pub dest: Option<Dest>,
    /// Names for the image, as given.
    pub names: Vec<String>,
    /// How to store its layers.
    pub layers: LayerOptions,
    /// Whether an OCI or Docker output is a tar or a folder.
    pub form: Form,
    /// Whether files go into a folder named after the platform, as `linux_amd64`.
    pub is_split: bool,
    /// Annotations, by where they go.
    pub annotations: BTreeMap<AnnotationTarget, BTreeMap<String, String>>,
    /// `SOURCE_DATE_EPOCH`, in seconds since 1970; filled in by the command line. Trees get it as the
    /// time of all files, images as the latest time of files where times are rewritten.
    pub epoch: Option<i64>,
}

/// What an output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OutputKind {
    /// An OCI layout.
    Oci,
    /// What `docker load` reads.
    Docker,
    /// The files of the last stage, in a folder.
    Local,
    /// The files of the last stage, as a tar.
    Tar,
    /// An image of the store.
    Image,
    /// The cache only.
    CacheOnly,
}

impl OutputKind {
    /// Returns the name `type=` takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Oci => "oci",
            Self::Docker => "docker",
            Self::Local => "local",
            Self::Tar => "tar",
            Self::Image => "image",
            Self::CacheOnly => "cacheonly",
        }
    }
}

/// Where an output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dest {
    /// The standard output.
    Stdout,
    /// A file or folder.
    Path(PathBuf),
}

/// Whether a layout is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One file.
    Tar,
    /// A folder.
    Dir,
}

/// How layers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerOptions {
    /// The compression; `None` leaves it to the output's default.
    pub compression: Option<Compression>,
    /// Its level; `None` for its default one.
    pub level: Option<i32>,
    /// Whether layers that came compressed are made anew.
    pub is_forced: bool,
    /// Whether media types are OCI's; `None` leaves it to the output.
    pub oci_media_types: Option<bool>,
    /// Whether times of files after `SOURCE_DATE_EPOCH` are set to it; `None` where nothing was said.
    pub rewrites_times: Option<bool>,
}

/// A compression of layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Compression {
    /// None.
    Uncompressed,
    /// gzip, level 0 to 9.
    Gzip,
    /// zstd, level 0 to 22.
    Zstd,
}

/// What an annotation is put on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AnnotationTarget {
    /// The image's manifest.
    Manifest,
    /// The manifest's entry in the index.
    ManifestDescriptor,
    /// The index.
    Index,
}

/// An `--output` that cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// Malformed CSV.
    #[error("invalid output `{text}`: a quote is not closed")]
    Quote {
        /// What was given.
        text: String,
    },
    /// A part without `=`.
    #[error("invalid output field `{field}`: expected key=value")]
    NotAField {
        /// The part.
        field: String,
    },
    /// No `type=`.
    #[error("output has no type: expected type=oci, docker, local, tar, image or cacheonly")]
    NoType,
    /// A `type=` we do not have.
    #[error("unknown output type `{name}`: expected oci, docker, local, tar, image or cacheonly")]
    UnknownType {
        /// What was given.
        name: String,
    },
    /// A field we do not have.
    #[error("unknown field `{key}` for an output of type {kind}")]
    UnknownField {
        /// The field.
        key: String,
        /// The output's type.
        kind: &'static str,
    },
    /// A value that is no such thing.
    #[error("invalid value `{value}` for output field `{key}`: expected {expected}")]
    BadValue {
        /// The field.
        key: String,
        /// What was given.
        value: String,
        /// What would do.
        expected: String,
    },
    /// `dest=` is needed.
    #[error("output type {kind} needs dest=PATH{}", if *or_stdout { ", or dest=- for stdout" } else { "" })]
    NoDest {
        /// The output's type.
        kind: &'static str,
        /// Whether standard output would do as well.
        or_stdout: bool,
    },
    /// `dest=-` for a folder.
    #[error("output type {kind} cannot go to stdout: it is a folder")]
    FolderToStdout {
        /// The output's type.
        kind: &'static str,
    },
    /// Something that is not there yet.
    #[error("{what} is not supported")]
    Unsupported {
        /// What was asked for.
        what: String,
    },
}

impl OutputSpec {
    /// Makes an output of a kind with every default.
    pub fn new(kind: OutputKind, dest: Option<Dest>) -> Self {
        Self {
            kind,
            dest,
            names: Vec::new(),
            layers: LayerOptions {
                compression: None,
                level: None,
                is_forced: false,
                oci_media_types: None,
                rewrites_times: None,
            },
            form: Form::Tar,
            is_split: false,
            annotations: BTreeMap::new(),
            epoch: None,
        }
    }

    /// Parses one `--output`: `type=oci,dest=out.tar`, a folder, or `-` for a tar on stdout.
    ///
    /// # Errors
    ///
    /// [`SpecError`] naming the field at fault.
    ///
    /// # Examples
    ///
    /// ```
    /// use builder::export::{OutputKind, OutputSpec};
    /// let spec = OutputSpec::parse("type=oci,dest=out.tar,compression=zstd")?;
    /// assert_eq!(spec.kind, OutputKind::Oci);
    /// # Ok::<(), builder::export::SpecError>(())
    /// ```
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        let fields = split_csv(text)?;
        if let [one] = fields.as_slice()
            && !one.contains('=')
        {
            return Ok(match one.as_str() {
                "-" => Self::new(OutputKind::Tar, Some(Dest::Stdout)),
                dir => Self::new(OutputKind::Local, Some(Dest::Path(dir.into()))),
            });
        }
        let mut pairs = Vec::with_capacity(fields.len());
        for field in &fields {
            let (key, value) = field
                .split_once('=')
                .ok_or_else(|| SpecError::NotAField { field: field.clone() })?;
            pairs.push((key.trim().to_ascii_lowercase(), key.trim(), value));
        }
        let name = pairs.iter().find(|(key, ..)| key == "type").map(|(.., value)| *value);
        let kind = match name.ok_or(SpecError::NoType)? {
            "oci" => OutputKind::Oci,
            "docker" => OutputKind::Docker,
            "local" => OutputKind::Local,
            "tar" => OutputKind::Tar,
            "image" => OutputKind::Image,
            "cacheonly" => OutputKind::CacheOnly,
            "registry" => {
                return Err(SpecError::Unsupported { what: "output type registry".to_owned() });
            }
            other => return Err(SpecError::UnknownType { name: other.to_owned() }),
        };
        let mut spec = Self::new(kind, None);
        for (key, written, value) in &pairs {
            spec.field(key, written, value)?;
        }
        spec.check()?;
        Ok(spec)
    }

    fn field(&mut self, key: &str, written: &str, value: &str) -> Result<(), SpecError> {
        let is_image =
            matches!(self.kind, OutputKind::Oci | OutputKind::Docker | OutputKind::Image);
        match key {
            "type" => {}
            "dest" if self.kind != OutputKind::CacheOnly && !value.is_empty() => {
                self.dest =
                    Some(if value == "-" { Dest::Stdout } else { Dest::Path(value.into()) });
            }
            "name" if is_image => {
                self.names.extend(value.split(',').filter(|n| !n.is_empty()).map(str::to_owned));
            }
            "tar" if matches!(self.kind, OutputKind::Oci | OutputKind::Docker) => {
                self.form = if flag(key, value)? { Form::Tar } else { Form::Dir };
            }
            "platform-split" if self.kind == OutputKind::Local => {
                self.is_split = flag(key, value)?;
            }
            "compression" if is_image => {
                self.layers.compression = Some(match value {
                    "gzip" => Compression::Gzip,
                    "zstd" => Compression::Zstd,
                    "uncompressed" => Compression::Uncompressed,
                    "estargz" => {
                        return Err(SpecError::Unsupported {
                            what: "compression=estargz".to_owned(),
                        });
                    }
                    _ => return Err(bad_value(key, value, "gzip, zstd or uncompressed")),
                });
            }
            "compression-level" if is_image => {
                let level = value.parse().map_err(|_| bad_value(key, value, "a number"))?;
                self.layers.level = Some(level);
            }
            "force-compression" if is_image => self.layers.is_forced = flag(key, value)?,
            "oci-mediatypes" if is_image => {
                self.layers.oci_media_types = Some(flag(key, value)?);
            }
            // Images of the store are always unpacked and kept: these change nothing.
            "unpack" | "store" | "dangling-name-prefix" if self.kind == OutputKind::Image => {}
            "push" if self.kind == OutputKind::Image => {
                if flag(key, value)? {
                    return Err(SpecError::Unsupported { what: "push=true".to_owned() });
                }
            }
            "rewrite-timestamp" if is_image => {
                self.layers.rewrites_times = Some(flag(key, value)?);
            }
            _ if key.starts_with("annotation") && is_image => {
                let (target, name) = annotation(written).ok_or_else(|| self.unknown(written))?;
                self.annotations.entry(target).or_default().insert(name, value.to_owned());
            }
            _ => return Err(self.unknown(written)),
        }
        Ok(())
    }

    fn unknown(&self, key: &str) -> SpecError {
        SpecError::UnknownField { key: key.to_owned(), kind: self.kind.name() }
    }

    fn check(&self) -> Result<(), SpecError> {
        let kind = self.kind.name();
        let is_folder = self.kind == OutputKind::Local || self.form == Form::Dir;
        let needs_dest = !matches!(self.kind, OutputKind::Image | OutputKind::CacheOnly);
        match &self.dest {
            None if needs_dest => return Err(SpecError::NoDest { kind, or_stdout: !is_folder }),
            Some(Dest::Stdout) if is_folder => return Err(SpecError::FolderToStdout { kind }),
            _ => {}
        }
        if let Some(level) = self.layers.level {
            let most = match self.layers.compression.unwrap_or(Compression::Gzip) {
                Compression::Gzip => 9,
                Compression::Zstd => 22,
                Compression::Uncompressed => 0,
            };
            if !(0..=most).contains(&level) {
                let expected = format!("0 to {most}");
                return Err(bad_value("compression-level", &level.to_string(), &expected));
            }
        }
        Ok(())
    }
}

fn bad_value(key: &str, value: &str, expected: &str) -> SpecError {
    SpecError::BadValue {
        key: key.to_owned(),
        value: value.to_owned(),
        expected: expected.to_owned(),
    }
}

/// Go's `strconv.ParseBool`.
fn flag(key: &str, value: &str) -> Result<bool, SpecError> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(bad_value(key, value, "true or false")),
    }
}

/// Parses `annotation.NAME`, `annotation-index.NAME` and the like.
fn annotation(key: &str) -> Option<(AnnotationTarget, String)> {
    let (target, name) = key.split_once('.')?;
    if name.is_empty() {
        return None;
    }
    // `annotation-manifest[linux/amd64].NAME`: with one platform the brackets choose nothing.
    let target = target.split_once('[').map_or(target, |(target, _)| target);
    let target = match target {
        "annotation" | "annotation-manifest" => AnnotationTarget::Manifest,
        "annotation-manifest-descriptor" => AnnotationTarget::ManifestDescriptor,
        "annotation-index" => AnnotationTarget::Index,
        _ => return None,
    };
    Some((target, name.to_owned()))
}

/// Splits one line of CSV: fields may be quoted, a doubled quote within quotes is one.
fn split_csv(text: &str) -> Result<Vec<String>, SpecError> {
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut chars = text.chars().peekable();
    let mut is_quoted = false;
    let mut is_start = true;
    while let Some(c) = chars.next() {
        match c {
            '"' if is_quoted => {
                if chars.next_if_eq(&'"').is_some() {
                    field.push('"');
                } else {
                    is_quoted = false;
                }
            }
            '"' if is_start => is_quoted = true,
            ',' if !is_quoted => {
                fields.push(std::mem::take(&mut field));
                is_start = true;
                continue;
            }
            c => field.push(c),
        }
        is_start = false;
    }
    if is_quoted {
        return Err(SpecError::Quote { text: text.to_owned() });
    }
    fields.push(field);
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_forms_are_a_folder_and_a_tar_on_stdout() {
        let local = OutputSpec::parse("out").unwrap();
        assert_eq!((local.kind, local.dest), (OutputKind::Local, Some(Dest::Path("out".into()))));
        let tar = OutputSpec::parse("-").unwrap();
        assert_eq!((tar.kind, tar.dest), (OutputKind::Tar, Some(Dest::Stdout)));
    }

    #[test]
    fn fields_are_read_as_docker_writes_them() {
        let spec = OutputSpec::parse(
            "type=docker,\"name=a:1,b:2\",dest=x.tar,compression=zstd,compression-level=22,\
             force-compression=1,oci-mediatypes=f,rewrite-timestamp=true,annotation.Org.X=y=z,annotation-index.k=v",
        )
        .unwrap();
        assert_eq!(spec.kind, OutputKind::Docker);
        assert_eq!(spec.names, ["a:1", "b:2"]);
        assert_eq!(
            spec.layers,
            LayerOptions {
                compression: Some(Compression::Zstd),
                level: Some(22),
                is_forced: true,
                oci_media_types: Some(false),
                rewrites_times: Some(true),
            }
        );
        assert_eq!(spec.annotations[&AnnotationTarget::Manifest]["Org.X"], "y=z");
        assert_eq!(spec.annotations[&AnnotationTarget::Index]["k"], "v");
        let dir = OutputSpec::parse("type=oci,dest=d,tar=false").unwrap();
        assert_eq!(dir.form, Form::Dir);
        assert!(OutputSpec::parse("type=image").unwrap().dest.is_none());
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        const CASES: &[(&str, &str)] = &[
            ("type=oci", "needs dest=PATH, or dest=-"),
            ("type=local", "needs dest=PATH"),
            ("type=local,dest=-", "cannot go to stdout"),
            ("type=oci,tar=false,dest=-", "cannot go to stdout"),
            ("dest=x", "no type"),
            ("type=ocii,dest=x", "unknown output type `ocii`"),
            ("type=oci,dest=x,compresion=gzip", "unknown field `compresion`"),
            ("type=local,dest=x,compression=gzip", "unknown field `compression`"),
            ("type=oci,dest=x,compression=lz4", "expected gzip, zstd or uncompressed"),
            ("type=oci,dest=x,compression=estargz", "compression=estargz is not supported"),
            ("type=oci,dest=x,compression-level=10", "expected 0 to 9"),
            ("type=oci,dest=x,tar=maybe", "expected true or false"),
            ("type=oci,x", "expected key=value"),
            ("type=oci,\"dest=x", "quote"),
            ("type=registry", "output type registry is not supported"),
            ("type=image,push=true", "push=true is not supported"),
        ];
        for (text, what) in CASES {
            let error = OutputSpec::parse(text).expect_err(text).to_string();
            assert!(error.contains(what), "{text}: {error}");
        }
    }
}
