//! Where wheels are found: the pages of a package index, as pip reads them.
//!
//! No index is written into the program. The packaging script notes the one of its pip beside
//! it (`share/orchestrator/package-index`); pip's own settings come before that.

use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use percent_encoding::percent_decode_str;
use tonic::codegen::http::Uri;
use tonic::codegen::http::uri::Authority;

use super::pins::Pin;
use crate::exit::ExpectedError;

/// A package index. Its address is shown to people, and has no password in it.
#[derive(Clone, PartialEq, Eq)]
pub struct Index {
    address: String,
    /// The value of the header `Authorization`.
    authorization: Option<String>,
}

impl Index {
    /// Takes the name and the password out of an address, where pip's users write them. What is no
    /// address is not shown either, since it may hold a password.
    pub fn new(written: &str) -> Result<Self, ExpectedError> {
        let unreadable = || {
            ExpectedError::BadInput(
                "the address of the package index is none: it is http(s)://HOST/PATH or http(s)://NAME:PASSWORD@HOST/PATH, \
                 with other symbols of name and password than letters and digits as %XX"
                    .to_owned(),
            )
        };
        let (scheme, rest) = written.split_once("://").ok_or_else(unreadable)?;
        let (server, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (login, host) = match server.rsplit_once('@') {
            Some((login, host)) => (Some(login), host),
            None => (None, server),
        };
        let address = format!("{scheme}://{host}{path}");
        let is_server = |server: &Authority| {
            !server.host().is_empty()
                && (server.as_str() == server.host() || server.port().is_some())
        };
        let parsed: Option<Uri> = address.parse().ok();
        let is_address = parsed.is_some_and(|uri| uri.authority().is_some_and(is_server));
        if !is_address || !matches!(scheme, "http" | "https") {
            return Err(unreadable());
        }
        let Some(login) = login else {
            return Ok(Self {
                address,
                authorization: None,
            });
        };
        let (name, password) = login.split_once(':').unwrap_or((login, ""));
        let mut decoded: Vec<u8> = percent_decode_str(name).collect();
        decoded.push(b':');
        decoded.extend(percent_decode_str(password));
        Ok(Self {
            address,
            authorization: Some(format!("Basic {}", BASE64_STANDARD.encode(decoded))),
        })
    }

    /// Returns the address of a project's page.
    pub fn page_of(&self, pin: &Pin) -> String {
        format!("{}/{}/", self.address.trim_end_matches('/'), pin.name)
    }

    /// Returns the header for an address, which only the index's own server gets.
    pub fn authorization_for(&self, url: &str) -> Option<&str> {
        let is_own = origin(url) == origin(&self.address);
        self.authorization.as_deref().filter(|_| is_own)
    }
}

impl fmt::Debug for Index {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "Index({})", self.address)
    }
}

/// Returns scheme, host and port of an address.
fn origin(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    Some((scheme, rest.split('/').next()?))
}

/// Returns the index: the named one, pip's, or that of the package.
pub fn choose(named: Option<&str>) -> Result<Index, ExpectedError> {
    let written = named
        .map(str::to_owned)
        .or_else(|| settings_of_pip().iter().find_map(|file| index_url(&read(file)?)))
        .or_else(|| Some(read(&super::share()?.join("package-index"))?.trim().to_owned()))
        .filter(|index| !index.is_empty())
        .ok_or_else(|| {
            ExpectedError::BadInput(
                "no package index is known here to fetch libtorch from: name one with --index, as `pip install \
                 --index-url` takes it, or a folder of wheels with --from"
                    .to_owned(),
            )
        })?;
    Index::new(&written)
}

