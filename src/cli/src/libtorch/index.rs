//! Where wheels are found: the pages of a package index, as pip reads them.
//!
//! No index is written into the program. Whoever makes the package notes the one of their pip beside
//! it (`share/orchestrator/package-index`); pip's own settings come before that.

use std::path::{Path, PathBuf};

use super::pins::Pin;
use crate::exit::ExpectedError;

/// Returns the address of the index: the named one, pip's, or that of the package.
pub fn choose(named: Option<&str>) -> Result<String, ExpectedError> {
    let index = named
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
    let has_password = index
        .split_once("://")
        .is_some_and(|(_, rest)| rest.split('/').next().unwrap_or_default().contains('@'));
    if has_password {
        return Err(ExpectedError::BadInput(
            "the package index wants a name and a password, which this command does not send: fetch the wheels with \
             `pip download` and name their folder with --from"
                .to_owned(),
        ));
    }
    Ok(index)
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

/// Returns the address of a project's page.
pub fn page_of(index: &str, pin: &Pin) -> String {
    format!("{}/{}/", index.trim_end_matches('/'), pin.name)
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
        let address = page_of("https://mirror.example/simple/", &PIN);
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
    fn a_password_is_refused_and_not_shown() {
        let error = choose(Some("https://me:secret@mirror.example/simple")).unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
        assert!(error.to_string().contains("--from"));
    }
}
