//! The arguments of `token`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use protocol::{GrantId, Role};

use crate::args::Target;

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token for another person or machine, with a role and an end
    Create(TokenCreateArgs),
    /// Show the role, the id and the end of the token in a file
    Show(TokenShowArgs),
    /// End a token before its time, and the connections with it
    Revoke(TokenRevokeArgs),
}

#[derive(Debug, Args)]
#[command(
    after_help = "The token follows from the coordinator's own, so this needs no running coordinator, and another token in that
file ends all that were made from it. A user submits and changes sweeps, a worker joins, a reader reads: status,
tables, the page, metrics.

Its holder keeps it in a file of mode 0600 and gives the commands --coordinator and --token-file."
)]
pub struct TokenCreateArgs {
    /// The role of its holder: `user`, `worker` or `reader`
    #[arg(value_name = "ROLE")]
    pub role: Role,
    /// How long it is accepted: `24h`, `90d`, or `never` for one without an end
    #[arg(long, value_name = "DURATION", default_value = "30d", value_parser = validity)]
    pub ttl: Validity,
    /// Write it to a new file of mode 0600 instead of printing it
    #[arg(long, short, value_name = "FILE")]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub target: Target,
}

/// `None`: without an end.
#[derive(Clone, Copy, Debug)]
pub struct Validity(pub Option<Duration>);

fn validity(text: &str) -> Result<Validity, String> {
    if text == "never" {
        return Ok(Validity(None));
    }
    match humantime::parse_duration(text) {
        Ok(duration) if duration.as_secs() > 0 => Ok(Validity(Some(duration))),
        Ok(_) => Err("at least a second is needed".to_owned()),
        Err(error) => Err(format!("{error}; examples are `24h`, `90d` and `never`")),
    }
}

#[derive(Debug, Args)]
pub struct TokenShowArgs {
    /// A token file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

#[derive(Debug, Args)]
pub struct TokenRevokeArgs {
    /// The id of the token, as `token create` and `token show` print it
    #[arg(value_name = "ID")]
    pub id: GrantId,
    #[command(flatten)]
    pub target: Target,
}
