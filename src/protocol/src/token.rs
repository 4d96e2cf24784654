//! The shared token: read from a file that only its owner can read, sent as `authorization: Bearer
//! TOKEN`, and compared in constant time. Files that others may read are refused, and a token is
//! never printed. Between machines the connection is encrypted: `tls.rs`.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use subtle::ConstantTimeEq;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Request, Status};

/// Shorter tokens are too easy to guess.
pub const MIN_TOKEN_BYTES: usize = 16;
pub const MAX_TOKEN_BYTES: usize = 4096;

const HEADER: &str = "authorization";

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
    /// Reads a token file: one line of visible ASCII characters, mode 0600 or stricter.
    pub fn from_file(path: &Path) -> Result<Self, TokenError> {
        let unreadable = |source| TokenError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
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

    /// Returns true if this is the value of an `authorization` header with the token. Takes equally
    /// long for every wrong value.
    pub fn is_carried_by(&self, header: &[u8]) -> bool {
        header.ct_eq(self.header().as_encoded_bytes()).into()
    }

    /// Returns true if the tokens are equal. Takes equally long for every different token.
    pub fn is_same(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }

    /// Returns what a browser gets in exchange for the token: as good as the token for a page, and
    /// useless for anything else, since the token does not follow from it.
    fn session(&self) -> String {
        let key = self.derived("orchestrator 2026-11-28 session of the page");
        key.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Returns a secret that follows from the token, and from which the token does not follow.
    pub(crate) fn derived(&self, purpose: &'static str) -> [u8; 32] {
        blake3::derive_key(purpose, self.0.as_bytes())
    }

    fn header(&self) -> MetadataValue<Ascii> {
        format!("Bearer {}", self.0)
            .parse()
            .expect("a token is visible ASCII")
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Token(hidden)")
    }
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

/// The tokens that a coordinator accepts: the newest one and, for some time after an exchange, the
/// previous one.
#[derive(Clone, Debug)]
pub struct AcceptedTokens(Arc<RwLock<Accepted>>);

#[derive(Debug)]
struct Accepted {
    newest: Token,
    before: Option<(Token, Instant)>,
}

impl AcceptedTokens {
    pub fn new(token: Token) -> Self {
        Self(Arc::new(RwLock::new(Accepted {
            newest: token,
            before: None,
        })))
    }

    /// Accepts a new token from now on, and the previous one until the given time. Returns false if
    /// the token is the same.
    pub fn exchange(&self, token: Token, until: Instant) -> bool {
        let mut accepted = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let is_another = !accepted
            .newest
            .is_carried_by(token.header().as_encoded_bytes());
        if is_another {
            let before = std::mem::replace(&mut accepted.newest, token);
            accepted.before = Some((before, until));
        }
        is_another
    }

    /// Returns the session of the newest token. It lasts as long as that one is accepted, also after a
    /// restart of the coordinator.
    pub fn session(&self) -> String {
        let accepted = self.0.read().unwrap_or_else(PoisonError::into_inner);
        accepted.newest.session()
    }

    /// Returns true if this is the session of an accepted token. Takes equally long for every wrong
    /// value.
    pub fn have_session(&self, session: &str, now: Instant) -> bool {
        let accepted = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let is_of =
            |token: &Token| bool::from(token.session().as_bytes().ct_eq(session.as_bytes()));
        let before = accepted.before.as_ref().filter(|(_, until)| now < *until);
        let is_before = before.is_some_and(|(token, _)| is_of(token));
        is_of(&accepted.newest) | is_before
    }

    /// Returns the accepted token that a client names in its handshake.
    pub fn named(&self, server_name: &str, now: Instant) -> Option<Token> {
        let accepted = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let before = accepted.before.as_ref().filter(|(_, until)| now < *until);
        let mut tokens = std::iter::once(&accepted.newest).chain(before.map(|(token, _)| token));
        tokens
            .find(|token| crate::tls::server_name(token) == server_name)
            .cloned()
    }

    /// Returns true if an `authorization` header has an accepted token. Takes equally long for
    /// every wrong value.
    pub fn are_carried_by(&self, header: &[u8], now: Instant) -> bool {
        let accepted = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let before = accepted.before.as_ref().filter(|(_, until)| now < *until);
        let is_before = before.is_some_and(|(token, _)| token.is_carried_by(header));
        accepted.newest.is_carried_by(header) | is_before
    }
}

/// Returns a server interceptor that refuses calls without an accepted token, if tokens are
/// required.
pub fn require(
    tokens: Option<AcceptedTokens>,
) -> impl FnMut(Request<()>) -> Result<Request<()>, Status> + Clone {
    move |request: Request<()>| {
        let Some(tokens) = &tokens else {
            return Ok(request);
        };
        let Some(given) = request.metadata().get(HEADER) else {
            return Err(Status::unauthenticated(
                "this coordinator wants a token: give --token-file, or --state-dir with its state directory",
            ));
        };
        if tokens.are_carried_by(given.as_encoded_bytes(), Instant::now()) {
            Ok(request)
        } else {
            Err(Status::unauthenticated(
                "the token is not the coordinator's: check --token-file",
            ))
        }
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
    fn only_the_same_token_passes() {
        let token = Token::random().unwrap();
        let mut check = require(Some(AcceptedTokens::new(token.clone())));
        assert!(check(attach(Some(token.clone()))(Request::new(())).unwrap()).is_ok());
        for other in [None, Some(Token::random().unwrap())] {
            let refused = check(attach(other)(Request::new(())).unwrap()).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::Unauthenticated);
        }
        assert!(require(None)(Request::new(())).is_ok());
        assert_eq!(format!("{token:?}"), "Token(hidden)");
        assert!(token.is_same(&token.clone()) && !token.is_same(&Token::random().unwrap()));
    }

    #[test]
    fn after_an_exchange_the_token_before_is_accepted_for_a_while() {
        let [first, second, third] = [(); 3].map(|()| Token::random().unwrap());
        let tokens = AcceptedTokens::new(first.clone());
        let now = Instant::now();
        let until = now + std::time::Duration::from_secs(600);
        let accepts =
            |token: &Token, at| tokens.are_carried_by(token.header().as_encoded_bytes(), at);
        assert!(
            !tokens.exchange(first.clone(), until) && accepts(&first, until),
            "the same token again changes nothing"
        );
        assert!(tokens.exchange(second.clone(), until));
        assert!(accepts(&first, now) && accepts(&second, now) && !accepts(&third, now));
        assert!(!accepts(&first, until) && accepts(&second, until));
        assert!(tokens.exchange(third.clone(), until));
        assert!(!accepts(&first, now) && accepts(&second, now) && accepts(&third, now));
        assert!(!format!("{tokens:?}").contains(&*third.0));
    }

    #[test]
    fn a_session_lasts_as_long_as_its_token_and_does_not_show_it() {
        let [first, second] = [(); 2].map(|()| Token::random().unwrap());
        let tokens = AcceptedTokens::new(first.clone());
        let (now, session) = (Instant::now(), tokens.session());
        let until = now + std::time::Duration::from_secs(600);
        assert!(tokens.have_session(&session, now) && session != first.reveal());
        assert!(!tokens.have_session(first.reveal(), now) && !tokens.have_session("", now));
        assert!(!tokens.are_carried_by(format!("Bearer {session}").as_bytes(), now));
        tokens.exchange(second, until);
        assert!(tokens.have_session(&session, now) && !tokens.have_session(&session, until));
    }
}
