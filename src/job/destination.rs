//! Destinations on this machine, looked at before a build starts: a file that cannot be made is
//! reported at once, and not after the last step.
//!
//! Nothing is made here. What changes while the build runs is still found when the output is written.

use super::failure::{Class, Failure, cannot};
use super::request::DeliverySpec;
use crate::export::{Dest, Form, OutputKind};
use rustix::fs::{Access, AtFlags, CWD, accessat};
use std::fs;
use std::io;
use std::path::Path;

/// Checks that files and directories can be made where the result goes.
///
/// # Errors
///
/// A failure that names the path, and what to do.
pub(super) fn check(delivery: &DeliverySpec) -> Result<(), Failure> {
    for path in [&delivery.id_file, &delivery.metadata_file].into_iter().flatten() {
        file(path)?;
    }
    for spec in delivery.all_outputs() {
        let Some(Dest::Path(path)) = &spec.dest else { continue };
        let is_directory = spec.kind == OutputKind::Local || spec.form == Form::Dir;
        match is_directory {
            true => directory(path)?,
            false => file(path)?,
        }
    }
    Ok(())
}

/// Checks that a file can be made, or written anew.
fn file(path: &Path) -> Result<(), Failure> {
    if path.is_dir() {
        let message = format!("cannot write {}: it is a directory", path.display());
        return Err(Failure::new(Class::Usage, message)
            .with_hint(format!("name a file in it: {}", path.join("FILE").display())));
    }
    // A pipe or a device is written to as it is.
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match fs::metadata(parent) {
        Ok(found) if found.is_dir() => writable(parent, path),
        Ok(_) => Err(cannot("create", path, &io::ErrorKind::NotADirectory.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(cannot("create", path, &error)
                .with_hint(format!("make the directory: mkdir -p {}", parent.display())))
        }
        Err(error) => Err(cannot("create", path, &error)),
    }
}

/// Checks that a directory can be made with those above it, or is there.
fn directory(path: &Path) -> Result<(), Failure> {
    let ancestors = path.ancestors().map(|above| match above.as_os_str().is_empty() {
        true => Path::new("."),
        false => above,
    });
    for above in ancestors {
        match fs::metadata(above) {
            Ok(found) if found.is_dir() => return writable(above, path),
            Ok(_) => return Err(cannot("create", path, &io::ErrorKind::NotADirectory.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(cannot("create", path, &error)),
        }
    }
    Ok(())
}

fn writable(directory: &Path, path: &Path) -> Result<(), Failure> {
    let rights = Access::WRITE_OK | Access::EXEC_OK;
    accessat(CWD, directory, rights, AtFlags::empty())
        .map_err(|error| cannot("create", path, &error.into()))
}
