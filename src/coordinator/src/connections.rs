//! Limits on connections. A connection without a request (with the token, if there is one) is
//! closed after a while, and the number of such connections is limited, per address and in all.
//! Workers and commands send a request at once, and are closed here only when their token ends.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use protocol::{AcceptedTokens, Grant, Now};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Interval, interval};
use tokio_rustls::server::TlsStream;

use crate::tls::Tls;

/// Open files that are not connections: the journal, the runtime, the pipes of children.
const RESERVED_FILES: usize = 64;
/// Interval between two checks of the connections that wait for a request.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Pause after a failed accept, because there is no connection to wait for.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// The reasons for which connections are closed here.
const NO_REQUEST: &str = "no request came on this connection";
const TOKEN_ENDED: &str = "the token of this connection is no longer accepted";
/// Minimum interval between two warnings of one kind.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Limits on the connections of peers.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum time from the accept, or the last answer on a page, to a request.
    pub silence: Duration,
    /// Maximum number of connections without a request from one address.
    pub silent_per_address: usize,
    /// Maximum number of connections without a request in all.
    pub silent: usize,
    pub open: usize,
}

impl Limits {
    /// Returns limits that fit the limit of open files, which is first raised to the system's
    /// maximum.
    pub fn of_process() -> Self {
        let files = raise_file_limit();
        let silent = (files / 4).clamp(16, 1024);
        let open = files.saturating_sub(RESERVED_FILES).max(silent);
        Self {
            silence: Duration::from_secs(10),
            silent_per_address: silent / 2,
            silent,
            open,
        }
    }
}

fn raise_file_limit() -> usize {
    const USUAL: u64 = 1024;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((USUAL, USUAL));
    let raised = if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        hard
    } else {
        soft
    };
    usize::try_from(raised).unwrap_or(usize::MAX)
}

/// Accepts connections within the limits.
pub struct Gate {
    listener: TcpListener,
    connections: Arc<Connections>,
    check: Interval,
    accept_warning: RareWarning,
    limit_warning: RareWarning,
}

impl Gate {
    /// With `tokens`, a connection is closed when the granted token of its requests ends.
    pub fn new(
        listener: std::net::TcpListener,
        limits: Limits,
        tokens: Option<AcceptedTokens>,
    ) -> io::Result<Self> {
        let listener = TcpListener::from_std(listener)?;
        let connections = Arc::new(Connections {
            limits,
            num_open: AtomicUsize::new(0),
            silent: Mutex::default(),
            granted: Mutex::default(),
            tokens,
        });
        let (accept_warning, limit_warning) = (RareWarning::default(), RareWarning::default());
        Ok(Self {
            listener,
            connections,
            check: interval(CHECK_INTERVAL),
            accept_warning,
            limit_warning,
        })
    }

