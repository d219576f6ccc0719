//! `builder diff`: what differs between two images.
//!
//! The exit status is that of diff(1): 0 for none, 1 for some; trouble has the codes of all
//! commands.

use super::Environment;
use super::failure::{Class, Failure};
use super::image_arg::{self, ImageCommandError};
use crate::image::{
    self, Difference, Differences, Image, LayoutRef, Presence, load_archive, load_layout,
};
use crate::show;
use crate::store::Store;
use crate::sys::foreign::Given;
use serde_json::Value;
use std::io::{self, Write};
use std::path::Path;

/// Show what differs between two images: configuration, layers, files.
#[derive(Debug, Clone, clap::Args)]
pub struct DiffArgs {
    /// An image of the store, the file of an archive, or the directory of a layout
    #[arg(value_name = "A")]
    pub a: String,
    /// The other one
    #[arg(value_name = "B")]
    pub b: String,
    /// How to show it: text or json
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = ["text", "json"])]
    pub format: String,
    /// The platform, of images that have several
    #[arg(long)]
    pub platform: Vec<String>,
}

/// Prints the differences.
///
/// # Errors
///
/// A failure of status 1 without a message where there are differences, and what else goes wrong.
pub fn run(args: &DiffArgs, environment: &Environment, out: &mut dyn Write) -> Result<(), Failure> {
    let store = environment.store()?;
    let compare = || -> Result<Differences, ImageCommandError> {
        let a = load(&store, &args.a, &args.platform, environment)?;
        let b = load(&store, &args.b, &args.platform, environment)?;
        Ok(image::compare(&store, &a, &b, &environment.cancel)?)
    };
    let found = compare().map_err(|error| Failure::of_images(&error))?;
    let written = match args.format.as_str() {
        "json" => writeln!(out, "{}", serde_json::to_string(&found).unwrap_or_default()),
        _ => write_text(&found, out),
    };
    written.map_err(|error| Failure::output(&error))?;
    if found.is_empty() { Ok(()) } else { Err(Failure::new(Class::Status(1), "")) }
}

/// Finds an image by its name, or where a file or directory of that name is, there.
fn load(
    store: &Store,
    text: &str,
    asked: &[String],
    environment: &Environment,
) -> Result<Image, ImageCommandError> {
    let cancel = &environment.cancel;
    let platform = &super::import::platform(asked)?;
    let path = Path::new(text);
    let is_path = text.contains('/') || path.extension().is_some_and(|it| it == "tar");
    if is_path && path.is_dir() {
        return Ok(load_layout(store, &LayoutRef::parse(text)?, platform, cancel)?);
    }
    if is_path && path.exists() {
        let file = Given::open_stream(path, cancel)
            .map_err(|source| ImageCommandError::Open { path: path.to_owned(), source })?;
        let loaded = load_archive(store, file, text, platform, cancel)?;
        if let [one] = loaded.as_slice() {
            return Ok(one.image.clone());
        }
        return Err(ImageCommandError::Format {
            text: text.to_owned(),
            expected: "an archive of one image",
        });
    }
    let found = image_arg::image(store, text)?;
    let platform = image_arg::platform_of(store, &found.descriptor, asked)?;
    Ok(image::load_stored(store, &found.descriptor, &platform, cancel)?)
}

fn write_text(found: &Differences, out: &mut dyn Write) -> io::Result<()> {
    for difference in found.config.iter().chain(&found.layers) {
        writeln!(out, "{}", line(difference))?;
    }
    for file in &found.files {
        match file.presence {
            Presence::OnlyA => writeln!(out, "- {}", show::text(&file.path))?,
            Presence::OnlyB => writeln!(out, "+ {}", show::text(&file.path))?,
            Presence::Both => {
                writeln!(out, "  {}", show::text(&file.path))?;
                for difference in &file.attributes {
                    writeln!(out, "      {}", line(difference))?;
                }
            }
        }
    }
    Ok(())
}

fn line(difference: &Difference) -> String {
    let side = |value: &Option<Value>| match value {
        None => "nothing".to_owned(),
        // A hash says no more when it is whole.
        Some(Value::String(text)) if difference.what == "content" => {
            text.chars().take(12).collect()
        }
        Some(Value::String(text)) => show::text(text).into_owned(),
        Some(value) => show::text(&value.to_string()).into_owned(),
    };
    format!("{}: {} -> {}", show::text(&difference.what), side(&difference.a), side(&difference.b))
}
