//! The hashes that layers, chains and records are filed under, each its own type so that none is
//! taken for another.
//!
//! The sha256 of stored bytes is [`crate::oci::Digest`].

use crate::oci::hash_type;

hash_type!(
    /// The hash (BLAKE3) of a layer's entries without times; see `layer::content`.
    ContentId,
    ""
);
hash_type!(
    /// The hash (BLAKE3) of a layer's entries with their times: the name of its directory in the
    /// store.
    LayerId,
    ""
);
hash_type!(
    /// The hash (BLAKE3) of the times that a step gave its entries on purpose; see
    /// `layer::content`.
    TimesId,
    ""
);
hash_type!(
    /// The hash (BLAKE3) of a stack's content ids, and of the times that its steps set, from the
    /// bottom up: which files a step starts from.
    ChainId,
    ""
);
hash_type!(
    /// What a cache record is filed under: the hash (BLAKE3) of a step's own inputs, without its
    /// parent.
    Key,
    ""
);

impl ChainId {
    /// The chain of no layers: `FROM scratch`.
    pub fn scratch() -> Self {
        Self(*blake3::hash(b"builder chain v1").as_bytes())
    }

    /// Returns the chain that `content` on top of `self` makes.
    #[must_use]
    pub fn with(&self, content: &ContentId) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0).update(content.as_bytes());
        Self(*hasher.finalize().as_bytes())
    }

    /// Returns the chain whose topmost step set these times; the same chain where it set none.
    #[must_use]
    pub fn with_times(&self, times: Option<&TimesId>) -> Self {
        let Some(times) = times else { return *self };
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0).update(b"times").update(times.as_bytes());
        Self(*hasher.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_were_set_make_another_chain() {
        let chain = ChainId::scratch().with(&ContentId::from_bytes([1; 32]));
        assert_eq!(chain.with_times(None), chain);
        let (a, b) = (TimesId::from_bytes([1; 32]), TimesId::from_bytes([2; 32]));
        assert_ne!(chain.with_times(Some(&a)), chain);
        assert_ne!(chain.with_times(Some(&a)), chain.with_times(Some(&b)));
    }

    #[test]
    fn the_order_of_layers_matters_to_a_chain() {
        let (a, b) = (ContentId::from_bytes([1; 32]), ContentId::from_bytes([2; 32]));
        assert_ne!(ChainId::scratch().with(&a).with(&b), ChainId::scratch().with(&b).with(&a));
    }
}
