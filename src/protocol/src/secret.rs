//! The secret of one worker process. A worker's id is in logs and in `status`, so it proves
//! nothing: the process proves its identity with the secret that it sent when it first connected.
//! Coordinators keep a hash.

use std::io;

use schedule::state::SecretHash;

#[derive(Clone, PartialEq, Eq)]
pub struct WorkerSecret([u8; 32]);

impl WorkerSecret {
    /// Draws a secret from the kernel's random numbers.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub fn hash(&self) -> SecretHash {
        SecretHash::new(blake3::derive_key("orchestrator worker secret", &self.0))
    }
}

impl TryFrom<&[u8]> for WorkerSecret {
    type Error = std::array::TryFromSliceError;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        Ok(Self(bytes.try_into()?))
    }
}

impl std::fmt::Debug for WorkerSecret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("WorkerSecret(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_shown_and_its_hash_is_its_own() {
        let (one, other) = (
            WorkerSecret::random().unwrap(),
            WorkerSecret::random().unwrap(),
        );
        assert_eq!(format!("{one:?}"), "WorkerSecret(hidden)");
        assert!(one.hash().is_same(&one.clone().hash()) && !one.hash().is_same(&other.hash()));
        let json = serde_json::to_string(&one.hash()).unwrap();
        assert_eq!(
            serde_json::from_str::<SecretHash>(&json).unwrap(),
            one.hash()
        );
        assert!(serde_json::from_str::<SecretHash>("\"12\"").is_err());
    }
}
