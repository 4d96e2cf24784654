//! Downloads behind a proxy that asks for a password, from a server whose certificate only this site
//! knows.

mod place;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use place::Place;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

const HOST: &str = "mirror.example";

/// A server with a certificate of its own, which answers every request with 404. Its thread ends with
/// the process. Returns its address and the certificate.
fn serve() -> (String, String) {
    let made = rcgen::generate_simple_self_signed([HOST.to_owned(), "localhost".to_owned()])
        .expect("a certificate");
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("key and certificate belong together");
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a port");
    let address = listener.local_addr().expect("it listens").to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("a connection");
            let connection = ServerConnection::new(config.clone()).expect("a session");
            thread::spawn(|| answer(StreamOwned::new(connection, stream)));
        }
    });
    (address, made.cert.pem())
}

fn answer(mut stream: StreamOwned<ServerConnection, TcpStream>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            // a client that does not trust the certificate leaves
            _ => return,
        }
    }
    let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
    let _ = stream.flush();
}

/// A proxy that leads every connection to one server. Returns its address, and the heads of the
/// requests that it received.
fn proxy(server: String) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a port");
    let address = listener.local_addr().expect("it listens").to_string();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let noted = heads.clone();
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.expect("a connection");
            let lines = BufReader::new(client.try_clone().expect("a socket")).lines();
            let head: Vec<String> = lines
                .map_while(Result::ok)
                .take_while(|line| !line.is_empty())
                .collect();
            noted.lock().expect("no panic").push(head.join("\n"));
            let Ok(mut there) = TcpStream::connect(&server) else {
                continue;
            };
            let _ = client.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            let (mut from, mut to) = (
                client.try_clone().expect("a socket"),
                there.try_clone().expect("a socket"),
            );
            thread::spawn(move || std::io::copy(&mut from, &mut to));
            thread::spawn(move || std::io::copy(&mut there, &mut client));
        }
    });
    (address, heads)
}

fn fetch(place: &Place, host: &str, variables: &[(&str, &str)]) -> String {
    let origin = format!("https://{host}/sets");
    let mut command = place.command(&["data", "fetch", "fashion-mnist", "--origin", &origin]);
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    command
        .env_remove("SSL_CERT_FILE")
        .env_remove("SSL_CERT_DIR");
    let output = command.envs(variables.iter().copied()).output();
    let output = output.expect("the command starts");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(!stderr.contains("secret"), "{stderr}");
    stderr
}

#[test]
fn a_download_uses_the_proxy_and_the_certificates_of_the_site() {
    let (server, certificate) = serve();
    let (proxy, heads) = proxy(server.clone());
    let seen = || std::mem::take(&mut *heads.lock().expect("no panic"));
    let place = Place::new();
    let certificate = place.file("site.pem", &certificate);
    let trust = ("SSL_CERT_FILE", certificate.to_str().expect("UTF-8"));
    let login = format!("http://me:secret@{proxy}");
    let through = ("HTTPS_PROXY", login.as_str());

    let stderr = fetch(&place, HOST, &[through, trust]);
    assert!(stderr.contains("the server answered 404"), "{stderr}");
    let heads = seen();
    assert!(
        heads[0].starts_with("CONNECT mirror.example:443 "),
        "{heads:?}"
    );
    let login = "proxy-authorization: basic bwu6c2vjcmv0";
    assert!(heads[0].to_ascii_lowercase().contains(login), "{heads:?}");

    let stderr = fetch(&place, HOST, &[through]);
    assert!(stderr.contains("SSL_CERT_FILE"), "{stderr}");
    assert_eq!(seen().len(), 1, "one try");

    let stderr = fetch(&place, HOST, &[through, ("SSL_CERT_FILE", "absent.pem")]);
    assert!(
        stderr.contains("SSL_CERT_FILE names no certificates"),
        "{stderr}"
    );
    assert_eq!(seen().len(), 0);

    let port = server.rsplit(':').next().expect("a port");
    let direct = ("NO_PROXY", "elsewhere.example,localhost");
    let stderr = fetch(
        &place,
        &format!("localhost:{port}"),
        &[through, trust, direct],
    );
    assert!(stderr.contains("the server answered 404"), "{stderr}");
    assert_eq!(seen().len(), 0);
}
