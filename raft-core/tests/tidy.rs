//! The repository's own rules, as tests: sizes, dependency edges, citations, words, links.
//!
//! Where a rule came too late for what was there, a *ratchet* names the exceptions with their present size. Such a
//! number may only shrink; an exception that is no longer needed fails the test too, until its line is deleted.

// A panic is how a test fails.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a function from brace to brace.
const FUNCTION_LINES_MAX: usize = 70;
/// Lines of a file that hold code, its test module apart.
const FILE_LINES_MAX: usize = 500;

/// Functions over the limit: file, function, lines.
const LONG_FUNCTIONS: &[(&str, &str, usize)] = &[];
/// Files over the limit: file, lines.
const LONG_FILES: &[(&str, usize)] = &[];
/// Rules that are not cited in code yet.
const RULES_WITHOUT_CODE: &[&str] = &[];
/// Rules that are not cited in a test or script yet.
const RULES_WITHOUT_TEST: &[&str] = &[];

/// Which of our crates each one may name, in any kind of dependency. Nothing depends on raft-node but the benches and the examples.
const EDGES: &[(&str, &[&str])] = &[
    ("raft-core", &[]),
    ("raft-log-rocks", &["raft-core"]),
    ("raft-net-quic", &["raft-core"]),
    ("raft-kv", &["raft-core"]),
    ("raft-load", &[]),
    ("raft-node", &["raft-core", "raft-log-rocks", "raft-net-quic", "raft-kv", "raft-load"]),
    ("benches", &["raft-core", "raft-load", "raft-log-rocks", "raft-net-quic", "raft-kv", "raft-node"]),
    ("benches/guard", &["raft-core", "raft-log-rocks", "raft-net-quic"]),
    // Not a member of the workspace.
    ("benches/peers", &["raft-core", "raft-node"]),
    ("examples/counter", &["raft-core", "raft-log-rocks", "raft-net-quic", "raft-node"]),
    ("examples/log-redb", &["raft-core", "raft-net-quic", "raft-node"]),
    ("examples/net-tcp", &["raft-core", "raft-log-rocks", "raft-node"]),
    ("examples/own-parts", &["raft-core", "raft-node"]),
];
/// All that the core may depend on when it is not being tested: no runtime, no I/O, no serde.
const CORE_DEPENDENCIES: &[&str] = &["async-trait", "bytes", "crc32c", "thiserror", "tracing"];
/// Words that say nothing, or something wrong. `data_dir` is the name of a setting.
const BANNED_WORDS: &[&str] = &["data", "info", "manager", "util", "utils", "master", "slave"];

#[test]
fn functions_and_files_stay_small() {
    let (mut long_functions, mut long_files) = (BTreeMap::new(), BTreeMap::new());
    for file in files(&["rs"]) {
        let code = blank_comments_and_strings(&file.text);
        let lines = code_outside_tests(&code).lines().filter(|line| !line.trim().is_empty()).count();
        if lines > FILE_LINES_MAX {
            long_files.insert(file.path.clone(), lines);
        }
        for (name, lines) in functions(&code).into_iter().filter(|(_, lines)| *lines > FUNCTION_LINES_MAX) {
            long_functions.insert(format!("{} {name}", file.path), lines);
        }
    }
    let functions_known = LONG_FUNCTIONS.iter().map(|(path, name, lines)| (format!("{path} {name}"), *lines));
    let files_known = LONG_FILES.iter().map(|(path, lines)| ((*path).to_owned(), *lines));
    let mut problems = ratchet(&long_functions, functions_known.collect(), "function", FUNCTION_LINES_MAX);
    problems.extend(ratchet(&long_files, files_known.collect(), "file", FILE_LINES_MAX));
    report(&problems);
}

#[test]
fn crates_depend_only_downwards() {
    let mut problems = Vec::new();
    let workspace = read(&root().join("Cargo.toml"));
    let members = workspace.lines().find_map(|line| line.strip_prefix("members = ")).unwrap();
    for member in members.split('"').skip(1).step_by(2) {
        if !EDGES.iter().any(|(name, _)| *name == member) {
            problems.push(format!("{member} is not in EDGES: say what it may depend on"));
        }
    }
    for (name, allowed) in EDGES {
        let manifest = read(&root().join(name).join("Cargo.toml"));
        let dependencies = dependencies(&manifest);
        for (dependency, _) in dependencies.iter().filter(|(dependency, _)| dependency.starts_with("raft-")) {
            // A crate may name itself among its test dependencies, to switch on its own features.
            if dependency != name && !allowed.contains(&dependency.as_str()) {
                problems.push(format!("{name} must not depend on {dependency}"));
            }
        }
        for (dependency, section) in &dependencies {
            let for_tests = section == "dev-dependencies";
            if *name == "raft-core" && !for_tests && !CORE_DEPENDENCIES.contains(&dependency.as_str()) {
                problems.push(format!("raft-core must not depend on {dependency}: the core does no I/O"));
            }
        }
    }
    report(&problems);
}

