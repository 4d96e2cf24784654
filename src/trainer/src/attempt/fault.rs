//! Injected faults, for tests of everything around the trainer. Inert unless ORCHESTRATOR_FAULT is
//! set.
//!
//! ORCHESTRATOR_FAULT="KIND epoch=E [attempt=A] [replica=R]": replica R (default 0) fails in the
//! first step of epoch E (from 0) of attempt A (default 1): `exit=CODE` ends the process; `abort`
//! dies by SIGABRT; `panic` panics; `stall` sleeps forever while the process lives on (with
//! replica=1 the others wait for it in an all-reduce); `non_finite` corrupts the weights;
//! `out_of_memory` requests 2^60 bytes; `slow=MS` sleeps in every step from then on.

use std::time::Duration;

use sweep::AttemptNo;
use tch::{Device, Kind, Tensor};

use crate::device::process;

pub const VARIABLE: &str = "ORCHESTRATOR_FAULT";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    kind: FaultKind,
    epoch: u32,
    attempt: AttemptNo,
    replica: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FaultKind {
    Exit(i32),
    Abort,
    Panic,
    Stall,
    NonFinite,
    OutOfMemory,
    Slow(u64),
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{VARIABLE}: cannot parse `{word}` in `{text}`; the form is \"KIND epoch=E [attempt=A] [replica=R]\""
)]
pub struct FaultParseError {
    text: String,
    word: String,
}

impl Fault {
    /// Returns the fault in the environment, if any.
    pub fn from_environment() -> Result<Option<Self>, FaultParseError> {
        std::env::var(VARIABLE)
            .ok()
            .filter(|text| !text.is_empty())
            .map(|text| Self::parse(&text))
            .transpose()
    }

    pub fn parse(text: &str) -> Result<Self, FaultParseError> {
        let (mut kind, mut epoch, mut attempt, mut replica) = (None, None, 1, 0);
        for word in text.split_whitespace() {
            let bad = || FaultParseError {
                text: text.to_owned(),
                word: word.to_owned(),
            };
            let (name, value) = word
                .split_once('=')
                .map_or((word, None), |(name, value)| (name, Some(value)));
            let number = || {
                value
                    .and_then(|value| value.parse::<u32>().ok())
                    .ok_or_else(bad)
            };
            match name {
                "epoch" => epoch = Some(number()?),
                "attempt" => attempt = number()?,
                "replica" => replica = number()? as usize,
                "exit" => kind = Some(FaultKind::Exit(number()? as i32)),
                "slow" => kind = Some(FaultKind::Slow(number()?.into())),
                "abort" => kind = Some(FaultKind::Abort),
                "panic" => kind = Some(FaultKind::Panic),
                "stall" => kind = Some(FaultKind::Stall),
                "non_finite" => kind = Some(FaultKind::NonFinite),
                "out_of_memory" => kind = Some(FaultKind::OutOfMemory),
                _ => return Err(bad()),
            }
        }
        let missing = |word: &str| FaultParseError {
            text: text.to_owned(),
            word: format!("{word} (missing)"),
        };
        Ok(Self {
            kind: kind.ok_or_else(|| missing("KIND"))?,
            epoch: epoch.ok_or_else(|| missing("epoch="))?,
            attempt: AttemptNo(attempt),
            replica,
        })
    }

    /// Injects the fault if it is due; must be called before every step. `step` counts within the
    /// epoch.
    pub fn strike(
        &self,
        attempt: AttemptNo,
        replica: usize,
        epoch: u32,
        step: u64,
        weights: Option<&Tensor>,
    ) {
        if attempt != self.attempt || replica != self.replica {
            return;
        }
        if let FaultKind::Slow(milliseconds) = self.kind {
            if epoch >= self.epoch {
                std::thread::sleep(Duration::from_millis(milliseconds));
            }
            return;
        }
        if epoch != self.epoch || step != 0 {
            return;
        }
        tracing::warn!(?self, "injected fault");
        match self.kind {
            FaultKind::Exit(code) => process::end_now(code),
            FaultKind::Abort => std::process::abort(),
            FaultKind::Panic => panic!("injected fault"),
            FaultKind::Stall => loop {
                std::thread::sleep(Duration::from_secs(3600));
            },
            FaultKind::NonFinite => {
                let _ =
                    weights.map(|weights| tch::no_grad(|| weights.shallow_clone().fill_(f64::NAN)));
            }
            FaultKind::OutOfMemory => {
                let _ = Tensor::empty([1 << 58], (Kind::Float, Device::Cpu)).fill_(0.0);
            }
            FaultKind::Slow(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_and_nonsense_is_named() {
        let fault = Fault::parse("exit=7 epoch=3 attempt=2 replica=1").unwrap();
        assert_eq!(
            fault,
            Fault {
                kind: FaultKind::Exit(7),
                epoch: 3,
                attempt: AttemptNo(2),
                replica: 1
            }
        );
        assert_eq!(Fault::parse("stall epoch=0").unwrap().attempt, AttemptNo(1));
        for (text, word) in [
            ("explode epoch=1", "explode"),
            ("exit=x epoch=1", "exit=x"),
            ("panic", "epoch= (missing)"),
        ] {
            assert_eq!(Fault::parse(text).unwrap_err().word, word);
        }
    }
}
