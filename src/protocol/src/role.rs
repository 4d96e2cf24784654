//! Roles: which peer may call which method. The coordinator's own token may call every one; tokens
//! that were granted from it (`grant.rs`) have one of the other roles.

use std::fmt;
use std::str::FromStr;

/// The rights of a token's holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The coordinator's own token: everything. It is never granted.
    Owner,
    /// Submits and changes sweeps, and the cluster.
    User,
    /// Joins as a worker.
    Worker,
    /// Reads: status, results, the page, metrics.
    Reader,
}

impl Role {
    /// The roles that can be granted.
    pub const GRANTED: [Self; 3] = [Self::User, Self::Worker, Self::Reader];

    pub fn word(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::User => "user",
            Self::Worker => "worker",
            Self::Reader => "reader",
        }
    }

    /// Returns true if this role may change sweeps and the cluster.
    pub fn may_change(self) -> bool {
        matches!(self, Self::Owner | Self::User)
    }

    /// Returns true if this role may read results.
    pub fn may_read(self) -> bool {
        self.may_change() || self == Self::Reader
    }

    /// Returns true if this role may call the method of this path, such as
    /// `/orchestrator.v1.Control/Status`. A method that is not listed is the owner's alone.
    pub fn may_call(self, path: &str) -> bool {
        let method = path.strip_prefix("/orchestrator.v1.").unwrap_or_default();
        let listed = METHODS.iter().find(|(known, _)| *known == method);
        self == Self::Owner || listed.is_some_and(|(_, roles)| roles.contains(&self))
    }
}

const USERS: &[Role] = &[Role::User];
const READERS: &[Role] = &[Role::User, Role::Reader];
const WORKERS: &[Role] = &[Role::Worker];
const OWNER: &[Role] = &[];

/// Each method of `proto/`, and the granted roles that may call it.
const METHODS: &[(&str, &[Role])] = &[
    ("Control/Submit", USERS),
    ("Control/PutProgram", USERS),
    ("Control/Status", READERS),
    ("Control/Tail", READERS),
    ("Control/GetReport", READERS),
    ("Control/ListKept", READERS),
    ("Control/GetKept", READERS),
    ("Control/Find", READERS),
    ("Control/Cancel", USERS),
    ("Control/Remove", USERS),
    ("Control/Retry", USERS),
    ("Control/Explain", READERS),
    ("Control/GetTrial", READERS),
    ("Control/Why", READERS),
    ("Control/Drain", USERS),
    ("Control/Undrain", USERS),
    ("Control/ResumeCluster", USERS),
    ("Control/StopCluster", USERS),
    ("Control/OpenPage", READERS),
    ("Control/RevokeToken", OWNER),
    ("Fleet/Connect", WORKERS),
    ("Fleet/Keep", WORKERS),
    ("Fleet/GetProgram", WORKERS),
];

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.word())
    }
}

impl FromStr for Role {
    type Err = String;

    /// Parses a role that can be granted.
    fn from_str(word: &str) -> Result<Self, String> {
        let found = Self::GRANTED.into_iter().find(|role| role.word() == word);
        found.ok_or_else(|| format!("`{word}` is no role: user, worker or reader"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_of_the_services_has_its_roles() {
        let mut found = Vec::new();
        for file in ["control", "fleet"] {
            let path = format!(
                "{}/../../proto/orchestrator/v1/{file}.proto",
                env!("CARGO_MANIFEST_DIR")
            );
            let text = std::fs::read_to_string(path).unwrap();
            let mut service = "";
            for line in text.lines().map(str::trim_start) {
                if let Some(rest) = line.strip_prefix("service ") {
                    service = rest.split(' ').next().unwrap();
                } else if let Some(rest) = line.strip_prefix("rpc ") {
                    found.push(format!("{service}/{}", rest.split('(').next().unwrap()));
                }
            }
        }
        let mut listed: Vec<&str> = METHODS.iter().map(|(method, _)| *method).collect();
        found.sort();
        listed.sort_unstable();
        assert_eq!(listed, found);
    }

    #[test]
    fn a_role_calls_its_methods_alone() {
        let may = |role: Role, method: &str| role.may_call(&format!("/orchestrator.v1.{method}"));
        for role in Role::GRANTED {
            assert_eq!(may(role, "Control/Submit"), role == Role::User);
            assert_eq!(may(role, "Control/Status"), role != Role::Worker);
            assert_eq!(may(role, "Fleet/Connect"), role == Role::Worker);
            assert!(!may(role, "Control/RevokeToken") && !may(role, "Control/Unknown"));
            assert!(!role.may_call("Control/Status"), "not a path of ours");
        }
        assert!(may(Role::Owner, "Control/RevokeToken") && may(Role::Owner, "Fleet/Keep"));
    }

    #[test]
    fn roles_are_parsed_from_their_words_and_the_owner_is_not_granted() {
        for role in Role::GRANTED {
            assert_eq!(role.to_string().parse(), Ok(role));
        }
        let error = "owner".parse::<Role>().unwrap_err();
        assert!(
            error.contains("`owner`") && error.contains("reader"),
            "{error}"
        );
    }
}
