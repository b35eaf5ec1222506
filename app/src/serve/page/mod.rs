//! The operator's page and the telemetry, over HTTP.
//!
//! | path | login | what |
//! |---|---|---|
//! | `/healthz`, `/readyz`, `/metrics` | no | for machines; no picture, no address, no secret |
//! | `/`, `/api/status`, `/api/reports`, `/preview/NAME`, `/reports/DAY.json`, `/support.json` | yes | for the operator |
//! | `/login`, `/logout`, `/api/press`, `/api/reset` | | POST, from the page itself only |
//!
//! # What keeps strangers out
//! * It listens at loopback unless the configuration says otherwise twice, and answers only to hosts that are addresses,
//!   `localhost` or in the configuration, so that no foreign name can be made to point here (DNS rebinding).
//! * Sessions are random tokens in a cookie that scripts cannot read and other sites cannot send; they end after half an
//!   hour of rest and half a day at the latest. Five wrong passwords from an address within a minute close it for a minute.
//! * What changes something is a POST whose origin is the page's own and that carries the session's token.
//! * Connections are counted and timed: [`connections`]. With a certificate they are TLS, and nothing else is answered.
//! * The preview is what viewers see: it is taken on the way to the encoder. No path leads to the camera's picture.
//!
//! hyper reads the requests: it is the most used HTTP implementation in Rust and fuzzed; see docs/architecture.md.

