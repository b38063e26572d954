//! The documents against the code: what they name exists, what they show works.
//!
//! `README.md`, `CONTRIBUTING.md`, `CHANGELOG.md` and `docs/*.md` are read. A `console` block holds commands after
//! `$ ` and what they print; a `toml` block is a whole configuration.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

#[test]
fn every_snipe_command_line_parses() {
    let mut lines = 0;
    for document in documents() {
        for (_, block) in document.blocks("console") {
            for command in block.lines().filter_map(|line| line.strip_prefix("$ ")) {
                // Cargo hands what follows to the same binary.
                let called = command.replacen("cargo run --release -- ", "snipe ", 1);
                let Some(mut words) = words(&called) else {
                    panic!("{}: a quote is not closed: {command}", document.name)
                };
                if words.first().is_none_or(|word| word != "snipe") {
                    continue;
                }
                // Help is printed only if everything before it was understood.
                words.push("--help".into());
                let output = snipe(&words[1..]);
                assert!(
                    output.status.success(),
                    "{}: {command}\n{}",
                    document.name,
                    text(&output.stderr)
                );
                lines += 1;
            }
        }
    }
    assert!(lines >= 10, "only {lines} commands were found");
}

#[test]
fn every_configuration_shown_loads_without_a_warning() {
    let mut configurations = 0;
    for document in documents() {
        for (at, block) in document.blocks("toml") {
            let name = format!("{}-{at}.toml", document.name.replace('/', "-"));
            let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
            fs::write(&file, block).expect("Cargo made the directory for us");
            let output = snipe(&["check".to_owned(), file.display().to_string()]);
            assert!(
                output.status.success() && output.stderr.is_empty(),
                "{}:{at}\n{}",
                document.name,
                text(&output.stderr)
            );
            configurations += 1;
        }
    }
    assert!(configurations >= 2, "only {configurations} were found");
}

