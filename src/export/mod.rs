//! An image leaves the store.
