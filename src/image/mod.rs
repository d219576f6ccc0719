//! Configs, manifests, indexes, history: canonical JSON.
