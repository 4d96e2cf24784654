//! Where each page is: a path of the coordinator's server, or a place in the one file.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Where the pages are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Served by a coordinator. A user who may change something also cancels, retries and drains.
    Served { may_change: bool },
    /// In one file without a server.
    File,
}

/// Characters of a path that stay: the unreserved ones of RFC 3986.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Encodes a name as one segment of a path, or a value of a query.
pub fn encoded(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

impl Place {
    pub fn is_served(self) -> bool {
        matches!(self, Self::Served { .. })
    }

    pub fn may_change(self) -> bool {
        self == Self::Served { may_change: true }
    }

    pub fn sweep(self, sweep: &str) -> String {
        match self {
            Self::Served { .. } => format!("/sweep/{}", encoded(sweep)),
            Self::File => "#main".to_owned(),
        }
    }

    pub fn trials(self, sweep: &str, query: &str) -> String {
        match self {
            Self::Served { .. } => format!("/sweep/{}/trials{query}", encoded(sweep)),
            Self::File => "#trials".to_owned(),
        }
    }

    pub fn trial(self, sweep: &str, trial: &str) -> String {
        match self {
            Self::Served { .. } => format!("/sweep/{}/trial/{}", encoded(sweep), encoded(trial)),
            Self::File => format!("#{trial}"),
        }
    }

    /// Returns the place of a cell, by its name and its index in the sweep.
    pub fn cell(self, sweep: &str, name: &str, index: usize) -> String {
        match self {
            Self::Served { .. } => format!("/sweep/{}/cell?cell={}", encoded(sweep), encoded(name)),
            Self::File => format!("#cell-{index}"),
        }
    }

    /// Returns the address of a figure: a path, or the figure itself.
    pub fn figure(self, sweep: &str, name: &str, svg: &str) -> String {
        match self {
            Self::Served { .. } => format!("/sweep/{}/figure/{}", encoded(sweep), encoded(name)),
            Self::File => format!("data:image/svg+xml,{}", encoded(svg)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_segment() {
        let hostile = "a/../b?c#d\"<é";
        let served = Place::Served { may_change: true };
        assert_eq!(
            served.trial(hostile, "t1"),
            "/sweep/a%2F..%2Fb%3Fc%23d%22%3C%C3%A9/trial/t1"
        );
        assert_eq!(
            served.cell("s", "cub/cos", 3),
            "/sweep/s/cell?cell=cub%2Fcos"
        );
        assert_eq!(Place::File.cell("s", "cub/cos", 3), "#cell-3");
    }
}
