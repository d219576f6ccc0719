//! Overlay stacks: mount, copy into, commit, unpack.
