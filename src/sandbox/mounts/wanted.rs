//! The mounts that a spec wants, besides those that every command has.
//!
//! First all of them are made, detached and with their restrictions; then the descriptors of their
//! sources are closed; then they are placed. So while a target is resolved, which an image's links
//! take part in, no descriptor shows more than the command is going to see.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::mount::MountAttrFlags;

use super::super::descriptors::Descriptors;
use super::super::fault::{Doing, Fault};
use super::super::protocol::{RunRequest, SourceFd};
use super::super::spec::{MountKind, MountSpec};
use super::{Building, NOTHING_SPECIAL, READ_ONLY, as_far_as_known, attach, clone, make, restrict};
use crate::layer::owner;
use crate::sys::mount::make_private;
use crate::sys::rooted::open_in_root;

/// A mount that was made, and where it is to be.
pub(super) struct Wanted<'a> {
    target: &'a str,
    made: Made,
}

enum Made {
    /// A detached mount whose root is a directory.
    Dir(OwnedFd),
    /// A tmpfs that takes the mode of the directory it is mounted on.
    Like(OwnedFd),
    /// One whose root is anything else.
    File(OwnedFd),
    /// The directory that is at the target already.
    Itself,
}

impl Building<'_> {
    /// Makes the spec's own mounts, shallow ones first, so that none hides another; of several with
    /// one target the last in the spec wins. Closes their sources.
    pub(super) fn prepare<'a>(
        &mut self,
        request: &'a RunRequest,
        fds: &mut Descriptors,
    ) -> Result<Vec<Wanted<'a>>, Fault> {
        let mut mounts: Vec<(usize, &MountSpec)> = request.spec.mounts.iter().enumerate().collect();
        mounts.sort_by_key(|(_, mount)| super::depth(&mount.target));
        let mut attached: Vec<bool> = vec![false; request.sources.len()];
        let mut wanted = Vec::new();
        for (index, mount) in mounts {
            let target = mount.target.as_str();
            let made = match &mount.kind {
                MountKind::Bind { source, subpath, readonly } => {
                    if !attached.get(*source).copied().unwrap_or_default() {
                        self.attach_source(request, fds, *source)?;
                        attached[*source] = true;
                    }
                    let made = Self::bind_source(request, fds, *source, subpath)?;
                    make_private(made.as_fd())
                        .doing(|| format!("making the mount of {target} private"))?;
                    let mut attributes = MountAttrFlags::MOUNT_ATTR_NODEV;
                    if *readonly {
                        attributes |= READ_ONLY;
                    }
                    restrict(made.as_fd(), attributes)
                        .doing(|| format!("restricting the mount of {target}"))?;
                    let is_dir = is_dir(made.as_fd())
                        .doing(|| format!("looking at the source of {target}"))?;
                    if is_dir { Made::Dir(made) } else { Made::File(made) }
                }
                MountKind::Tmpfs { size, mode } => {
                    let is_like = mode.is_none();
                    let mode = format!("{:o}", mode.unwrap_or(0o1777));
                    let size = size.map(|size| size.to_string());
                    let mut options = vec![("mode", mode.as_str()), ("source", "tmpfs")];
                    options.extend(size.as_deref().map(|size| ("size", size)));
                    let attributes =
                        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
                    let made = make("tmpfs", &options, attributes)?;
                    self.own(made.as_fd())?;
                    if is_like { Made::Like(made) } else { Made::Dir(made) }
                }
                MountKind::Writable => Made::Itself,
                MountKind::Secret { source, mode, uid, gid } => {
                    let bytes = read_secret(request, fds, *source, target)?;
                    let name = format!("secret-{index}");
                    self.stage_file(&name, &bytes, *mode, Some(self.owner(*uid, *gid)?))?;
                    Made::File(self.of_stage(&name, NOTHING_SPECIAL | READ_ONLY)?)
                }
                MountKind::Ssh { mode, uid, gid, .. } => {
                    let name = format!("agent-{index}");
                    let socket = self.listen(&name, *mode, self.owner(*uid, *gid)?)?;
                    self.agents.push(socket);
                    Made::File(self.of_stage(&name, NOTHING_SPECIAL)?)
                }
            };
            wanted.push(Wanted { target, made });
        }
        for source in &request.sources {
            if let SourceFd::Mount(index) | SourceFd::File(index) = source {
                fds.close(*index);
            }
        }
        Ok(wanted)
    }

    /// Puts the mounts in their places.
    pub(super) fn place(&mut self, mounts: Vec<Wanted<'_>>) -> Result<(), Fault> {
        for Wanted { target, made } in mounts {
            let (mount, place) = match made {
                Made::Dir(mount) => (mount, self.stubs.dir(target)?),
                Made::Like(mount) => {
                    if let Some(mode) = self.stubs.mode_at(target) {
                        let mode = Mode::from_raw_mode(mode);
                        rustix::fs::chmodat(&mount, ".", mode, AtFlags::empty())
                            .doing(|| format!("setting the mode of {target}"))?;
                    }
                    (mount, self.stubs.dir(target)?)
                }
                Made::File(mount) => (mount, self.stubs.file(target)?),
                Made::Itself => {
                    let place = self.stubs.dir(target)?;
                    (clone(place.as_fd(), "").doing(|| format!("cloning {target}"))?, place)
                }
            };
            attach(mount.as_fd(), place.as_fd()).doing(|| format!("mounting {target}"))?;
        }
        Ok(())
    }

    /// Mounts a source on the stage, once: before Linux 6.15 only what is attached in this
    /// namespace can be cloned, and what is shown are clones. One that is shown read-only and in no
    /// other way is made read-only itself.
    fn attach_source(
        &mut self,
        request: &RunRequest,
        fds: &Descriptors,
        source: usize,
    ) -> Result<(), Fault> {
        let mount = source_of(request, fds, source)?;
        let is_readonly = request.spec.mounts.iter().all(|mount| match &mount.kind {
            MountKind::Bind { source: other, readonly, .. } => *other != source || *readonly,
            _ => true,
        });
        if is_readonly {
            restrict(mount, READ_ONLY).doing(|| "making the source of a mount read-only")?;
        }
        let name = format!("source-{source}");
        if is_dir(mount).doing(|| "looking at the source of a bind mount")? {
            rustix::fs::mkdirat(self.stage, &*name, Mode::from_raw_mode(0o700))
                .doing(|| "making a place for a source")?;
        } else {
            self.stage_file(&name, b"", 0o600, None)?;
        }
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let place = rustix::fs::openat(self.stage, &*name, flags, Mode::empty())
            .doing(|| "opening the place of a source")?;
        attach(mount, place.as_fd()).doing(|| "mounting the source of a bind mount")
    }

    /// Returns a detached mount of a source, or of `subpath` beneath it.
    fn bind_source(
        request: &RunRequest,
        fds: &Descriptors,
        source: usize,
        subpath: &str,
    ) -> Result<OwnedFd, Fault> {
        let mount = source_of(request, fds, source)?;
        let inner = subpath.trim_matches('/');
        if inner.is_empty() {
            return clone(mount, "").doing(|| "cloning a source");
        }
        let found = open_in_root(mount, inner.as_bytes(), OFlags::PATH | OFlags::CLOEXEC).map_err(
            |error| match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => {
                    Fault::Refused(format!("/{inner}: not found in the source of a bind mount"))
                }
                errno => Fault::Failed {
                    doing: format!("opening {inner} in the source of a bind mount"),
                    errno: errno.unwrap_or(libc::EIO),
                },
            },
        )?;
        clone(found.as_fd(), "").doing(|| format!("cloning {inner} of a source"))
    }

    /// Returns a detached mount of one file of the stage.
    fn of_stage(&self, name: &str, attributes: MountAttrFlags) -> Result<OwnedFd, Fault> {
        let mount = clone(self.stage, name).doing(|| format!("cloning {name}"))?;
        restrict(mount.as_fd(), attributes).doing(|| format!("restricting {name}"))?;
        Ok(mount)
    }

    /// Makes a listening socket on the stage.
    fn listen(&self, name: &str, mode: u32, (uid, gid): (u32, u32)) -> Result<OwnedFd, Fault> {
        let make = || -> std::io::Result<OwnedFd> {
            // A socket's address is a path, at most 108 bytes; relative to the stage it is short.
            rustix::process::fchdir(self.stage)?;
            let listener = std::os::unix::net::UnixListener::bind(name)?;
            rustix::process::fchdir(self.root)?;
            as_far_as_known(owner::set(self.stage, name.as_bytes(), uid, gid))?;
            rustix::fs::chmodat(self.stage, name, Mode::from_raw_mode(mode), AtFlags::empty())?;
            Ok(listener.into())
        };
        make().doing(|| "making an agent's socket")
    }
}

fn source_of<'a>(
    request: &RunRequest,
    fds: &'a Descriptors,
    source: usize,
) -> Result<BorrowedFd<'a>, Fault> {
    match request.sources.get(source) {
        Some(SourceFd::Mount(index)) => fds.get(*index),
        _ => Err(Fault::Refused("a bind mount has no source".into())),
    }
}

fn read_secret(
    request: &RunRequest,
    fds: &Descriptors,
    source: usize,
    target: &str,
) -> Result<Vec<u8>, Fault> {
    let Some(SourceFd::File(index)) = request.sources.get(source) else {
        return Err(Fault::Refused(format!("{target} has no secret to show")));
    };
    let mut bytes = Vec::new();
    fds.get(*index)?
        .try_clone_to_owned()
        .map(std::fs::File::from)
        .and_then(|mut file| std::io::Read::read_to_end(&mut file, &mut bytes))
        .doing(|| format!("reading the secret for {target}"))?;
    Ok(bytes)
}

fn is_dir(file: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode).is_dir())
}
