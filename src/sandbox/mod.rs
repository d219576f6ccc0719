//! One RUN or `builder run` in namespaces.