mod connections;
mod login;
mod support;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::extract::{DefaultBodyLimit, Form, Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use board::Press;
use gstreamer as gst;
use gstreamer_video as gst_video;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::config::{self, Certificate, Secret};
use super::metrics;
use super::site::{Served, Site};
use super::status::{Count, Health};
use super::{Error, login as operator};
use crate::pipeline::{Reason, Stage};
use connections::{Limits, Peer};
use login::{Login, Verdict};

/// Largest body of a request.
const LARGEST_BODY: usize = 4096;
/// Largest width of a preview.
const PREVIEW: i32 = 640;
/// How long encoding a preview may take.
const ENCODING: gst::ClockTime = gst::ClockTime::from_seconds(3);

/// What visitors did.
#[derive(Default)]
pub(super) struct Visits {
    requests: AtomicU64,
    refused: AtomicU64,
    logins: AtomicU64,
    wrong: AtomicU64,
    limited: AtomicU64,
    turned_away: AtomicU64,
}

/// [`Visits`] at one moment.
pub(super) struct VisitCounts {
    pub(super) requests: u64,
    pub(super) refused: u64,
    pub(super) logins: u64,
    pub(super) wrong: u64,
    pub(super) limited: u64,
    pub(super) turned_away: u64,
}

impl Visits {
    pub(super) fn counts(&self) -> VisitCounts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        VisitCounts {
            requests: load(&self.requests),
            refused: load(&self.refused),
            logins: load(&self.logins),
            wrong: load(&self.wrong),
            limited: load(&self.limited),
            turned_away: load(&self.turned_away),
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What every request needs.
struct Page {
    site: Arc<Site>,
    visits: Arc<Visits>,
    access: RwLock<Arc<Access>>,
}

/// Who is let in, and how.
struct Access {
    /// `None` without an operator: there is no page then.
    login: Option<Arc<Login>>,
    /// Host names to which it answers, beside addresses and `localhost`.
    hosts: Vec<String>,
    certificate: Option<Certificate>,
}

impl Page {
    fn access(&self) -> Arc<Access> {
        self.access.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How to serve the page: its configuration, and every file that this names.
pub(super) struct Settings {
    listen: SocketAddr,
    hosts: Vec<String>,
    /// Name and password of the operator.
    operator: Option<(String, Secret)>,
    certificate: Option<Certificate>,
}

impl Settings {
    /// Reads the files.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub(super) fn read(page: &config::Page) -> Result<Self, Error> {
        let user = page.user.as_ref().map(|user| operator(user, Secret::LEAST));
        Ok(Self {
            listen: page.listen,
            hosts: page.hosts.clone(),
            operator: user.transpose()?,
            certificate: page.tls.as_ref().map(Certificate::read).transpose()?,
        })
    }

    /// Sessions of `before` go on when the operator is the same.
    fn access(self, before: Option<&Access>) -> Access {
        let login = self.operator.map(|(name, password)| {
            before
                .and_then(|before| before.login.clone())
                .filter(|login| login.is_of(&name, &password))
                .unwrap_or_else(|| Arc::new(Login::new(name, password)))
        });
        Access {
            login,
            hosts: self.hosts,
            certificate: self.certificate,
        }
    }
}

/// The page's thread; dropping it ends it.
pub(super) struct Server {
    page: Arc<Page>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens and answers.
    ///
    /// # Errors
    /// When the address cannot be listened at or the system gives no thread.
    pub(super) fn start(settings: Settings, site: Arc<Site>) -> std::io::Result<Self> {
        let listener = std::net::TcpListener::bind(settings.listen)?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(2)
            .build()?;
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let page = Arc::new(Page {
            site,
            visits: Arc::default(),
            access: RwLock::new(Arc::new(settings.access(None))),
        });
        let (stop, stopped) = oneshot::channel::<()>();
        let served = page.clone();
        let thread = std::thread::Builder::new().name("page".into()).spawn(move || {
            let router = router(served.clone());
            let tls = || served.access().certificate.as_ref().map(Certificate::server);
            runtime.block_on(async {
                tokio::select! {
                    () = connections::serve(listener, router, Limits::BOX, tls, &served.visits.turned_away) => (),
                    _ = stopped => (),
                }
            });
        })?;
        Ok(Self {
            page,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Takes over other settings for every request and connection from now on, all but the address; says whether
    /// anything is different.
    pub(super) fn set(&self, settings: Settings) -> bool {
        let before = self.page.access();
        let after = settings.access(Some(&before));
        let same_login = match (&before.login, &after.login) {
            (Some(before), Some(after)) => Arc::ptr_eq(before, after),
            (before, after) => before.is_none() && after.is_none(),
        };
        let same = same_login && before.hosts == after.hosts && before.certificate == after.certificate;
        *self.page.access.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(after);
        !same
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the page's thread panicked");
        }
    }
}

fn router(page: Arc<Page>) -> Router {
    let operator = Router::new()
        .route("/", get(index))
        .route("/api/status", get(status))
        .route("/api/press", post(press))
        .route("/api/reset", post(reset))
        .route("/preview/{stream}", get(preview))
        .route("/support.json", get(support))
        .route("/api/reports", get(days))
        .route("/reports/{day}", get(day))
        .route("/logout", post(logout))
        .route_layer(axum::middleware::from_fn_with_state(page.clone(), only_operator));
    let everybody = Router::new()
        .route("/login", get(ask).post(log_in))
        .route(
            "/page.css",
            get(|| async { asset("text/css", include_str!("page.css")) }),
        )
        .route(
            "/page.js",
            get(|| async { asset("text/javascript", include_str!("page.js")) }),
        )
        .route(
            "/icon.svg",
            get(|| async { asset("image/svg+xml", include_str!("icon.svg")) }),
        );
    let telemetry = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics));
    let pages = operator
        .merge(everybody)
        .route_layer(axum::middleware::from_fn_with_state(page.clone(), with_operator));
    pages
        .merge(telemetry)
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .layer(axum::middleware::from_fn_with_state(page.clone(), guard))
        .with_state(page)
}

fn asset(kind: &'static str, text: &'static str) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, format!("{kind}; charset=utf-8"))], text)
}

