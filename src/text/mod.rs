//! Text as other programs write it: paths that Go cleaned, sizes in Docker's units, chains of
//! errors.
//!
//! Pure functions that several rooms need alike. Each stands here once, so that two rooms never
//! differ in a rounding or in the meaning of `..`.
//!
//! # Not here
//!
//! Escaping what could steer a terminal: [`crate::show`]. Base64: the `base64` crate.

mod error;
pub mod path;
pub mod size;

pub use error::chain;
