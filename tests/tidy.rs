//! Rules the compiler does not know: which module may use which, what every file must and must not have.
//!
//! Each rule is a function from text to complaints, so that each is also shown to bite on a small sample.
//! The table in ARCHITECTURE.md and `MODULES` here say the same; change both or neither.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Module, our modules it may use, crates it may use (`None` = all but the next), crates it must never use.
/// `lib.rs`, `main.rs` and `cli` know everybody and are not listed.
type Rule = (&'static str, &'static [&'static str], Option<&'static [&'static str]>, &'static [&'static str]);
const MODULES: [Rule; 20] = [
    ("domain", &["domain"], Some(&["std", "core", "serde", "jiff", "uuid"]), &[]),
    ("clock", &["domain"], None, EDGES),
    ("token", &["domain"], None, EDGES),
    ("config", &["config", "domain"], None, EDGES),
    ("pki", &["domain", "pki"], None, EDGES),
    ("certs", &["certs", "clock", "config", "domain", "metrics", "pki"], None, EDGES),
    ("metrics", &["metrics"], None, EDGES),
    ("https_client", &["https_client"], None, EDGES),
    ("store", &["clock", "config", "domain", "metrics", "store"], None, &["actix", "actix_rt", "actix_web", "rumqttd"]),
    (
        "actors",
        &["actors", "clock", "config", "domain", "https_client", "metrics", "store", "telemetry", "token"],
        None,
        &["actix_web", "rumqttd", "sled"],
    ),
    ("mqtt", &["actors", "certs", "clock", "config", "domain", "metrics", "mqtt", "pki"], None, &["actix_web", "sled"]),
    (
        "http",
        &[
            "actors",
            "certs",
            "checkpoints",
            "clock",
            "config",
            "domain",
            "http",
            "https_client",
            "metrics",
            "pki",
            "store",
            "telemetry",
            "token",
        ],
        None,
        &["rumqttd", "sled"],
    ),
    ("cluster", &["actors", "clock", "cluster", "domain", "metrics", "store"], None, &["actix_web", "rumqttd", "sled"]),
    (
        "together",
        &["actors", "clock", "cluster", "config", "http", "metrics", "mqtt", "readings", "store"],
        None,
        &["actix_web", "rumqttd", "sled"],
    ),
    ("checkpoints", &["clock", "domain", "store", "token"], None, EDGES),
    ("fuzzing", &["http", "mqtt", "store", "token"], None, EDGES),
    ("readings", &["actors", "cluster", "metrics", "mqtt", "store"], None, &["actix_web", "rumqttd", "sled"]),
    ("telemetry", &["clock", "config", "https_client", "metrics", "telemetry"], None, EDGES),
    ("watchdog", &["metrics"], None, EDGES),
    // What the simulator may use of `cardea`; a name with `::` allows that part only.
    ("simulator", &["clock", "domain", "mqtt::payload", "mqtt::topics", "token"], None, &["actix", "rumqttd", "sled"]),
];
const EDGES: &[&str] = &["actix", "actix_rt", "actix_web", "rumqttd", "sled"];
const MAX_LINES: usize = 700;
const MAX_MAIN_LINES: usize = 100;
/// Where this was made is nobody's business, and nothing may depend on it. Split, so as not to find themselves.
const FORBIDDEN: [&str; 7] = [
    concat!("/wo", "rk/"),
    concat!("../sha", "red/"),
    concat!(".lib", "rary/"),
    concat!("/ro", "ot/"),
    concat!("index.crates", ".io"),
    concat!("static.crates", ".io"),
    concat!("pypi", ".org"),
];
const UNFINISHED: [&str; 5] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("db", "g!("),
    concat!("to", "do!("),
    concat!("unimpl", "emented!("),
];

/// The text with comments and the contents of literals blanked; lines and columns stay where they are.
fn code_of(text: &str) -> String {
    let (bytes, mut out, mut at) = (text.as_bytes(), text.as_bytes().to_vec(), 0);
    while at < bytes.len() {
        let end = literal_or_comment_end(bytes, at);
        if let Some(end) = end {
            for byte in &mut out[at..end.min(bytes.len())] {
                if *byte != b'\n' {
                    *byte = b' ';
                }
            }
        }
        at = end.unwrap_or(at + 1);
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn literal_or_comment_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    let find = |needle: &[u8], from: usize| {
        let found = bytes[from..].windows(needle.len()).position(|window| window == needle);
        found.map_or(bytes.len(), |found| from + found)
    };
    let is_word = |index: usize| bytes.get(index).is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    if rest.starts_with(b"//") {
        return Some(find(b"\n", at));
    }
    if rest.starts_with(b"/*") {
        let (mut depth, mut index) = (0, at);
        while index < bytes.len() {
            match &bytes[index..(index + 2).min(bytes.len())] {
                b"/*" => depth += 1,
                b"*/" => depth -= 1,
                _ => {
                    index += 1;
                    continue;
                }
            }
            index += 2;
            if depth == 0 {
                break;
            }
        }
        return Some(index);
    }
    if rest[0] == b'r' && (at == 0 || !is_word(at - 1) || bytes[at - 1] == b'b') {
        let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
        if rest.get(1 + hashes) == Some(&b'"') {
            let close = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
            return Some(find(&close, at + 2 + hashes) + close.len());
        }
    }
    if rest[0] == b'"' {
        let mut index = at + 1;
        while index < bytes.len() && bytes[index] != b'"' {
            index += 1 + usize::from(bytes[index] == b'\\');
        }
        return Some(index + 1);
    }
    // A character, not a lifetime: 'x', '\n', or '\u{1f}'.
    if rest[0] == b'\'' {
        let content = if rest.get(1) == Some(&b'\\') { 2 } else { 1 };
        let close = rest.iter().skip(content + 1).take(10).position(|byte| *byte == b'\'')? + content + 1;
        let text = std::str::from_utf8(&rest[1..close]).ok()?;
        return (content == 2 || text.chars().count() == 1).then_some(at + close + 1);
    }
    None
}

/// Words, `::`, and single signs, each with its line (from 1).
fn tokens(code: &str) -> Vec<(usize, &str)> {
    let (mut all, mut line, mut rest) = (Vec::new(), 1, code);
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let length = if word > 0 {
            word
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        line += usize::from(first == '\n');
        if !first.is_whitespace() {
            all.push((line, &rest[..length]));
        }
        rest = &rest[length..];
    }
    all
}

/// Every path in the code with at least two parts, `use` groups spread out: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn paths(code: &str) -> Vec<(usize, Vec<String>)> {
    let (tokens, mut all) = (tokens(code), Vec::new());
    for (index, (_, token)) in tokens.iter().enumerate() {
        let is_head = token.starts_with(|c: char| c.is_alphabetic() || c == '_')
            && tokens.get(index + 1).is_some_and(|(_, next)| *next == "::")
            && (index == 0
                || tokens[index - 1].1 != "::"
                || !tokens.get(index.wrapping_sub(2)).is_some_and(|t| is_word(t.1)));
        // Inside a group a path is spread from its head, not by itself.
        if is_head {
            spread(&tokens, index, &mut Vec::new(), &mut all);
        }
    }
    all
}

fn is_word(token: &str) -> bool {
    let is_keyword = ["use", "in", "as", "dyn", "impl", "for", "mut", "return", "pub", "const"].contains(&token);
    !is_keyword && token.starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '>')
}

fn spread(
    tokens: &[(usize, &str)],
    mut at: usize,
    prefix: &mut Vec<String>,
    all: &mut Vec<(usize, Vec<String>)>,
) -> usize {
    let (before, line) = (prefix.len(), tokens.get(at).map_or(0, |token| token.0));
    loop {
        match tokens.get(at).map(|token| token.1) {
            Some("{") => {
                at += 1;
                while let Some((_, token)) = tokens.get(at)
                    && *token != "}"
                {
                    at = if *token == "," { at + 1 } else { spread(tokens, at, prefix, all).max(at + 1) };
                }
                prefix.truncate(before);
                return at + 1;
            }
            Some(word) if is_word(word) => prefix.push(word.to_owned()),
            _ => break,
        }
        if tokens.get(at + 1).map(|token| token.1) != Some("::") {
            at += 1;
            break;
        }
        at += 2;
    }
    if prefix.len() > 1 {
        all.push((line, prefix.clone()));
    }
    prefix.truncate(before);
    at
}

/// What `file` (relative to the root) uses that its module may not. Tests inside it may use more.
fn wrong_directions(file: &str, text: &str) -> Vec<String> {
    let is_simulator = file.starts_with("simulator/src/");
    let parts: Vec<&str> = file.trim_start_matches("simulator/").split('/').skip(1).collect();
    let module = if is_simulator { "simulator" } else { parts[0].trim_end_matches(".rs").trim_end_matches("_tests") };
    if ["lib", "main", "cli"].contains(&module) {
        return Vec::new();
    }
    let Some((_, ours, only, never)) = MODULES.into_iter().find(|rule| rule.0 == module) else {
        return vec![format!("{file}: `{module}` is not in the table of modules (tests/tidy.rs, ARCHITECTURE.md)")];
    };
    let code = code_of(text);
    let mut complaints = BTreeSet::new();
    let (crates, tests) = (dependencies(), test_lines(&code));
    let is_product = |line: usize| !tests.iter().any(|range| range.contains(&line));
    for (line, path) in paths(&code).into_iter().filter(|(line, _)| is_product(*line)) {
        let (head, rest) = (path[0].as_str(), &path[1..]);
        if head == if is_simulator { "cardea" } else { "crate" } {
            let deep = rest.iter().take(2).cloned().collect::<Vec<_>>().join("::");
            if !ours.contains(&rest[0].as_str()) && !ours.contains(&deep.as_str()) {
                complaints.insert(format!("{file}:{line}: {module} may not use {}", path.join("::")));
            }
        } else if let Some(only) = only {
            if (crates.contains(head) || head == "std") && !only.contains(&head) {
                complaints.insert(format!("{file}:{line}: {module} may not use the crate {head}"));
            }
        } else if never.contains(&head) {
            complaints.insert(format!("{file}:{line}: {module} must never use the crate {head}"));
        }
    }
    // `super` of a top-level file is the crate's root, where every module is in reach without being named.
    let is_top_level =
        (parts.len() == 1 && !parts[0].ends_with("_tests.rs")) || (parts.len() == 2 && parts[1] == "mod.rs");
    for (line, text) in code.lines().enumerate() {
        if is_top_level && !is_simulator && text.starts_with("use super::") {
            complaints.insert(format!("{file}:{}: write crate::, not super::, to leave a module", line + 1));
        }
        let words = ["SystemTime", "Instant", "async", "await"];
        if module == "domain"
            && is_product(line + 1)
            && text.split(|c: char| !c.is_alphanumeric()).any(|word| words.contains(&word))
        {
            complaints.insert(format!("{file}:{}: domain reads no clock and never awaits", line + 1));
        }
    }
    complaints.into_iter().collect()
}

/// The crates the manifests name, as code writes them.
fn dependencies() -> BTreeSet<String> {
    let manifest: toml::Table = read("Cargo.toml").parse().expect("a manifest");
    let sections = ["dependencies", "dev-dependencies"].into_iter().filter_map(|name| manifest.get(name)?.as_table());
    sections.flat_map(|table| table.keys().map(|name| name.replace('-', "_"))).collect()
}

/// Line ranges (from 1) of `#[cfg(test)] mod … { }`.
fn test_lines(code: &str) -> Vec<std::ops::RangeInclusive<usize>> {
    let tokens = tokens(code);
    let mut ranges = Vec::new();
    for (index, window) in tokens.windows(6).enumerate() {
        if !window.iter().map(|token| token.1).eq(["[", "cfg", "(", "test", ")", "]"]) {
            continue;
        }
        let mut depth = 0;
        for (line, token) in &tokens[index + 6..] {
            depth += i32::from(*token == "{") - i32::from(*token == "}");
            if depth == 0 && ["}", ";"].contains(token) {
                ranges.push(window[0].0..=*line);
                break;
            }
        }
    }
    ranges
}

/// Files that are compiled for tests only: `#[cfg(test)] mod x;` in `file`.
fn test_files(file: &str, text: &str) -> Vec<String> {
    let path = Path::new(file);
    let folder = path.parent().unwrap_or(Path::new(""));
    let is_root = ["mod.rs", "lib.rs", "main.rs"].iter().any(|name| path.ends_with(name));
    let own = if is_root { folder.to_owned() } else { path.with_extension("") };
    let (mut all, mut lines) = (Vec::new(), text.lines().map(str::trim));
    while lines.by_ref().any(|line| line == "#[cfg(test)]") {
        let mut named = None;
        for line in lines.by_ref() {
            if let Some(rest) = line.strip_prefix("#[path = \"") {
                named = rest.strip_suffix("\"]").map(|name| folder.join(name));
            } else {
                if let Some(name) =
                    line.trim_start_matches("pub ").strip_prefix("mod ").and_then(|l| l.strip_suffix(';'))
                {
                    all.extend(
                        named.map_or(vec![own.join(format!("{name}.rs")), own.join(name).join("mod.rs")], |n| vec![n]),
                    );
                }
                break;
            }
        }
    }
    all.into_iter().map(|path| path.to_string_lossy().into_owned()).collect()
}

/// `unwrap` and `expect` in product code without a comment on the same line or the one above that proves them.
fn unproven_unwraps(file: &str, text: &str) -> Vec<String> {
    let code = code_of(text);
    let (tests, raw): (_, Vec<&str>) = (test_lines(&code), text.lines().collect());
    let calls = [concat!(".unwr", "ap()"), concat!(".exp", "ect(")];
    let is_proven = |index: usize| {
        let above = index.checked_sub(1).map_or("", |above| raw[above].trim());
        raw[index].contains("// ") || above.starts_with("//") || above.contains("// ")
    };
    let lines = code.lines().enumerate().filter(|(_, line)| calls.iter().any(|call| line.contains(call)));
    lines
        .filter(|(index, _)| !tests.iter().any(|range| range.contains(&(index + 1))) && !is_proven(*index))
        .map(|(index, _)| format!("{file}:{}: needs a comment that proves it cannot fail", index + 1))
        .collect()
}

/// Sleeping in tests: orders nothing and wastes time. A loop that polls for a condition says `// poll` beside it, a
/// test on tokio's paused clock `// virtual time`.
fn sleeps(file: &str, text: &str, is_test_file: bool) -> Vec<String> {
    let code = code_of(text);
    let (tests, raw): (_, Vec<&str>) = (test_lines(&code), text.lines().collect());
    let calls = [concat!("thread::sl", "eep("), concat!("time::sl", "eep("), concat!(" sl", "eep(")];
    let lines = code.lines().enumerate().filter(|(_, line)| calls.iter().any(|call| line.contains(call)));
    lines
        .filter(|(index, _)| is_test_file || tests.iter().any(|range| range.contains(&(index + 1))))
        .filter(|(index, _)| {
            !raw[index.saturating_sub(1)..=*index]
                .iter()
                .any(|line| line.contains("// poll") || line.contains("// virtual time"))
        })
        .map(|(index, _)| format!("{file}:{}: a test waits for a condition, it does not sleep", index + 1))
        .collect()
}

fn missing_doc(file: &str, text: &str) -> Vec<String> {
    let first = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with("#!")).unwrap_or("");
    if first.starts_with("//! ") { Vec::new() } else { vec![format!("{file}: opens without a //! that says what for")] }
}

fn too_long(file: &str, text: &str) -> Vec<String> {
    let (lines, most) = (text.lines().count(), if file == "src/main.rs" { MAX_MAIN_LINES } else { MAX_LINES });
    if lines <= most { Vec::new() } else { vec![format!("{file}: {lines} lines, at most {most}")] }
}

fn containing(file: &str, text: &str, words: &[&str], why: &str) -> Vec<String> {
    let lines = text.lines().enumerate();
    let found = lines
        .flat_map(|(index, line)| words.iter().filter(|word| line.contains(**word)).map(move |word| (index, word)));
    found.map(|(index, word)| format!("{file}:{}: `{word}`: {why}", index + 1)).collect()
}

/// Unbounded: it ignores the mailbox's capacity. Between actors for bounded traffic only.
fn unbounded_sends(file: &str, text: &str) -> Vec<String> {
    if file.starts_with("src/actors/") || !file.starts_with("src/") {
        return Vec::new();
    }
    containing(file, &code_of(text), &[concat!("do_s", "end(")], "only between actors; edges use try_send")
}

fn not_executable(file: &str, mode: u32) -> Vec<String> {
    if mode & 0o111 == 0o111 { Vec::new() } else { vec![format!("{file}: is not executable")] }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    String::from_utf8_lossy(&fs::read(root().join(file)).unwrap_or_default()).into_owned()
}

/// What is not ours, or made of what is. `.git` is a file in a linked worktree.
const SKIPPED: [&str; 5] = ["target", ".git", "node_modules", "dist", ".run"];

/// Files below `folder` (relative to the root), sorted.
fn files(folder: &str) -> Vec<String> {
    let (mut all, mut folders) = (Vec::new(), vec![root().join(folder)]);
    while let Some(folder) = folders.pop() {
        let entries: Vec<PathBuf> =
            fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        for path in entries {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && !SKIPPED.contains(&name.as_str()) {
                folders.push(path);
            } else if path.is_file()
                && !SKIPPED.contains(&name.as_str())
                && let Ok(path) = path.strip_prefix(root())
            {
                all.push(path.to_string_lossy().into_owned());
            }
        }
    }
    all.sort();
    all
}

fn rust(folder: &str) -> Vec<(String, String)> {
    let files = files(folder).into_iter().filter(|file| file.ends_with(".rs"));
    files.map(|file| (file.clone(), read(&file))).collect()
}

fn sources() -> Vec<(String, String)> {
    [rust("src"), rust("simulator/src")].concat()
}

#[track_caller]
fn assert_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn modules_use_only_what_the_table_allows() {
    let sources = sources();
    let test_only: BTreeSet<String> = sources.iter().flat_map(|(file, text)| test_files(file, text)).collect();
    let product = sources.iter().filter(|(file, _)| !test_only.contains(file));
    let complaints: Vec<String> = product.flat_map(|(file, text)| wrong_directions(file, text)).collect();
    assert_none(&complaints);
}

#[test]
fn every_file_says_what_it_is_for_and_fits() {
    let all = [sources(), rust("tests"), rust("simulator/tests")].concat();
    assert!(all.len() > 10, "the tree was not found");
    let test_only: BTreeSet<String> = all.iter().flat_map(|(file, text)| test_files(file, text)).collect();
    let check = |(file, text): &(String, String)| {
        let doc = if test_only.contains(file) { Vec::new() } else { missing_doc(file, text) };
        [doc, too_long(file, text)].concat()
    };
    assert_none(&all.iter().flat_map(check).collect::<Vec<_>>());
}

#[test]
fn nothing_is_left_unfinished_or_tied_to_one_machine() {
    let is_text = |file: &String| !file.starts_with("tests/data/") && file != "Cargo.lock" && !file.ends_with(".png");
    let check = |file: String| {
        let text = read(&file);
        let unfinished = if file.ends_with(".rs") || file.starts_with("scripts/") {
            UNFINISHED.as_slice()
        } else {
            &UNFINISHED[..2]
        };
        [
            containing(&file, &text, unfinished, "finish it or file it"),
            containing(&file, &text, &FORBIDDEN, "nothing here may depend on where it was made"),
        ]
        .concat()
    };
    assert_none(&files("").into_iter().filter(is_text).flat_map(check).collect::<Vec<_>>());
}

#[test]
fn tests_do_not_sleep_and_product_code_proves_its_unwraps() {
    let sources = sources();
    let test_only: BTreeSet<String> = sources.iter().flat_map(|(file, text)| test_files(file, text)).collect();
    let product = sources.iter().filter(|(file, _)| !test_only.contains(file));
    let mut complaints: Vec<String> = product.flat_map(|(file, text)| unproven_unwraps(file, text)).collect();
    complaints.extend(sources.iter().flat_map(|(file, text)| sleeps(file, text, test_only.contains(file))));
    for (file, text) in [rust("tests"), rust("simulator/tests")].concat() {
        complaints.extend(sleeps(&file, &text, true));
    }
    assert_none(&complaints);
}

#[test]
fn only_actors_send_without_a_bound() {
    assert_none(&sources().iter().flat_map(|(file, text)| unbounded_sends(file, text)).collect::<Vec<_>>());
}

#[test]
fn scripts_can_be_run() {
    let mut scripts = files("scripts");
    assert!(scripts.contains(&"scripts/test".to_owned()));
    scripts.push(".ci/run".to_owned());
    // What they import is not run by itself.
    scripts.retain(|file| !file.ends_with(".py"));
    let mode = |file: &str| fs::metadata(root().join(file)).map_or(0, |found| found.permissions().mode());
    assert_none(&scripts.iter().flat_map(|file| not_executable(file, mode(file))).collect::<Vec<_>>());
}

mod each_rule_bites {
    //! A sample of each fault, and of what looks like one and is none.
    use super::*;

    fn bad(file: &str, text: &str) {
        assert_eq!(wrong_directions(file, text).len(), 1, "{file}: {text}: {:?}", wrong_directions(file, text));
    }

    #[test]
    fn direction() {
        bad("src/domain/key.rs", "use tokio::sync::Mutex;");
        bad("src/domain/key.rs", "fn f() { serde_json::to_string(&1); }");
        bad("src/domain/key.rs", "use crate::store::Store;");
        bad("src/domain/key.rs", "use crate::{domain::KeyId, store::Store};");
        bad("src/domain/key.rs", "async fn f() {}");
        bad("src/domain/mod.rs", "use super::store;");
        bad("src/domain/key.rs", "#[derive(actix::Message)] struct X;");
        bad("src/store/journal.rs", "use actix::Actor;");
        bad("src/store/journal.rs", "fn f() { crate::actors::fleet::f(); }");
        bad("src/actors/fleet.rs", "use sled::Db;");
        bad("src/actors/fleet.rs", "use {std::fmt, crate::mqtt::gate};");
        bad("src/mqtt/gate.rs", "use crate::{clock::Clock, config::{Config, Mqtt}, store};");
        bad("src/http/keys.rs", "use crate::mqtt::topics;");
        bad("src/http/keys.rs", "use ::sled::Db;");
        bad("src/token.rs", "use crate::actors::fleet;");
        bad("src/brandnew.rs", "fn f() {}");
        bad("simulator/src/car.rs", "use cardea::store::Store;");
        bad("simulator/src/car.rs", "use cardea::{domain::VehicleId, mqtt::gate};");
    }

    #[test]
    fn allowed_directions_pass() {
        for (file, text) in [
            (
                "src/domain/key.rs",
                "use std::fmt;\nuse super::Function;\n// use tokio::x\nconst S: &str = \"tokio::x\";",
            ),
            ("src/store/journal.rs", "use crate::{clock::Clock, domain::{Timestamp, VehicleId}};"),
            ("src/mqtt/gate.rs", "use rumqttd::Broker;\nuse tokio::{io, time::{self, Instant}};"),
            ("src/http/keys.rs", "use actix_web::web;\nuse super::error::Problem;\nlet c = '\"'; use crate::token;"),
            ("simulator/src/car.rs", "use cardea::{domain::VehicleId, mqtt::{payload::Ack, topics}};"),
            ("src/domain/key.rs", "#[cfg(test)]\nmod tests {\n    use serde_json::json;\n}\n"),
            ("src/lib.rs", "use crate::{actors, http, mqtt, store};"),
        ] {
            assert_none(&wrong_directions(file, text));
        }
    }

    #[test]
    fn unwrap() {
        let call = concat!("x.unwr", "ap();");
        let expect = concat!("x.exp", "ect(\"y\");");
        assert_eq!(unproven_unwraps("f", &format!("fn f() {{ {call} }}")).len(), 1);
        assert_eq!(unproven_unwraps("f", &format!("fn f() {{\n    {expect}\n}}")).len(), 1);
        assert_none(&unproven_unwraps("f", &format!("// It was just put there.\n{call}\n{expect} // and here")));
        assert_none(&unproven_unwraps("f", &format!("#[cfg(test)]\nmod tests {{\n fn f() {{\n {call}\n }}\n}}\n")));
        let after = format!("#[cfg(test)]\nmod tests {{\n}}\nfn f() {{\n {call}\n}}\n");
        assert_eq!(unproven_unwraps("f", &after).len(), 1);
        assert_none(&unproven_unwraps("f", &format!("fn f() {{ let s = \"{call}\"; }}")));
    }

    #[test]
    fn sleeping() {
        let call = concat!("tokio::time::sl", "eep(d).await;");
        assert_eq!(sleeps("f", call, true).len(), 1);
        assert_eq!(sleeps("f", &format!("use std::thread;\n{}", concat!("thread::sl", "eep(d)")), true).len(), 1);
        assert_eq!(sleeps("f", &format!("#[cfg(test)]\nmod tests {{\n{call}\n}}"), false).len(), 1);
        assert_none(&sleeps("f", call, false));
        assert_none(&sleeps("f", &format!("// poll\n{call}"), true));
    }

    #[test]
    fn form() {
        assert_eq!(missing_doc("f", "use std::fmt;\n").len(), 1);
        assert_eq!(missing_doc("f", "").len(), 1);
        assert_none(&missing_doc("f", "\n//! What for.\n"));
        assert_eq!(too_long("f", &"x\n".repeat(MAX_LINES + 1)).len(), 1);
        assert_eq!(too_long("src/main.rs", &"x\n".repeat(MAX_MAIN_LINES + 1)).len(), 1);
        assert_none(&too_long("f", &"x\n".repeat(MAX_LINES)));
        assert_eq!(not_executable("f", 0o644).len(), 1);
        assert_none(&not_executable("f", 0o755));
    }

    #[test]
    fn words() {
        for word in UNFINISHED.iter().chain(&FORBIDDEN) {
            assert_eq!(containing("f", &format!("a\n b {word} c"), &[word], "why").len(), 1);
        }
        let send = concat!("a.do_s", "end(m);");
        assert_eq!(unbounded_sends("src/mqtt/gate.rs", send).len(), 1);
        assert_none(&unbounded_sends("src/actors/fleet.rs", send));
        assert_none(&unbounded_sends("src/mqtt/gate.rs", &format!("// {send}")));
    }

    #[test]
    fn test_only_files_are_found() {
        let text = "#[cfg(test)]\nmod tests;\n#[cfg(test)]\n#[path = \"x_tests.rs\"]\nmod more;\nmod product;";
        let found = test_files("src/a/x.rs", text);
        assert_eq!(found, ["src/a/x/tests.rs", "src/a/x/tests/mod.rs", "src/a/x_tests.rs"]);
        assert_eq!(test_files("src/a/mod.rs", "#[cfg(test)]\nmod walk;")[0], "src/a/walk.rs");
    }

    #[test]
    fn literals_and_comments_are_no_code() {
        let code = code_of("a /* b /* c */ d */ \"e \\\" f\" r#\"g \" h\"# 'i' '\\n' '\\'' &'static j // k\nl");
        let left: Vec<&str> = code.split_whitespace().collect();
        assert_eq!(left, ["a", "&'static", "j", "l"]);
    }
}