/// pip's settings in a file, from the narrowest to the widest.
fn settings_of_pip() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let home = variable("HOME");
    let user = variable("XDG_CONFIG_HOME").or_else(|| Some(home.as_ref()?.join(".config")));
    [
        variable("PIP_CONFIG_FILE"),
        super::prefix().map(|prefix| prefix.join("pip.conf")),
        user.map(|folder| folder.join("pip/pip.conf")),
        home.map(|home| home.join(".pip/pip.conf")),
        Some("/etc/pip.conf".into()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn read(file: &Path) -> Option<String> {
    std::fs::read_to_string(file).ok()
}

/// Returns `index-url` of pip's settings; what is for `pip download` comes before what is for all.
fn index_url(settings: &str) -> Option<String> {
    let mut section = "";
    let mut found = [None, None];
    for line in settings.lines().map(str::trim) {
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            section = name;
        }
        let (Some((key, value)), Some(place)) = (
            line.split_once('='),
            ["download", "global"]
                .iter()
                .position(|name| *name == section),
        ) else {
            continue;
        };
        if matches!(key.trim(), "index-url" | "index_url") {
            found[place] = Some(value.trim().to_owned());
        }
    }
    found.into_iter().flatten().next()
}

/// Returns the address of the file with the pinned checksum, which the links of a page end with.
pub fn link(page: &str, address: &str, pin: &Pin) -> Option<String> {
    let end = page.find(&format!("#sha256={}", pin.sha256))?;
    let start = page[..end].rfind(['"', '\''])? + 1;
    Some(resolve(address, &page[start..end].replace("&amp;", "&")))
}

/// Resolves a link of a page whose address ends with `/`.
fn resolve(address: &str, link: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else {
        return link.to_owned();
    };
    if link.contains("://") {
        return link.to_owned();
    }
    if link.starts_with("//") {
        return format!("{scheme}:{link}");
    }
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut parts: Vec<&str> = match link.starts_with('/') {
        true => Vec::new(),
        false => path.split('/').filter(|part| !part.is_empty()).collect(),
    };
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("{scheme}://{host}/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIN: Pin = Pin {
        name: "torch",
        version: "2.11.0",
        sha256: "00ff",
    };

    #[test]
    fn a_link_is_found_by_its_checksum_and_resolved_as_a_browser_does() {
        let address = Index::new("https://mirror.example/simple/")
            .unwrap()
            .page_of(&PIN);
        assert_eq!(address, "https://mirror.example/simple/torch/");
        let found = |href: &str| {
            let page = format!(
                "<a href=\"x.whl#sha256=1100\">x</a> <a href=\"{href}#sha256=00ff\" data-x>torch</a>"
            );
            link(&page, &address, &PIN).unwrap()
        };
        for (href, expected) in [
            (
                "https://files.example/a/t.whl",
                "https://files.example/a/t.whl",
            ),
            ("//files.example/t.whl", "https://files.example/t.whl"),
            ("/files/t.whl", "https://mirror.example/files/t.whl"),
            (
                "../../files/t%2Bc.whl",
                "https://mirror.example/files/t%2Bc.whl",
            ),
            (
                "t.whl?a=1&amp;b=2",
                "https://mirror.example/simple/torch/t.whl?a=1&b=2",
            ),
        ] {
            assert_eq!(found(href), expected);
        }
        assert_eq!(link("<a href=\"t.whl\">t</a>", &address, &PIN), None);
    }

    #[test]
    fn the_index_is_read_from_pips_settings() {
        assert_eq!(index_url("[global]\ncert = x\n"), None);
        let of_all = "[global]\nindex-url = https://a/simple\n[list]\nindex-url = https://no\n";
        assert_eq!(index_url(of_all).as_deref(), Some("https://a/simple"));
        let of_download = format!("{of_all}[download]\nindex_url=https://b/simple\n");
        assert_eq!(index_url(&of_download).as_deref(), Some("https://b/simple"));
    }

    #[test]
    fn a_login_is_for_the_index_alone_and_not_shown() {
        let index = Index::new("https://me@lab:p%40ss%2Fword@mirror.example:8443/simple").unwrap();
        assert_eq!(
            format!("{index:?}"),
            "Index(https://mirror.example:8443/simple)"
        );
        let page = index.page_of(&PIN);
        assert_eq!(page, "https://mirror.example:8443/simple/torch/");
        let basic = format!("Basic {}", BASE64_STANDARD.encode("me@lab:p@ss/word"));
        assert_eq!(index.authorization_for(&page), Some(basic.as_str()));
        for elsewhere in [
            "https://mirror.example/torch.whl",
            "http://mirror.example:8443/torch.whl",
            "https://files.example/torch.whl",
            "https://mirror.example:8443.evil.example/torch.whl",
        ] {
            assert_eq!(index.authorization_for(elsewhere), None, "{elsewhere}");
        }
        let token = Index::new("https://token@mirror.example").unwrap();
        let basic = format!("Basic {}", BASE64_STANDARD.encode("token:"));
        assert_eq!(
            token.authorization_for("https://mirror.example/a"),
            Some(basic.as_str())
        );
        let open = Index::new("https://mirror.example/a@b/simple").unwrap();
        assert_eq!(
            open.page_of(&PIN),
            "https://mirror.example/a@b/simple/torch/"
        );
        assert_eq!(open.authorization, None);
        for unreadable in [
            "https://me:sec/ret@mirror.example/simple",
            "mirror.example/secret",
            "https://me:secret@/simple",
            "ftp://me:secret@mirror.example/simple",
        ] {
            let error = Index::new(unreadable).unwrap_err().to_string();
            assert!(
                error.contains("NAME:PASSWORD@HOST"),
                "{unreadable}: {error}"
            );
            assert!(!error.contains("sec"), "{error}");
        }
    }
}
