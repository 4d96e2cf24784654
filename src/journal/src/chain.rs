//! The hash of a row: of its number, time and text, chained with the row before. Sixteen bytes of BLAKE3.

/// Hash of the newest row, or of nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link(pub [u8; Link::LENGTH]);

impl Link {
    pub(crate) const LENGTH: usize = 16;

    pub(crate) fn next(self, number: u64, at: u64, event: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0).update(&number.to_le_bytes()).update(&at.to_le_bytes()).update(event);
        let mut link = [0; Self::LENGTH];
        link.copy_from_slice(&hasher.finalize().as_bytes()[..Self::LENGTH]);
        Self(link)
    }
}

/// Where the journal ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// Of the newest event; 0: none.
    pub number: u64,
    pub link: Link,
}

impl Head {
    pub(crate) fn next(self, at: u64, event: &[u8]) -> Self {
        let number = self.number + 1;
        Self { number, link: self.link.next(number, at, event) }
    }
}
