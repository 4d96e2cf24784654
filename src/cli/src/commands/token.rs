//! `token`: grants, shows and revokes tokens.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use humantime::format_rfc3339_seconds;
use protocol::{Grant, GrantId, Role, Token};
use serde_json::{Value, json};

use crate::args::Target;
use crate::commands::change::Receiver;
use crate::exit::{ExpectedError, Outcome};
use crate::output::{Output, SCHEMA};
use crate::token_args::{TokenCreateArgs, TokenRevokeArgs, TokenShowArgs};
use crate::{client, rendezvous, stderr};

/// Grants a token from the coordinator's own.
pub fn create(arguments: &TokenCreateArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let file = owner_file(&arguments.target);
    let owner = client::token(Some(&file))?.expect("there is a file");
    if let Some(grant) = Grant::parse(owner.reveal()) {
        return Err(ExpectedError::BadInput(format!(
            "the token in {} is one for a {}: only a coordinator's own can grant others",
            file.display(),
            grant.role
        )));
    }
    let id = GrantId::random().map_err(|error| ExpectedError::Infrastructure {
        what: "the kernel gives no random bytes for an id",
        reason: error.to_string(),
    })?;
    let expires = arguments
        .ttl
        .0
        .map(|ttl| in_seconds(SystemTime::now()) + ttl.as_secs());
    let grant = Grant::by(&owner, arguments.role, id, expires);
    let token = grant.token(&owner);
    if let Some(file) = &arguments.file {
        // never over another one
        if file.exists() {
            return Err(ExpectedError::BadInput(format!(
                "{} exists: remove it first, or name another file",
                file.display()
            )));
        }
        rendezvous::write_private(file, format!("{}\n", token.reveal()).as_bytes())?;
    }
    stderr::print(&format!(
        "{}; revoke it by its id (`orchestrator token --help`)",
        described(&grant)
    ));
    let text = match &arguments.file {
        Some(file) => file.display().to_string(),
        None => token.reveal().to_owned(),
    };
    let mut document = document(&grant);
    match &arguments.file {
        Some(file) => document["file"] = json!(file),
        None => document["token"] = json!(token.reveal()),
    }
    output.print(|| format!("{text}\n"), || document)?;
    Ok(Outcome::Complete)
}

/// Shows what the token in a file is for. Whether it was revoked is known to the coordinator alone.
pub fn show(arguments: &TokenShowArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let token = Token::from_file(&arguments.file)?;
    let (text, document) = match Grant::parse(token.reveal()) {
        Some(grant) => (described(&grant), document(&grant)),
        None => (
            "a coordinator's own token: it may do everything".to_owned(),
            json!({ "schema": SCHEMA, "role": Role::Owner.word() }),
        ),
    };
    output.print(|| format!("{text}\n"), || document)?;
    Ok(Outcome::Complete)
}

pub async fn revoke(arguments: &TokenRevokeArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let id = &arguments.id;
    let mut receiver = Receiver::of(&arguments.target).await?;
    let revoked = receiver.client.revoke_token(id).await;
    receiver.end().await?;
    revoked?;
    output.print(
        || format!("token {id} is no longer accepted\n"),
        || json!({ "schema": SCHEMA, "id": id.as_str() }),
    )?;
    Ok(Outcome::Complete)
}

/// Returns the file with the coordinator's own token: the given one, the one of the coordinator that
/// runs on the state directory, or of the last one that did.
fn owner_file(target: &Target) -> PathBuf {
    let given = target.token_file.clone();
    let announced = || rendezvous::find(&target.state_dir)?.token_file;
    let given = given.or_else(announced);
    given.unwrap_or_else(|| rendezvous::token_file(&target.state_dir))
}

fn described(grant: &Grant) -> String {
    let Grant { role, id, .. } = grant;
    match grant.expires {
        None => format!("token {id} for a {role}, without an end"),
        Some(expires) => format!("token {id} for a {role}, until {}", date(expires)),
    }
}

fn document(grant: &Grant) -> Value {
    json!({
        "schema": SCHEMA,
        "role": grant.role.word(),
        "id": grant.id.as_str(),
        "expires": grant.expires.map(date),
    })
}

/// Returns a time in seconds since 1970 as a date in UTC; the last date that has one for a later
/// time.
fn date(seconds: u64) -> String {
    /// 9999-12-31T23:59:59Z
    const LAST: u64 = 253_402_300_799;
    let time = UNIX_EPOCH + Duration::from_secs(seconds.min(LAST));
    format_rfc3339_seconds(time).to_string()
}

fn in_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
