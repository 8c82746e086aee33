//! A real Chromium for the tests of the pages, driven through its DevTools protocol by blocking calls over the
//! tungstenite that is there anyway.
//!
//! One browser serves a whole test file; it ends with the process that started it, whichever way that ends (a shell
//! holds it and reads from a pipe that dies with us), and its profile is removed. Each [`Visitor`] has a connection to
//! the browser and a context of its own (cookies, storage, cache: as good as another machine), and opens [`Page`]s.
//!
//! Every page writes down what was asked for and what went wrong in it. When it is dropped it holds the test to two
//! things: nothing was asked of anybody but the daemon, and the console stayed clean but for what
//! [`Page::expect_errors`] named.
//!
//! Where there is no Chromium [`visitor`] says so on the terminal, past the capture of the test runner, and the test
//! passes by returning. `TIMERD_CHROMIUM` names another one.

#![allow(dead_code, unreachable_pub, reason = "a harness has more than is used at a time")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

pub mod proxy;

/// How long anything may take that should be immediate, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// axe-core, the checker of accessibility; see `axe.md` beside this file.
const AXE: &str = include_str!("axe.min.js");

/// What lies between a test and the wrong clock of a device: `Date` can be shifted, and a sleep can be had, in which
/// neither `Date` nor `performance.now()` is told the truth about what went by. `__device.now()` is the true time.
const DEVICE: &str = r"
(() => {
  const TrueDate = Date, truePerformance = performance.now.bind(performance);
  const device = { shift: __SHIFT__, slept: 0, now: () => TrueDate.now() };
  Date = new Proxy(TrueDate, {
    construct: (target, given) => given.length ? new target(...given) : new target(target.now() + device.shift),
    apply: target => new target(target.now() + device.shift).toString(),
    get: (target, name) => name === 'now' ? () => target.now() + device.shift : target[name],
  });
  performance.now = () => truePerformance() - device.slept;
  globalThis.__device = device;
})();
";

// ---------------------------------------------------------------------------------------------------------------
// The browser.

struct Browser {
    address: SocketAddr,
    path: String,
    /// The shell that holds it; the browser lives as long as our end of the shell's input is open.
    _leash: Child,
}

static BROWSER: OnceLock<Option<Browser>> = OnceLock::new();

/// Where the browser is, if there is one.
fn executable() -> Option<PathBuf> {
    let path = std::env::var_os("TIMERD_CHROMIUM").map_or_else(|| PathBuf::from("/usr/bin/chromium"), PathBuf::from);
    path.exists().then_some(path)
}

