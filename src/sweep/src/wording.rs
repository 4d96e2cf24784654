//! Wording that messages of every crate share.

use std::error::Error;

/// Formats an error and its causes in one line: `cannot write x: disk full`. A cause that the
/// message before it repeats is left out.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// Formats a number of things: `1 trial`, `2 trials`.
pub fn counted(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot write x")]
    struct Quiet(#[source] io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("saving: {0}")]
    struct Repeating(#[source] Quiet);

    #[test]
    fn every_cause_is_named_once() {
        let full = || Quiet(io::Error::other("disk full"));
        assert_eq!(with_causes(&full()), "cannot write x: disk full");
        let repeating = Repeating(full());
        assert_eq!(with_causes(&repeating), "saving: cannot write x: disk full");
    }

    #[test]
    fn one_thing_is_singular() {
        let texts = [0, 1, 2].map(|count| counted(count, "trial"));
        assert_eq!(texts, ["0 trials", "1 trial", "2 trials"]);
    }
}