#[test]
fn every_rule_is_kept_somewhere_and_shown_somewhere() {
    let rules: BTreeSet<String> =
        read(&root().join("docs/rules.md")).lines().filter_map(|line| line.strip_prefix("| ")).flat_map(ids).collect();
    assert!(rules.len() > 25, "docs/rules.md has lost its rows: only {} ids", rules.len());
    let (mut in_code, mut in_tests) = (BTreeSet::new(), BTreeSet::new());
    for file in files(&[]).into_iter().filter(|file| !file.path.ends_with("tidy.rs")) {
        if file.path.contains("/tests/") || file.path.contains("/testing/") {
            in_tests.extend(ids(&file.text));
        } else if file.path.ends_with(".rs") {
            let code = code_outside_tests(&file.text);
            in_code.extend(ids(code));
            in_tests.extend(ids(&file.text[code.len()..]));
        }
    }
    let mut problems = Vec::new();
    for id in in_code.union(&in_tests).filter(|id| !rules.contains(*id)) {
        problems.push(format!("{id} is cited but is no rule of docs/rules.md"));
    }
    for (cited, exceptions, place) in
        [(&in_code, RULES_WITHOUT_CODE, "code"), (&in_tests, RULES_WITHOUT_TEST, "a test or script")]
    {
        for id in &rules {
            match (cited.contains(id), exceptions.contains(&id.as_str())) {
                (false, false) => problems.push(format!("{id} is not cited in {place}")),
                (true, true) => problems.push(format!("{id} is cited in {place} now: delete it from the exceptions")),
                _ => {}
            }
        }
    }
    report(&problems);
}

#[test]
fn the_core_uses_the_words_of_the_glossary() {
    let mut problems = Vec::new();
    for file in files(&["rs"]).into_iter().filter(|file| file.path.starts_with("raft-core/src/")) {
        let code = blank_comments_and_strings(&file.text);
        for identifier in code.split(|c: char| !c.is_alphanumeric() && c != '_') {
            if identifier != "data_dir" && words(identifier).iter().any(|word| BANNED_WORDS.contains(&word.as_str())) {
                problems.push(format!("{}: `{identifier}` has a word that the glossary bans", file.path));
            }
        }
    }
    report(&problems);
}

#[test]
fn every_port_has_a_suite() {
    let ports = blank_comments_and_strings(&read(&root().join("raft-core/src/ports.rs")));
    let suites: Vec<_> = files(&["rs"])
        .into_iter()
        .filter(|file| file.path.starts_with("raft-core/src/testing/") && file.path.contains("suite"))
        .collect();
    let traits: Vec<_> = ports.lines().filter_map(|line| line.strip_prefix("pub trait ")).collect();
    assert!(traits.len() >= 5, "the ports have moved: found {traits:?}");
    let mut problems = Vec::new();
    for name in traits.iter().filter_map(|line| line.split(|c: char| !c.is_alphanumeric()).next()) {
        if !suites.iter().any(|suite| words_of_code(&suite.text).any(|word| word == name)) {
            problems.push(format!("no suite in raft-core/src/testing exercises the port {name}"));
        }
    }
    report(&problems);
}

#[test]
fn nothing_is_left_for_later() {
    // In halves, so that this file does not find itself.
    let banned = [
        ["FIX", "ME"],
        ["TO", "DO"],
        ["todo", "!("],
        ["unimplemented", "!("],
        ["#[ign", "ore"],
        ["/wo", "rk/"],
        ["/ro", "ot/"],
        ["/ho", "me/"],
        ["/Use", "rs/"],
    ]
    .map(|halves| halves.concat());
    let mut problems = Vec::new();
    for file in files(&[]) {
        for (number, line) in file.text.lines().enumerate() {
            for word in banned.iter().filter(|word| line.contains(word.as_str())) {
                problems.push(format!("{}:{}: `{word}`", file.path, number + 1));
            }
        }
    }
    report(&problems);
}

