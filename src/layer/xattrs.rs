//! Where overlayfs keeps its marks.

use rustix::thread::CapabilitySet;
use std::fs;
use std::sync::LazyLock;

/// The namespace of overlay's extended attributes, which depends on who mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XattrSpace {
    /// `trusted.overlay.`: the initial user namespace, where root has `CAP_SYS_ADMIN`.
    Trusted,
    /// `user.overlay.`: any other user namespace (mount option `userxattr`).
    User,
}

impl XattrSpace {
    /// Returns the one this process can use: `User` inside a user namespace, and for all who lack
    /// the capability that the other needs.
    ///
    /// A namespace that maps all ids to themselves is taken for the initial one, as systemd and
    /// util-linux do; where `/proc` is missing, too. It is decided when it is first asked for, which
    /// is after this process has entered a namespace of its own.
    pub fn detect() -> Self {
        static FOUND: LazyLock<XattrSpace> = LazyLock::new(|| {
            let is_admin = rustix::thread::capabilities(None)
                .is_ok_and(|own| own.permitted.contains(CapabilitySet::SYS_ADMIN));
            let map = fs::read_to_string("/proc/self/uid_map");
            let is_whole =
                map.map_or(true, |map| map.split_ascii_whitespace().eq(["0", "0", "4294967295"]));
            if is_admin && is_whole { XattrSpace::Trusted } else { XattrSpace::User }
        });
        *FOUND
    }

    /// Returns the attribute that hides a directory's lower contents; its value is `y`.
    pub fn opaque(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.opaque",
            Self::User => "user.overlay.opaque",
        }
    }

    /// Returns the attribute of an empty file that makes it a whiteout.
    pub fn whiteout(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.whiteout",
            Self::User => "user.overlay.whiteout",
        }
    }
}
