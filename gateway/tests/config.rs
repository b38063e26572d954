//! `snipe check` and `snipe config` as a person or a script meets them.
#![allow(clippy::unwrap_used, reason = "the helpers are test code too")]

use std::{
    fs,
    process::{Command, Output},
};

#[test]
fn check_says_ok() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("good.toml"), "[gateway]\nid = 5\n[web]\n").unwrap();

    let output = snipe(&dir, &["check", "good.toml"]);

    assert_eq!(output.status.code(), Some(0));
    let expected = "good.toml: ok (gateway 5, 1 radio, embedded broker on 127.0.0.1:1883, 0 predefined topics, 0 client rules, 1 warning)\n";
    assert_eq!(text(&output.stdout), expected);
    assert!(
        text(&output.stderr).starts_with("warning[not-used-yet]: [web] is not used by this version yet\n")
    );
}

#[test]
fn check_ends_with_78_and_counts_errors() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("bad.toml"), "[gateway]\nid = 500\nnmae = \"x\"\n").unwrap();

    let output = snipe(&dir, &["check", "bad.toml"]);

    assert_eq!(output.status.code(), Some(78));
    assert_eq!(text(&output.stdout), "");
    assert!(text(&output.stderr).ends_with("bad.toml: 2 errors\n"));
}

#[test]
fn missing_file_ends_with_78() {
    let dir = tempfile::tempdir().unwrap();

    let output = snipe(&dir, &["config", "show", "--config", "none.toml"]);

    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output.stderr).contains("snipe config default > none.toml"));
}

#[test]
fn printed_default_is_a_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let printed = snipe(&dir, &["config", "default"]);
    fs::write(dir.path().join("snipe.toml"), &printed.stdout).unwrap();

    let output = snipe(&dir, &["check", "snipe.toml"]);

    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn show_names_origins() {
    let dir = tempfile::tempdir().unwrap();

    let output = snipe(
        &dir,
        &["config", "show", "--origins", "gateway", "--set", "gateway.id=7"],
    );

    assert_eq!(output.status.code(), Some(0));
    assert!(
        text(&output.stdout).starts_with("gateway.id                  7            --set\n"),
        "{}",
        text(&output.stdout)
    );
}

#[test]
fn show_refuses_a_section_that_does_not_exist() {
    let dir = tempfile::tempdir().unwrap();

    let output = snipe(&dir, &["config", "show", "brokr"]);

    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("there are: version, gateway, radio, broker"));
}

/// Runs the binary in `dir` with an empty environment.
fn snipe(dir: &tempfile::TempDir, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_snipe"));
    command
        .args(args)
        .current_dir(dir.path())
        .env_clear()
        .output()
        .unwrap()
}

fn text(octets: &[u8]) -> &str {
    str::from_utf8(octets).unwrap()
}
