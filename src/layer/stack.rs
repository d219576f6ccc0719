//! What the layers below have at a path, without mounting them.
//!
//! A lookup asks the layers from the top down and stops at whatever hides the rest: a file, a
//! whiteout, an opaque directory. That is cheaper than a mount where few paths are asked for, which
//! is what a small change of a large image is.

use super::whiteout::{
    DirectoryMark, directory_mark, is_whiteout, is_whiteout_file, may_be_whiteout_file,
};
use super::{LayerError, XattrSpace, owner};
use crate::sys::rooted::open_beneath;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat, open, statat};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

/// Layers, to be asked for paths.
#[derive(Debug)]
pub struct Stack {
    /// The top first.
    layers: Vec<Opened>,
    xattrs: XattrSpace,
}

#[derive(Debug)]
struct Opened {
    directory: OwnedFd,
    /// Whether whiteouts in it are files.
    has_whiteout_files: bool,
}

/// A directory of a stack: which layers contribute to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackDir {
    path: Vec<u8>,
    /// Indexes of the layers that have it, the top first.
    layers: Vec<usize>,
}

/// What a stack has at a path.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its attributes, of the topmost layer that has it.
    pub stat: Stat,
    layer: usize,
}

impl Stack {
    /// Opens the directories of the layers, given the bottom first.
    ///
    /// # Errors
    ///
    /// [`LayerError::Io`] for a layer that cannot be opened.
    pub fn open(layers: &[PathBuf], xattrs: XattrSpace) -> Result<Self, LayerError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let layers = layers.iter().rev().map(|path| {
            let fail = |e| LayerError::io("open", path.as_os_str().as_encoded_bytes(), e);
            let directory = open(path, flags, Mode::empty()).map_err(fail)?;
            let mark = directory_mark(&directory, xattrs).map_err(fail)?;
            Ok(Opened { directory, has_whiteout_files: mark == DirectoryMark::WhiteoutFiles })
        });
        let layers = layers.collect::<Result<_, LayerError>>()?;
        Ok(Self { layers, xattrs })
    }

    /// Returns the root of the stack.
    pub fn root(&self) -> StackDir {
        StackDir { path: Vec::new(), layers: (0..self.layers.len()).collect() }
    }

    /// Looks `name` up in a directory.
    ///
    /// # Errors
    ///
    /// [`LayerError::Io`] for anything but absence.
    pub fn lookup(&self, dir: &StackDir, name: &[u8]) -> Result<Option<Found>, LayerError> {
        let path = join(&dir.path, name);
        for &layer in &dir.layers {
            match self.stat(layer, &path) {
                Ok(stat) if self.is_whiteout(layer, &path, &stat)? => return Ok(None),
                Ok(stat) => return Ok(Some(Found { stat, layer })),
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(e) => return Err(LayerError::io("look up", &path, e)),
            }
        }
        Ok(None)
    }

    /// Returns the directory `name` of a directory; `None` where the stack has something else
    /// there, or nothing.
    ///
    /// # Errors
    ///
    /// [`LayerError::Io`] for anything but absence.
    pub fn dir(&self, dir: &StackDir, name: &[u8]) -> Result<Option<StackDir>, LayerError> {
        let path = join(&dir.path, name);
        let mut layers = Vec::new();
        for &layer in &dir.layers {
            match self.stat(layer, &path) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                    layers.push(layer);
                    if self.is_opaque(layer, &path)? {
                        break;
                    }
                }
                Ok(_) => break,
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(e) => return Err(LayerError::io("look up", &path, e)),
            }
        }
        Ok((!layers.is_empty()).then_some(StackDir { path, layers }))
    }

    /// Lists a directory: each name once, with its type.
    ///
    /// # Errors
    ///
    /// [`LayerError::Io`].
    pub fn list(&self, dir: &StackDir) -> Result<BTreeMap<Vec<u8>, FileType>, LayerError> {
        let mut names = BTreeMap::new();
        let mut buffer = vec![MaybeUninit::uninit(); 32 * 1024];
        // From the bottom up, so that the topmost has the last word.
        for &layer in dir.layers.iter().rev() {
            let fail = |e: std::io::Error| LayerError::io("list", &dir.path, e);
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let fd = open_beneath(self.layers[layer].directory.as_fd(), &dir.path, flags)
                .map_err(fail)?;
            let mut entries = RawDir::new(&fd, &mut buffer);
            while let Some(entry) = entries.next() {
                let entry = entry.map_err(|e| fail(e.into()))?;
                let name = entry.file_name().to_bytes();
                if name == b"." || name == b".." {
                    continue;
                }
                let mut kind = entry.file_type();
                let may_hide = match kind {
                    FileType::CharacterDevice | FileType::Unknown => true,
                    FileType::RegularFile => self.layers[layer].has_whiteout_files,
                    _ => false,
                };
                if may_hide {
                    let stat = statat(&fd, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)
                        .map_err(|e| fail(e.into()))?;
                    if self.is_whiteout(layer, &join(&dir.path, name), &stat)? {
                        names.remove(name);
                        continue;
                    }
                    kind = FileType::from_raw_mode(stat.st_mode);
                }
                names.insert(name.to_vec(), kind);
            }
        }
        Ok(names)
    }

    /// Opens what a lookup of `name` in `dir` found.
    ///
    /// # Errors
    ///
    /// [`LayerError::Io`].
    pub fn open_found(
        &self,
        dir: &StackDir,
        name: &[u8],
        found: &Found,
        flags: OFlags,
    ) -> Result<OwnedFd, LayerError> {
        let path = join(&dir.path, name);
        open_beneath(self.layers[found.layer].directory.as_fd(), &path, flags)
            .map_err(|e| LayerError::io("open", &path, e))
    }

    fn stat(&self, layer: usize, path: &[u8]) -> Result<Stat, Errno> {
        // The directories of the path were found to be directories of this layer, and layers never
        // change, so no link can be followed here.
        let directory = &self.layers[layer].directory;
        match statat(directory, path, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NAMETOOLONG) => {
                let fd = open_beneath(self.layers[layer].directory.as_fd(), path, OFlags::PATH)
                    .map_err(|e| e.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))?;
                rustix::fs::fstat(&fd)
            }
            Ok(mut stat) => {
                owner::amend(directory.as_fd(), path, &mut stat);
                Ok(stat)
            }
            Err(e) => Err(e),
        }
    }

    fn is_opaque(&self, layer: usize, path: &[u8]) -> Result<bool, LayerError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = open_beneath(self.layers[layer].directory.as_fd(), path, flags)
            .map_err(|e| LayerError::io("open", path, e))?;
        directory_mark(&fd, self.xattrs)
            .map(|mark| mark == DirectoryMark::Opaque)
            .map_err(|e| LayerError::io("read the opaque mark of", path, e))
    }

    /// Says whether what a layer has at a path hides it.
    fn is_whiteout(&self, layer: usize, path: &[u8], stat: &Stat) -> Result<bool, LayerError> {
        if !self.layers[layer].has_whiteout_files || !may_be_whiteout_file(stat) {
            return Ok(is_whiteout(stat));
        }
        let fail = |e| LayerError::io("look up", path, e);
        let file = open_beneath(self.layers[layer].directory.as_fd(), path, OFlags::RDONLY)
            .map_err(|e| LayerError::io("look up", path, e))?;
        is_whiteout_file(&file, self.xattrs).map_err(fail)
    }
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}
