//! Who may see the pages. The bearer token, or a code that only its owner can get, is exchanged
//! once for a cookie that no script can read and no other site sends. Scripts send the token
//! itself, as to the coordinator.

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

/// How long a code can be used.
const CODE_LASTS: Duration = Duration::from_secs(600);
/// Codes that were not used; the oldest is forgotten for one more.
const MAX_CODES: usize = 32;

/// The logins of a coordinator's pages.
#[derive(Clone)]
pub struct Logins {
    tokens: Option<AcceptedTokens>,
    open: Arc<Mutex<Open>>,
}

#[derive(Default)]
struct Open {
    /// Where the pages listen now.
    address: Option<SocketAddr>,
    codes: Vec<(String, Instant)>,
}

impl Logins {
    /// Without tokens, everyone who reaches the pages may see them.
    pub fn new(tokens: Option<AcceptedTokens>) -> Self {
        Self {
            tokens,
            open: Arc::default(),
        }
    }

    pub fn has_tokens(&self) -> bool {
        self.tokens.is_some()
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn opened(&self, address: SocketAddr) {
        self.open().address = Some(address);
    }

    pub fn closed(&self) {
        self.open().address = None;
    }

    /// Returns where the pages listen, and a code that logs in once; `None` if they are not served.
    pub fn code(&self) -> Option<(SocketAddr, String)> {
        let mut open = self.open();
        let address = open.address?;
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).ok()?;
        let code: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        if open.codes.len() >= MAX_CODES {
            open.codes.remove(0);
        }
        open.codes.push((code.clone(), Instant::now()));
        Some((address, code))
    }

    /// Returns the address that logs in once.
    pub fn link(&self, address: SocketAddr) -> String {
        match self.code() {
            Some((_, code)) => format!("http://{address}/login?code={code}"),
            None => format!("http://{address}/"),
        }
    }

    /// Takes a code, which then works no more.
    fn redeem(&self, code: &str, now: Instant) -> bool {
        let mut open = self.open();
        open.codes
            .retain(|(_, made)| now.saturating_duration_since(*made) < CODE_LASTS);
        let found = open.codes.iter().position(|(known, _)| known == code);
        found.map(|place| open.codes.remove(place)).is_some()
    }

    /// Returns the logins of the server on this port.
    pub fn at(&self, port: u16) -> Door {
        Door {
            logins: self.clone(),
            cookie: format!("orchestrator-{port}"),
        }
    }
}

/// The logins of one server. Cookies do not differ by port, so their name does.
#[derive(Clone)]
pub struct Door {
    logins: Logins,
    cookie: String,
}

impl Door {
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
pub fn routes(door: Door) -> Router {
    Router::new()
        .route("/login", get(with_code).post(with_secret))
        .route("/logout", post(logout))
        .layer(middleware::from_fn(check_origin))
        .with_state(door)
}

/// Answers those who are logged in, and lets their forms come from these pages alone.
pub async fn check(State(door): State<Door>, request: Request, next: Next) -> Response {
    if !door.is_logged_in(request.headers()) {
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
        let page = Html(page::login(None));
        return (StatusCode::UNAUTHORIZED, challenge, page).into_response();
    }
    check_origin(request, next).await
}

/// Refuses a change that a browser sends for another site. Programs that send no cookie need no
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
        let page = Html(page::problem("Not from this page", text));
        return (StatusCode::FORBIDDEN, page).into_response();
    }
    next.run(request).await
}

#[derive(Deserialize)]
struct Code {
    code: Option<String>,
}

async fn with_code(State(door): State<Door>, Query(given): Query<Code>) -> Response {
    match given.code {
        None => Html(page::login(None)).into_response(),
        Some(code) if door.logins.redeem(&code, Instant::now()) => door.logged_in(),
        Some(_) => refused(
            "The code was used before, or is older than ten minutes: run `orchestrator page` again.",
        ),
    }
}

#[derive(Deserialize)]
struct Secret {
    secret: String,
}

async fn with_secret(State(door): State<Door>, Form(given): Form<Secret>) -> Response {
    let (secret, now) = (given.secret.trim(), Instant::now());
    let bearer = format!("Bearer {secret}");
    let tokens = door.logins.tokens.as_ref();
    let is_token = tokens.is_none_or(|tokens| tokens.are_carried_by(bearer.as_bytes(), now));
    match is_token || door.logins.redeem(secret, now) {
        true => door.logged_in(),
        false => refused("That is neither the coordinator's token nor a code that still works."),
    }
}

fn refused(why: &str) -> Response {
    (StatusCode::UNAUTHORIZED, Html(page::login(Some(why)))).into_response()
}

async fn logout(State(door): State<Door>) -> Response {
    let cookie = format!(
        "{}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0",
        door.cookie
    );
    ([(header::SET_COOKIE, cookie)], Redirect::to("/login")).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Token;

    fn logins() -> Logins {
        let logins = Logins::new(Some(AcceptedTokens::new(Token::random().unwrap())));
        logins.opened(([127, 0, 0, 1], 7480).into());
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
        assert!(!logins.redeem(&late, Instant::now() + CODE_LASTS));
        for _ in 0..2 * MAX_CODES {
            logins.code().unwrap();
        }
        assert_eq!(logins.open().codes.len(), MAX_CODES);
        logins.closed();
        assert!(logins.code().is_none());
    }

    #[test]
    fn the_session_of_this_port_counts_and_no_other_cookie() {
        let logins = logins();
        let door = logins.at(7480);
        let session = logins.tokens.as_ref().unwrap().session();
        let with = |cookie: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::COOKIE, cookie.parse().unwrap());
            door.is_logged_in(&headers)
        };
        assert!(with(&format!("a=b; orchestrator-7480={session}")));
        assert!(!with(&format!("orchestrator-7481={session}")));
        assert!(!with("orchestrator-7480=") && !with("orchestrator-7480"));
        assert!(!door.is_logged_in(&HeaderMap::new()));
    }
}
