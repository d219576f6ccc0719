//! Dockerfile text to spanned syntax tree; words and variables; ignore files.
//!
//! In: bytes. Out: an [`ast::Dockerfile`] whose every word knows its place, or
//! all that is wrong. [`parse`] says how the parser is laid out.
//!
//! # Not here
//!
//! What stages and images are: the plan room.

pub mod ast;
mod directives;
pub mod errors;
pub mod expand;
pub mod heredoc;
pub mod ignore;
mod join;
pub mod parse;

pub use parse::{parse, parse_instruction};
