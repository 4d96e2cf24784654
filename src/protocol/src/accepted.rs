//! The tokens that a coordinator accepts, and the reasons for which it refuses others.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Instant, SystemTime};

use subtle::ConstantTimeEq;
use tonic::Status;

use crate::grant::{Grant, GrantId};
use crate::role::Role;
use crate::token::SCHEME;
use crate::{Token, tls};

/// The tokens that a coordinator accepts: its own, the one before for some time after an exchange,
/// and those that were granted from either, unless they have expired or were revoked.
#[derive(Clone, Debug)]
pub struct AcceptedTokens(Arc<RwLock<Accepted>>);

#[derive(Debug)]
struct Accepted {
    newest: Token,
    before: Option<(Token, Instant)>,
    revoked: BTreeSet<GrantId>,
}

/// The time, by the clock that only advances and by the calendar's.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub instant: Instant,
    /// Seconds since 1970-01-01 UTC.
    pub seconds: u64,
}

impl Now {
    pub fn read() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            instant: Instant::now(),
            seconds: since.map_or(0, |since| since.as_secs()),
        }
    }
}

/// A peer with an accepted token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bearer {
    Owner,
    Granted(Grant),
}

impl Bearer {
    pub fn role(&self) -> Role {
        match self {
            Self::Owner => Role::Owner,
            Self::Granted(grant) => grant.role,
        }
    }
}

/// The reason why a call is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "this coordinator wants a token: give --token-file, or --state-dir with its state directory"
    )]
    Missing,
    #[error("the token is not the coordinator's: check --token-file")]
    Unknown,
    #[error(
        "the token {0} has expired: replace it by a new one (`orchestrator token create worker`, for example)"
    )]
    Expired(GrantId),
    #[error("the token {0} was revoked")]
    Revoked(GrantId),
    #[error("this needs another token than one for a {role} ({method})")]
    Role { role: Role, method: String },
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        match refusal {
            Refusal::Role { .. } => Self::permission_denied(message),
            _ => Self::unauthenticated(message),
        }
    }
}

impl AcceptedTokens {
    pub fn new(token: Token) -> Self {
        Self(Arc::new(RwLock::new(Accepted {
            newest: token,
            before: None,
            revoked: BTreeSet::new(),
        })))
    }

    fn read(&self) -> RwLockReadGuard<'_, Accepted> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Accepted> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts a new token from now on, and the previous one until the given time. Returns false if
    /// the token is the same.
    pub fn exchange(&self, token: Token, until: Instant) -> bool {
        let mut accepted = self.write();
        let is_another = !accepted.newest.is_same(&token);
        if is_another {
            let before = std::mem::replace(&mut accepted.newest, token);
            accepted.before = Some((before, until));
        }
        is_another
    }

    /// Stops accepting the token of this id.
    pub fn revoke(&self, id: GrantId) {
        self.write().revoked.insert(id);
    }

    /// Returns who calls the method of this path, by the value of the `authorization` header.
    pub fn admit(&self, header: Option<&[u8]>, path: &str, now: Now) -> Result<Bearer, Refusal> {
        let bearer = self.bearer(header.ok_or(Refusal::Missing)?, now)?;
        match bearer.role() {
            role if role.may_call(path) => Ok(bearer),
            role => Err(Refusal::Role {
                role,
                method: path.rsplit('/').next().unwrap_or_default().to_owned(),
            }),
        }
    }

    /// Returns who sends this `authorization` header.
    pub fn bearer(&self, header: &[u8], now: Now) -> Result<Bearer, Refusal> {
        let text = header.strip_prefix(SCHEME.as_bytes());
        let text = text.and_then(|text| std::str::from_utf8(text).ok());
        let given = text.and_then(|text| Token::new(text).ok());
        let given = given.ok_or(Refusal::Unknown)?;
        let accepted = self.read();
        // each is compared, so that the time does not depend on which is equal
        let owners = accepted.owners(now.instant);
        if owners.fold(false, |found, owner| owner.is_same(&given) | found) {
            return Ok(Bearer::Owner);
        }
        let grant = Grant::parse(given.reveal()).ok_or(Refusal::Unknown)?;
        let genuine = accepted.granted(&grant, now.instant);
        match genuine {
            Some(genuine) if genuine.is_same(&given) => accepted.in_force(grant, now.seconds),
            _ => Err(Refusal::Unknown),
        }
    }

    /// Returns false once the token of this grant has expired or was revoked, or the coordinator's
    /// token, from which it was granted, is no longer accepted.
    pub fn still_accept(&self, grant: &Grant, now: Now) -> bool {
        let accepted = self.read();
        accepted.granted(grant, now.instant).is_some()
            && accepted.in_force(grant.clone(), now.seconds).is_ok()
    }

