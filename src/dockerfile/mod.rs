//! Dockerfile text to spanned syntax tree; words and variables; ignore files; build checks.
//!
//! In: bytes. Out: an [`ast::Dockerfile`] whose every word knows its place, or
//! all that is wrong. [`parse`] says how the parser is laid out.
//!
//! # Not here
//!
//! What stages and images are: the plan room.

pub mod address;
pub mod ast;
pub mod chmod;
mod directives;
pub mod env;
pub mod errors;
pub mod expand;
pub mod git_url;
pub(crate) mod golang;
pub mod heredoc;
pub mod ignore;
mod join;
pub mod lint;
pub mod parse;
pub mod print;

pub use directives::is_dockerfile_frontend;
pub use parse::{Frontend, parse, parse_for, parse_instruction};

/// A file's text for an excerpt: bytes that are not UTF-8 are one character of
/// one byte each, so that spans of the file are spans of the text.
pub fn as_shown(source: &[u8]) -> String {
    decode(source, '?')
}

/// Bytes as Go's strings are read and written: one U+FFFD for each byte that is
/// not UTF-8.
pub(crate) fn as_text(bytes: &[u8]) -> String {
    decode(bytes, char::REPLACEMENT_CHARACTER)
}

fn decode(bytes: &[u8], stand_in: char) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| stand_in));
    }
    text
}
