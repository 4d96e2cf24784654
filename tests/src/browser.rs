//! A headless Chromium, driven over WebDriver: the few calls that the tests of the page make, since
//! a client crate would bring an HTTP stack of its own.

use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::{Value, json};
use ureq::Agent;
use ureq::http::Request;

use crate::{DEADLINE, Process, System, wait_for};

/// Key of an element's reference in WebDriver's JSON.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Rules of axe-core.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    All,
    Colours,
}

/// A browser with one window; it ends with this.
pub struct Browser {
    agent: Agent,
    /// `http://127.0.0.1:PORT/session/ID`
    session: String,
    /// Killed when dropped, and Chromium with it.
    _driver: Process,
}

impl Browser {
    /// Starts a browser whose pages may or may not run scripts.
    pub fn start(system: &System, scripts: bool) -> Self {
        let mut driver = system.marked("chromedriver");
        driver.arg("--port=0").env("TMPDIR", system.path(""));
        let mut driver = system.start("chromedriver", driver);
        let port = wait_for("chromedriver listens", || {
            assert!(driver.has_ended().is_none(), "{}", driver.stderr());
            let printed = driver.stdout();
            let (_, rest) = printed.split_once("started successfully on port ")?;
            let (port, _) = rest.split_once('.')?;
            port.parse::<u16>().ok()
        });
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .timeout_global(Some(DEADLINE));
        let profile = system.path(if scripts { "profile" } else { "profile-plain" });
        let mut arguments = vec![
            "--headless".to_owned(),
            "--window-size=1280,900".to_owned(),
            "--no-first-run".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--disable-sync".to_owned(),
            "--hide-scrollbars".to_owned(),
            format!("--user-data-dir={}", profile.display()),
        ];
        // Chromium's sandbox refuses to run as root.
        if nix::unistd::geteuid().is_root() {
            arguments.push("--no-sandbox".to_owned());
        }
        let allowed = if scripts { 1 } else { 2 };
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {
                "args": arguments,
                "prefs": { "profile.managed_default_content_settings.javascript": allowed },
            },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let mut browser = Self {
            agent: config.build().into(),
            session: format!("http://127.0.0.1:{port}/session"),
            _driver: driver,
        };
        // The driver waits a minute for Chromium, which may not be enough on a busy machine.
        let id = wait_for("Chromium starts", || {
            let started = browser.try_call("POST", "", &wanted);
            let started = started.map_err(|problem| eprintln!("no session yet: {problem}"));
            Some(started.ok()?["sessionId"].as_str()?.to_owned())
        });
        browser.session.push_str(&format!("/{id}"));
        let timeout = DEADLINE.as_millis() as u64;
        let timeouts = json!({ "script": timeout, "pageLoad": timeout });
        browser.call("POST", "/timeouts", &timeouts);
        browser
    }