#[test]
fn decisions_are_numbered() {
    let mut problems = Vec::new();
    let decisions: Vec<_> = files(&["md"]).into_iter().filter(|file| file.path.starts_with("docs/adr/")).collect();
    for (expected, file) in (1..).zip(&decisions) {
        let number = format!("{expected:04}");
        if !file.path.starts_with(&format!("docs/adr/{number}-")) || !file.text.starts_with(&format!("# {number}. ")) {
            problems.push(format!("{}: name and title must begin with {number}", file.path));
        }
        for heading in ["## Context", "## Decision", "## Consequences"] {
            if !file.text.contains(heading) {
                problems.push(format!("{}: no `{heading}`", file.path));
            }
        }
    }
    report(&problems);
}

#[test]
fn links_and_pages_lead_somewhere() {
    let mut problems = Vec::new();
    for file in files(&["md"]) {
        let directory = root().join(&file.path).parent().unwrap().to_owned();
        for link in file.text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap();
            if !target.is_empty() && !target.contains(':') && !directory.join(target).exists() {
                problems.push(format!("{}: the link to {target} is dead", file.path));
            }
        }
    }
    for file in files(&[]) {
        for rest in file.text.split("docs/").skip(1) {
            let named: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || "-_./".contains(*c)).collect();
            let page = named.trim_end_matches('.');
            if page.ends_with(".md") && !page.contains("NNNN") && !root().join("docs").join(page).exists() {
                problems.push(format!("{}: there is no docs/{page}", file.path));
            }
        }
    }
    report(&problems);
}

/// A promise about bad input names the tests that show it.
#[test]
fn promises_about_bad_input_name_tests_that_there_are() {
    let tests: String = files(&["rs"]).into_iter().map(|file| file.text).collect();
    let page = read(&root().join("docs/bad-input.md"));
    let lines: Vec<&str> = page.lines().filter(|line| line.starts_with("| ") && !line.contains("| test |")).collect();
    assert!(lines.len() > 40, "the page has {} promises", lines.len());
    let mut problems = Vec::new();
    for line in lines {
        let shown = line.trim_end_matches('|').rsplit('|').next().unwrap();
        for name in shown.split('`').skip(1).step_by(2) {
            if !tests.contains(&format!("fn {name}(")) {
                problems.push(format!("docs/bad-input.md: there is no test {name}"));
            }
        }
    }
    report(&problems);
}

/// A text file of the repository.
struct SourceFile {
    /// Relative to the repository, with `/`.
    path: String,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The repository's text files with one of these extensions, in order; all of them when none is named.
fn files(extensions: &[&str]) -> Vec<SourceFile> {
    let mut found = Vec::new();
    let mut directories = vec![root()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
            let built = directory == root() && name.starts_with("target");
            // A file in a work tree that shares its repository with others.
            if name == ".git" || built {
                continue;
            }
            if path.is_dir() {
                directories.push(path);
            } else if extensions.is_empty() || extensions.contains(&extension.as_str()) {
                let relative = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
                // What is not text has no words to check.
                if let Ok(text) = fs::read_to_string(&path) {
                    found.push(SourceFile { path: relative, text });
                }
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn report(problems: &[String]) {
    assert!(problems.is_empty(), "{} problem(s):\n{}", problems.len(), problems.join("\n"));
}

/// What is over the limit and not excepted, what has grown, and what has shrunk without its exception.
fn ratchet(found: &BTreeMap<String, usize>, known: BTreeMap<String, usize>, what: &str, limit: usize) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, lines) in found {
        let allowed = known.get(name).copied().unwrap_or(limit);
        if *lines > allowed {
            problems.push(format!("{what} {name} has {lines} lines, {allowed} are allowed: split it"));
        }
    }
    for (name, lines) in known {
        let now = found.get(&name).copied().unwrap_or(0);
        if now < lines {
            problems.push(format!("{what} {name} has shrunk to {now} lines: lower or delete its exception ({lines})"));
        }
    }
    problems
}

/// Every dependency in a manifest, with the section that it stands in.
fn dependencies(manifest: &str) -> Vec<(String, String)> {
    let mut section = String::new();
    let mut found = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[') {
            let mut parts: Vec<_> = header.trim_end_matches(']').split('.').collect();
            // `[dependencies.name]` is another way to write `name = { .. }`.
            if let [.., table, name] = parts[..]
                && table.ends_with("dependencies")
            {
                found.push((name.to_owned(), table.to_owned()));
            }
            section = parts.pop().unwrap().to_owned();
        } else if section.ends_with("dependencies") && !line.starts_with('#') && line.contains('=') {
            let name = line.split(['.', ' ', '=']).next().unwrap().trim_matches('"');
            found.push((name.to_owned(), section.clone()));
        }
    }
    found
}

/// The ids of rules in a text: `F2-…` and `TH-…`.
fn ids(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
        .map(|word| word.trim_matches('-'))
        .filter(|word| ["F2-", "F13-", "TH-", "RL-"].iter().any(|rules| word.starts_with(rules)) && word.len() > 4)
        .map(str::to_owned)
        .collect()
}

/// The words of `an_identifier` or `AnIdentifier`, in lower case.
fn words(identifier: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut after_lower = false;
    for c in identifier.chars() {
        if c == '_' || (c.is_uppercase() && after_lower) {
            words.push(String::new());
        }
        if c != '_' {
            words.last_mut().unwrap().extend(c.to_lowercase());
        }
        after_lower = c.is_lowercase();
    }
    words
}

fn words_of_code(source: &str) -> impl Iterator<Item = String> {
    let code = blank_comments_and_strings(source);
    code.split(|c: char| !c.is_alphanumeric() && c != '_').map(str::to_owned).collect::<Vec<_>>().into_iter()
}

/// What stands before the test module, which by our custom ends a file.
fn code_outside_tests(source: &str) -> &str {
    source.find("\n#[cfg(test)]\nmod ").map_or(source, |end| &source[..end])
}

/// The name and length of every function with a body; `code` is without comments and strings.
fn functions(code: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (start, _) in code.match_indices("fn ") {
        let after = &code[start + 3..];
        let name: String = after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let preceded = code[..start].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        if name.is_empty() || preceded {
            continue;
        }
        let Some(open) = after.find(['{', ';']).filter(|at| after[*at..].starts_with('{')) else { continue };
        let mut depth = 0_usize;
        for (at, c) in after[open..].char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                found.push((name, after[open..=open + at].lines().count()));
                break;
            }
        }
    }
    found
}

