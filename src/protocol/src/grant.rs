//! Tokens with fewer rights than the coordinator's own. Who has that one can grant others from it,
//! on any machine and without the coordinator: a granted token is a role, an id and the time of its
//! end, with a seal that follows from the coordinator's token. The coordinator stores none of them;
//! it makes the seal again. Only the ids of revoked ones are stored, in the journal.

use std::fmt;

use crate::role::Role;
use crate::{Token, tls};

const PREFIX: &str = "orchestrator-";
/// Length of an id, and of the mark of the coordinator's token, in hexadecimal digits.
const ID_DIGITS: usize = 8;
const NEVER: &str = "never";

/// The public part of a granted token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub role: Role,
    pub id: GrantId,
    /// In seconds since 1970-01-01 UTC. `None`: until it is revoked, or the coordinator's token is
    /// replaced.
    pub expires: Option<u64>,
    /// Names the token from which it was granted: a coordinator accepts two while its own is replaced.
    issuer: String,
}

/// The name of a granted token, by which it is revoked. It is no secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GrantId(String);

impl GrantId {
    pub fn random() -> Result<Self, getrandom::Error> {
        let number = getrandom::u32()?;
        Ok(Self(format!("{number:08x}")))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for GrantId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        match text.len() == ID_DIGITS && text.bytes().all(is_digit) {
            true => Ok(Self(text.to_owned())),
            false => Err(format!(
                "`{text}` is no id of a token: {ID_DIGITS} hexadecimal digits, as `orchestrator token show FILE` prints them"
            )),
        }
    }
}

impl fmt::Display for GrantId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Grant {
    /// A grant of this token, which must be a coordinator's own.
    pub fn by(owner: &Token, role: Role, id: GrantId, expires: Option<u64>) -> Self {
        Self {
            role,
            id,
            expires,
            issuer: mark(owner),
        }
    }

    /// Returns the token of this grant, with the seal of its owner.
    pub fn token(&self, owner: &Token) -> Token {
        let key = owner.derived("orchestrator 2026-11-28 seal of granted tokens");
        let seal = blake3::keyed_hash(&key, self.text().as_bytes());
        let text = format!("{PREFIX}{}-{}", self.text(), seal.to_hex());
        Token::new(&text).expect("it is long enough, and visible ASCII")
    }

    /// Returns the grant in the text of a granted token, whatever its seal is. `None`: it is another
    /// token.
    pub fn parse(token: &str) -> Option<Self> {
        let (text, _) = token.strip_prefix(PREFIX)?.rsplit_once('-')?;
        Self::from_text(text)
    }

    /// Parses what `text` returns.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let mut next = || parts.next();
        let (role, id, expires, issuer) = (next()?, next()?, next()?, next()?);
        let expires = match expires {
            NEVER => None,
            seconds => Some(seconds.parse().ok()?),
        };
        let grant = Self {
            role: role.parse().ok()?,
            id: id.parse().ok()?,
            expires,
            issuer: issuer.parse::<GrantId>().ok()?.0,
        };
        // each grant has one text, so that each has one seal
        (grant.text() == text).then_some(grant)
    }

    /// Returns the public part of the token: a label of a host name, too.
    pub(crate) fn text(&self) -> String {
        let expires = self.expires.map(|seconds| seconds.to_string());
        let expires = expires.as_deref().unwrap_or(NEVER);
        format!("{}-{}-{expires}-{}", self.role, self.id, self.issuer)
    }

    /// Returns true if it claims to be granted from this token. Its seal proves it.
    pub(crate) fn is_by(&self, owner: &Token) -> bool {
        self.issuer == mark(owner)
    }

    pub fn has_expired(&self, now: u64) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

/// Returns a name of a coordinator's token. The token cannot be computed from it.
fn mark(owner: &Token) -> String {
    tls::server_name(owner)[..ID_DIGITS].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(owner: &Token, expires: Option<u64>) -> Grant {
        Grant::by(owner, Role::Worker, GrantId::random().unwrap(), expires)
    }

    #[test]
    fn a_granted_token_shows_its_grant_and_has_the_seal_of_its_owner_alone() {
        let [owner, other] = [(); 2].map(|()| Token::random().unwrap());
        for expires in [None, Some(0), Some(1_790_000_000)] {
            let grant = grant(&owner, expires);
            let token = grant.token(&owner);
            assert_eq!(Grant::parse(token.reveal()).unwrap(), grant);
            assert!(token.is_same(&grant.token(&owner)));
            assert!(!token.is_same(&grant.token(&other)));
            let longer = Grant {
                expires: expires.map(|seconds| seconds + 1),
                role: Role::User,
                ..grant
            };
            assert!(!token.is_same(&longer.token(&owner)));
        }
    }

    #[test]
    fn what_is_no_grant_is_not_parsed() {
        let owner = Token::random().unwrap();
        let token = grant(&owner, Some(7)).token(&owner);
        let text = token.reveal();
        for other in [
            owner.reveal().to_owned(),
            text.replace("worker", "owner"),
            text.replace("-7-", "-07-"),
            text.replace("-7-", "-+7-"),
            text.replace("-7-", "--"),
            text.replacen("worker-", "worker-x-", 1),
            text.to_uppercase(),
        ] {
            assert_eq!(Grant::parse(&other), None, "{other}");
        }
    }

    #[test]
    fn a_grant_ends_at_its_time() {
        let owner = Token::random().unwrap();
        let limited = grant(&owner, Some(7));
        assert!(!limited.has_expired(6) && limited.has_expired(7));
        assert!(!grant(&owner, None).has_expired(u64::MAX));
    }

    #[test]
    fn what_is_no_id_is_named() {
        for text in ["", "12345", "ABCDEF01", "123456789", "1234567/"] {
            let error = text.parse::<GrantId>().unwrap_err();
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
    }
}
