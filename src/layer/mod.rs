//! Tar in, tar out, compression, digests.
