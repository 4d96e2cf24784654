//! Access to the pages. A browser exchanges the token, or a code that works once and that only an
//! owner of the token can get, for a cookie that no script can read and no other site sends.
//! Programs send the token itself, as they do to the coordinator.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Form, Query, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Router, middleware};
use protocol::AcceptedTokens;
use serde::Deserialize;

/// Lifetime of a code.
const CODE_LIFETIME: Duration = Duration::from_secs(600);
/// Unused codes at most; a new one replaces the oldest.
const MAX_CODES: usize = 32;

/// The logins of a coordinator's pages.
#[derive(Clone)]
pub struct Logins {
    tokens: Option<AcceptedTokens>,
    current: Arc<Mutex<Current>>,
}

#[derive(Default)]
struct Current {
    /// The address of the pages while they are served.
    address: Option<SocketAddr>,
    codes: Vec<(String, Instant)>,
}

impl Logins {
    /// Without tokens, everyone who reaches the pages may see them.
    pub fn new(tokens: Option<AcceptedTokens>) -> Self {
        Self {
            tokens,
            current: Arc::default(),
        }
    }

    pub fn has_tokens(&self) -> bool {
        self.tokens.is_some()
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_address(&self, address: Option<SocketAddr>) {
        self.current().address = address;
    }

    /// Returns the address of the pages and a code that logs in once; `None` if they are not served.
    pub fn code(&self) -> Option<(SocketAddr, String)> {
        let mut current = self.current();
        let address = current.address?;
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).ok()?;
        let code: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        if current.codes.len() >= MAX_CODES {
            current.codes.remove(0);
        }
        current.codes.push((code.clone(), Instant::now()));
        Some((address, code))
    }

    /// Returns an address that logs in once.
    pub fn link(&self, address: SocketAddr) -> String {
        match self.code() {
            Some((_, code)) => format!("http://{address}/login?code={code}"),
            None => format!("http://{address}/"),
        }
    }

    /// Redeems a code, which cannot be used again. Returns false for an unknown or old one.
    fn redeem(&self, code: &str, now: Instant) -> bool {
        let mut current = self.current();
        current
            .codes
            .retain(|(_, made)| now.saturating_duration_since(*made) < CODE_LIFETIME);
        let found = current.codes.iter().position(|(known, _)| known == code);
        found.map(|place| current.codes.remove(place)).is_some()
    }

    /// Returns the logins of the server on this port.
    pub fn on_port(&self, port: u16) -> PortLogins {
        PortLogins {
            logins: self.clone(),
            cookie: format!("orchestrator-{port}"),
        }
    }
}

/// The logins of the server on one port. Browsers send a cookie to every port of a host, so its name
/// holds the port.
#[derive(Clone)]
pub struct PortLogins {
    logins: Logins,
    cookie: String,
}

impl PortLogins {
    fn is_logged_in(&self, headers: &HeaderMap) -> bool {
        let Some(tokens) = &self.logins.tokens else {
            return true;
        };
        let now = Instant::now();
        let bearer = headers.get(header::AUTHORIZATION);
        if bearer.is_some_and(|value| tokens.are_carried_by(value.as_bytes(), now)) {
            return true;
        }
        let cookies = headers.get_all(header::COOKIE).iter();
        let mut values = cookies
            .filter_map(|cookies| cookies.to_str().ok())
            .flat_map(|cookies| cookies.split(';'))
            .filter_map(|cookie| cookie.trim().split_once('='))
            .filter(|(name, _)| *name == self.cookie);
        values.any(|(_, value)| tokens.have_session(value, now))
    }