    /// Returns the session of a bearer in a browser. It lasts as long as its token is accepted, also
    /// after a restart of the coordinator.
    pub fn session(&self, bearer: &Bearer, now: Now) -> Option<String> {
        let accepted = self.read();
        match bearer {
            Bearer::Owner => Some(accepted.newest.session()),
            Bearer::Granted(grant) => accepted.session_of(grant, now.instant),
        }
    }

    /// Returns the bearer with this session.
    pub fn bearer_of_session(&self, session: &str, now: Now) -> Option<Bearer> {
        let accepted = self.read();
        let is = |genuine: String| bool::from(genuine.as_bytes().ct_eq(session.as_bytes()));
        let owners = accepted.owners(now.instant);
        if owners.fold(false, |found, owner| is(owner.session()) | found) {
            return Some(Bearer::Owner);
        }
        let (grant, _) = session.split_once('.')?;
        let grant = Grant::from_text(grant)?;
        let is_genuine = is(accepted.session_of(&grant, now.instant)?);
        let bearer = is_genuine.then(|| accepted.in_force(grant, now.seconds));
        bearer?.ok()
    }

    /// Returns the token that a client names in its handshake. One that has expired or was revoked
    /// is refused later, with the reason.
    pub fn named(&self, server_name: &str, now: Now) -> Option<Token> {
        let accepted = self.read();
        let mut owners = accepted.owners(now.instant);
        if let Some(owner) = owners.find(|owner| tls::server_name(owner) == server_name) {
            return Some(owner.clone());
        }
        let grant = Grant::from_text(tls::granted_by_name(server_name)?)?;
        accepted.granted(&grant, now.instant)
    }
}

impl Accepted {
    /// Returns the tokens that may do everything.
    fn owners(&self, now: Instant) -> impl Iterator<Item = &Token> {
        let before = self.before.as_ref().filter(|(_, until)| now < *until);
        std::iter::once(&self.newest).chain(before.map(|(token, _)| token))
    }

    /// Returns the token of a grant. `None`: it was granted from none of these.
    fn granted(&self, grant: &Grant, now: Instant) -> Option<Token> {
        let mut owners = self.owners(now);
        let owner = owners.find(|owner| grant.is_by(owner))?;
        Some(grant.token(owner))
    }

    fn in_force(&self, grant: Grant, seconds: u64) -> Result<Bearer, Refusal> {
        if self.revoked.contains(&grant.id) {
            Err(Refusal::Revoked(grant.id))
        } else if grant.has_expired(seconds) {
            Err(Refusal::Expired(grant.id))
        } else {
            Ok(Bearer::Granted(grant))
        }
    }

