//! The folders that this program has in the home directory of its user, as the XDG base directory
//! specification names them.

use std::ffi::OsString;
use std::path::PathBuf;

use nix::unistd::{Uid, User};

const NAME: &str = "orchestrator";

/// The home directory, from the environment or else from the password file. A missing one and `/`,
/// which services have, do not count.
pub fn home() -> Option<PathBuf> {
    home_of(variable, from_passwd)
}

/// `$XDG_CACHE_HOME/orchestrator`, else `.cache/orchestrator` in the home directory.
pub fn cache() -> Option<PathBuf> {
    folder("XDG_CACHE_HOME", ".cache", variable, from_passwd)
}

/// `$XDG_CONFIG_HOME/orchestrator`, else `.config/orchestrator` in the home directory.
pub fn config() -> Option<PathBuf> {
    folder("XDG_CONFIG_HOME", ".config", variable, from_passwd)
}

fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

fn from_passwd() -> Option<PathBuf> {
    User::from_uid(Uid::current())
        .ok()
        .flatten()
        .map(|user| user.dir)
}

fn folder(
    named_by: &str,
    in_home: &str,
    variable: impl Fn(&str) -> Option<OsString>,
    from_passwd: impl FnOnce() -> Option<PathBuf>,
) -> Option<PathBuf> {
    let base = match absolute(variable(named_by)) {
        Some(base) => base,
        None => home_of(variable, from_passwd)?.join(in_home),
    };
    Some(base.join(NAME))
}

fn home_of(
    variable: impl Fn(&str) -> Option<OsString>,
    from_passwd: impl FnOnce() -> Option<PathBuf>,
) -> Option<PathBuf> {
    let is_home = |home: &PathBuf| home.is_dir() && home.parent().is_some();
    absolute(variable("HOME"))
        .filter(is_home)
        .or_else(|| from_passwd().filter(is_home))
}

fn absolute(value: Option<OsString>) -> Option<PathBuf> {
    value.map(PathBuf::from).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_home_is_looked_for_in_the_environment_and_then_among_the_users() {
        let place = tempfile::tempdir().unwrap();
        let home = place.path();
        let found = |xdg: &str, variable: &str, passwd: Option<&Path>| {
            let value = |name: &str| {
                let value = if name == "XDG_CACHE_HOME" {
                    xdg
                } else {
                    variable
                };
                (!value.is_empty()).then(|| OsString::from(value))
            };
            folder("XDG_CACHE_HOME", ".cache", value, || {
                passwd.map(Path::to_owned)
            })
        };
        let expected = Some(home.join(".cache/orchestrator"));
        assert_eq!(
            found("/caches", "/nonexistent", None),
            Some("/caches/orchestrator".into())
        );
        assert_eq!(found("relative", home.to_str().unwrap(), None), expected);
        assert_eq!(found("", "", Some(home)), expected);
        assert_eq!(found("", "/nonexistent", Some(home)), expected);
        assert_eq!(found("", "/", Some(Path::new("/nonexistent"))), None);
    }
}