/// Looks at every request before anything else does, and at every answer after everything else.
async fn guard(State(page): State<Arc<Page>>, request: Request, next: Next) -> Response {
    count(&page.visits.requests);
    let access = page.access();
    let tls = request.extensions().get::<Peer>().is_some_and(|peer| peer.tls);
    let mut response = match refusal(&access, &request, tls) {
        Some(reason) => {
            count(&page.visits.refused);
            (StatusCode::FORBIDDEN, reason).into_response()
        }
        None => next.run(request).await,
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
             form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        // With no-referrer browsers would hide the origin of forms too.
        (header::REFERRER_POLICY, "same-origin"),
        (header::CACHE_CONTROL, "no-store"),
        (
            header::HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            header::HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
        (
            header::HeaderName::from_static("permissions-policy"),
            "camera=(), microphone=(), geolocation=()",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if tls {
        // A browser forgets it with a certificate that it does not trust (RFC 6797, 8.1).
        headers.insert(
            header::STRICT_TRANSPORT_SECURITY,
            HeaderValue::from_static("max-age=31536000"),
        );
    }
    response
}

/// Why a request is not looked at any further.
fn refusal(access: &Access, request: &Request, tls: bool) -> Option<&'static str> {
    let text = |name: header::HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
    let host = text(header::HOST).unwrap_or_default();
    if !is_ours(host, &access.hosts) {
        return Some("this is not a name of this box; page.hosts in its configuration lists them\n");
    }
    if request.method() == Method::POST {
        let origin = text(header::ORIGIN).and_then(|origin| origin.split_once("://"));
        // Without TLS of its own there may be a proxy's.
        let ours = |(scheme, origin)| origin == host && (scheme == "https" || (scheme == "http" && !tls));
        if !origin.is_some_and(ours) {
            return Some("this request does not come from the page itself\n");
        }
        let site = request.headers().get("sec-fetch-site");
        if site.is_some_and(|site| site != "same-origin") {
            return Some("this request does not come from the page itself\n");
        }
    }
    None
}

/// Whether a `Host` header is an address, `localhost`, or one of `hosts`.
fn is_ours(host: &str, hosts: &[String]) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    address.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || hosts.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// The session's token, if a cookie carries one.
fn token(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).iter();
    cookies
        .filter_map(|value| value.to_str().ok())
        .flat_map(|line| line.split(';'))
        .find_map(|cookie| cookie.trim().strip_prefix("persona="))
}

/// Without an operator there is no page.
async fn with_operator(State(page): State<Arc<Page>>, request: Request, next: Next) -> Response {
    if page.access().login.is_some() {
        next.run(request).await
    } else {
        StatusCode::NOT_FOUND.into_response()
    }
}

/// Lets nobody pass but the operator; what changes something needs the session's own token too.
async fn only_operator(State(page): State<Arc<Page>>, request: Request, next: Next) -> Response {
    let Some(login) = &page.access().login else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let session = token(request.headers()).and_then(|token| login.session(token, Instant::now()));
    let Some(csrf) = session else {
        let page_itself = request.uri().path() == "/";
        return if page_itself {
            Redirect::to("/login").into_response()
        } else {
            (StatusCode::UNAUTHORIZED, "log in first\n").into_response()
        };
    };
    if request.method() == Method::POST {
        let given = request.headers().get("x-csrf-token");
        if given.is_none_or(|given| given.as_bytes() != csrf.as_bytes()) {
            count(&page.visits.refused);
            return (StatusCode::FORBIDDEN, "reload the page\n").into_response();
        }
    }
    next.run(request).await
}

async fn index(State(page): State<Arc<Page>>, headers: HeaderMap) -> Response {
    let login = page.access().login.clone();
    let csrf = login.and_then(|login| login.session(token(&headers)?, Instant::now()));
    // Digits and letters only, made by the box: nothing to escape.
    Html(include_str!("index.html").replace("{csrf}", &csrf.unwrap_or_default())).into_response()
}

async fn ask() -> Html<&'static str> {
    Html(include_str!("login.html"))
}

#[derive(Deserialize)]
struct Credentials {
    name: String,
    password: String,
}

