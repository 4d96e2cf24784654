//! JSON over HTTP, with timeouts and retries.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;
use ureq::Agent;

/// Timeout of one request.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Pauses before retries.
const PAUSES: [Duration; 3] = [
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(8),
];
/// Longest part of an answer that an error quotes.
const MAX_QUOTED: usize = 300;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{url} cannot be reached: {reason}")]
    Unreachable { url: String, reason: String },
    #[error("{url} answered {status}: {message}")]
    Refused {
        url: String,
        status: u16,
        message: String,
    },
    #[error("{url} sent an unexpected answer: {message}")]
    Answer { url: String, message: String },
}

/// Safety of sending a request again after a broken connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// A repeated request has no further effect.
    Safe,
    /// Only if the server has refused it for now.
    IfRefused,
}

pub struct Client {
    /// Or the reason why there are no certificates to trust.
    agent: Result<Agent, String>,
    base: String,
    authorization: Option<String>,
    pauses: &'static [Duration],
}

impl Client {
    pub fn new(base: &str, authorization: Option<String>) -> Self {
        let agent = trust::tls().map(|tls| {
            let config = Agent::config_builder()
                .tls_config(tls)
                .timeout_global(Some(TIMEOUT))
                .http_status_as_error(false);
            Agent::new_with_config(config.build())
        });
        Self {
            agent,
            base: base.trim_end_matches('/').to_owned(),
            authorization,
            pauses: &PAUSES,
        }
    }

    /// Sends a request, and retries after a pause while the server is busy or cannot be reached.
    /// Without a body it is a GET.
    pub fn call(&self, path: &str, body: Option<&Value>, repeat: Repeat) -> Result<Value, Error> {
        let mut pauses = self.pauses.iter();
        loop {
            let error = match self.once(path, body) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let may_repeat = match &error {
                Error::Refused { status, .. } => [429, 502, 503, 504].contains(status),
                Error::Unreachable { .. } => repeat == Repeat::Safe,
                Error::Answer { .. } => false,
            };
            match pauses.next().filter(|_| may_repeat) {
                Some(pause) => std::thread::sleep(*pause),
                None => return Err(error),
            }
        }
    }

    fn once(&self, path: &str, body: Option<&Value>) -> Result<Value, Error> {
        let url = match path {
            "" => self.base.clone(),
            path => format!("{}/{path}", self.base),
        };
        let authorization = self.authorization.as_deref();
        let agent = self.agent.as_ref().map_err(|reason| Error::Unreachable {
            url: url.clone(),
            reason: reason.clone(),
        })?;
        let answer = match body {
            None => {
                let mut request = agent.get(&url);
                if let Some(value) = authorization {
                    request = request.header("authorization", value);
                }
                request.call()
            }
            Some(body) => {
                let mut request = agent.post(&url).header("content-type", "application/json");
                if let Some(value) = authorization {
                    request = request.header("authorization", value);
                }
                request.send(body.to_string())
            }
        };
        let unreachable = |error: ureq::Error| Error::Unreachable {
            url: url.clone(),
            reason: error.to_string(),
        };
        let mut answer = answer.map_err(unreachable)?;
        let status = answer.status();
        let text = answer.body_mut().read_to_string().map_err(unreachable)?;
        let message = || text.chars().take(MAX_QUOTED).collect();
        if !status.is_success() {
            return Err(Error::Refused {
                status: status.as_u16(),
                message: message(),
                url,
            });
        }
        serde_json::from_str(&text).map_err(|_| Error::Answer {
            message: message(),
            url,
        })
    }
}

/// Sends a notice to an address, and retries while it cannot be reached. Any success status will do.
pub fn post(url: &str, body: &Value) -> Result<(), Error> {
    match Client::new(url, None).call("", Some(body), Repeat::Safe) {
        Ok(_) | Err(Error::Answer { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Returns the header of a user with a password.
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{user}:{password}")))
}

/// Returns a text as part of a query.
pub fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    /// A server that gives these answers, one per connection, and returns the requests.
    fn server(answers: Vec<(u16, &'static str)>) -> (String, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests = std::thread::spawn(move || {
            let mut requests = Vec::new();
            for (status, answer) in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let (mut request, mut length) = (String::new(), 0);
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).unwrap();
                    if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    if line == "\r\n" {
                        break;
                    }
                    request.push_str(&line);
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                request.push_str(&String::from_utf8(body).unwrap());
                requests.push(request);
                let head = format!(
                    "HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{answer}",
                    answer.len()
                );
                stream.write_all(head.as_bytes()).unwrap();
            }
            requests
        });
        (address, requests)
    }

    fn client(address: &str) -> Client {
        Client {
            pauses: &[Duration::ZERO, Duration::ZERO],
            ..Client::new(address, Some("Bearer secret".to_owned()))
        }
    }

    #[test]
    fn names_and_passwords_are_encoded() {
        assert_eq!(encoded("a b/ä~"), "a%20b%2F%C3%A4~");
        assert_eq!(basic("user", "pass:word"), "Basic dXNlcjpwYXNzOndvcmQ=");
    }

    #[test]
    fn a_busy_server_is_asked_again_and_a_refusal_is_quoted() {
        let (address, requests) = server(vec![
            (503, "busy"),
            (429, "busy"),
            (200, r#"{"run": 7}"#),
            (400, r#"{"message": "no such experiment"}"#),
        ]);
        let client = client(&address);
        let body = serde_json::json!({"a": 1});
        let answer = client.call("runs/create", Some(&body), Repeat::IfRefused);
        assert_eq!(answer.unwrap()["run"], 7);
        let refused = client.call("runs/get", None, Repeat::Safe).unwrap_err();
        let refused = refused.to_string();
        assert!(
            refused.contains("/runs/get answered 400") && refused.contains("no such"),
            "{refused}"
        );
        let requests = requests.join().unwrap();
        assert_eq!(requests.len(), 4);
        assert!(
            requests[2].starts_with("POST /runs/create "),
            "{}",
            requests[2]
        );
        assert!(requests[2].contains("Bearer secret") && requests[2].ends_with(r#"{"a":1}"#));
        assert!(requests[3].starts_with("GET /runs/get "));
    }

    #[test]
    fn only_what_is_safe_to_repeat_is_sent_again_after_a_broken_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let accepted = std::thread::spawn(move || {
            // closed before an answer: three tries of the first call, one of the second
            (0..4).map(|_| drop(listener.accept().unwrap())).count()
        });
        let client = client(&address);
        let body = serde_json::json!({});
        for repeat in [Repeat::Safe, Repeat::IfRefused] {
            let error = client.call("x", Some(&body), repeat).unwrap_err();
            assert!(matches!(error, Error::Unreachable { .. }), "{error}");
        }
        assert_eq!(accepted.join().unwrap(), 4);
    }
}