    fn session_of(&self, grant: &Grant, now: Instant) -> Option<String> {
        let token = self.granted(grant, now)?;
        Some(format!("{}.{}", grant.text(), token.session()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const STATUS: &str = "/orchestrator.v1.Control/Status";
    const SUBMIT: &str = "/orchestrator.v1.Control/Submit";

    fn now() -> Now {
        Now {
            instant: Instant::now(),
            seconds: 1_000,
        }
    }

    fn header(token: &Token) -> Vec<u8> {
        format!("{SCHEME}{}", token.reveal()).into_bytes()
    }

    fn granted(owner: &Token, role: Role, expires: Option<u64>) -> (Grant, Token) {
        let grant = Grant::by(owner, role, GrantId::random().unwrap(), expires);
        let token = grant.token(owner);
        (grant, token)
    }

    #[test]
    fn only_the_same_token_passes() {
        let [owner, other] = [(); 2].map(|()| Token::random().unwrap());
        let tokens = AcceptedTokens::new(owner.clone());
        let admit = |header: Option<&[u8]>| tokens.admit(header, STATUS, now());
        assert_eq!(admit(Some(&header(&owner))), Ok(Bearer::Owner));
        assert_eq!(admit(None), Err(Refusal::Missing));
        let bare = owner.reveal().as_bytes();
        for wrong in [&header(&other)[..], bare, b"Bearer ", b"Bearer \xff", b""] {
            assert_eq!(admit(Some(wrong)), Err(Refusal::Unknown));
        }
        let status = Status::from(Refusal::Unknown);
        assert_eq!(status.code(), tonic::Code::Unauthenticated);
    }

    #[test]
    fn after_an_exchange_the_token_before_is_accepted_for_a_while() {
        let [first, second, third] = [(); 3].map(|()| Token::random().unwrap());
        let tokens = AcceptedTokens::new(first.clone());
        let start = now();
        let after = |seconds| Now {
            instant: start.instant + Duration::from_secs(seconds),
            ..start
        };
        let until = after(600).instant;
        let (grant, of_first) = granted(&first, Role::Reader, None);
        let accepts = |token: &Token, at| tokens.bearer(&header(token), at).is_ok();
        assert!(
            !tokens.exchange(first.clone(), until) && accepts(&first, after(600)),
            "the same token again changes nothing"
        );
        assert!(tokens.exchange(second.clone(), until));
        assert!(accepts(&first, start) && accepts(&second, start) && !accepts(&third, start));
        assert!(accepts(&of_first, start) && tokens.still_accept(&grant, start));
        assert!(!accepts(&first, after(600)) && accepts(&second, after(600)));
        assert!(!accepts(&of_first, after(600)) && !tokens.still_accept(&grant, after(600)));
        assert!(tokens.exchange(third.clone(), until));
        assert!(!accepts(&first, start) && accepts(&second, start) && accepts(&third, start));
        assert!(!format!("{tokens:?}").contains(third.reveal()));
    }

    #[test]
    fn a_granted_token_has_its_role_until_it_expires_or_is_revoked() {
        let [owner, other] = [(); 2].map(|()| Token::random().unwrap());
        let tokens = AcceptedTokens::new(owner.clone());
        let admit = |token: &Token, path| tokens.admit(Some(&header(token)), path, now());
        let (grant, token) = granted(&owner, Role::Reader, Some(1_001));
        assert_eq!(admit(&token, STATUS), Ok(Bearer::Granted(grant.clone())));
        let refused = admit(&token, SUBMIT).unwrap_err();
        assert!(refused.to_string().contains("Submit"), "{refused}");
        assert_eq!(Status::from(refused).code(), tonic::Code::PermissionDenied);
        let (late, expired) = granted(&owner, Role::Reader, Some(1_000));
        assert_eq!(
            admit(&expired, STATUS),
            Err(Refusal::Expired(late.id.clone()))
        );
        assert!(!tokens.still_accept(&late, now()));
        // the words of a grant, and another's seal
        let (forged, by_other) = granted(&other, Role::User, None);
        assert_eq!(admit(&by_other, STATUS), Err(Refusal::Unknown));
        let text = format!("orchestrator-{}-{}", grant.text(), "0".repeat(64));
        let unsealed = Token::new(&text).unwrap();
        assert_eq!(admit(&unsealed, STATUS), Err(Refusal::Unknown));
        assert!(!tokens.still_accept(&forged, now()));
        tokens.revoke(grant.id.clone());
        assert_eq!(
            admit(&token, STATUS),
            Err(Refusal::Revoked(grant.id.clone()))
        );
        assert!(!tokens.still_accept(&grant, now()));
    }

    #[test]
    fn a_session_lasts_as_long_as_its_token_and_does_not_show_it() {
        let [first, second] = [(); 2].map(|()| Token::random().unwrap());
        let tokens = AcceptedTokens::new(first.clone());
        let start = now();
        let later = Now {
            instant: start.instant + Duration::from_secs(600),
            ..start
        };
        let (grant, token) = granted(&first, Role::Reader, None);
        for (bearer, token) in [
            (Bearer::Owner, &first),
            (Bearer::Granted(grant.clone()), &token),
        ] {
            let session = tokens.session(&bearer, start).unwrap();
            assert_eq!(tokens.bearer_of_session(&session, start), Some(bearer));
            assert!(!session.contains(token.reveal().rsplit('-').next().unwrap()));
            assert_eq!(tokens.bearer_of_session(token.reveal(), start), None);
            let as_token = format!("{SCHEME}{session}");
            assert_eq!(
                tokens.bearer(as_token.as_bytes(), start),
                Err(Refusal::Unknown)
            );
        }
        assert_eq!(tokens.bearer_of_session("", start), None);
        let sessions = [Bearer::Owner, Bearer::Granted(grant.clone())]
            .map(|bearer| tokens.session(&bearer, start).unwrap());
        tokens.exchange(second, later.instant);
        for session in &sessions {
            assert!(tokens.bearer_of_session(session, start).is_some());
            assert!(tokens.bearer_of_session(session, later).is_none());
        }
        tokens.revoke(grant.id);
        assert!(tokens.bearer_of_session(&sessions[1], start).is_none());
    }

    #[test]
    fn a_handshake_names_an_accepted_token() {
        let [owner, other] = [(); 2].map(|()| Token::random().unwrap());
        let tokens = AcceptedTokens::new(owner.clone());
        let (_, token) = granted(&owner, Role::Worker, Some(1));
        for known in [&owner, &token] {
            let named = tokens.named(&tls::server_name(known), now()).unwrap();
            assert!(named.is_same(known));
        }
        let (_, by_other) = granted(&other, Role::Worker, None);
        for unknown in [&other, &by_other] {
            assert!(tokens.named(&tls::server_name(unknown), now()).is_none());
        }
        for name in ["", "localhost", ".orchestrator", "a.b.orchestrator"] {
            assert!(tokens.named(name, now()).is_none());
        }
    }
}
