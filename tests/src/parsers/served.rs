//! What strangers can reach of a box at work: its page and its streams, over their sockets.
//!
//! HTTP is read by hyper and RTSP by GStreamer's server; what Persona adds is who is let in. So a whole box is started
//! in this process, with a camera that is not there, and nothing that anybody sends may get past its doors.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Stands in the configuration, which only the operator may read.
const SECRET: &str = "what-only-the-operator-knows";
/// In this time a request is answered, or the connection closed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the box listens.
struct Served {
    page: SocketAddr,
    rtsp: SocketAddr,
}

/// Set when a thread of the box panics; the box itself would only close the connection.
static PANICKED: AtomicBool = AtomicBool::new(false);

static SERVED: LazyLock<Served> = LazyLock::new(|| {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICKED.store(true, Ordering::Relaxed);
        before(panic);
    }));
    gstreamer::init().expect("GStreamer starts");
    persona::element::register().expect("GStreamer takes the element");
    let free = || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        listener.local_addr().expect("its address")
    };
    let served = Served {
        page: free(),
        rtsp: free(),
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("password");
    std::fs::write(&path, SECRET)
        .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)))
        .expect("a temporary file");
    let text = format!(
        "site = \"{SECRET}\"\n\
         [rtsp]\nlisten = \"{}\"\nmost_viewers = 1000\n[[rtsp.user]]\nname = \"anna\"\npassword_file = \"password\"\n\
         [report]\nfolder = \"reports\"\n[page]\nlisten = \"{}\"\nuser = {{ name = \"anna\", password_file = \"password\" }}\n\
         [[camera]]\nname = \"hall\"\nsource = \"nowhere.mp4\"\n",
        served.rtsp, served.page
    );
    let path = folder.path().join("persona.toml");
    std::fs::write(&path, text).expect("a temporary file");
    std::thread::spawn(move || {
        // The box keeps its reports there as long as it runs.
        let _folder = folder;
        persona::serve::run(&path, &Default::default(), &AtomicBool::new(false)).unwrap()
    });
    let until = Instant::now() + Duration::from_secs(60);
    for address in [served.rtsp, served.page] {
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < until, "the box does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    served
});

/// Sends bytes on a connection of their own and gives everything that comes back.
fn answer(to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).expect("the box still listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time");
    // The box may close the connection before it has read everything.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let (mut answer, mut part) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(count) => answer.extend(&part[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            // libFuzzer's clock.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => (),
            Err(error) => panic!("neither an answer nor an end: {error}"),
        }
    }
    assert!(!PANICKED.load(Ordering::Relaxed), "a thread of the box panicked");
    answer
}

fn has(answer: &[u8], words: &str) -> bool {
    answer
        .windows(words.len())
        .any(|window| window.eq_ignore_ascii_case(words.as_bytes()))
}

/// Requests to the page, from somebody who has not logged in.
pub(super) fn page(bytes: &[u8]) {
    if has(bytes, SECRET) {
        // The password: not somebody who guesses.
        return;
    }
    let answer = answer(SERVED.page, bytes);
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1."),
        "another protocol"
    );
    assert!(!has(&answer, SECRET), "the configuration got out");
    for inside in [
        "<meta name=\"csrf\"",
        "image/jpeg",
        "set-cookie: persona=",
        "HTTP/1.1 500",
    ] {
        assert!(!has(&answer, inside), "{}", String::from_utf8_lossy(&answer));
    }
}

pub(super) fn page_seeds() -> Vec<Vec<u8>> {
    let host = SERVED.page;
    let get =
        |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n").into_bytes();
    let login = "name=anna&password=%41bc";
    let post = |path: &str, more: &str, body: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nSec-Fetch-Site: same-origin\r\n{more}\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    };
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let session = format!("Cookie: a=b; persona={}\r\n", "0f".repeat(32));
    vec![
        get("/", ""),
        get("/login", "Connection: close\r\n"),
        get("/metrics", "Accept: text/plain\r\n"),
        get("/healthz", ""),
        get("/preview/hall", &session),
        get("/support.json", &session),
        get("/api/status", &session),
        post("/login", form, login),
        post("/api/press", &format!("{session}X-CSRF-Token: 0f\r\nContent-Type: application/json\r\n"), "\"short\""),
        post("/logout", &session, ""),
        format!("POST /login HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nTransfer-Encoding: chunked\r\n{form}\r\n18\r\n{login}\r\n0\r\n\r\n")
            .into_bytes(),
    ]
}

/// Requests for streams, from somebody without the password.
pub(super) fn rtsp(bytes: &[u8]) {
    if has(bytes, SECRET) {
        return;
    }
    let answer = answer(SERVED.rtsp, bytes);
    // What the request itself said stands in the answer's CSeq.
    let own = answer.split(|byte| *byte == b'\n');
    let own: Vec<_> = own.filter(|line| !line.starts_with(b"CSeq:")).collect();
    let own = own.join(&b'\n');
    for inside in ["application/sdp", "\nsession:", "\ntransport:", "\nrtp-info:"] {
        assert!(!has(&own, inside), "{}", String::from_utf8_lossy(&answer));
    }
}

pub(super) fn rtsp_seeds() -> Vec<Vec<u8>> {
    let address = format!("rtsp://{}/hall", SERVED.rtsp);
    let request = |method: &str, more: &str| {
        format!("{method} {address} RTSP/1.0\r\nCSeq: 1\r\n{more}\r\n").into_bytes()
    };
    let digest = format!(
        "Authorization: Digest username=\"anna\", realm=\"Persona\", nonce=\"0\", uri=\"{address}\", response=\"{}\"\r\n",
        "0".repeat(32)
    );
    vec![
        request("OPTIONS", ""),
        request("DESCRIBE", "Accept: application/sdp\r\n"),
        request("DESCRIBE", &digest),
        request("DESCRIBE", "Authorization: Basic YW5uYTp3cm9uZw==\r\n"),
        request("SETUP", "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"),
        request("PLAY", "Session: 1\r\nRange: npt=0-\r\n"),
        request("GET_PARAMETER", "Content-Length: 4\r\n\r\nabcd"),
        request(
            "ANNOUNCE",
            "Content-Type: application/sdp\r\nContent-Length: 5\r\n\r\nv=0\r\n",
        ),
        b"$\0\0\x04abcd".to_vec(),
        b"GET /hall HTTP/1.0\r\nx-sessioncookie: 1\r\nAccept: application/x-rtsp-tunnelled\r\n\r\n".to_vec(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_the_password_gets_in() {
        // So it is the doors that keep the others out.
        let host = SERVED.page;
        let body = format!("name=anna&password={SECRET}");
        let form = "Content-Type: application/x-www-form-urlencoded";
        let login = format!(
            "POST /login HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\n{form}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        // The end of the request may overtake the answer, which hyper then does not give.
        let ask = |request: &str, wanted: &str| {
            let mut answers = (0..20).map(|_| answer(host, request.as_bytes()));
            answers.find(|answer| has(answer, wanted)).expect(wanted)
        };
        let given = String::from_utf8(ask(&login, "set-cookie: ")).unwrap();
        let (_, cookie) = given.split_once("set-cookie: ").expect(&given);
        let cookie = cookie.split(';').next().unwrap();
        let support = format!("GET /support.json HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\n\r\n");
        ask(&support, SECRET);
        for seed in page_seeds() {
            page(&seed);
        }
    }
}
