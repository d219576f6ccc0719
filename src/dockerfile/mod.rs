//! Dockerfile text to spanned syntax tree.
