//! The operator's page and the telemetry of a box, as browsers and machines meet them.

mod boxed;
mod clip;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use boxed::{Boxed, free_port, metric, password};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// An answer.
struct Answer {
    status: u16,
    headers: String,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// The page opens a moment after the streams do.
fn connect(port: u16) -> TcpStream {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < until, "no page at port {port}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Sends bytes and reads until the box closes the connection.
fn send(port: u16, request: &[u8]) -> Answer {
    let mut stream = connect(port);
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    exchange(&mut stream, request).unwrap()
}

fn exchange(stream: &mut (impl Read + Write), request: &[u8]) -> std::io::Result<Answer> {
    stream.write_all(request)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let end = bytes
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap_or(bytes.len());
    let headers = String::from_utf8_lossy(&bytes[..end]).into_owned();
    Ok(Answer {
        status: headers
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .unwrap_or(0),
        headers,
        body: bytes.get(end + 4..).unwrap_or_default().to_vec(),
    })
}

fn request(port: u16, line: &str, headers: &[&str], body: &str) -> Answer {
    send(port, &written(port, line, headers, body))
}

fn written(port: u16, line: &str, headers: &[&str], body: &str) -> Vec<u8> {
    let host = format!("Host: 127.0.0.1:{port}");
    let host = if headers.iter().any(|header| header.starts_with("Host:")) {
        ""
    } else {
        &host
    };
    let mut lines = vec![format!("{line} HTTP/1.1")];
    lines.extend(
        [host]
            .into_iter()
            .filter(|line| !line.is_empty())
            .map(str::to_owned),
    );
    lines.extend(headers.iter().map(|header| (*header).to_owned()));
    lines.push(format!(
        "Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    ));
    lines.join("\r\n").into_bytes()
}

/// Makes a certificate of this machine's own, with its key; the same name makes another one.
fn certificate(folder: &Path, name: &str) {
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ])
        .args(["-nodes", "-days", "1", "-subj", "/CN=box"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.crt")])
        .current_dir(folder)
        .stderr(Stdio::null())
        .status();
    assert!(made.unwrap().success());
}

/// A browser that trusts one certificate and nothing else.
fn trusting(certificate: &Path) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(certificate).unwrap())
        .unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// As [`request`], over TLS.
fn https(
    browser: &Arc<ClientConfig>,
    port: u16,
    line: &str,
    headers: &[&str],
    body: &str,
) -> std::io::Result<Answer> {
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let connection = ClientConnection::new(browser.clone(), name).unwrap();
    exchange(
        &mut StreamOwned::new(connection, connect(port)),
        &written(port, line, headers, body),
    )
}

const PASSWORD: &str = "operator-secret";

/// Logs in and gives the cookie and the token against forged requests.
fn log_in(port: u16) -> (String, String) {
    let origin = format!("Origin: http://127.0.0.1:{port}");
    let form = "Content-Type: application/x-www-form-urlencoded";
    let answer = request(
        port,
        "POST /login",
        &[&origin, form],
        &format!("name=olga&password={PASSWORD}"),
    );
    assert_eq!(answer.status, 303, "{}", answer.text());
    let cookie = answer.header("set-cookie").expect("a session");
    for word in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(cookie.contains(word), "{cookie}");
    }
    let cookie = format!("Cookie: {}", cookie.split(';').next().unwrap());
    let page = request(port, "GET /", &[&cookie], "").text();
    let csrf = page
        .split("name=\"csrf\" content=\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next());
    (cookie, csrf.expect("a token").to_owned())
}

fn config(rtsp: u16, page: u16, more: &str) -> String {
    format!(
        "site = \"Town hall\"\n[rtsp]\nlisten = \"127.0.0.1:{rtsp}\"\n[page]\nlisten = \"127.0.0.1:{page}\"\n\
         [page.user]\nname = \"olga\"\npassword_file = \"operator.password\"\n{more}\
         [[camera]]\nname = \"hall\"\nsource = \"test\"\n"
    )
}

fn start(folder: &Path) -> (Boxed, u16) {
    password(folder, "operator.password", PASSWORD);
    let (rtsp, page) = (free_port(), free_port());
    (Boxed::start(folder, rtsp, &config(rtsp, page, "")), page)
}

fn wait_until(what: &str, mut there: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !there() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn the_operator_sees_and_presses_and_nobody_else_does() {
    clip::init();
    let dir = tempfile::tempdir().unwrap();
    let (_server, port) = start(dir.path());
    let own = format!("Origin: http://127.0.0.1:{port}");
    wait_until("the box is ready", || {
        request(port, "GET /readyz", &[], "").status == 200
    });
    assert_eq!(request(port, "GET /healthz", &[], "").text(), "ok\n");

    // Without a session there is nothing to see but the door.
    let door = request(port, "GET /", &[], "");
    assert_eq!((door.status, door.header("location")), (303, Some("/login")));
    for path in ["/api/status", "/preview/hall", "/support.json"] {
        let answer = request(port, &format!("GET {path}"), &["Cookie: persona=0123"], "");
        assert_eq!(answer.status, 401, "{path}");
    }
    assert_eq!(
        request(port, "POST /api/press", &[&own], "{\"press\":\"short\"}").status,
        401
    );

    let (cookie, csrf) = log_in(port);
    let page = request(port, "GET /", &[&cookie], "");
    assert_eq!(page.status, 200);
    for (header, value) in [
        ("content-security-policy", "default-src 'none'; script-src 'self'"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "same-origin"),
        ("cache-control", "no-store"),
    ] {
        assert!(
            page.header(header).is_some_and(|got| got.starts_with(value)),
            "{header}: {}",
            page.headers
        );
    }
    for path in ["/", "/login", "/page.css", "/page.js", "/icon.svg"] {
        let text = request(port, &format!("GET {path}"), &[&cookie], "").text();
        let outside = text.replace("http://www.w3.org/2000/svg", "");
        assert!(
            !outside.contains("http://") && !outside.contains("https://"),
            "{path} asks others"
        );
    }

    let status = || -> serde_json::Value {
        serde_json::from_str(&request(port, "GET /api/status", &[&cookie], "").text()).unwrap()
    };
    let first = status();
    assert_eq!(
        (&first["site"], &first["state"]),
        (&"Town hall".into(), &"anonymizing".into())
    );
    assert_eq!(first["streams"][0]["up"], true);

    // The preview is a picture of the stream's shape.
    let mut picture = request(port, "GET /preview/hall", &[&cookie], "");
    wait_until("a preview comes", || {
        picture = request(port, "GET /preview/hall", &[&cookie], "");
        picture.status == 200
    });
    let picture = image::load_from_memory(&picture.body).unwrap();
    assert_eq!((picture.width(), picture.height()), (640, 360));
    assert_eq!(request(port, "GET /preview/none", &[&cookie], "").status, 404);

    // The buttons need the page's origin and the session's token.
    let token = format!("X-CSRF-Token: {csrf}");
    let (own, token) = (own.as_str(), token.as_str());
    let json = "Content-Type: application/json";
    let press = |headers: &[&str], press: &str| {
        let body = format!("{{\"press\":\"{press}\"}}");
        let headers = [&[cookie.as_str(), json], headers].concat();
        request(port, "POST /api/press", &headers, &body).status
    };
    let (evil, other) = ("Origin: http://evil.example", "Sec-Fetch-Site: cross-site");
    for headers in [
        &[][..],
        &[own],
        &[token],
        &[token, evil],
        &[token, own, other],
        &[own, "X-CSRF-Token: 00"],
    ] {
        assert_eq!(press(headers, "short"), 403, "{headers:?}");
    }
    assert_eq!(status()["state"], "anonymizing");
    assert_eq!(press(&[own, token], "short"), 204);
    wait_until("everything is covered", || {
        status()["state"] == "covering on request"
    });
    let covered = status()["streams"][0]["frames_covered"].as_u64().unwrap();
    wait_until("frames are covered whole", || {
        status()["streams"][0]["frames_covered"].as_u64().unwrap() > covered + 3
    });
    assert_eq!(press(&[own, token], "short"), 204);
    wait_until("everything is as before", || status()["state"] == "anonymizing");
    assert_eq!(press(&[own, token], "double"), 204);
    wait_until("the shutter closes", || status()["state"] == "shuttered");
    assert!(press(&[own, token], "triple") >= 400);

    // The support bundle has the configuration, the numbers and no password.
    let bundle = request(port, "GET /support.json", &[&cookie], "");
    let bundle: serde_json::Value = serde_json::from_str(&bundle.text()).unwrap();
    assert!(
        bundle["configuration"]
            .as_str()
            .unwrap()
            .contains("password_file")
    );
    assert!(bundle["metrics"].as_str().unwrap().contains("persona_stream_up"));
    assert!(!bundle.to_string().contains(PASSWORD));

    assert_eq!(
        request(port, "POST /logout", &[&cookie, own, token], "").status,
        204
    );
    assert_eq!(request(port, "GET /api/status", &[&cookie], "").status, 401);
}

#[test]
fn a_day_is_reported_over_restarts() {
    clip::init();
    let dir = tempfile::tempdir().unwrap();
    let read = |name: &str| -> serde_json::Value {
        let path = dir.path().join("reports").join(name);
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    };
    let mut frames = 0;
    for starts in 1..=2 {
        let (server, port) = start(dir.path());
        wait_until("the box is ready", || {
            request(port, "GET /readyz", &[], "").status == 200
        });
        for path in ["/api/reports", "/reports/2026-01-01.json"] {
            assert_eq!(
                request(port, &format!("GET {path}"), &[], "").status,
                401,
                "{path}"
            );
        }
        let (cookie, _) = log_in(port);
        let get = |path: &str| request(port, &format!("GET {path}"), &[&cookie], "");
        let mut days = Vec::<String>::new();
        wait_until("there is a day", || {
            days = serde_json::from_str(&get("/api/reports").text()).unwrap();
            !days.is_empty()
        });
        let today = format!("{}.json", days[0]);
        let shown: serde_json::Value =
            serde_json::from_str(&get(&format!("/reports/{today}")).text()).unwrap();
        assert_eq!((&shown["schema"], &shown["starts"]), (&1.into(), &starts.into()));
        for path in [
            "/reports/1999-01-01.json",
            "/reports/persona.toml",
            "/reports/..%2Fpersona.toml",
        ] {
            assert_eq!(get(path).status, 404, "{path}");
        }
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(server.stop(), Some(0));
        let now = read(&today)["streams"]["hall"]["frames"]["anonymized"]
            .as_u64()
            .unwrap();
        assert!(now > frames, "{now} frames after {frames}");
        frames = now;
    }
}

#[test]
fn strangers_guessers_and_nonsense_are_turned_away() {
    clip::init();
    let dir = tempfile::tempdir().unwrap();
    let (_server, port) = start(dir.path());
    let own = format!("Origin: http://127.0.0.1:{port}");
    // Another name for this address: DNS rebinding.
    for path in ["/", "/login", "/metrics"] {
        let answer = request(port, &format!("GET {path}"), &["Host: evil.example"], "");
        assert_eq!(answer.status, 403, "{path}");
    }
    for (bytes, what) in [
        (&b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"[..], "TLS"),
        (b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", "no host"),
        (b"GET /../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n", "a way out"),
        (b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\nzz\r\n", "smuggling"),
    ] {
        let answer = send(port, bytes);
        assert!(answer.status == 0 || answer.status >= 300, "{what}: {}", answer.headers);
    }
    let form = "Content-Type: application/x-www-form-urlencoded";
    let guess = |body: &str| request(port, "POST /login", &[&own, form], body).status;
    assert_eq!(guess(&"x".repeat(100_000)), 413);
    assert_eq!(
        request(port, "POST /login", &[form], "name=olga&password=x").status,
        403
    );
    for _ in 0..5 {
        assert_eq!(guess("name=olga&password=wrong"), 401);
    }
    assert_eq!(guess(&format!("name=olga&password={PASSWORD}")), 429);
    let metrics = request(port, "GET /metrics", &[], "").text();
    assert!(
        metrics.contains("persona_page_logins_total{result=\"limited\"} 1"),
        "{metrics}"
    );
}

#[test]
fn idle_connections_keep_the_operator_out_for_a_moment_only() {
    clip::init();
    let dir = tempfile::tempdir().unwrap();
    let (_server, port) = start(dir.path());
    let mut idle: Vec<_> = (0..200).map(|_| connect(port)).collect();
    let start = Instant::now();
    // Resets and empty answers until there is a place again.
    let get = written(port, "GET /login", &[], "");
    while exchange(&mut connect(port), &get).map_or(0, |answer| answer.status) != 200 {
        assert!(
            start.elapsed() < Duration::from_secs(15),
            "the operator is kept out"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(metric(port, "persona_page_turned_away_total", "") >= 136.0);
    for stream in &mut idle {
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let end = stream.read(&mut [0]);
        assert!(
            !matches!(&end, Ok(1..)) && start.elapsed() < Duration::from_secs(15),
            "{end:?}"
        );
    }
}

#[test]
fn with_a_certificate_the_page_is_served_over_tls_only() {
    clip::init();
    let dir = tempfile::tempdir().unwrap();
    password(dir.path(), "operator.password", PASSWORD);
    let (rtsp, port) = (free_port(), free_port());
    certificate(dir.path(), "box");
    let path = dir.path().join("box.crt");
    let text = config(
        rtsp,
        port,
        "[page.tls]\ncertificate = \"box.crt\"\nkey = \"box.key\"\n",
    );
    let server = Boxed::start(dir.path(), rtsp, &text);
    let browser = trusting(&path);
    let mut silent = connect(port);
    let opened = Instant::now();

    let door = https(&browser, port, "GET /login", &[], "").unwrap();
    assert_eq!(
        (door.status, door.header("strict-transport-security")),
        (200, Some("max-age=31536000"))
    );
    let clear = exchange(&mut connect(port), &written(port, "GET /login", &[], ""));
    assert!(
        clear.map_or(true, |answer| answer.status == 0),
        "an answer without TLS"
    );
    let form = "Content-Type: application/x-www-form-urlencoded";
    let log_in = |scheme: &str| {
        let origin = format!("Origin: {scheme}://127.0.0.1:{port}");
        let body = format!("name=olga&password={PASSWORD}");
        https(&browser, port, "POST /login", &[&origin, form], &body).unwrap()
    };
    assert_eq!(log_in("http").status, 403);
    let answer = log_in("https");
    let cookie = answer.header("set-cookie").expect("a session");
    assert!(
        cookie.contains("HttpOnly") && cookie.ends_with("; Secure"),
        "{cookie}"
    );
    let cookie = format!("Cookie: {}", cookie.split(';').next().unwrap());
    let status = |browser| https(browser, port, "GET /api/status", &[&cookie], "");
    assert_eq!(status(&browser).unwrap().status, 200);

    // Half a renewal is refused, a whole one taken over; the session goes on.
    let key = dir.path().join("box.key");
    let old = std::fs::read(&key).unwrap();
    certificate(dir.path(), "box");
    let new = std::fs::read(&key).unwrap();
    std::fs::write(&key, old).unwrap();
    server.reload(&text);
    wait_until("the refusal is told", || {
        status(&browser)
            .unwrap()
            .text()
            .contains("box.key: this is not the key of the certificate")
    });
    std::fs::write(&key, new).unwrap();
    server.reload(&text);
    let browser_after = trusting(&path);
    wait_until("the new certificate is served", || status(&browser_after).is_ok());
    assert_eq!(status(&browser_after).unwrap().status, 200);
    assert!(status(&browser).is_err(), "the old certificate is still served");

    // Another password ends the sessions of the one before.
    password(dir.path(), "operator.password", "another-secret");
    server.reload(&text);
    wait_until("the session ends", || {
        status(&browser_after).unwrap().status == 401
    });

    // Who never begins the handshake is cut off.
    silent.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
    assert!(opened.elapsed() < Duration::from_secs(20));
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn every_metric_is_documented_and_there_are_enough() {
    clip::init();
    let dir = tempfile::tempdir().unwrap();
    let (_server, port) = start(dir.path());
    wait_until("the box is ready", || {
        request(port, "GET /readyz", &[], "").status == 200
    });
    let answer = request(port, "GET /metrics", &[], "");
    assert!(
        answer
            .header("content-type")
            .unwrap()
            .contains("openmetrics-text")
    );
    let text = answer.text();
    let manual =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/telemetry.md")).unwrap();
    let mut families = 0;
    for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
        let mut words = line.split(' ').skip(2);
        let (name, kind) = (words.next().unwrap(), words.next().unwrap());
        let name = if kind == "counter" {
            format!("{name}_total")
        } else {
            name.to_owned()
        };
        assert!(
            manual.contains(&format!("`{name}`")),
            "docs/telemetry.md lacks {name}"
        );
        families += 1;
    }
    assert!(families >= 40, "{families} families");
    assert!(text.trim_end().ends_with("# EOF"));
    let value = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).expect(name);
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    assert_eq!(value("persona_stream_up{stream=\"hall\"}"), 1.0);
    assert!(value("persona_frames_anonymized_total{stream=\"hall\"}") > 0.0);
    assert_eq!(value("persona_privacy_state{state=\"anonymizing\"}"), 1.0);
    assert!(value("persona_process_resident_bytes") > 1e6);
}
