//! Connections to the page: how many there may be, and how long everything about one may take.
//!
//! Whoever says nothing, or a byte at a time, is cut off, so that strangers cannot hold all places for long
//! ("slowloris"). One connection more than there may be is closed at once rather than kept waiting behind them.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::count;

/// Bytes of a connection that are kept until they are a request's head.
const LARGEST_HEAD: usize = 16 * 1024;
/// How long nobody is let in after the system has failed to, for want of file descriptors say.
const REST: Duration = Duration::from_secs(1);

/// What connections may cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Connections at one time.
    pub(super) most: usize,
    /// For the TLS handshake.
    pub(super) handshake: Duration,
    /// From the end of an answer, or of the handshake, to the end of the next request's head.
    pub(super) head: Duration,
    /// For the body of a request and the work on the answer.
    pub(super) request: Duration,
    /// For all requests of a connection; browsers make another one.
    pub(super) life: Duration,
}

impl Limits {
    /// Of a box: many browsers at once, and no stranger for long.
    pub(super) const BOX: Self = Self {
        most: 64,
        handshake: Duration::from_secs(10),
        head: Duration::from_secs(10),
        request: Duration::from_secs(10),
        life: Duration::from_secs(300),
    };
}

/// Who is at the other end; every request carries it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    pub(super) address: IpAddr,
    /// Whether the connection is TLS.
    pub(super) tls: bool,
}

/// Answers for ever. `tls` is asked at every connection; `turned_away` counts those for which there is no place.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    tls: impl Fn() -> Option<Arc<ServerConfig>>,
    turned_away: &AtomicU64,
) {
    let router = router.layer(from_fn(move |request: Request, next: Next| async move {
        timeout(limits.request, next.run(request))
            .await
            .unwrap_or_else(|_| StatusCode::REQUEST_TIMEOUT.into_response())
    }));
    let places = Arc::new(Semaphore::new(limits.most));
    loop {
        let (stream, from): (_, SocketAddr) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                log::warn!("page: a connection cannot be taken: {error}");
                sleep(REST).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            count(turned_away);
            continue;
        };
        let tls = tls();
        let peer = Peer {
            address: from.ip(),
            tls: tls.is_some(),
        };
        let router = router.clone().layer(Extension(peer));
        tokio::spawn(async move {
            match tls {
                None => answer(stream, router, limits).await,
                Some(tls) => {
                    let handshake = TlsAcceptor::from(tls).accept(stream);
                    if let Ok(Ok(stream)) = timeout(limits.handshake, handshake).await {
                        answer(stream, router, limits).await;
                    }
                }
            }
            drop(place);
        });
    }
}

/// Answers the requests of one connection.
async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin + 'static, router: Router, limits: Limits) {
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            // It runs between two requests too.
            .header_read_timeout(limits.head)
            .max_buf_size(LARGEST_HEAD)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
    );
    // What goes wrong on a connection concerns nobody but the peer.
    if timeout(limits.life, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(limits.request, connection).await;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::sync::atomic::Ordering;
    use std::time::Instant;

    use axum::routing::{get, post};

    use super::*;

    const LIMITS: Limits = Limits {
        most: 8,
        handshake: Duration::from_millis(300),
        head: Duration::from_millis(300),
        request: Duration::from_millis(300),
        life: Duration::from_millis(2500),
    };
    /// A machine that has other work may take so much longer.
    const SLACK: Duration = Duration::from_secs(2);

    /// A server until the test ends; the count of those it turned away.
    fn start() -> (SocketAddr, Arc<AtomicU64>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let turned_away = Arc::new(AtomicU64::new(0));
        let counter = turned_away.clone();
        let router = Router::new()
            .route("/", get(|| async { "here" }))
            .route("/", post(|body: String| async { body }));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                serve(listener, router, LIMITS, || None, &counter).await;
            });
        });
        (address, turned_away)
    }

    fn connect(address: SocketAddr) -> TcpStream {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }

    /// What comes until the server closes the connection, and how long that takes.
    fn rest(mut stream: TcpStream) -> (String, Duration) {
        let start = Instant::now();
        let mut bytes = Vec::new();
        // A reset is an end too.
        if let Err(error) = stream.read_to_end(&mut bytes) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
        (String::from_utf8(bytes).unwrap(), start.elapsed())
    }

    #[test]
    fn who_is_slow_is_cut_off() {
        let (address, _) = start();
        // Nothing at all; half a head; a request answered and then nothing.
        for (text, wanted) in [
            ("", ""),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: ", ""),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200"),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc",
                "HTTP/1.1 408",
            ),
        ] {
            let mut stream = connect(address);
            stream.write_all(text.as_bytes()).unwrap();
            let (answer, time) = rest(stream);
            assert!(
                answer.starts_with(wanted) && answer.is_empty() == wanted.is_empty(),
                "{text:?}: {answer}"
            );
            assert!(
                time >= LIMITS.head - Duration::from_millis(50) && time < LIMITS.head + SLACK,
                "{text:?}: {time:?}"
            );
        }
        // A byte at a time is no way to stay.
        let mut stream = connect(address);
        let start = Instant::now();
        let text = "GET / HTTP/1.1\r\nHost: a\r\nX: "
            .bytes()
            .chain(std::iter::repeat(b'x'));
        for byte in text {
            if stream.write_all(&[byte]).is_err() {
                break;
            }
            assert!(
                start.elapsed() < LIMITS.head + SLACK,
                "a byte at a time holds a place"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(start.elapsed() >= LIMITS.head);
    }

    #[test]
    fn a_busy_connection_ends_in_order() {
        let (address, _) = start();
        let (mut stream, start) = (connect(address), Instant::now());
        let mut answers = 0;
        loop {
            if stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").is_err() {
                break;
            }
            let mut bytes = [0; 1024];
            match stream.read(&mut bytes) {
                Ok(0) | Err(_) => break,
                Ok(_) => answers += 1,
            }
            assert!(start.elapsed() < LIMITS.life + SLACK, "it has no end");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(
            start.elapsed() >= LIMITS.life && answers > 5,
            "{answers} answers in {:?}",
            start.elapsed()
        );
    }

    #[test]
    fn idle_connections_keep_nobody_out_for_longer_than_the_time_out() {
        let (address, turned_away) = start();
        let idle: Vec<_> = (0..200).map(|_| connect(address)).collect();
        let full = Instant::now();
        loop {
            let mut stream = connect(address);
            // It may be closed already.
            let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            if rest(stream).0.ends_with("here") {
                break;
            }
            assert!(
                full.elapsed() < LIMITS.head + SLACK,
                "kept out for {:?}",
                full.elapsed()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(turned_away.load(Ordering::Relaxed) >= (idle.len() - LIMITS.most) as u64);
    }
}
