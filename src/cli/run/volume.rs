//! Parts of the host shown inside: `-v`, `--mount`, `--tmpfs`.

use crate::cli::failure::{Class, Failure};
use crate::cli::parse_args;
use crate::sandbox::{MountKind, MountSpec};
use rustix::fs::{CWD, Mode, OFlags, openat};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The mode of a tmpfs where none is given, as Docker's.
const TMPFS_MODE: u32 = 0o1777;

/// Something to mount, as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Volume {
    /// A directory or file of the host.
    Bind {
        /// Where it is.
        source: PathBuf,
        /// Where it is to be seen.
        target: String,
        /// Whether writes are refused.
        is_read_only: bool,
    },
    /// A file system in memory.
    Tmpfs {
        /// Where it is to be seen.
        target: String,
        /// Most bytes it can hold.
        size: Option<u64>,
        /// The mode of its root.
        mode: u32,
    },
}

/// Parses `-v SRC:DST[:OPTIONS]`.
///
/// # Errors
///
/// A sentence about what is wrong, for the command line.
pub fn volume(text: &str) -> Result<Volume, String> {
    let wrong = || format!("{text:?} is not a volume: expected SRC:DST or SRC:DST:ro");
    let mut parts = text.split(':');
    let (source, target) = (parts.next().unwrap_or_default(), parts.next().ok_or_else(wrong)?);
    let mut is_read_only = false;
    for option in parts.next().unwrap_or_default().split(',') {
        match option {
            "ro" | "readonly" => is_read_only = true,
            "" | "rw" => is_read_only = false,
            // Labels and propagation of other engines, which mean nothing here.
            "z" | "Z" | "cached" | "delegated" | "consistent" | "private" | "rprivate" => {}
            other => {
                return Err(format!(
                    "unknown option {other:?} of volume {text:?}: expected ro or rw"
                ));
            }
        }
    }
    if source.is_empty() || !target.starts_with('/') || parts.next().is_some() {
        return Err(wrong());
    }
    if !source.contains('/') && !source.starts_with('.') {
        return Err(format!(
            "there are no named volumes: name a directory of the host: -v ./{source}:{target}"
        ));
    }
    Ok(Volume::Bind { source: PathBuf::from(source), target: target.to_owned(), is_read_only })
}

/// Parses `--mount type=bind|tmpfs,src=…,dst=…`.
///
/// # Errors
///
/// A sentence about what is wrong, for the command line.
pub fn mount(text: &str) -> Result<Volume, String> {
    let (mut kind, mut source, mut target) = ("volume".to_owned(), None, None);
    let (mut is_read_only, mut size, mut mode) = (false, None, TMPFS_MODE);
    for field in parse_args::fields(text)? {
        let (key, value) = field.split_once('=').unwrap_or((&field, ""));
        match key.to_ascii_lowercase().as_str() {
            "type" => value.clone_into(&mut kind),
            "src" | "source" => source = Some(PathBuf::from(value)),
            "dst" | "destination" | "target" => target = Some(value.to_owned()),
            "ro" | "readonly" => {
                is_read_only = match value {
                    "" | "true" | "1" => true,
                    "false" | "0" => false,
                    other => return Err(format!("{other:?} is not true or false")),
                };
            }
            "tmpfs-size" => size = Some(parse_args::bytes(value)?),
            "tmpfs-mode" => mode = octal(value)?,
            "bind-propagation" if value.ends_with("private") => {}
            other => return Err(format!("unknown field {other:?} of mount {text:?}")),
        }
    }
    let target = target
        .filter(|target| target.starts_with('/'))
        .ok_or_else(|| format!("mount {text:?} has no absolute target"))?;
    match (kind.as_str(), source) {
        ("bind", Some(source)) => Ok(Volume::Bind { source, target, is_read_only }),
        ("bind", None) => Err(format!("mount {text:?} has no source")),
        ("tmpfs", None) => Ok(Volume::Tmpfs { target, size, mode }),
        ("tmpfs", Some(_)) => Err(format!("mount {text:?}: a tmpfs has no source")),
        (other, _) => Err(format!("mount type {other:?} is not known: expected bind or tmpfs")),
    }
}