    /// Sends a command; panics with the driver's message if it fails.
    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        self.try_call(method, path, body)
            .unwrap_or_else(|problem| panic!("{method} {path}: {problem}"))
    }

    fn try_call(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let body = if method == "GET" {
            String::new()
        } else {
            body.to_string()
        };
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.session))
            .header("content-type", "application/json")
            .body(body)
            .expect("a request");
        let answer = self.agent.run(request);
        let mut answer = answer.map_err(|error| error.to_string())?;
        let text = answer
            .body_mut()
            .with_config()
            .limit(64 << 20)
            .read_to_string();
        let text = text.map_err(|error| error.to_string())?;
        let mut reply: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        match answer.status().is_success() {
            true => Ok(reply["value"].take()),
            false => Err(reply["value"]["message"]
                .as_str()
                .unwrap_or(&text)
                .to_owned()),
        }
    }

    /// Opens an address, and waits until it is loaded.
    pub fn open(&self, url: &str) {
        self.call("POST", "/url", &json!({ "url": url }));
    }

    pub fn url(&self) -> String {
        let url = self.call("GET", "/url", &Value::Null);
        url.as_str().expect("an address").to_owned()
    }

    /// Waits until the address of the page contains a text.
    pub fn is_at(&self, part: &str) {
        wait_for(&format!("the address contains `{part}`"), || {
            self.url().contains(part).then_some(())
        });
    }

    /// Forgets every login.
    pub fn forget_cookies(&self) {
        self.call("DELETE", "/cookie", &json!({}));
    }

    /// Runs a function's body in the page, whether its own scripts may run or not.
    pub fn script(&self, body: &str) -> Value {
        self.script_with(body, &json!([]))
    }

    /// Runs it again if the page was left meanwhile.
    fn script_with(&self, body: &str, arguments: &Value) -> Value {
        let script = json!({ "script": body, "args": arguments });
        wait_for("the page is loaded", || {
            match self.try_call("POST", "/execute/sync", &script) {
                Ok(value) => Some(value),
                Err(problem) if problem.contains("navigation") || problem.contains("context") => {
                    None
                }
                Err(problem) => panic!("{body}: {problem}"),
            }
        })
    }

    /// Waits until a function's body returns this in the page.
    pub fn returns(&self, body: &str, expected: &Value) {
        wait_for(&format!("`{body}` returns {expected}"), || {
            (self.script(body) == *expected).then_some(())
        });
    }

    /// Returns the text of the page, as it is shown.
    pub fn text(&self) -> String {
        let text = self.script("return document.body.innerText");
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the page shows a text.
    pub fn shows(&self, text: &str) {
        wait_for(&format!("the page shows `{text}`"), || {
            self.text().contains(text).then_some(())
        });
    }

    /// Clicks an element as soon as it is there and nothing covers it. The look and the click are one
    /// step of the page, so that no refresh comes between them. What the click does may come later.
    pub fn click(&self, selector: &str) {
        const CLICK: &str = "const element = document.querySelector(arguments[0]);
            element?.scrollIntoView({ block: 'center' });
            const box = element?.getClientRects()[0];
            const hit = box && document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
            if (!hit || !element.contains(hit)) return false;
            element.focus({ preventScroll: true });
            element.click();
            return true;";
        wait_for(&format!("{selector} can be clicked"), || {
            (self.script_with(CLICK, &json!([selector])) == true).then_some(())
        });
    }

    /// Chooses an option of a list. Nothing may refresh its part of the page.
    pub fn choose(&self, option: &str) {
        let element = self.element(option);
        self.call("POST", &format!("/element/{element}/click"), &json!({}));
    }

    /// Writes into a field in place of what it has. Nothing may refresh its part of the page.
    pub fn write(&self, selector: &str, text: &str) {
        let element = self.element(selector);
        self.call("POST", &format!("/element/{element}/clear"), &json!({}));
        let text = json!({ "text": text });
        self.call("POST", &format!("/element/{element}/value"), &text);
    }

    fn element(&self, selector: &str) -> String {
        let wanted = json!({ "using": "css selector", "value": selector });
        wait_for(&format!("{selector} is there"), || {
            let found = self.try_call("POST", "/element", &wanted).ok()?;
            Some(found[ELEMENT].as_str()?.to_owned())
        })
    }

    /// Presses keys wherever the focus is.
    pub fn press(&self, keys: &str) {
        let actions: Vec<Value> = keys
            .chars()
            .flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key })))
            .collect();
        let keyboard = json!({ "type": "key", "id": "keyboard", "actions": actions });
        self.call("POST", "/actions", &json!({ "actions": [keyboard] }));
    }

    /// Sends a command of Chromium's own protocol.
    pub fn devtools(&self, command: &str, parameters: &Value) -> Value {
        let call = json!({ "cmd": command, "params": parameters });
        self.call("POST", "/goog/cdp/execute", &call)
    }

    /// Asks pages for the colour scheme `light` or `dark`.
    pub fn prefer(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.devtools(
            "Emulation.setEmulatedMedia",
            &json!({ "features": features }),
        );
    }

    /// Gives the window another size: a phone's, if it is `mobile`.
    pub fn resize(&self, width: u32, height: u32, mobile: bool) {
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile });
        self.devtools("Emulation.setDeviceMetricsOverride", &size);
    }

    /// Returns a picture of the window, as PNG.
    pub fn picture(&self) -> Vec<u8> {
        let picture = self.call("GET", "/screenshot", &Value::Null);
        let picture = picture.as_str().expect("a picture in base64");
        BASE64_STANDARD.decode(picture).expect("base64")
    }

    /// Returns what the browser wrote to its console since the last call.
    pub fn console(&self) -> Vec<String> {
        let entries = self.call("POST", "/se/log", &json!({ "type": "browser" }));
        let entries = entries.as_array().cloned().unwrap_or_default();
        entries
            .iter()
            .map(|entry| format!("{}: {}", entry["level"], entry["message"]))
            .collect()
    }

    /// Returns what axe-core, whose source is given, calls a serious or critical fault of the page:
    /// by all of its rules, or by those about colours. A page that changes under the first look gets a
    /// second one.
    pub fn faults(&self, axe: &str, rules: Rules) -> Vec<String> {
        if self.script("return typeof axe") != "object" {
            self.script(axe);
        }
        let first = self.axe(rules);
        match first.is_empty() {
            true => first,
            false => self.axe(rules),
        }
    }

    fn axe(&self, rules: Rules) -> Vec<String> {
        let rules = match rules {
            Rules::All => "",
            Rules::Colours => ", runOnly: ['cat.color']",
        };
        let body = format!(
            "const done = arguments[arguments.length - 1];
            axe.run(document, {{ resultTypes: ['violations']{rules} }}).then(
              (found) => done(found.violations.filter((fault) => ['serious', 'critical'].includes(fault.impact))
                .map((fault) => `${{fault.id}}: ${{fault.nodes.map((node) => node.html.slice(0, 200)).slice(0, 5).join(' | ')}}`)),
              (error) => done([String(error)]));"
        );
        let script = json!({ "script": body, "args": [] });
        let found = self.call("POST", "/execute/async", &script);
        let found = found.as_array().expect("a list of faults");
        found
            .iter()
            .map(|fault| fault.as_str().unwrap_or_default().to_owned())
            .collect()
    }
}