impl Browser {
    fn launch() -> Option<Browser> {
        let executable = executable()?;
        let profile = tempfile::Builder::new().prefix("timerd-chromium-").tempdir().unwrap().keep();
        // The profile first, so that the shell knows what to remove. An end of input is the end of the tests.
        let script = r#"trap : INT TERM HUP; profile=$1; shift; "$@" >"$profile/said" 2>&1 & pid=$!
                        read -r _; kill $pid; wait $pid; rm -rf "$profile""#;
        let leash = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(&profile)
            .arg(executable)
            .arg(format!("--user-data-dir={}", profile.display()))
            .args(["--headless=new", "--remote-debugging-port=0", "--no-sandbox", "--disable-gpu"])
            .args(["--disable-dev-shm-usage", "--disable-quic", "--no-first-run", "--no-default-browser-check"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--disable-extensions", "--disable-default-apps", "--mute-audio", "--lang=en-GB"])
            // Renderers that are made in advance, and never used by pages that come and go so soon.
            .arg(
                "--disable-features=SpareRendererForSitePerProcess,PreloadTopChromeWebUI,Translate,OptimizationHints",
            )
            .args(["--window-size=1280,800", "about:blank"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        let (address, path) = loop {
            if let Ok(text) = std::fs::read_to_string(profile.join("DevToolsActivePort"))
                && let Some((port, path)) = text.trim().split_once('\n')
                && let Ok(port) = port.parse::<u16>()
            {
                break (SocketAddr::from(([127, 0, 0, 1], port)), path.to_owned());
            }
            if begun.elapsed() > 2 * PATIENCE {
                let said = std::fs::read_to_string(profile.join("said")).unwrap_or_default();
                panic!("the browser does not come: {said}");
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        Some(Browser { address, path, _leash: leash })
    }
}

/// A visitor with nothing in store; `None`, loudly, where there is no browser.
pub fn visitor() -> Option<Visitor> {
    match BROWSER.get_or_init(Browser::launch) {
        Some(browser) => Some(Visitor::to(browser)),
        None => {
            let test = std::thread::current().name().unwrap_or("a test").to_owned();
            // Not `eprintln!`, which the test runner keeps to itself.
            let line = format!("\nSKIPPED {test}: no Chromium (install Debian's, or name one in TIMERD_CHROMIUM)\n");
            let _ = std::io::stderr().write_all(line.as_bytes());
            None
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// The protocol.

/// A connection to the browser: calls, their answers, and what the pages say in between.
struct Protocol {
    socket: WebSocket<TcpStream>,
    last_id: u64,
    /// What happened in which page since it was last taken to account.
    pages: Vec<(String, Record)>,
}

/// What happened in a page.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// Errors of the console, exceptions nobody caught, what the browser itself complained of.
    pub errors: Vec<String>,
    /// Every URL that was asked for, WebSockets among them.
    pub urls: Vec<String>,
    /// Bytes received for answers, heads included, as they came over the line.
    pub bytes: i64,
    /// Messages of WebSockets in order, `>` before what was sent and `<` before what came.
    pub frames: Vec<String>,
}

impl Protocol {
    fn connect(browser: &Browser) -> Protocol {
        let stream = TcpStream::connect(browser.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let url = format!("ws://{}{}", browser.address, browser.path);
        let (socket, _) = tungstenite::client(url, stream).unwrap();
        Protocol { socket, last_id: 0, pages: Vec::new() }
    }

    fn send(&mut self, session: Option<&str>, method: &str, params: &Value) -> u64 {
        self.last_id += 1;
        let mut message = json!({ "id": self.last_id, "method": method, "params": params });
        if let Some(session) = session {
            message["sessionId"] = session.into();
        }
        self.socket.send(Message::text(message.to_string())).unwrap();
        self.last_id
    }

    /// The answer to a call, or the browser's words about why there is none.
    fn answer(&mut self, id: u64) -> Result<Value, String> {
        loop {
            let message = match self.socket.read() {
                Ok(Message::Text(text)) => serde_json::from_str::<Value>(text.as_str()).unwrap(),
                Ok(_) => continue,
                Err(error) => panic!("the browser does not answer: {error}"),
            };
            if message["id"] == id {
                return match message.get("error") {
                    Some(error) => Err(error.to_string()),
                    None => Ok(message["result"].clone()),
                };
            }
            self.note(&message);
        }
    }

    fn call(&mut self, session: Option<&str>, method: &str, params: Value) -> Value {
        let id = self.send(session, method, &params);
        self.answer(id).unwrap_or_else(|error| panic!("{method} {params}: {error}"))
    }

    fn record(&mut self, session: &str) -> &mut Record {
        let at = self.pages.iter().position(|(known, _)| known == session).unwrap_or_else(|| {
            self.pages.push((session.to_owned(), Record::default()));
            self.pages.len() - 1
        });
        &mut self.pages[at].1
    }

    fn note(&mut self, message: &Value) {
        let (Some(session), Some(method)) = (message["sessionId"].as_str(), message["method"].as_str()) else {
            return;
        };
        let params = &message["params"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let record = self.record(session);
        match method {
            "Network.requestWillBeSent" => record.urls.push(text(&params["request"]["url"])),
            "Network.webSocketCreated" => record.urls.push(text(&params["url"])),
            "Network.loadingFinished" => record.bytes += params["encodedDataLength"].as_i64().unwrap_or(0),
            "Network.webSocketFrameSent" => {
                record.frames.push(format!(">{}", text(&params["response"]["payloadData"])))
            }
            "Network.webSocketFrameReceived" => {
                record.frames.push(format!("<{}", text(&params["response"]["payloadData"])));
            }
            "Runtime.consoleAPICalled" if matches!(params["type"].as_str(), Some("error" | "warning" | "assert")) => {
                record.errors.push(format!("console.{}: {}", text(&params["type"]), params["args"]));
            }
            "Runtime.exceptionThrown" => record.errors.push(format!("exception: {}", params["exceptionDetails"])),
            "Log.entryAdded" if matches!(params["entry"]["level"].as_str(), Some("error" | "warning")) => {
                let entry = &params["entry"];
                record.errors.push(format!(
                    "{}: {} {}",
                    text(&entry["source"]),
                    text(&entry["text"]),
                    text(&entry["url"])
                ));
            }
            // Nobody is there to answer.
            "Page.javascriptDialogOpening" => record.errors.push(format!("dialog: {}", text(&params["message"]))),
            _ => {}
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Visitors.

/// Somebody at a device: a context of the browser that shares nothing with any other.
pub struct Visitor {
    protocol: Arc<Mutex<Protocol>>,
    context: String,
}

/// How a page is opened.
#[derive(Debug, Clone, Copy)]
pub struct Sight {
    pub width: u32,
    pub height: u32,
    pub is_dark: bool,
    pub is_touched: bool,
    /// Whether there is a window. Without one a page costs a fifth of the time; it is never painted, but for all it
    /// knows it is to be seen, and takes clicks and keys.
    pub has_window: bool,
    /// How wrong the device's clock is, in ms; with `None` the page's clock is the browser's own, untouched.
    pub shift_ms: Option<i64>,
}

pub const DESK: Sight =
    Sight { width: 1280, height: 800, is_dark: false, is_touched: false, has_window: false, shift_ms: None };
pub const PHONE: Sight = Sight { width: 390, height: 844, is_touched: true, ..DESK };
pub const PROJECTOR: Sight = Sight { width: 1920, height: 1080, ..DESK };

impl Sight {
    pub const fn dark(self) -> Sight {
        Sight { is_dark: true, ..self }
    }

    pub const fn in_window(self) -> Sight {
        Sight { has_window: true, ..self }
    }

    pub const fn shifted(self, shift_ms: i64) -> Sight {
        Sight { shift_ms: Some(shift_ms), ..self }
    }
}

impl Visitor {
    fn to(browser: &Browser) -> Visitor {
        let mut protocol = Protocol::connect(browser);
        let context = protocol.call(None, "Target.createBrowserContext", json!({ "disposeOnDetach": true }));
        let context = context["browserContextId"].as_str().unwrap().to_owned();
        Visitor { protocol: Arc::new(Mutex::new(protocol)), context }
    }

    /// Opens a page as it is seen on a desk, and waits until it has loaded.
    pub fn open(&self, url: &str) -> Page {
        self.open_as(url, DESK)
    }

    /// The same, as it is seen otherwise.
    pub fn open_as(&self, url: &str, sight: Sight) -> Page {
        let page = self.blank(sight);
        page.go(url);
        page
    }

    /// A tab with nothing in it.
    pub fn blank(&self, sight: Sight) -> Page {
        let mut protocol = self.protocol.lock().unwrap();
        let mut wanted = json!({ "url": "about:blank", "browserContextId": self.context });
        if !sight.has_window {
            wanted["hidden"] = true.into();
            wanted["background"] = true.into();
        }
        let target = protocol.call(None, "Target.createTarget", wanted)["targetId"].as_str().unwrap().to_owned();
        let attached = protocol.call(None, "Target.attachToTarget", json!({ "targetId": target, "flatten": true }));
        let session = attached["sessionId"].as_str().unwrap().to_owned();
        drop(protocol);
        let page = Page {
            protocol: Arc::clone(&self.protocol),
            target,
            session,
            context: self.context.clone(),
            cover: Mutex::new(None),
            has_window: sight.has_window,
            origin: Mutex::new(None),
            expected: Mutex::new(Vec::new()),
        };
        page.call("Page.enable", json!({}));
        page.call("Runtime.enable", json!({}));
        page.call("Log.enable", json!({}));
        page.call("Network.enable", json!({}));
        page.look(sight);
        if let Some(shift_ms) = sight.shift_ms {
            let script = DEVICE.replace("__SHIFT__", &shift_ms.to_string());
            page.call("Page.addScriptToEvaluateOnNewDocument", json!({ "source": script }));
        }
        page
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Pages.

/// A tab.
pub struct Page {
    protocol: Arc<Mutex<Protocol>>,
    target: String,
    session: String,
    context: String,
    /// A tab that comes before this one.
    cover: Mutex<Option<String>>,
    has_window: bool,
    /// The only server that may be asked for anything.
    origin: Mutex<Option<String>>,
    expected: Mutex<Vec<&'static str>>,
}

impl Page {
    /// A call of the DevTools protocol to this page.
    #[track_caller]
    pub fn call(&self, method: &str, params: Value) -> Value {
        self.protocol.lock().unwrap().call(Some(&self.session), method, params)
    }

    /// Goes somewhere and waits until everything has loaded. The origin of the first visit is the one that holds.
    #[track_caller]
    pub fn go(&self, url: &str) {
        let origin = url.split('/').nth(2).map(str::to_owned);
        self.origin.lock().unwrap().get_or_insert_with(|| origin.unwrap_or_default());
        let answer = self.call("Page.navigate", json!({ "url": url }));
        assert!(answer.get("errorText").is_none(), "{url}: {answer}");
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'");
    }

    /// Presses the key that loads the page anew.
    #[track_caller]
    pub fn refresh(&self) {
        self.evaluate("globalThis.__before = true");
        self.call("Page.reload", json!({}));
        self.wait_for("document.readyState === 'complete' && !globalThis.__before");
    }

    // ---- questions -----------------------------------------------------------------------------------------

    /// What an expression is, awaited if it is a promise; `null` for what has no JSON.
    #[track_caller]
    pub fn evaluate(&self, expression: &str) -> Value {
        match self.try_evaluate(expression) {
            Ok(value) => value,
            Err(error) => panic!("{expression}: {error}"),
        }
    }

    /// The same, or what was thrown (or that the page was left meanwhile).
    pub fn try_evaluate(&self, expression: &str) -> Result<Value, String> {
        let params = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true,
                             "userGesture": true });
        let mut protocol = self.protocol.lock().unwrap();
        let id = protocol.send(Some(&self.session), "Runtime.evaluate", &params);
        let answer = protocol.answer(id)?;
        match answer.get("exceptionDetails") {
            Some(details) => Err(details["exception"]["description"].as_str().unwrap_or("thrown").to_owned()),
            None => Ok(answer["result"]["value"].clone()),
        }
    }

    /// Whether an expression is true; one that throws is not.
    pub fn is(&self, expression: &str) -> bool {
        self.try_evaluate(&format!("!!({expression})")).is_ok_and(|value| value == true)
    }

    /// Waits until an expression is true; returns how long that took.
    #[track_caller]
    pub fn wait_for(&self, expression: &str) -> Duration {
        self.wait_within(expression, PATIENCE)
    }

    /// The same with less, or more, patience.
    #[track_caller]
    pub fn wait_within(&self, expression: &str, patience: Duration) -> Duration {
        let begun = Instant::now();
        // Asked less and less often: questions are what browsers under test are busiest with.
        let mut pause = Duration::from_millis(10);
        while !self.is(expression) {
            if begun.elapsed() >= patience {
                let seen = self.try_evaluate(
                    "document.documentElement.outerHTML.slice(0, 200) + '...' + document.body.innerText",
                );
                let record = self.record();
                panic!(
                    "never true in {patience:?}: {expression}\nseen: {}\nerrors: {:?}\nthe last of the line: {:?}",
                    seen.as_ref().map_or("?", |seen| seen.as_str().unwrap_or("?")),
                    record.errors,
                    record.frames.iter().rev().take(5).collect::<Vec<_>>()
                );
            }
            std::thread::sleep(pause);
            pause = (pause * 3 / 2).min(Duration::from_millis(80));
        }
        begun.elapsed()
    }

    /// The text of an element, as it is seen; panics where there is no such element.
    #[track_caller]
    pub fn text(&self, selector: &str) -> String {
        self.evaluate(&format!("{}.innerText.trim()", one(selector))).as_str().unwrap().to_owned()
    }

    /// Waits until an element has this text in it, whichever case its letters have on the screen.
    #[track_caller]
    pub fn wait_for_text(&self, selector: &str, text: &str) -> Duration {
        self.wait_for(&has_text(selector, text))
    }

    /// How many elements of a kind are to be seen.
    #[track_caller]
    pub fn count(&self, selector: &str) -> usize {
        let all = format!(
            "[...document.querySelectorAll({})].filter(it => it.checkVisibility({{ visibilityProperty: true }})).length",
            json!(selector)
        );
        usize::try_from(self.evaluate(&all).as_u64().unwrap()).unwrap()
    }

    // ---- hands ---------------------------------------------------------------------------------------------

    /// Clicks the middle of the first element to be seen of a kind, as a mouse does: whatever lies above it gets the
    /// click. Waits for the element.
    #[track_caller]
    pub fn click(&self, selector: &str) {
        self.wait_for(&format!("(() => {{ const it = {}; return it && !it.disabled; }})()", seen(selector)));
        let place = self.evaluate(&format!(
            "(() => {{ const it = {}; it.scrollIntoView({{ block: 'nearest', behavior: 'instant' }}); \
             const box = it.getBoundingClientRect(); const x = box.x + box.width / 2, y = box.y + box.height / 2; \
             const top = document.elementFromPoint(x, y); \
             return {{ x, y, free: !!top && (it === top || it.contains(top) || top.contains(it)) }}; }})()",
            seen(selector)
        ));
        assert_eq!(place["free"], true, "something lies above {selector}");
        for kind in ["mousePressed", "mouseReleased"] {
            let params = json!({ "type": kind, "x": place["x"], "y": place["y"], "button": "left", "clickCount": 1 });
            self.call("Input.dispatchMouseEvent", params);
        }
    }

    /// Writes into whatever has the focus.
    #[track_caller]
    pub fn type_text(&self, text: &str) {
        self.call("Input.insertText", json!({ "text": text }));
    }

    /// Puts the focus into a field and writes into it, in place of what was there.
    #[track_caller]
    pub fn fill(&self, selector: &str, text: &str) {
        self.wait_for(&seen(selector));
        self.evaluate(&format!("(it => {{ it.focus(); it.select?.(); }})({})", seen(selector)));
        self.type_text(text);
    }

    /// Presses a key: `Tab`, `Shift+Tab`, `Enter`, `Escape`, `Space`, `ArrowDown` ..., or a letter.
    #[track_caller]
    pub fn press(&self, key: &str) {
        let (modifiers, key) = key.strip_prefix("Shift+").map_or((0, key), |key| (8, key));
        let (name, code, number, text) = match key {
            "Tab" => ("Tab", "Tab", 9, ""),
            "Enter" => ("Enter", "Enter", 13, "\r"),
            "Escape" => ("Escape", "Escape", 27, ""),
            "Space" => (" ", "Space", 32, " "),
            "ArrowLeft" => (key, key, 37, ""),
            "ArrowUp" => (key, key, 38, ""),
            "ArrowRight" => (key, key, 39, ""),
            "ArrowDown" => (key, key, 40, ""),
            letter => (letter, "", i32::from(letter.as_bytes()[0].to_ascii_uppercase()), letter),
        };
        let mut params = json!({ "type": if text.is_empty() { "rawKeyDown" } else { "keyDown" }, "key": name,
                                 "code": code, "windowsVirtualKeyCode": number, "modifiers": modifiers });
        if !text.is_empty() {
            params["text"] = text.into();
        }
        self.call("Input.dispatchKeyEvent", params.clone());
        params["type"] = "keyUp".into();
        self.call("Input.dispatchKeyEvent", params);
    }

    // ---- the device ----------------------------------------------------------------------------------------

    /// Size and colours of the screen.
    pub fn look(&self, sight: Sight) {
        let metrics = json!({ "width": sight.width, "height": sight.height, "deviceScaleFactor": 1,
                              "mobile": sight.is_touched });
        self.call("Emulation.setDeviceMetricsOverride", metrics);
        self.call("Emulation.setTouchEmulationEnabled", json!({ "enabled": sight.is_touched }));
        let scheme = if sight.is_dark { "dark" } else { "light" };
        // Nothing that moves slowly: pictures are sharp, and nothing is painted sixty times a second.
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme },
                              { "name": "prefers-reduced-motion", "value": "reduce" }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// Takes the network away, or gives it back. What is open stays open, and nothing comes through it.
    pub fn set_offline(&self, is_offline: bool) {
        let params = json!({ "offline": is_offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1 });
        self.call("Network.emulateNetworkConditions", params);
    }

    /// Shifts the device's clock by so much against the truth, from now on. The page must have been opened with a
    /// shift, if only of 0.
    #[track_caller]
    pub fn shift_clock(&self, shift_ms: i64) {
        self.evaluate(&format!("__device.shift = {shift_ms}"));
    }

    /// Another tab of the same window comes before this one.
    #[track_caller]
    pub fn hide(&self) {
        assert!(self.has_window, "there is no window");
        let mut protocol = self.protocol.lock().unwrap();
        let mut cover = self.cover.lock().unwrap();
        if cover.is_none() {
            let wanted = json!({ "url": "about:blank", "browserContextId": self.context });
            let made = protocol.call(None, "Target.createTarget", wanted);
            *cover = Some(made["targetId"].as_str().unwrap().to_owned());
        }
        protocol.call(None, "Target.activateTarget", json!({ "targetId": *cover }));
        drop((protocol, cover));
        self.wait_for("document.visibilityState === 'hidden'");
    }

    /// It is in front again.
    #[track_caller]
    pub fn show(&self) {
        self.call("Page.bringToFront", json!({}));
        self.wait_for("document.visibilityState === 'visible'");
    }

    /// Puts a page that is hidden to sleep, as a browser does with tabs long unseen: no timer fires, no message is
    /// read. (The protocol still gets its answers.)
    pub fn freeze(&self) {
        self.call("Page.setWebLifecycleState", json!({ "state": "frozen" }));
    }

    /// Wakes it, still hidden.
    pub fn thaw(&self) {
        self.call("Page.setWebLifecycleState", json!({ "state": "active" }));
    }

    /// As if its window had the keyboard, of which there is one in a browser.
    pub fn hold_focus(&self) {
        self.call("Emulation.setFocusEmulationEnabled", json!({ "enabled": true }));
    }

    // ---- what was seen -------------------------------------------------------------------------------------

    /// Writes a picture of what is on the screen to `target/screenshots/NAME.png`.
    #[track_caller]
    pub fn screenshot(&self, name: &str) -> PathBuf {
        assert!(self.has_window, "nothing is painted without a window");
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/screenshots");
        std::fs::create_dir_all(&folder).unwrap();
        let picture = self.call("Page.captureScreenshot", json!({ "format": "png", "optimizeForSpeed": true }));
        let path = folder.join(format!("{name}.png"));
        std::fs::write(&path, from_base64(picture["data"].as_str().unwrap())).unwrap();
        path
    }

    /// What axe-core has against the page as it is now: one line for each rule that is broken, with the places.
    #[track_caller]
    pub fn violations(&self) -> Vec<String> {
        if !self.is("globalThis.axe") {
            self.evaluate(&format!("{AXE}; null"));
        }
        let found = self.evaluate(
            "axe.run(document, { resultTypes: ['violations'], runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', \
             'wcag22aa', 'best-practice'] }).then(found => found.violations.map(it => \
             `${it.id}: ${it.help}: ${it.nodes.map(node => node.target.join(' ') + ' ' + (node.any[0]?.message ?? '')).join(' | ')}`))",
        );
        found.as_array().unwrap().iter().map(|line| line.as_str().unwrap().to_owned()).collect()
    }

    /// What happened in the page until now.
    pub fn record(&self) -> Record {
        // Whatever was under way is behind the answer to a call.
        let _ = self.try_evaluate("0");
        self.protocol.lock().unwrap().record(&self.session).clone()
    }

    /// Names parts of complaints that this test provokes.
    pub fn expect_errors(&self, parts: &[&'static str]) {
        self.expected.lock().unwrap().extend(parts);
    }

    /// The two things to which every page is held.
    #[track_caller]
    pub fn assert_clean(&self) {
        let record = self.record();
        let expected = self.expected.lock().unwrap().clone();
        let unexpected: Vec<&String> =
            record.errors.iter().filter(|error| !expected.iter().any(|part| error.contains(part))).collect();
        assert!(unexpected.is_empty(), "the console of the page: {unexpected:#?}");
        let origin = self.origin.lock().unwrap().clone();
        if let Some(origin) = origin.as_deref() {
            // The browser's own controls have pictures, which come as `data:`; a page's own would break its policy.
            let ours = |url: &&String| {
                url.split('/').nth(2) == Some(origin) || url.starts_with("data:") || url.as_str() == "about:blank"
            };
            let foreign: Vec<&String> = record.urls.iter().filter(|url| !ours(url)).collect();
            assert!(foreign.is_empty(), "asked of somebody else: {foreign:?}");
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.assert_clean();
            let target = json!({ "targetId": self.target });
            self.protocol.lock().unwrap().call(None, "Target.closeTarget", target);
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Small things.

/// JavaScript for the first element of a kind, whether it is to be seen or not.
pub fn one(selector: &str) -> String {
    format!("document.querySelector({})", json!(selector))
}

/// JavaScript for the first element of a kind that is to be seen, or undefined.
pub fn seen(selector: &str) -> String {
    format!(
        "[...document.querySelectorAll({})].find(it => it.checkVisibility({{ visibilityProperty: true }}))",
        json!(selector)
    )
}

/// JavaScript for whether an element has a text in it, in any case of letters.
pub fn has_text(selector: &str, text: &str) -> String {
    format!("{}?.textContent.toLowerCase().includes({})", one(selector), json!(text.to_lowercase()))
}

/// Base 64 (RFC 4648, section 4), as the browser writes it.
fn from_base64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut gathered, mut bits) = (0_u32, 0);
    for byte in text.bytes() {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => break,
        };
        gathered = gathered << 6 | u32::from(six);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((gathered >> bits & 0xff) as u8);
        }
    }
    bytes
}
