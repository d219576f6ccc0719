//! Dockerfile text to spanned syntax tree.

pub mod ast;
pub mod errors;
pub mod expand;
pub mod ignore;