async fn log_in(
    State(page): State<Arc<Page>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    Form(credentials): Form<Credentials>,
) -> Response {
    let Some(login) = &page.access().login else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let from = peer.address;
    let again = |words: &str| {
        let notice = format!("<p class=\"notice\" role=\"alert\">{words}</p>");
        Html(include_str!("login.html").replace("<!--notice-->", &notice))
    };
    match login.attempt(from, &credentials.name, &credentials.password, Instant::now()) {
        Ok(Verdict::Right(token)) => {
            count(&page.visits.logins);
            page.site.events.note("page", format!("login from {from}"));
            // A proxy that says that it speaks TLS is believed: the flag only takes something away.
            let proxied = headers
                .get("x-forwarded-proto")
                .is_some_and(|proto| proto == "https");
            let secure = if peer.tls || proxied { "; Secure" } else { "" };
            let cookie = format!("persona={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age=43200{secure}");
            ([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response()
        }
        Ok(Verdict::Wrong) => {
            count(&page.visits.wrong);
            page.site
                .events
                .note("page", format!("wrong password from {from}"));
            (StatusCode::UNAUTHORIZED, again("Name or password is wrong.")).into_response()
        }
        Ok(Verdict::Limited) => {
            count(&page.visits.limited);
            let wait = [(header::RETRY_AFTER, "60")];
            let words = "Too many wrong passwords. Wait a minute.";
            (StatusCode::TOO_MANY_REQUESTS, wait, again(words)).into_response()
        }
        Err(error) => {
            log::error!("no random numbers for a session: {error}");
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
    }
}

async fn logout(State(page): State<Arc<Page>>, headers: HeaderMap) -> impl IntoResponse {
    if let (Some(login), Some(token)) = (&page.access().login, token(&headers)) {
        login.end(token);
    }
    let cookie = "persona=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0";
    (StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie)])
}

async fn healthz(State(page): State<Arc<Page>>) -> impl IntoResponse {
    if page.site.is_alive(Instant::now()) {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the main loop stands still\n")
    }
}

async fn readyz(State(page): State<Arc<Page>>) -> impl IntoResponse {
    let unready = page.site.unready();
    if unready.is_empty() {
        return (StatusCode::OK, "ready\n".to_owned());
    }
    let lines = unready.iter().map(|(name, lost)| format!("{name}: {lost}\n"));
    (StatusCode::SERVICE_UNAVAILABLE, lines.collect())
}

async fn metrics(State(page): State<Arc<Page>>) -> Response {
    let kind = [(
        header::CONTENT_TYPE,
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
    )];
    match metrics::text(&page.site, &page.visits) {
        Ok(text) => (kind, text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[derive(Deserialize)]
struct Pressed {
    press: PressName,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum PressName {
    Short,
    Double,
}

async fn press(State(page): State<Arc<Page>>, Json(pressed): Json<Pressed>) -> StatusCode {
    let press = match pressed.press {
        PressName::Short => Press::Short,
        PressName::Double => Press::Double,
    };
    page.site.press(press);
    StatusCode::NO_CONTENT
}

async fn reset(State(page): State<Arc<Page>>) -> StatusCode {
    page.site.reset();
    StatusCode::NO_CONTENT
}

async fn status(State(page): State<Arc<Page>>) -> Json<Value> {
    Json(describe(&page.site, Instant::now()))
}

async fn support(State(page): State<Arc<Page>>) -> impl IntoResponse {
    let bundle = support::bundle(&page.site, &page.visits);
    let disposition = "attachment; filename=\"persona-support.json\"";
    ([(header::CONTENT_DISPOSITION, disposition)], Json(bundle))
}

/// The days that have a privacy report.
async fn days(State(page): State<Arc<Page>>) -> Json<Value> {
    Json(json!(page.site.report().days()))
}

async fn day(State(page): State<Arc<Page>>, Path(name): Path<String>) -> Response {
    let date = name.strip_suffix(".json");
    match date.and_then(|date| page.site.report().day(date)) {
        Some(report) => ([(header::CONTENT_TYPE, "application/json")], report).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// The box for the page's script.
fn describe(site: &Site, now: Instant) -> Value {
    let (state, readings) = (site.state(), site.readings());
    let events: Vec<_> = site
        .events
        .latest()
        .into_iter()
        .map(|event| {
            let time = event
                .time
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap_or(Duration::ZERO);
            json!({ "time": time.as_secs(), "stream": event.stream, "what": event.what })
        })
        .collect();
    json!({
        "site": site.name,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": site.uptime(now).as_secs(),
        "state": state.to_string(),
        "viewers": site.server.viewers(),
        "temperature_c": readings.hottest().map(|hottest| f64::from(hottest) / 1e3),
        "throttled": readings.throttled,
        "report_stopped": site.report_stopped(),
        "streams": site.streams().iter().map(|stream| describe_stream(stream, now)).collect::<Vec<_>>(),
        "events": events,
    })
}

fn describe_stream(stream: &Served, now: Instant) -> Value {
    let health = &stream.health;
    let (lost, since) = health.camera();
    let totals = health.totals();
    let covered: Vec<_> = Reason::ALL
        .into_iter()
        .map(|reason| json!({ "reason": reason.to_string(), "faces": totals.covered[reason as usize] }))
        .collect();
    let delay = health.snapshot().map(|snapshot| snapshot.times(Stage::Total));
    let (width, height) = health.size();
    json!({
        "name": health.name(),
        "address": stream.address,
        "up": lost.is_none(),
        "reason": lost.map(|lost| lost.to_string()),
        "since_s": now.saturating_duration_since(since).as_secs(),
        "width": width,
        "height": height,
        "frames": totals.frames,
        "frames_covered": totals.frames_covered,
        "late": health.counted(Count::LateBefore) + health.counted(Count::LateAfter),
        "losses": health.counted(Count::Losses),
        "generated": totals.generated,
        "covered": covered,
        "delay_median_ms": delay.map(|delay| delay.median.as_secs_f64() * 1e3),
        "delay_p99_ms": delay.map(|delay| delay.p99.as_secs_f64() * 1e3),
        "recorded": stream.recorded,
        "recording_stopped": health.recording_stopped(),
    })
}

async fn preview(State(page): State<Arc<Page>>, Path(name): Path<String>) -> Response {
    let Some(stream) = page
        .site
        .streams()
        .into_iter()
        .find(|stream| stream.health.name() == name)
    else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let health = stream.health.clone();
    health.watch(Instant::now());
    match tokio::task::spawn_blocking(move || jpeg(&health)).await {
        Ok(Ok(Some(picture))) => ([(header::CONTENT_TYPE, "image/jpeg")], picture).into_response(),
        // The first frame since somebody looks is still to come.
        Ok(Ok(None)) => StatusCode::NO_CONTENT.into_response(),
        Ok(Err(error)) => {
            log::warn!("{name}: no preview: {error}");
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// What viewers see at this moment, small.
fn jpeg(health: &Health) -> Result<Option<Vec<u8>>, gst::glib::Error> {
    let Some(sample) = health.preview() else {
        return Ok(None);
    };
    let (width, height) = health.size();
    let (width, height) = (width.max(1) as i32, height.max(1) as i32);
    let small = width.min(PREVIEW);
    let caps = gst::Caps::builder("image/jpeg")
        .field("width", small)
        .field("height", (height * small / width).max(1))
        .field("pixel-aspect-ratio", gst::Fraction::new(1, 1))
        .build();
    let picture = gst_video::convert_sample(&sample, &caps, Some(ENCODING))?;
    Ok(picture
        .buffer()
        .and_then(|buffer| buffer.map_readable().ok().map(|bytes| bytes.to_vec())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_names_are_answered_to() {
        let hosts = vec!["persona.example".to_owned()];
        for (host, ours) in [
            ("127.0.0.1:8080", true),
            ("192.168.1.7", true),
            ("[::1]:8080", true),
            ("localhost:8080", true),
            ("LOCALHOST", true),
            ("persona.example", true),
            ("Persona.Example:443", true),
            ("evil.example:8080", false),
            ("127.0.0.1.evil.example", false),
            ("persona.example.evil.example", false),
            ("", false),
        ] {
            assert_eq!(is_ours(host, &hosts), ours, "{host}");
        }
    }

    #[test]
    fn the_cookie_is_found_among_others() {
        let mut headers = HeaderMap::new();
        assert_eq!(token(&headers), None);
        headers.append(header::COOKIE, HeaderValue::from_static("a=b; persona=0f; c=d"));
        assert_eq!(token(&headers), Some("0f"));
    }
}
