//! A minimal `/dev`.
//!
//! The directory is a tmpfs with `nodev`; the six harmless nodes are single-file mounts. Source:
//! the OCI runtime specification, "Default Devices", without `console` where there is no terminal.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, makedev, mknodat, symlinkat};
use rustix::mount::MountAttrFlags;
use rustix::pty::OpenptFlags;

use super::super::fault::{Doing, Fault};
use super::{Building, NOTHING_SPECIAL, attach, clone, make};

/// Name, major and minor number.
pub(in super::super) const NODES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

pub(in super::super) const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Group `tty` of every distribution that has fixed numbers, and what Docker passes.
const TTY_GROUP: u32 = 5;

const RW_ALL: Mode = Mode::from_raw_mode(0o666);

impl Building<'_> {
    /// Mounts `/dev`; returns its null device and, with a terminal, the master and the slave of
    /// that.
    pub(super) fn dev(
        &mut self,
        shm_size: u64,
        terminal: bool,
    ) -> Result<(OwnedFd, Option<(OwnedFd, OwnedFd)>), Fault> {
        let quiet = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        let dev = make("tmpfs", &[("mode", "0755"), ("size", "64m"), ("source", "tmpfs")], quiet)?;
        self.own(dev.as_fd())?;
        let place = self.stubs.own("dev")?;
        attach(dev.as_fd(), place.as_fd()).doing(|| "mounting /dev")?;

        for (name, major, minor) in NODES {
            let made =
                mknodat(self.stage, name, FileType::CharacterDevice, RW_ALL, makedev(major, minor));
            let node = match made {
                Ok(()) => clone(self.stage, name),
                // A user namespace may not make nodes, but may show the host's.
                Err(_) => clone(rustix::fs::CWD, &format!("/dev/{name}")),
            }
            .doing(|| format!("making the device {name}"))?;
            if made.is_err() && name == "null" {
                // Masks are made of it.
                self.stage_file(name, b"", 0o600, None)?;
                let place = rustix::fs::openat(self.stage, name, OFlags::PATH, Mode::empty())
                    .doing(|| "opening the null device")?;
                let second = clone(rustix::fs::CWD, "/dev/null").doing(|| "cloning /dev/null")?;
                attach(second.as_fd(), place.as_fd()).doing(|| "mounting the null device")?;
            }
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
            let place = rustix::fs::openat(&dev, name, flags, RW_ALL)
                .doing(|| format!("making /dev/{name}"))?;
            attach(node.as_fd(), place.as_fd()).doing(|| format!("mounting /dev/{name}"))?;
        }
        // Not the host's: a command that has the host's root may change what it was given.
        let null = rustix::fs::openat(&dev, "null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .doing(|| "opening /dev/null")?;
        for (name, target) in LINKS {
            symlinkat(target, &dev, name).doing(|| format!("making /dev/{name}"))?;
        }

        let tty_group =
            self.map.and_then(|map| map.gid(TTY_GROUP)).unwrap_or(TTY_GROUP).to_string();
        let shm_size = shm_size.to_string();
        let terminals = [("ptmxmode", "0666"), ("mode", "0620"), ("gid", tty_group.as_str())];
        let shared = [("mode", "1777"), ("size", shm_size.as_str()), ("source", "shm")];
        let exec_free = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        // Where the group is not mapped (a single id), terminals keep their owner's.
        let pts = make("devpts", &terminals, exec_free)
            .or_else(|_| make("devpts", &terminals[..2], exec_free))?;
        let shm = make("tmpfs", &shared, NOTHING_SPECIAL)?;
        self.own(shm.as_fd())?;
        for (name, mount) in [
            ("pts", pts.as_fd()),
            ("shm", shm.as_fd()),
            ("mqueue", make("mqueue", &[], NOTHING_SPECIAL)?.as_fd()),
        ] {
            rustix::fs::mkdirat(&dev, name, Mode::from_raw_mode(0o755))
                .doing(|| format!("making /dev/{name}"))?;
            let place =
                rustix::fs::openat(&dev, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                    .doing(|| format!("opening /dev/{name}"))?;
            attach(mount, place.as_fd()).doing(|| format!("mounting /dev/{name}"))?;
        }
        if !terminal {
            return Ok((null, None));
        }

        let open = || -> std::io::Result<(OwnedFd, OwnedFd)> {
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
            let master = rustix::fs::openat(&pts, "ptmx", flags, Mode::empty())?;
            rustix::pty::unlockpt(&master)?;
            let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
            let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
            Ok((master, slave))
        };
        let (master, slave) = open().doing(|| "opening a terminal")?;
        let console = clone(pts.as_fd(), "0").doing(|| "cloning the terminal")?;
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
        let place = rustix::fs::openat(&dev, "console", flags, Mode::from_raw_mode(0o600))
            .doing(|| "making /dev/console")?;
        attach(console.as_fd(), place.as_fd()).doing(|| "mounting /dev/console")?;
        Ok((null, Some((master, slave))))
    }
}
