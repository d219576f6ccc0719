//! The page of `builder explain --format html`, in a browser.

use crate::kit::{Kit, host};
use serde_json::Value;
use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::path::Path;

/// What a hostile name asks for, from a server of the test.
fn hostile(port: u16) -> String {
    format!("<img src=http:&#x2f;&#x2f;127.0.0.1:{port} onerror=document.title=1>")
}

/// Measures what a browser makes of the page, and puts that where `--dump-dom` shows it.
const MEASURE: &str = r#"<script>
addEventListener("load", () => {
  const all = (what) => [...document.querySelectorAll(what)];
  const spills = (node) => {
    const box = node.querySelector("rect").getBBox();
    return [...node.querySelectorAll("text")].some((text) => {
      const inner = text.getBBox();
      return inner.width > 0 && (inner.x < box.x || inner.x + inner.width > box.x + box.width);
    });
  };
  const seen = {
    steps: all("details").filter((step) => step.getBoundingClientRect().height > 0).length,
    nodes: all("svg .node").filter((node) => node.getBBox().width > 0).length,
    edges: all("svg .edge").filter((edge) => edge.getTotalLength() > 0).length,
    bars: all(".bar").filter((bar) => bar.getBoundingClientRect().width > 0).length,
    spills: all("svg .node").filter(spills).length,
    broken: all("svg .broken").map((node) => node.textContent),
    images: all("img, iframe, object, embed, link").length,
    overflow: document.documentElement.scrollWidth - innerWidth,
    page: getComputedStyle(document.body).backgroundColor,
    ink: getComputedStyle(document.body).color,
  };
  document.documentElement.dataset.seen = JSON.stringify(seen);
});
</script>"#;

/// Shows a page to a browser and returns the document as it is then, and what the browser complained of.
fn browse(kit: &Kit, page: &Path, more: &[&str]) -> (String, String) {
    let profile = tempfile::tempdir().unwrap();
    let output = std::process::Command::new("timeout")
        .args(["--kill-after=5", "120", "chromium", "--headless", "--no-sandbox", "--disable-gpu"])
        .args(["--no-first-run", "--disable-background-networking", "--disable-component-update"])
        .args(["--disable-sync", "--disable-extensions", "--disable-dev-shm-usage", "--dump-dom"])
        .args(["--enable-logging=stderr", "--virtual-time-budget=5000"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(more)
        .arg(format!("file://{}", page.display()))
        .env("HOME", kit.beside("home"))
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{}: {log}", output.status);
    (String::from_utf8(output.stdout).unwrap(), log)
}

/// What the script above measured.
fn measured(kit: &Kit, page: &str, more: &[&str]) -> Value {
    let copy = kit.out("measured.html");
    let policy = page.find("<meta http-equiv").unwrap();
    let end = policy + page[policy..].find('>').unwrap() + 1;
    fs::write(&copy, format!("{}{}{MEASURE}", &page[..policy], &page[end..])).unwrap();
    let (document, log) = browse(kit, &copy, more);
    let seen = document.split("data-seen=\"").nth(1).unwrap_or_else(|| panic!("no load: {log}"));
    let seen = seen.split('"').next().unwrap().replace("&quot;", "\"");
    serde_json::from_str(&seen.replace("&lt;", "<").replace("&amp;", "&")).unwrap()
}

#[test]
fn the_page_is_what_it_should_be_in_a_browser() {
    if !host::has("chromium", "chromium") {
        return;
    }
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    server.set_nonblocking(true).unwrap();
    let hostile = hostile(server.local_addr().unwrap().port());
    let kit = Kit::new();
    let file = format!("src/{hostile}");
    kit.file(&file, "a").file("src/b", "b").dockerfile(&format!(
        "FROM fixture/base AS one\nRUN true\nCOPY src /src\nRUN echo '{hostile}' > /said\n\
         FROM fixture/base AS two\nRUN touch /other\n\
         FROM fixture/base\nCOPY --from=one /src/b /b\nCOPY --from=two /other /other\n"
    ));
    kit.build().ok();
    kit.file(&file, "changed").chmod("src/b", 0o755);
    kit.build().ok();
    let page = kit.builder(["explain", "--format=html"]).ok().stdout();
    let path = kit.out("page.html");
    fs::write(&path, &page).unwrap();

    let (document, log) = browse(&kit, &path, &[]);
    assert!(!log.contains("CONSOLE"), "{log}");
    assert!(document.contains("&lt;img src=http:&amp;#x2f;"), "the name is shown: {document}");
    assert!(document.contains("mode 0644 → 0755"), "{document}");
    for (window, scheme) in [("1280,1600", "1"), ("500,900", "1"), ("1280,1600", "0")] {
        let flags = [
            format!("--window-size={window}"),
            format!("--blink-settings=preferredColorScheme={scheme}"),
        ];
        let seen = measured(&kit, &page, &flags.each_ref().map(String::as_str));
        let number = |name: &str| seen[name].as_i64().unwrap();
        assert_eq!((number("steps"), number("nodes")), (6, 6), "{seen}");
        assert_eq!(number("edges"), 5, "{seen}");
        assert_eq!(number("bars"), 4, "what ran: {seen}");
        assert_eq!((number("spills"), number("images")), (0, 0), "{seen}");
        assert!(number("overflow") <= 0, "wider than a window of {window}: {seen}");
        assert_eq!(seen["broken"].as_array().unwrap().len(), 1, "{seen}");
        assert!(seen["broken"][0].as_str().unwrap().contains("COPY src /src"), "{seen}");
        let light = |colour: &str| {
            let rgb = seen[colour].as_str().unwrap().trim_start_matches("rgb(");
            rgb.split(',').next().unwrap().parse::<u32>().unwrap() > 127
        };
        assert_eq!((light("page"), light("ink")), (scheme == "1", scheme == "0"), "{seen}");
    }
    let asked = server.accept().map_err(|error| error.kind());
    assert_eq!(asked.err(), Some(ErrorKind::WouldBlock), "the page asked for something");
}
