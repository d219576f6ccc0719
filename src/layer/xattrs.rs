//! Where overlayfs keeps its marks.

use std::fs;

/// The namespace of overlay's extended attributes, which depends on who mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XattrSpace {
    /// `trusted.overlay.`: the initial user namespace, where root has `CAP_SYS_ADMIN`.
    Trusted,
    /// `user.overlay.`: any other user namespace (mount option `userxattr`).
    User,
}

impl XattrSpace {
    /// Returns the one this process can use: `User` inside a user namespace.
    ///
    /// A namespace that maps all ids to themselves is taken for the initial one, as systemd and
    /// util-linux do; where `/proc` is missing, too.
    pub fn detect() -> Self {
        let Ok(map) = fs::read_to_string("/proc/self/uid_map") else { return Self::Trusted };
        let all: Vec<&str> = map.split_ascii_whitespace().collect();
        if all == ["0", "0", "4294967295"] { Self::Trusted } else { Self::User }
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