/// The source with everything in comments, strings and character literals replaced by blanks, line by line.
fn blank_comments_and_strings(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let before = code.chars().next_back();
        let length = literal_or_comment(rest, before);
        if length == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            code.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[length..];
        }
    }
    code
}

/// How long the comment or literal is that `rest` begins with; 0 when it begins with neither.
fn literal_or_comment(rest: &str, before: Option<char>) -> usize {
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return rest.find("*/").map_or(rest.len(), |end| end + 2);
    }
    if let Some(body) = rest.strip_prefix('r').filter(|_| !in_word || before == Some('b')) {
        let hashes = body.len() - body.trim_start_matches('#').len();
        if body[hashes..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            let content = &body[hashes + 1..];
            return content.find(&close).map_or(rest.len(), |end| 1 + hashes + 1 + end + close.len());
        }
    }
    if rest.starts_with('"') {
        return quoted(rest, '"').unwrap_or(rest.len());
    }
    // A lifetime has no closing quote within the few characters of a character literal.
    if rest.starts_with('\'') && !rest[1..].starts_with('\'') {
        let longest = "'\\u{10ffff}'".len();
        let second = rest[1..].chars().nth(1);
        if rest[1..].starts_with('\\') || second == Some('\'') {
            return quoted(rest, '\'').filter(|length| *length <= longest).unwrap_or(0);
        }
    }
    0
}

/// The length of the literal that `rest` begins with, up to the closing `quote`.
fn quoted(rest: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// The checks above rest on this reading of source text, so it is checked too.
#[test]
fn source_text_is_read_as_rust() {
    let source =
        "fn a<'x>(b: &'x str) -> char {\n    // fn no() { }\n    let c = \"fn d() {{{\";\n    '{'\n}\nfn e();\n";
    let code = blank_comments_and_strings(source);
    assert_eq!(functions(&code), [("a".to_owned(), 5)]);
    assert_eq!(code.lines().count(), source.lines().count());
    assert_eq!(blank_comments_and_strings("r#\"a\"b\"# c '\\'' d b'\"' e"), "         c      d b    e");
    assert_eq!(words("LogIdData_maxInfo"), ["log", "id", "data", "max", "info"]);
    assert_eq!(ids("// Raft §5.4.2 [F2-LEADER-COMMIT], \\[TH-NOOP\\]"), ["F2-LEADER-COMMIT", "TH-NOOP"]);
    let manifest = "[dependencies]\nb.workspace = true\n[x.dev-dependencies]\n\"a\" = \"1\"\n[dependencies.c]\nd = 1\n";
    let (normal, dev) = ("dependencies".to_owned(), "dev-dependencies".to_owned());
    let expected = [("b".to_owned(), normal.clone()), ("a".to_owned(), dev), ("c".to_owned(), normal)];
    assert_eq!(dependencies(manifest), expected);
}
