//! The files of docker's client and of podman that hold logins: `config.json`, `auth.json`. All that is in
//! them and is not changed stays.

use super::RegistryError;
use crate::sys::foreign;
use serde_json::Value;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

/// The largest file, in bytes.
const FILE_MAX: u64 = 4 << 20;

pub(super) fn error(path: &Path, what: impl Into<String>) -> RegistryError {
    RegistryError::File { path: path.to_owned(), what: what.into() }
}

/// Reads a file; `None` where there is none, or an empty one.
///
/// # Errors
///
/// [`RegistryError::File`] for one that cannot be read or is not a JSON object.
pub fn read(path: &Path) -> Result<Option<Value>, RegistryError> {
    let bytes = match foreign::read_at(path, FILE_MAX) {
        Ok(bytes) => bytes,
        Err(e) if foreign::is_out_of_reach(path, &e) => {
            return Ok(None);
        }
        Err(e) => return Err(error(path, e.to_string())),
    };
    if bytes.trim_ascii().is_empty() {
        return Ok(None);
    }
    // The parser's message would quote the file.
    let document: Value = serde_json::from_slice(&bytes)
        .map_err(|e| error(path, format!("it is not JSON (line {})", e.line())))?;
    if document.is_object() { Ok(Some(document)) } else { Err(error(path, "it is not an object")) }
}

/// Replaces the file, mode 0600; a link to it stays one.
///
/// # Errors
///
/// [`RegistryError::File`]; the file is as it was then.
pub fn write(path: &Path, document: &Value) -> Result<(), RegistryError> {
    let failed = |e: io::Error| error(path, e.to_string());
    let target = match fs::read_link(path) {
        Ok(target) => path.parent().unwrap_or(Path::new("/")).join(target),
        Err(_) => path.to_owned(),
    };
    let directory = target.parent().unwrap_or(Path::new("/"));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    let mut temp =
        tempfile::Builder::new().prefix(".config-").tempfile_in(directory).map_err(failed)?;
    let mut text = serde_json::to_vec_pretty(document).expect("JSON that was read can be written");
    text.push(b'\n');
    temp.write_all(&text).and_then(|()| temp.as_file().sync_all()).map_err(failed)?;
    temp.persist(&target).map_err(|e| failed(e.error))?;
    Ok(())
}
