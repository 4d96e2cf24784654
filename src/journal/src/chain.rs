//! The hash of a row: 16 bytes of BLAKE3 over its number, time and text, chained with the row
//! before.

use std::fmt;
use std::str::FromStr;

/// Hash of the newest row; zero if there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link(pub [u8; Link::LENGTH]);

impl Link {
    pub(crate) const LENGTH: usize = 16;

    pub(crate) fn next(self, number: u64, at: u64, event: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher
            .update(&self.0)
            .update(&number.to_le_bytes())
            .update(&at.to_le_bytes())
            .update(event);
        let mut link = [0; Self::LENGTH];
        link.copy_from_slice(&hasher.finalize().as_bytes()[..Self::LENGTH]);
        Self(link)
    }
}

impl fmt::Display for Link {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl FromStr for Link {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text.len() != 2 * Self::LENGTH || !text.is_ascii() {
            return Err(());
        }
        let mut link = [0; Self::LENGTH];
        for (index, byte) in link.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).map_err(|_| ())?;
        }
        Ok(Self(link))
    }
}

/// The end of the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// Number of the newest event; 0: there is none.
    pub number: u64,
    pub link: Link,
}

impl Head {
    pub(crate) fn next(self, at: u64, event: &[u8]) -> Self {
        let number = self.number + 1;
        Self {
            number,
            link: self.link.next(number, at, event),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_32_hexadecimal_digits() {
        let link = Link::default().next(1, 2, b"event");
        assert_eq!(link.to_string().len(), 32);
        assert_eq!(link.to_string().parse(), Ok(link));
        let no_links = [
            String::new(),
            "0".repeat(30),
            "0".repeat(34),
            "g".repeat(32),
            "é".repeat(16),
        ];
        for text in no_links {
            assert_eq!(text.parse::<Link>(), Err(()), "{text}");
        }
    }
}