#[test]
fn every_link_leads_somewhere() {
    let mut missing = Vec::new();
    for document in documents() {
        for target in links(&document.text) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = match file {
                "" => document.path.clone(),
                file => document.path.with_file_name(file),
            };
            let found = path.exists()
                && (anchor.is_empty() || headings(&read(&path)).any(|heading| slug(heading) == anchor));
            if !found {
                missing.push(format!("{}: {target}", document.name));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_file_of_ours_that_is_named_exists() {
    let folders = [
        ".ci/",
        "broker/",
        "configs/",
        "docs/",
        "gateway/",
        "radio-adapters/",
        "sn-codec/",
        "tests/",
    ];
    let mut missing = Vec::new();
    let mut named = 0;
    for document in documents() {
        let words = document.text.split(|c: char| c.is_whitespace() || c == '`');
        for word in words {
            let word = word.trim_end_matches(['.', ',', ';', ':', ')']);
            let ours = folders.iter().any(|folder| word.starts_with(folder));
            if !ours || word.contains(['*', '…', '(', '[']) {
                continue;
            }
            named += 1;
            if !repository().join(word).exists() {
                missing.push(format!("{}: {word}", document.name));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(named >= 50, "only {named} were found");
}

#[test]
fn every_reading_that_the_code_points_to_is_written_down() {
    let page = read(&repository().join("docs/reading-of-the-spec.md"));
    let written: BTreeSet<&str> = headings(&page)
        .filter_map(|heading| heading.split(' ').next())
        .filter(|word| is_reading(word))
        .collect();
    let mut missing = Vec::new();
    for file in sources() {
        for line in read(&file).lines() {
            let Some((_, comment)) = line.split_once("//") else {
                continue;
            };
            let words = comment.split(|c: char| !c.is_ascii_alphanumeric());
            for word in words.filter(|word| is_reading(word) && !written.contains(word)) {
                missing.push(format!("{}: {word}", file.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(written.len() >= 40, "only {} were found", written.len());
}

#[test]
fn every_promise_is_held_by_a_test() {
    let page = read(&repository().join("docs/promises.md"));
    let mut tests = 0;
    for row in page.lines().filter(|line| line.starts_with('|')) {
        let Some(held_by) = row.rsplit('|').nth(1) else {
            continue;
        };
        let mut file = None;
        for name in held_by.split('`').skip(1).step_by(2) {
            if name.ends_with(".rs") {
                file = Some(read(&repository().join(name)));
            } else if let Some(file) = &file {
                assert!(file.contains(&format!("fn {name}(")), "no test {name}: {row}");
                tests += 1;
            }
        }
    }
    assert!(tests >= 15, "only {tests} were found");
}

#[test]
fn counters_in_the_code_and_in_the_documents_are_the_same() {
    let core = read(&repository().join("gateway/core/src/metrics.rs"));
    let shell = read(&repository().join("gateway/src/telemetry/rows.rs"));
    let (_, declared) = core
        .split_once("\nmetrics! {")
        .expect("where the counters are declared");
    let (declared, _) = declared.split_once("\n}").expect("where their list ends");
    let fields: BTreeSet<&str> = declared
        .lines()
        .filter_map(|line| line.trim().strip_suffix(','))
        .filter(|name| !name.starts_with("//"))
        .collect();
    assert!(fields.len() >= 30, "only {} were found", fields.len());

    let (_, rows) = shell
        .split_once("\npub(crate) fn broker_rows")
        .expect("where the embedded broker's counters get their names");
    let counted: BTreeSet<&str> = rows
        .split("row(\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect();
    assert!(counted.len() >= 10, "only {} were found", counted.len());
    let (_, rows) = shell
        .split_once("\npub(crate) fn store_rows")
        .expect("where the store's counters get their names");
    let (rows, _) = rows.split_once("\n}").expect("where their list ends");
    let kept: BTreeSet<&str> = rows
        .split("row(\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect();
    assert!(kept.len() >= 5, "only {} were found", kept.len());

    let page = read(&repository().join("docs/operations.md"));
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let named: BTreeSet<&str> = page
        .split(|c: char| !is_part(c))
        .filter_map(|word| word.strip_prefix("snipe_"))
        .collect();
    for name in &named {
        let of_a_radio = name
            .strip_prefix("radio_")
            .is_some_and(|name| shell.contains(&format!("\"{name}\"")));
        let of_the_broker = name
            .strip_prefix("broker_")
            .is_some_and(|name| counted.contains(name));
        let labelled = [&core, &shell]
            .iter()
            .any(|source| source.contains(&format!("\"snipe_{name}{{{{")));
        assert!(
            fields.contains(name) || kept.contains(name) || of_a_radio || of_the_broker || labelled,
            "nothing counts snipe_{name}"
        );
    }
    let mut missing: Vec<_> = fields.difference(&named).map(ToString::to_string).collect();
    let of_the_broker = counted.iter().map(|name| format!("broker_{name}"));
    missing.extend(of_the_broker.filter(|name| !named.contains(name.as_str())));
    missing.extend(kept.difference(&named).map(ToString::to_string));
    assert!(missing.is_empty(), "not in docs/operations.md: {missing:?}");
}

/// A document, by its path in the repository.
struct Document {
    name: String,
    path: PathBuf,
    text: String,
}

impl Document {
    /// The fenced blocks of a language, each with its line.
    fn blocks(&self, language: &str) -> Vec<(usize, String)> {
        let mut blocks = Vec::new();
        let mut open: Option<(usize, &str, String)> = None;
        for (at, line) in self.text.lines().enumerate() {
            match (line.strip_prefix("```"), open.take()) {
                (Some(opened), None) => open = Some((at + 1, opened, String::new())),
                (Some(_), Some((start, opened, text))) => {
                    if opened == language {
                        blocks.push((start, text));
                    }
                }
                (None, Some((start, opened, text))) => open = Some((start, opened, text + line + "\n")),
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a block is not closed", self.name);
        blocks
    }
}

fn documents() -> Vec<Document> {
    let mut names: Vec<String> = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
        .map(str::to_owned)
        .into();
    let entries = fs::read_dir(repository().join("docs")).expect("the folder of documents");
    for entry in entries {
        let name = entry.expect("a folder that can be read").file_name();
        let name = name.to_str().expect("a plain name");
        if name.ends_with(".md") {
            names.push(format!("docs/{name}"));
        }
    }
    names.sort();
    names
        .into_iter()
        .map(|name| {
            let path = repository().join(&name);
            let text = read(&path);
            Document { name, path, text }
        })
        .collect()
}

/// Every Rust source of ours.
fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = ["broker", "gateway", "radio-adapters", "sn-codec", "tests"]
        .map(|folder| repository().join(folder))
        .into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder of ours") {
            let path = entry.expect("a folder that can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this crate is in a folder of the repository")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Runs the binary that `SNIPE_BIN` names, or the one built beside this test.
fn snipe(args: &[String]) -> Output {
    let beside = || {
        let test = env::current_exe().expect("this test is a file");
        let profile = test.parent().and_then(Path::parent);
        profile.expect("Cargo puts tests two folders deep").join("snipe")
    };
    let binary = env::var_os("SNIPE_BIN").map_or_else(beside, PathBuf::from);
    let run = Command::new(&binary)
        .args(args)
        .current_dir(repository())
        .output();
    run.unwrap_or_else(|error| {
        panic!(
            "{}: {error}; build it first: cargo build -p snipe",
            binary.display()
        )
    })
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

/// The words of a shell command up to `&`, `|`, `>` or a comment; `None` if a quote is not closed.
fn words(command: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in command.chars() {
        match (quote, c) {
            (Some(open), c) if open == c => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '&' | '|' | '>') => break,
            (None, '#') if word.is_none() => break,
            (None, ' ') => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

/// Where links lead that stay in the repository.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .filter(|target| !target.contains("://"))
}

fn headings(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| line.trim_start_matches('#').trim())
}

/// A heading as an anchor.
fn slug(heading: &str) -> String {
    let kept = heading
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.flat_map(char::to_lowercase)
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// `A7`, `A64`: the number of a reading.
fn is_reading(word: &str) -> bool {
    let number = word.strip_prefix('A');
    number.is_some_and(|number| {
        (1..=2).contains(&number.len()) && number.bytes().all(|octet| octet.is_ascii_digit())
    })
}
