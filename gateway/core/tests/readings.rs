//! docs/reading-of-the-spec.md against the code: no reading is cited that does not stand there, and none stands there
//! that nothing carries out.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What is searched for citations.
const CODE: [&str; 5] = ["sn-codec", "gateway", "broker", "radio-adapters", "tests"];

#[test]
fn every_reading_cited_in_code_stands_in_the_document() {
    let document = document();
    let unknown: Vec<_> = citations()
        .into_iter()
        .filter(|(reading, _)| !document.contains(reading))
        .collect();
    assert!(unknown.is_empty(), "cited, but not in the document: {unknown:#?}");
}

#[test]
fn every_reading_of_the_document_is_cited_in_code() {
    let citations = citations();
    let unused: Vec<_> = document()
        .into_iter()
        .filter(|reading| !citations.contains_key(reading))
        .collect();
    assert!(
        unused.is_empty(),
        "in the document, but cited nowhere: {unused:?}"
    );
}

#[test]
fn readings_stand_in_order_and_once() {
    let text = fs::read_to_string(root().join("docs/reading-of-the-spec.md")).unwrap();
    let numbers: Vec<u32> = headings(&text).collect();
    assert!(numbers.len() >= 80, "only {} readings", numbers.len());
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The numbers of `## A31 …`.
fn headings(text: &str) -> impl Iterator<Item = u32> {
    text.lines()
        .filter_map(|line| line.strip_prefix("## A")?.split(' ').next()?.parse().ok())
}

fn document() -> BTreeSet<u32> {
    let text = fs::read_to_string(root().join("docs/reading-of-the-spec.md")).unwrap();
    headings(&text).collect()
}

/// Every reading that a Rust file names, with one such file.
fn citations() -> BTreeMap<u32, PathBuf> {
    let mut citations = BTreeMap::new();
    for part in CODE {
        rust_files(&root().join(part), &mut |file| {
            for reading in readings(&fs::read_to_string(file).unwrap()) {
                citations.entry(reading).or_insert_with(|| file.to_owned());
            }
        });
    }
    citations
}

/// The numbers of `A31` where it stands as a word of its own.
fn readings(text: &str) -> impl Iterator<Item = u32> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    text.split(move |c: char| !word(c))
        .filter_map(|word| word.strip_prefix('A'))
        .filter(|digits| (1..=2).contains(&digits.len()))
        .filter_map(|digits| digits.parse().ok())
}

fn rust_files(directory: &Path, seen: &mut impl FnMut(&Path)) {
    let mut entries: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() && !path.ends_with("target") {
            rust_files(&path, seen);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            seen(&path);
        }
    }
}

#[test]
fn citations_are_found_as_words() {
    let found: Vec<u32> = readings("(reading A31), A5; 0xA1 CA7 A123 A\" A83").collect();
    assert_eq!(found, [31, 5, 83]);
}
