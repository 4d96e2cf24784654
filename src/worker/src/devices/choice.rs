//! The value of `--devices`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use super::DeviceError;

/// The value of `--devices`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// Every GPU, or the CPU if there is none.
    Auto,
    Cpu,
    AllGpus,
    Gpus(Vec<u32>),
}

/// The form that `--devices` takes.
impl fmt::Display for DeviceChoice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => formatter.write_str("auto"),
            Self::Cpu => formatter.write_str("cpu"),
            Self::AllGpus => formatter.write_str("cuda"),
            Self::Gpus(numbers) => {
                let numbers: Vec<String> = numbers.iter().map(u32::to_string).collect();
                write!(formatter, "cuda:{}", numbers.join(","))
            }
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let bad = || DeviceError::BadChoice(text.to_owned());
        let list = match text {
            "auto" => return Ok(Self::Auto),
            "cpu" => return Ok(Self::Cpu),
            "cuda" => return Ok(Self::AllGpus),
            _ => text.strip_prefix("cuda:").ok_or_else(bad)?,
        };
        let number = |digits: &str| {
            digits
                .parse::<u32>()
                .ok()
                .filter(|&index| index < 1024)
                .ok_or_else(bad)
        };
        let mut gpus = Vec::new();
        for part in list.split(',') {
            match part.split_once('-') {
                None => gpus.push(number(part)?),
                Some((first, last)) => {
                    let (first, last) = (number(first)?, number(last)?);
                    if first > last {
                        return Err(bad());
                    }
                    gpus.extend(first..=last);
                }
            }
        }
        let mut seen = BTreeSet::new();
        match gpus.iter().find(|&&index| !seen.insert(index)) {
            Some(&index) => Err(DeviceError::Repeated(index)),
            None => Ok(Self::Gpus(gpus)),
        }
    }
}
