//! The operator's page in a real browser, through WebDriver (W3C): what a person sees and presses, with pictures of it
//! in `target/screenshots`.

mod boxed;
mod clip;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use boxed::{Boxed, free_port, password};
use serde_json::{Value, json};

/// A driver with one browser, ended with the test.
struct Browser {
    driver: Child,
    port: u16,
    session: String,
}

impl Browser {
    fn start(width: u32, height: u32) -> Self {
        let port = free_port();
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdout(Stdio::null())
            .spawn()
            .expect("chromedriver is installed");
        let mut browser = Self {
            driver,
            port,
            session: String::new(),
        };
        let until = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < until, "chromedriver does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        // As the superuser, in a container, there is no sandbox.
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
        ];
        let screen = json!({ "width": width, "height": height, "pixelRatio": 2 });
        let options = json!({ "args": arguments, "mobileEmulation": { "deviceMetrics": screen } });
        let wanted = json!({ "goog:chromeOptions": options, "goog:loggingPrefs": { "browser": "ALL" } });
        let session = browser.ask(
            "POST",
            "/session",
            &json!({ "capabilities": { "alwaysMatch": wanted } }),
        );
        browser.session = session["sessionId"].as_str().expect("a session").to_owned();
        browser
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if method == "POST" {
            body.to_string()
        } else {
            String::new()
        };
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            self.port,
            body.len()
        )
        .unwrap();
        // The driver keeps the connection whatever it is asked.
        let (mut reader, mut head, mut length) = (BufReader::new(stream), String::new(), 0);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if line.trim().is_empty() {
                break;
            }
            if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = text.trim().parse().expect("a length");
            }
            head.push_str(&line);
        }
        let mut answer = vec![0; length];
        reader.read_exact(&mut answer).unwrap();
        let body = String::from_utf8(answer).expect("WebDriver speaks UTF-8");
        assert!(head.starts_with("HTTP/1.1 200"), "{method} {path}: {head}{body}");
        let mut answer: Value = serde_json::from_str(&body).expect("WebDriver speaks JSON");
        answer["value"].take()
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.ask("POST", &format!("/session/{}/{path}", self.session), body)
    }

    fn open(&self, address: &str) {
        self.post("url", &json!({ "url": address }));
    }

    /// The first element that fits a CSS selector.
    fn element(&self, selector: &str) -> String {
        let found = self.post("element", &json!({ "using": "css selector", "value": selector }));
        let id = found
            .as_object()
            .and_then(|found| found.values().next())
            .and_then(Value::as_str);
        format!("element/{}", id.expect(selector))
    }

    fn click(&self, selector: &str) {
        self.post(&format!("{}/click", self.element(selector)), &json!({}));
    }

    fn write(&self, selector: &str, text: &str) {
        self.post(
            &format!("{}/value", self.element(selector)),
            &json!({ "text": text }),
        );
    }

    fn run(&self, script: &str) -> Value {
        self.post("execute/sync", &json!({ "script": script, "args": [] }))
    }

    fn wait(&self, condition: &str) {
        let until = Instant::now() + Duration::from_secs(30);
        while self.run(&format!("return Boolean({condition})")) != true {
            assert!(
                Instant::now() < until,
                "{condition} does not come true: {}",
                self.run("return document.body.innerText")
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The whole page as a picture, for people to look at.
    fn picture(&self, name: &str) {
        let path = format!("/session/{}/screenshot", self.session);
        let data = self.ask("GET", &path, &Value::Null);
        let bytes = gstreamer::glib::base64_decode(data.as_str().expect("a picture"));
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/screenshots");
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(format!("{folder}/{name}.png"), bytes).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.ask("DELETE", &format!("/session/{}", self.session), &Value::Null);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

#[test]
#[ignore = "needs a browser; cargo xtask test --with-browser installs Chromium and runs it"]
fn an_operator_with_a_phone() {
    clip::init();
    let dir = tempfile::tempdir().unwrap();
    password(dir.path(), "operator.password", "operator-secret");
    let (rtsp, port) = (free_port(), free_port());
    let config = format!(
        "site = \"Town <b>hall\"\n[rtsp]\nlisten = \"127.0.0.1:{rtsp}\"\n[page]\nlisten = \"127.0.0.1:{port}\"\n\
         [page.user]\nname = \"olga\"\npassword_file = \"operator.password\"\n\
         [[camera]]\nname = \"hall\"\nsource = \"test\"\n\
         [[camera]]\nname = \"garage\"\nsource = \"rtsp://127.0.0.1:{}/none\"\n",
        free_port()
    );
    let server = Boxed::start(dir.path(), rtsp, &config);
    let browser = Browser::start(400, 860);
    browser.open(&format!("http://127.0.0.1:{port}/"));
    browser.wait("location.pathname === '/login'");
    browser.picture("1-login");
    browser.write("input[name=name]", "olga");
    browser.write("input[name=password]", "wrong");
    browser.click("button.primary");
    browser.wait("document.querySelector('.notice')");
    browser.write("input[name=name]", "olga");
    browser.write("input[name=password]", "operator-secret");
    browser.click("button.primary");

    let state = |words: &str| {
        browser.wait(&format!(
            "document.querySelector('#state')?.textContent === '{words}'"
        ))
    };
    state("Anonymized");
    browser.wait("document.querySelectorAll('.stream').length === 2");
    // A name from the configuration is text, whatever is in it.
    assert_eq!(
        browser.run("return document.querySelector('#site').textContent"),
        "Town <b>hall"
    );
    // Both previews load: one live, one a slate with its reason.
    browser
        .wait("[...document.querySelectorAll('.picture')].every((picture) => picture.naturalWidth === 640)");
    browser.wait("document.querySelector('.badge').textContent === 'Live'");
    browser.wait("document.querySelectorAll('.badge')[1].textContent === 'No picture'");
    browser.wait("document.querySelectorAll('.reason')[1].textContent.includes('does not answer')");
    assert_eq!(
        browser.run("return document.documentElement.scrollWidth <= innerWidth"),
        true,
        "nothing is wider than the phone"
    );
    browser.picture("2-anonymized");
    browser.wait("document.querySelectorAll('#days article').length === 2");
    assert_eq!(
        browser.run("return document.querySelector('#file').getAttribute('href')"),
        browser.run("return `/reports/${document.querySelector('#day').value}.json`")
    );
    browser.run("document.querySelector('#report').scrollIntoView()");
    browser.picture("7-report");
    browser.run("scrollTo(0, 0)");

    browser.click("#cover");
    state("Everything covered");
    browser.wait("document.querySelector('#cover').textContent === 'Uncover'");
    browser.wait("document.querySelector('.badge').textContent === 'Covered'");
    let whole =
        "const badge = document.querySelector('.badge'); return badge.scrollWidth <= badge.clientWidth";
    assert_eq!(browser.run(whole), true, "the badge is too small for its text");
    browser.picture("3-covered");
    browser.click("#cover");
    state("Anonymized");
    browser.click("#shutter");
    state("Shutter closed");
    browser.wait("document.querySelector('.badge').textContent === 'Shutter closed'");
    browser.picture("4-shutter");
    browser.click("#shutter");
    state("Anonymized");
    browser.run("scrollTo(0, document.body.scrollHeight)");
    browser.picture("5-events");

    // Nothing that the browser complains of but the wrong password, and nothing fetched from elsewhere.
    let log = browser.post("se/log", &json!({ "type": "browser" }));
    let complaints: Vec<_> = log
        .as_array()
        .expect("a list")
        .iter()
        .filter(|line| {
            !line["message"]
                .as_str()
                .is_some_and(|message| message.contains("401"))
        })
        .collect();
    assert!(complaints.is_empty(), "{complaints:?}");
    let foreign = "return performance.getEntriesByType('resource').filter((entry) => !entry.name.startsWith(location.origin)).length";
    assert_eq!(browser.run(foreign), 0);

    assert_eq!(server.stop(), Some(0));
    browser.wait("!document.querySelector('#offline').hidden");
    // Wherever on the page one is.
    let notice = "const place = document.querySelector('#offline').getBoundingClientRect();
                  return scrollY > 0 && place.top >= 0 && place.bottom <= innerHeight && place.width <= innerWidth";
    assert_eq!(browser.run(notice), true, "the notice cannot be seen");
    browser.picture("6-offline");
}
