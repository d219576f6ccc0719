//! Dockerfile text to spanned syntax tree.

pub mod ast;
pub mod errors;
pub mod expand;
pub mod ignore;
mod parse;
pub use parse::{parse, parse_instruction};
