//! A token: read from a file that only its owner can read, sent as `authorization: Bearer TOKEN`, and
//! compared in constant time. Files that others may read are refused, and a token is never printed.
//! The coordinator's own may do everything; from it others are granted (`grant.rs`). Between machines
//! the connection is encrypted: `tls.rs`.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::unistd::Uid;
use subtle::ConstantTimeEq;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Request, Status};

/// Shorter tokens are too easy to guess.
pub const MIN_TOKEN_BYTES: usize = 16;
pub const MAX_TOKEN_BYTES: usize = 4096;

/// The header of a token, and what precedes the token in it.
pub(crate) const HEADER: &str = "authorization";
pub(crate) const SCHEME: &str = "Bearer ";

/// A secret shared by coordinator, workers and commands.
#[derive(Clone)]
pub struct Token(Arc<str>);

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("cannot read the token file `{path}`")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "the token file `{path}` has mode {mode:04o}, so others can read it: run `chmod 0600 {path}`"
    )]
    Exposed { path: PathBuf, mode: u32 },
    #[error("the token file `{path}` does not hold a token: {reason}")]
    Unusable { path: PathBuf, reason: String },
    #[error("the kernel gives no random bytes for a token")]
    NoRandomness(#[source] std::io::Error),
}

impl Token {
    /// Reads a token file: one line of visible ASCII characters, which no other user can read.
    pub fn from_file(path: &Path) -> Result<Self, TokenError> {
        let unreadable = |source| TokenError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        let mode = metadata.permissions().mode() & 0o7777;
        if is_exposed(mode, metadata.uid(), Uid::effective().as_raw()) {
            return Err(TokenError::Exposed {
                path: path.to_owned(),
                mode,
            });
        }
        let unusable = |reason: String| TokenError::Unusable {
            path: path.to_owned(),
            reason,
        };
        if metadata.size() > MAX_TOKEN_BYTES as u64 {
            return Err(unusable(format!(
                "it has {} bytes, at most {MAX_TOKEN_BYTES} are allowed",
                metadata.size()
            )));
        }
        let mut text = String::new();
        file.take(MAX_TOKEN_BYTES as u64)
            .read_to_string(&mut text)
            .map_err(unreadable)?;
        Self::new(text.trim_end_matches(['\n', '\r'])).map_err(unusable)
    }

    /// Checks and wraps a token. The error is a fragment for people.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.len() < MIN_TOKEN_BYTES {
            return Err(format!(
                "it has {} characters, at least {MIN_TOKEN_BYTES} are needed",
                text.len()
            ));
        }
        if let Some(position) = text.bytes().position(|byte| !byte.is_ascii_graphic()) {
            return Err(format!(
                "character {} is not a visible ASCII character",
                position + 1
            ));
        }
        Ok(Self(text.into()))
    }

    /// Draws 256 bits from the kernel, for an embedded coordinator that only commands of its own
    /// user may call.
    pub fn random() -> Result<Self, TokenError> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|error| TokenError::NoRandomness(error.into()))?;
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self(text.into()))
    }

    /// Returns the secret itself, to store it in a file.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Returns true if the tokens are equal. Takes equally long for every different token.
    pub fn is_same(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }

    /// Returns what a browser gets in exchange for the token: as good as the token for a page, and
    /// useless for anything else, since the token does not follow from it.
    pub(crate) fn session(&self) -> String {
        let key = self.derived("orchestrator 2026-11-28 session of the page");
        key.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Returns a secret that follows from the token, and from which the token does not follow.
    pub(crate) fn derived(&self, purpose: &'static str) -> [u8; 32] {
        blake3::derive_key(purpose, self.0.as_bytes())
    }

    fn header(&self) -> MetadataValue<Ascii> {
        format!("{SCHEME}{}", self.0)
            .parse()
            .expect("a token is visible ASCII")
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Token(hidden)")
    }
}

/// Returns true if other users than this one can read a file of this mode and owner. A group may read
/// what is root's: so Kubernetes shows a secret to processes that are not root.
fn is_exposed(mode: u32, owner: u32, user: u32) -> bool {
    let readers = match owner == 0 && user != 0 {
        true => 0o037,
        false => 0o077,
    };
    mode & readers != 0
}

/// Returns a client interceptor that adds the token, if there is one, to every call.
pub fn attach(
    token: Option<Token>,
) -> impl FnMut(Request<()>) -> Result<Request<()>, Status> + Clone {
    let header = token.map(|token| token.header());
    move |mut request: Request<()>| {
        if let Some(header) = &header {
            request.metadata_mut().insert(HEADER, header.clone());
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_with(content: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    fn error_of(content: &str, mode: u32) -> String {
        let (_dir, path) = file_with(content, mode);
        Token::from_file(&path).unwrap_err().to_string()
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        for mode in [0o640, 0o604, 0o644, 0o620, 0o666] {
            let error = error_of("0123456789abcdef\n", mode);
            assert!(
                error.contains(&format!("{mode:04o}")) && error.contains("chmod 0600"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_group_may_read_the_file_of_root_alone() {
        for mode in [0o400, 0o600] {
            assert!(!is_exposed(mode, 1000, 1000) && !is_exposed(mode, 0, 0));
        }
        assert!(!is_exposed(0o440, 0, 1000) && !is_exposed(0o640, 0, 1000));
        assert!(is_exposed(0o440, 1000, 1000) && is_exposed(0o440, 0, 0));
        for mode in [0o444, 0o660, 0o604, 0o601] {
            assert!(is_exposed(mode, 0, 1000), "{mode:o}");
        }
    }

    #[test]
    fn a_private_file_is_read_with_or_without_newline() {
        for (content, mode) in [("0123456789abcdef\n", 0o600), ("0123456789abcdef", 0o400)] {
            let (_dir, path) = file_with(content, mode);
            assert_eq!(
                Token::from_file(&path).unwrap().reveal(),
                "0123456789abcdef"
            );
        }
        let longest = "x".repeat(MAX_TOKEN_BYTES);
        let (_dir, path) = file_with(&longest, 0o600);
        assert_eq!(Token::from_file(&path).unwrap().reveal(), longest);
    }

    #[test]
    fn what_is_no_token_is_named() {
        assert!(error_of("short\n", 0o600).contains("5 characters"));
        assert!(error_of("0123456789 abcdef\n", 0o600).contains("character 11"));
        assert!(error_of(&"x".repeat(MAX_TOKEN_BYTES + 1), 0o600).contains("at most"));
    }

    #[test]
    fn a_token_is_attached_and_never_shown() {
        let token = Token::random().unwrap();
        let request = attach(Some(token.clone()))(Request::new(())).unwrap();
        let header = request.metadata().get(HEADER).unwrap();
        assert_eq!(
            header.as_bytes(),
            format!("Bearer {}", token.reveal()).as_bytes()
        );
        assert!(
            attach(None)(Request::new(()))
                .unwrap()
                .metadata()
                .is_empty()
        );
        assert_eq!(format!("{token:?}"), "Token(hidden)");
        assert!(token.is_same(&token.clone()) && !token.is_same(&Token::random().unwrap()));
    }
}