    async fn next(&mut self) -> Connection {
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, address)) => match self.admit(stream, address) {
                        Some(connection) => return connection,
                        None => continue,
                    },
                    Err(error) => self.accept_failed(&error).await,
                },
                _ = self.check.tick() => {
                    self.connections.close_overdue(Instant::now());
                    self.connections.close_refused(Now::read());
                }
            }
        }
    }

    /// Admits a connection; `None`: too many connections are in use.
    fn admit(&mut self, stream: TcpStream, address: SocketAddr) -> Option<Connection> {
        let (limits, peer) = (self.connections.limits, address.ip());
        let closed = self.connections.make_room(peer);
        if closed.is_err() || closed == Ok(true) {
            self.limit_warning.log(|| {
                let Limits { silent, silent_per_address, open, .. } = limits;
                tracing::warn!(
                    %peer, silent_per_address, silent, open,
                    "too many connections without a request, or in all: the oldest without one are closed"
                );
            });
        }
        closed.ok()?;
        let _ = stream.set_nodelay(true);
        let (cut, is_cut) = oneshot::channel();
        let guard = Guard(Arc::new(Entry {
            peer,
            cut: Mutex::new(Some(cut)),
            grants: Mutex::default(),
            connections: self.connections.clone(),
        }));
        self.connections.num_open.fetch_add(1, Ordering::Relaxed);
        guard.end_request();
        Some(Connection {
            stream,
            is_cut,
            was_cut: None,
            guard,
        })
    }

    async fn accept_failed(&mut self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
        if matches!(
            error.kind(),
            ConnectionAborted | ConnectionRefused | ConnectionReset
        ) {
            return;
        }
        let (num_open, silent) = (
            self.connections.num_open.load(Ordering::Relaxed),
            self.connections.silent().len(),
        );
        self.accept_warning
            .log(|| tracing::error!(%error, num_open, silent, "connections cannot be accepted"));
        self.connections.close_oldest_quarter();
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }

    /// Returns the connections as a stream, for the gRPC server; it ends with its receiver. With `tls`
    /// they are encrypted: a handshake that fails or is slow costs its own connection.
    pub fn into_stream(mut self, tls: Option<Tls>) -> mpsc::Receiver<io::Result<Secured>> {
        let (connections, accepted) = mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                let connection = tokio::select! {
                    connection = self.next() => connection,
                    () = connections.closed() => return,
                };
                let Some(tls) = tls.clone() else {
                    if connections
                        .send(Ok(Secured::Plain(connection)))
                        .await
                        .is_err()
                    {
                        return;
                    }
                    continue;
                };
                let connections = connections.clone();
                tokio::spawn(async move {
                    let guard = connection.guard.clone();
                    match tls.accept(connection).await {
                        Ok(stream) => {
                            let _ = connections
                                .send(Ok(Secured::Encrypted(stream.into())))
                                .await;
                        }
                        Err(error) => tracing::debug!(peer = ?guard, %error, "no handshake"),
                    }
                });
            }
        });
        accepted
    }
}

impl axum::serve::Listener for Gate {
    type Io = Connection;
    type Addr = Guard;

    async fn accept(&mut self) -> (Connection, Guard) {
        let connection = self.next().await;
        let guard = connection.guard.clone();
        (connection, guard)
    }

    fn local_addr(&self) -> io::Result<Guard> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Limits the warnings of one kind to one per minute.
#[derive(Default)]
struct RareWarning(Option<Instant>);

impl RareWarning {
    fn log(&mut self, log: impl FnOnce()) {
        let now = Instant::now();
        if self.0.is_none_or(|last| now >= last + WARNING_INTERVAL) {
            self.0 = Some(now);
            log();
        }
    }
}

struct Connections {
    limits: Limits,
    num_open: AtomicUsize,
    silent: Mutex<Silent>,
    /// Connections with requests of granted tokens.
    granted: Mutex<Vec<Guard>>,
    tokens: Option<AcceptedTokens>,
}

/// Connections without a request, oldest first.
#[derive(Default)]
struct Silent {
    next: u64,
    by_age: BTreeMap<u64, (Instant, Guard)>,
}

impl Silent {
    fn len(&self) -> usize {
        self.by_age.len()
    }

    fn close(&mut self, number: Option<u64>) -> bool {
        let found = number.and_then(|number| self.by_age.remove(&number));
        found.is_some_and(|(_, guard)| guard.close(NO_REQUEST))
    }
}

impl Connections {
    fn silent(&self) -> MutexGuard<'_, Silent> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close_overdue(&self, now: Instant) {
        let mut silent = self.silent();
        while let Some((number, (since, _))) = silent.by_age.first_key_value()
            && now >= *since + self.limits.silence
        {
            let number = *number;
            silent.close(Some(number));
        }
    }

    fn granted(&self) -> MutexGuard<'_, Vec<Guard>> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the connections whose tokens are no longer accepted.
    fn close_refused(&self, now: Now) {
        let Some(tokens) = &self.tokens else { return };
        self.granted().retain(|guard| {
            let are_accepted = guard
                .grants()
                .iter()
                .all(|grant| tokens.still_accept(grant, now));
            if !are_accepted {
                guard.close(TOKEN_ENDED);
            }
            are_accepted
        });
    }

    /// Closes the oldest quarter, at least one if there is one, to make room for connections that
    /// wait to be accepted.
    fn close_oldest_quarter(&self) {
        let mut silent = self.silent();
        for _ in 0..silent.len().div_ceil(4) {
            let oldest = silent.by_age.first_key_value().map(|(number, _)| *number);
            silent.close(oldest);
        }
    }

