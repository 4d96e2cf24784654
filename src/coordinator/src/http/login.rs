//! Access to the pages. A browser exchanges the token, or a code that works once and that only an
//! owner of the token can get, for a cookie that no script can read and no other site sends.
//! Programs send the token itself, as they do to the coordinator.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, Form, Query, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Router, middleware};
use page::Place;
use protocol::{AcceptedTokens, Bearer, Now, Refusal};
use serde::Deserialize;

use crate::connections::Guard;

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
    codes: Vec<Code>,
}

/// A code that logs in once.
struct Code {
    text: String,
    made: Instant,
    /// Logged in with it.
    bearer: Bearer,
}

impl Logins {
    /// Without tokens, everyone who reaches the pages may see them.
    pub fn new(tokens: Option<AcceptedTokens>) -> Self {
        Self {
            tokens,
            current: Arc::default(),
        }
    }

    pub fn tokens(&self) -> Option<AcceptedTokens> {
        self.tokens.clone()
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_address(&self, address: Option<SocketAddr>) {
        self.current().address = address;
    }

    /// Returns the address of the pages and a code that logs this bearer in once; `None` if they are
    /// not served.
    pub fn code(&self, bearer: Bearer) -> Option<(SocketAddr, String)> {
        let mut current = self.current();
        let address = current.address?;
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).ok()?;
        let code: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        if current.codes.len() >= MAX_CODES {
            current.codes.remove(0);
        }
        current.codes.push(Code {
            text: code.clone(),
            made: Instant::now(),
            bearer,
        });
        Some((address, code))
    }

    /// Returns an address that logs the owner in once.
    pub fn link(&self, address: SocketAddr) -> String {
        match self.code(Bearer::Owner) {
            Some((_, code)) => format!("http://{address}/login?code={code}"),
            None => format!("http://{address}/"),
        }
    }

    /// Redeems a code, which cannot be used again. Returns `None` for an unknown or old one.
    fn redeem(&self, code: &str, now: Instant) -> Option<Bearer> {
        let mut current = self.current();
        current
            .codes
            .retain(|code| now.saturating_duration_since(code.made) < CODE_LIFETIME);
        let found = current.codes.iter().position(|known| known.text == code);
        found.map(|place| current.codes.remove(place).bearer)
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
    /// Returns the sender of these headers. `None`: it is not logged in.
    fn bearer(&self, headers: &HeaderMap) -> Option<Bearer> {
        let Some(tokens) = &self.logins.tokens else {
            return Some(Bearer::Owner);
        };
        let now = Now::read();
        let sent = headers.get(header::AUTHORIZATION);
        if let Some(Ok(bearer)) = sent.map(|value| tokens.bearer(value.as_bytes(), now)) {
            return Some(bearer);
        }
        let cookies = headers.get_all(header::COOKIE).iter();
        let mut values = cookies
            .filter_map(|cookies| cookies.to_str().ok())
            .flat_map(|cookies| cookies.split(';'))
            .filter_map(|cookie| cookie.trim().split_once('='))
            .filter(|(name, _)| *name == self.cookie);
        values.find_map(|(_, value)| tokens.bearer_of_session(value, now))
    }

    fn logged_in(&self, bearer: &Bearer) -> Response {
        let tokens = self.logins.tokens.as_ref();
        let session = tokens.and_then(|tokens| tokens.session(bearer, Now::read()));
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

/// Refuses a request without a login or beyond its role, and a form that another site sends.
pub async fn check(State(logins): State<PortLogins>, mut request: Request, next: Next) -> Response {
    let Some(bearer) = logins.bearer(request.headers()) else {
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
        let page = Html(page::login(None));
        return (StatusCode::UNAUTHORIZED, challenge, page).into_response();
    };
    let role = bearer.role();
    let is_allowed = match is_change(&request) {
        true => role.may_change(),
        false => role.may_read(),
    };
    if !is_allowed {
        let text = format!("This needs another token than one for a {role}.");
        let page = Html(page::problem("Not with this token", &text));
        return (StatusCode::FORBIDDEN, page).into_response();
    }
    if let (Some(ConnectInfo(guard)), Bearer::Granted(grant)) =
        (request.extensions().get::<ConnectInfo<Guard>>(), bearer)
    {
        guard.depends_on(grant);
    }
    let may_change = role.may_change();
    request
        .extensions_mut()
        .insert(Place::Served { may_change });
    check_origin(request, next).await
}

fn is_change(request: &Request) -> bool {
    ![Method::GET, Method::HEAD].contains(request.method())
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
    if is_change(&request) && !is_own {
        let text =
            "The form was sent from another site, or by a browser that does not name its origin.";
        let page = Html(page::problem("Form of another site", text));
        return (StatusCode::FORBIDDEN, page).into_response();
    }
    next.run(request).await
}

#[derive(Deserialize)]
struct Visit {
    code: Option<String>,
}

async fn with_code(State(logins): State<PortLogins>, Query(visit): Query<Visit>) -> Response {
    let Some(code) = visit.code else {
        return Html(page::login(None)).into_response();
    };
    match logins.logins.redeem(&code, Instant::now()) {
        Some(bearer) => logins.logged_in(&bearer),
        None => refused(
            "The code was used before, or is older than ten minutes: run `orchestrator page` again.",
        ),
    }
}

#[derive(Deserialize)]
struct Secret {
    secret: String,
}

async fn with_secret(State(logins): State<PortLogins>, Form(given): Form<Secret>) -> Response {
    let (secret, now) = (given.secret.trim(), Now::read());
    let sent = format!("Bearer {secret}");
    let bearer = match &logins.logins.tokens {
        None => Ok(Bearer::Owner),
        Some(tokens) => tokens.bearer(sent.as_bytes(), now),
    };
    let by_code = || logins.logins.redeem(secret, now.instant);
    match bearer.map_err(|refusal| (refusal, by_code())) {
        Ok(bearer) | Err((_, Some(bearer))) => logins.logged_in(&bearer),
        Err((Refusal::Unknown | Refusal::Missing, None)) => {
            refused("This is neither a token of the coordinator nor a code that still works.")
        }
        Err((refusal, None)) => refused(&format!("Refused: {refusal}.")),
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
        let (_, code) = logins.code(Bearer::Owner).unwrap();
        assert_eq!(logins.redeem("other", now), None);
        assert_eq!(logins.redeem(&code, now), Some(Bearer::Owner));
        assert_eq!(logins.redeem(&code, now), None);
        let (_, late) = logins.code(Bearer::Owner).unwrap();
        assert_eq!(logins.redeem(&late, Instant::now() + CODE_LIFETIME), None);
        for _ in 0..2 * MAX_CODES {
            logins.code(Bearer::Owner).unwrap();
        }
        assert_eq!(logins.current().codes.len(), MAX_CODES);
        logins.set_address(None);
        assert!(logins.code(Bearer::Owner).is_none());
    }

    #[test]
    fn the_session_of_this_port_counts_and_no_other_cookie() {
        let logins = logins();
        let port_logins = logins.on_port(7480);
        let tokens = logins.tokens.as_ref().unwrap();
        let session = tokens.session(&Bearer::Owner, Now::read()).unwrap();
        let with = |cookie: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::COOKIE, cookie.parse().unwrap());
            port_logins.bearer(&headers).is_some()
        };
        assert!(with(&format!("a=b; orchestrator-7480={session}")));
        assert!(!with(&format!("orchestrator-7481={session}")));
        assert!(!with("orchestrator-7480=") && !with("orchestrator-7480"));
        assert_eq!(port_logins.bearer(&HeaderMap::new()), None);
    }
}
