//! Where COPY and ADD bytes come from.