/// Parses `--tmpfs DST[:size=…,mode=…]`.
///
/// # Errors
///
/// A sentence about what is wrong, for the command line.
pub fn tmpfs(text: &str) -> Result<Volume, String> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    if !target.starts_with('/') {
        return Err(format!("{text:?} is not an absolute path"));
    }
    let (mut size, mut mode) = (None, TMPFS_MODE);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", value)) => size = Some(parse_args::bytes(value)?),
            Some(("mode", value)) => mode = octal(value)?,
            None if matches!(option, "rw" | "nosuid" | "nodev" | "noexec") => {}
            _ => {
                return Err(format!("unknown option {option:?} of --tmpfs: expected size or mode"));
            }
        }
    }
    Ok(Volume::Tmpfs { target: target.to_owned(), size, mode })
}

fn octal(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| format!("{text:?} is not a mode: expected octal digits, such as 1777"))
}

/// Opens what is to be shown; the specs refer to it by place.
///
/// # Errors
///
/// The failure to show where something is missing.
pub(super) fn open_all(volumes: &[Volume]) -> Result<(Vec<OwnedFd>, Vec<MountSpec>), Failure> {
    let mut opened = Vec::new();
    let mut specs = Vec::new();
    for volume in volumes {
        specs.push(match volume {
            Volume::Bind { source, target, is_read_only } => {
                opened.push(open(source)?);
                MountSpec {
                    target: target.clone(),
                    kind: MountKind::Bind {
                        source: opened.len() - 1,
                        subpath: String::new(),
                        readonly: *is_read_only,
                    },
                }
            }
            Volume::Tmpfs { target, size, mode } => MountSpec {
                target: target.clone(),
                kind: MountKind::Tmpfs { size: *size, mode: Some(*mode) },
            },
        });
    }
    Ok((opened, specs))
}

/// Opens a part of the host without reading it: sockets can be shown too.
fn open(path: &Path) -> Result<OwnedFd, Failure> {
    openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(|error| {
        let error = io::Error::from(error);
        let failure = Failure::new(
            Class::Environment,
            format!("cannot open volume {}: {error}", path.display()),
        );
        match error.kind() {
            // Docker would make it, owned by root, and hide a typing error.
            io::ErrorKind::NotFound => failure.with_hint(format!("mkdir -p {}", path.display())),
            _ => failure,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(source: &str, target: &str, is_read_only: bool) -> Volume {
        Volume::Bind { source: source.into(), target: target.into(), is_read_only }
    }

    fn memory(target: &str, size: Option<u64>, mode: u32) -> Volume {
        Volume::Tmpfs { target: target.into(), size, mode }
    }

    #[test]
    fn volumes_have_a_source_and_an_absolute_target() {
        for (text, want) in [
            ("/a:/b", Some(bind("/a", "/b", false))),
            ("./a:/b:ro", Some(bind("./a", "/b", true))),
            ("..:/b:ro,z", Some(bind("..", "/b", true))),
            ("a:/b", None),
            ("/a", None),
            ("/a:b", None),
            ("/a:/b:x", None),
            ("/a:/b:ro:ro", None),
            (":/b", None),
        ] {
            assert_eq!(volume(text).ok(), want, "{text}");
        }
    }

    #[test]
    fn mounts_are_binds_or_memory() {
        for (text, want) in [
            ("type=bind,src=/a,dst=/b", Some(bind("/a", "/b", false))),
            ("type=bind,source=/a,target=/b,readonly", Some(bind("/a", "/b", true))),
            (
                "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=755",
                Some(memory("/t", Some(1 << 20), 0o755)),
            ),
            ("type=bind,dst=/b", None),
            ("src=/a,dst=/b", None),
            ("type=tmpfs,dst=t", None),
            ("type=bind,src=/a,dst=/b,x=y", None),
        ] {
            assert_eq!(mount(text).ok(), want, "{text}");
        }
    }

    #[test]
    fn memory_has_a_size_and_a_mode() {
        for (text, want) in [
            ("/t", Some(memory("/t", None, 0o1777))),
            ("/t:size=64m,mode=700", Some(memory("/t", Some(64 << 20), 0o700))),
            ("/t:rw,noexec", Some(memory("/t", None, 0o1777))),
            ("t", None),
            ("/t:mode=9", None),
            ("/t:huge=1", None),
        ] {
            assert_eq!(tmpfs(text).ok(), want, "{text}");
        }
    }
}