    /// Makes room for a connection of this peer. True: another one was closed for it; an error:
    /// none could be.
    fn make_room(&self, peer: IpAddr) -> Result<bool, ()> {
        let (mut silent, limits) = (self.silent(), self.limits);
        let mut of_peer = silent
            .by_age
            .iter()
            .filter(|(_, (_, guard))| guard.0.peer == peer)
            .map(|(number, _)| *number);
        let oldest_of_peer = of_peer.next();
        let num_of_peer = oldest_of_peer.map_or(0, |_| 1 + of_peer.count());
        let oldest = silent.by_age.first_key_value().map(|(number, _)| *number);
        if num_of_peer >= limits.silent_per_address {
            return Ok(silent.close(oldest_of_peer));
        }
        let is_full = self.num_open.load(Ordering::Relaxed) >= limits.open;
        if silent.len() >= limits.silent || is_full {
            let closed = silent.close(oldest);
            return if closed || !is_full {
                Ok(closed)
            } else {
                Err(())
            };
        }
        Ok(false)
    }
}

struct Entry {
    peer: IpAddr,
    /// Closes the connection, for this reason.
    cut: Mutex<Option<oneshot::Sender<&'static str>>>,
    /// The granted tokens of its requests.
    grants: Mutex<Vec<Grant>>,
    connections: Arc<Connections>,
}

/// A handle on a connection for the requests on it.
#[derive(Clone)]
pub struct Guard(Arc<Entry>);

impl std::fmt::Debug for Guard {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}", self.0.peer)
    }
}

impl Guard {
    fn grants(&self) -> MutexGuard<'_, Vec<Grant>> {
        self.0.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the connection. Returns false if it was closed before.
    fn close(&self, reason: &'static str) -> bool {
        let mut cut = self.0.cut.lock().unwrap_or_else(PoisonError::into_inner);
        cut.take().is_some_and(|cut| cut.send(reason).is_ok())
    }

    /// Closes the connection when this token is no longer accepted.
    pub fn depends_on(&self, grant: Grant) {
        let mut grants = self.grants();
        if grants.contains(&grant) {
            return;
        }
        let is_first = grants.is_empty();
        grants.push(grant);
        drop(grants);
        if is_first {
            self.0.connections.granted().push(self.clone());
        }
    }

    /// Marks the start of a request with a valid token: the connection is no longer closed for lack
    /// of one.
    pub fn begin_request(&self) {
        let mut silent = self.0.connections.silent();
        silent
            .by_age
            .retain(|_, (_, guard)| !Arc::ptr_eq(&guard.0, &self.0));
    }

    /// Marks the end of a request: without another one the connection may be closed again.
    pub fn end_request(&self) {
        let mut silent = self.0.connections.silent();
        let number = silent.next;
        silent.next += 1;
        silent.by_age.insert(number, (Instant::now(), self.clone()));
    }
}

/// A connection that can be closed from outside.
pub struct Connection {
    stream: TcpStream,
    is_cut: oneshot::Receiver<&'static str>,
    was_cut: Option<&'static str>,
    guard: Guard,
}

