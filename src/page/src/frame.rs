//! The parts that every page has: head, navigation, and the files that it loads.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::{Place, Scene};

/// A file that pages load from the coordinator.
pub struct Asset {
    pub name: &'static str,
    pub media_type: &'static str,
    pub content: &'static str,
}

const STYLE: &str = include_str!("../assets/page.css");

pub const ASSETS: [Asset; 4] = [
    Asset {
        name: "page.css",
        media_type: "text/css; charset=utf-8",
        content: STYLE,
    },
    Asset {
        name: "page.js",
        media_type: "text/javascript; charset=utf-8",
        content: include_str!("../assets/page.js"),
    },
    Asset {
        name: "uPlot.css",
        media_type: "text/css; charset=utf-8",
        content: include_str!("../assets/uPlot.min.css"),
    },
    Asset {
        name: "uPlot.js",
        media_type: "text/javascript; charset=utf-8",
        content: include_str!("../assets/uPlot.iife.min.js"),
    },
];

/// The pages of one sweep.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tab {
    Overview,
    Trials,
    Compare,
    /// A page that the navigation does not name.
    Other,
}

/// Draws a whole page. `sweep` is the one that it is about.
pub fn page(scene: Scene<'_>, title: &str, sweep: Option<(&str, Tab)>, main: &Markup) -> String {
    let place = scene.place;
    let navigation = html! {
        a.brand href=[place.is_served().then_some("/")] { "orchestrator" }
        @if let Some((name, tab)) = sweep {
            span.crumb aria-hidden="true" { "/" }
            (tab_link(&place.sweep(name), name, tab == Tab::Overview))
            (tab_link(&place.trials(name, ""), "Trials", tab == Tab::Trials))
            @if place.is_served() {
                (tab_link(&format!("{}/compare", place.sweep(name)), "Compare", tab == Tab::Compare))
            }
        }
        @if place.is_served() {
            span.spread {}
            (tab_link("/workers", "Workers", sweep.is_none() && title == "Workers"))
        }
    };
    let scripts = place.is_served().then(|| {
        html! {
            link rel="stylesheet" href="/assets/page.css";
            link rel="stylesheet" href="/assets/uPlot.css";
            script src="/assets/uPlot.js" defer {}
            script type="module" src="/assets/page.js" {}
        }
    });
    let inline = (!place.is_served()).then(|| {
        html! {
            // No script at all: the file shows what it holds, and can ask for nothing.
            meta http-equiv="Content-Security-Policy"
                content="default-src 'none'; style-src 'unsafe-inline'; img-src data:";
            style { (PreEscaped(STYLE)) }
        }
    });
    let fault = &scene.status.storage_fault;
    document(
        title,
        &html! { (scripts.unwrap_or_default()) (inline.unwrap_or_default()) },
        &html! {
            a.skip href="#main" { "Skip to the content" }
            header { nav aria-label="Pages" { (navigation) } }
            main #main tabindex="-1" {
                @if !fault.is_empty() {
                    p.alert role="alert" {
                        strong { "The journal cannot be written, so nothing new is accepted: " } (fault)
                    }
                }
                (main)
            }
            footer {
                p #freshness data-live {
                    (crate::words::timestamp(scene.status.now_ms))
                    @if !scene.status.build.is_empty() { " · build " (scene.status.build) }
                }
                @if place.is_served() {
                    p #live role="status" {}
                    form method="post" action="/logout" { button.quiet type="submit" { "Log out" } }
                }
            }
        },
    )
}

fn tab_link(href: &str, label: &str, is_current: bool) -> Markup {
    html! { a href=(href) aria-current=[is_current.then_some("page")] { (label) } }
}

fn document(title: &str, head: &Markup, body: &Markup) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · orchestrator" }
                link rel="icon" href="data:,";
                (head)
            }
            body { (body) }
        }
    }
    .into_string()
}

/// Draws the page for a user who is not logged in.
pub fn login(problem: Option<&str>) -> String {
    let head = html! { link rel="stylesheet" href="/assets/page.css"; };
    let body = html! {
        main #main .narrow {
            h1 { "Log in" }
            @if let Some(problem) = problem { p.alert role="alert" { (problem) } }
            p {
                "Run " code { "orchestrator page" } " where the coordinator's token can be read, and open the address \
                 that it prints. It works once. Or enter the token itself:"
            }
            form method="post" action="/login" {
                label for="secret" { "Token, or the code of " code { "orchestrator page" } }
                input #secret name="secret" type="password" autocomplete="off" required;
                button type="submit" { "Log in" }
            }
        }
    };
    document("Log in", &head, &body)
}

/// Draws the page of a request that cannot be answered.
pub fn problem(title: &str, text: &str) -> String {
    let head = html! { link rel="stylesheet" href="/assets/page.css"; };
    let body = html! {
        main #main .narrow {
            h1 { (title) }
            p { (text) }
            p { a href="/" { "All sweeps" } }
        }
    };
    document(title, &head, &body)
}

/// Draws a region that scrolls sideways where it is too wide, with the keyboard too.
pub fn scrolled(label: &str, content: &Markup) -> Markup {
    html! { div.scroll role="region" aria-label=(label) tabindex="0" { (content) } }
}

/// Draws a button that asks before it acts. It needs no script: the question is a part of the page
/// that opens.
pub fn action(
    place: Place,
    id: &str,
    label: &str,
    question: &str,
    path: &str,
    fields: &[(&str, &str)],
) -> Markup {
    html! {
        @if place.may_change() {
            details.action id=(id) {
                summary { (label) }
                form method="post" action=(path) {
                    p { (question) }
                    @for (name, value) in fields { input type="hidden" name=(name) value=(value); }
                    button type="submit" { (label) }
                }
            }
        }
    }
}

/// Draws text between backticks as code.
pub fn prose(text: &str) -> Markup {
    let mut parts = text.split('`');
    let first = parts.next().unwrap_or_default();
    let rest: Vec<&str> = parts.collect();
    let closed = rest.len() - rest.len() % 2;
    html! {
        (first)
        @for pair in rest[..closed].chunks(2) {
            @if let [code, after] = pair { code { (code) } (after) }
        }
        @for unpaired in &rest[closed..] { "`" (unpaired) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_between_backticks_is_code_and_a_single_one_is_itself() {
        for (text, expected) in [
            ("a `b` c", "a <code>b</code> c"),
            ("a ` b", "a ` b"),
            ("`<b>` `", "<code>&lt;b&gt;</code> `"),
            ("", ""),
        ] {
            assert_eq!(prose(text).into_string(), expected);
        }
    }
}
