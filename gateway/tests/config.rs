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
fn check_looks_whether_files_can_be_written() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let check = |text: &str, args: &[&str]| {
        fs::write(dir.path().join("s.toml"), text).unwrap();
        let output = snipe(&dir, &[&["check", "s.toml"], args].concat());
        (output.status.code(), text_of(&output.stderr))
    };

    for (setting, why) in [
        ("[log]\nfile = \"none/x.log\"\n", "there is no directory none"),
        ("[log]\nfile = \"file/x.log\"\n", "file is no directory"),
        ("[log]\nfile = \".\"\n", ". is a directory"),
        ("[gateway]\nstate_dir = \"file\"\n", "file is no directory"),
        ("[gateway]\nstate_dir = \"file/a/b\"\n", "file is no directory"),
        (
            "[gateway]\nstate_dir = \"/proc/snipe\"\n",
            "no files can be made in /proc",
        ),
    ] {
        let (code, said) = check(setting, &[]);
        assert_eq!(code, Some(78), "{setting}{said}");
        for part in [
            why,
            "s.toml:2:",
            "help: name another directory",
            "help: name a file",
        ] {
            let wanted = !part.starts_with("help") || setting.contains("log") == part.ends_with("file");
            assert!(!wanted || said.contains(part), "{part} is not in {said}");
        }
    }
    let unused = check("[gateway]\nstate_dir = \"file\"\n", &["--ephemeral"]);
    assert_eq!(unused.0, Some(0), "a warning: {}", unused.1);
    assert!(unused.1.starts_with("warning[cannot-write]"), "{}", unused.1);
    let fine = "[log]\nfile = \"new.log\"\n[gateway]\nstate_dir = \"new/state\"\n";
    assert_eq!(check(fine, &[]), (Some(0), String::new()));
    assert!(!dir.path().join("new.log").exists() && !dir.path().join("new").exists());
}

#[test]
fn run_says_where_a_log_file_is_named_that_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("s.toml"), "[log]\nfile = \"none/x.log\"\n").unwrap();

    let output = snipe(&dir, &["run", "--config", "s.toml"]);

    assert_eq!(output.status.code(), Some(73));
    let said = text(&output.stderr);
    for part in [
        "cannot write the log: open none/x.log",
        "s.toml:2:8",
        "log.file = \"\"",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
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

fn text_of(octets: &[u8]) -> String {
    text(octets).to_owned()
}

fn text(octets: &[u8]) -> &str {
    str::from_utf8(octets).unwrap()
}