impl Connection {
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.was_cut.is_none()
            && let Poll::Ready(Ok(reason)) = Pin::new(&mut self.is_cut).poll(context)
        {
            self.was_cut = Some(reason);
        }
        match self.was_cut {
            Some(reason) => Err(io::Error::new(io::ErrorKind::TimedOut, reason)),
            None => Ok(()),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.guard.begin_request();
        let connections = &self.guard.0.connections;
        let is_this = |guard: &Guard| Arc::ptr_eq(&guard.0, &self.guard.0);
        if !self.guard.grants().is_empty() {
            connections.granted().retain(|guard| !is_this(guard));
        }
        connections.num_open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// A connection as the gRPC server reads and writes it.
pub enum Secured {
    Plain(Connection),
    Encrypted(Box<TlsStream<Connection>>),
}

impl tonic::transport::server::Connected for Secured {
    type ConnectInfo = Guard;

    fn connect_info(&self) -> Guard {
        match self {
            Self::Plain(connection) => connection.guard.clone(),
            Self::Encrypted(stream) => stream.get_ref().0.guard.clone(),
        }
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(connection) => Pin::new(connection).poll_read(context, buffer),
            Self::Encrypted(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Secured {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(connection) => Pin::new(connection).poll_write(context, bytes),
            Self::Encrypted(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(connection) => Pin::new(connection).poll_flush(context),
            Self::Encrypted(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(connection) => Pin::new(connection).poll_shutdown(context),
            Self::Encrypted(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(connection) => Pin::new(connection).poll_write_vectored(context, slices),
            Self::Encrypted(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(connection) => connection.is_write_vectored(),
            Self::Encrypted(stream) => stream.is_write_vectored(),
        }
    }
}

impl axum::extract::connect_info::Connected<axum::serve::IncomingStream<'_, Gate>> for Guard {
    fn connect_info(stream: axum::serve::IncomingStream<'_, Gate>) -> Self {
        stream.remote_addr().clone()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const NEVER: Duration = Duration::from_secs(3600);

    fn gate(limits: Limits) -> (Gate, SocketAddr) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        (Gate::new(listener, limits, None).unwrap(), address)
    }

    async fn connected(gate: &mut Gate, address: SocketAddr) -> (TcpStream, Connection) {
        let (peer, connection) = tokio::join!(TcpStream::connect(address), gate.next());
        (peer.unwrap(), connection)
    }

    async fn is_open(peer: &mut TcpStream, connection: &mut Connection) -> bool {
        peer.write_all(b"x").await.unwrap();
        connection.read_u8().await.is_ok()
    }

    #[tokio::test]
    async fn a_connection_without_a_request_is_closed_and_one_with_a_request_is_not() {
        let silence = Duration::from_secs(10);
        let (mut gate, address) = gate(Limits {
            silence,
            silent_per_address: 9,
            silent: 9,
            open: 9,
        });
        let (mut silent_peer, mut silent) = connected(&mut gate, address).await;
        let (mut asking_peer, mut asking) = connected(&mut gate, address).await;
        asking.guard.begin_request();
        gate.connections
            .close_overdue(Instant::now() + silence - Duration::from_millis(1));
        assert!(is_open(&mut silent_peer, &mut silent).await);
        gate.connections.close_overdue(Instant::now() + 2 * silence);
        assert!(!is_open(&mut silent_peer, &mut silent).await);
        assert!(is_open(&mut asking_peer, &mut asking).await);
        asking.guard.end_request();
        gate.connections.close_overdue(Instant::now() + 2 * silence);
        assert!(
            !is_open(&mut asking_peer, &mut asking).await,
            "the page's deadline begins again after an answer"
        );
    }

    #[tokio::test]
    async fn the_oldest_silent_connection_makes_room_and_none_in_use_does() {
        let (mut gate, address) = gate(Limits {
            silence: NEVER,
            silent_per_address: 2,
            silent: 9,
            open: 4,
        });
        let mut asking = connected(&mut gate, address).await;
        asking.1.guard.begin_request();
        let mut silent = Vec::new();
        for _ in 0..4 {
            silent.push(connected(&mut gate, address).await);
        }
        for (index, (peer, connection)) in silent.iter_mut().enumerate() {
            assert_eq!(is_open(peer, connection).await, index >= 2, "{index}");
        }
        assert!(is_open(&mut asking.0, &mut asking.1).await);
        drop(silent);
        assert_eq!(gate.connections.silent().len(), 0);
        assert_eq!(gate.connections.num_open.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn no_client_is_closed_for_a_connection_that_finds_no_room() {
        let (mut gate, address) = gate(Limits {
            silence: NEVER,
            silent_per_address: 2,
            silent: 2,
            open: 2,
        });
        let mut asking = Vec::new();
        for _ in 0..2 {
            let (peer, connection) = connected(&mut gate, address).await;
            connection.guard.begin_request();
            asking.push((peer, connection));
        }
        let accepting = tokio::spawn(async move { drop(gate.next().await) });
        let mut refused = TcpStream::connect(address).await.unwrap();
        assert_eq!(
            refused.read(&mut [0; 8]).await.unwrap_or(0),
            0,
            "it is closed"
        );
        accepting.abort();
        for (peer, connection) in &mut asking {
            assert!(is_open(peer, connection).await);
        }
    }
}