    fn logged_in(&self) -> Response {
        let session = self.logins.tokens.as_ref().map(AcceptedTokens::session);
        let cookie = format!(
            "{}={}; Path=/; HttpOnly; SameSite=Strict",
            self.cookie,
            session.unwrap_or_default()
        );
        ([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response()
    }
}

/// Returns the routes that need no login.
pub fn routes(logins: PortLogins) -> Router {
    Router::new()
        .route("/login", get(with_code).post(with_secret))
        .route("/logout", post(logout))
        .layer(middleware::from_fn(check_origin))
        .with_state(logins)
}

/// Refuses a request without a login, and a form that another site sends.
pub async fn check(State(logins): State<PortLogins>, request: Request, next: Next) -> Response {
    if !logins.is_logged_in(request.headers()) {
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
        let page = Html(page::login(None));
        return (StatusCode::UNAUTHORIZED, challenge, page).into_response();
    }
    check_origin(request, next).await
}

/// Refuses a change that a browser sends for another site. A program that sends the token needs no
/// origin.
async fn check_origin(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text(header::HOST).unwrap_or_default();
    let is_own = match text(header::ORIGIN) {
        Some(origin) => origin.split_once("://").is_some_and(|(_, of)| of == host),
        None => headers.contains_key(header::AUTHORIZATION),
    };
    let changes = ![Method::GET, Method::HEAD].contains(request.method());
    if changes && !is_own {
        let text =
            "The form was sent from another site, or by a browser that does not name its origin.";
        let page = Html(page::problem("Form of another site", text));
        return (StatusCode::FORBIDDEN, page).into_response();
    }
    next.run(request).await
}

#[derive(Deserialize)]
struct Code {
    code: Option<String>,
}

async fn with_code(State(logins): State<PortLogins>, Query(given): Query<Code>) -> Response {
    match given.code {
        None => Html(page::login(None)).into_response(),
        Some(code) if logins.logins.redeem(&code, Instant::now()) => logins.logged_in(),
        Some(_) => refused(
            "The code was used before, or is older than ten minutes: run `orchestrator page` again.",
        ),
    }
}

#[derive(Deserialize)]
struct Secret {
    secret: String,
}

async fn with_secret(State(logins): State<PortLogins>, Form(given): Form<Secret>) -> Response {
    let (secret, now) = (given.secret.trim(), Instant::now());
    let bearer = format!("Bearer {secret}");
    let tokens = logins.logins.tokens.as_ref();
    let is_token = tokens.is_none_or(|tokens| tokens.are_carried_by(bearer.as_bytes(), now));
    match is_token || logins.logins.redeem(secret, now) {
        true => logins.logged_in(),
        false => refused("This is neither the coordinator's token nor a code that still works."),
    }
}

fn refused(why: &str) -> Response {
    (StatusCode::UNAUTHORIZED, Html(page::login(Some(why)))).into_response()
}

async fn logout(State(logins): State<PortLogins>) -> Response {
    let cookie = format!(
        "{}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0",
        logins.cookie
    );
    ([(header::SET_COOKIE, cookie)], Redirect::to("/login")).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Token;

    fn logins() -> Logins {
        let logins = Logins::new(Some(AcceptedTokens::new(Token::random().unwrap())));
        logins.set_address(Some(([127, 0, 0, 1], 7480).into()));
        logins
    }

    #[test]
    fn a_code_works_once_and_not_for_ever() {
        let logins = logins();
        let now = Instant::now();
        let (_, code) = logins.code().unwrap();
        assert!(!logins.redeem("other", now));
        assert!(logins.redeem(&code, now) && !logins.redeem(&code, now));
        let (_, late) = logins.code().unwrap();
        assert!(!logins.redeem(&late, Instant::now() + CODE_LIFETIME));
        for _ in 0..2 * MAX_CODES {
            logins.code().unwrap();
        }
        assert_eq!(logins.current().codes.len(), MAX_CODES);
        logins.set_address(None);
        assert!(logins.code().is_none());
    }

    #[test]
    fn the_session_of_this_port_counts_and_no_other_cookie() {
        let logins = logins();
        let port_logins = logins.on_port(7480);
        let session = logins.tokens.as_ref().unwrap().session();
        let with = |cookie: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::COOKIE, cookie.parse().unwrap());
            port_logins.is_logged_in(&headers)
        };
        assert!(with(&format!("a=b; orchestrator-7480={session}")));
        assert!(!with(&format!("orchestrator-7481={session}")));
        assert!(!with("orchestrator-7480=") && !with("orchestrator-7480"));
        assert!(!port_logins.is_logged_in(&HeaderMap::new()));
    }
}
