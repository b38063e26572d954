//! `[spool]`, and what `--ephemeral` makes of it.

use core::time::Duration;

use gateway_core::config::{Durability, SpoolFull, WhenDown};
use gateway_store::Sync;

use super::super::{SourceArgs, load_tree};
use super::*;

#[test]
fn values_of_the_spool_arrive_in_the_settings() {
    let dir = Dir::new();
    let file = dir.write(
        "snipe.toml",
        r#"
        [[radio]]
        name = "a"
        kind = "udp"
        [spool]
        max_messages = 7
        max_bytes = "1 KiB"
        max_age = "1h"
        when_full = "drop-oldest"
        sync = "each"
        qos0 = true
        daily_write_budget = "20 MiB"
        "#,
    );

    let loaded = dir.load(&[&file]).unwrap();

    assert_eq!(loaded.warnings.len(), 0, "{:?}", loaded.warnings);
    let expected = Durability {
        links: vec!["a".into()],
        spool_messages: 7,
        spool_bytes: 1024,
        spool_age: Duration::from_secs(3600),
        when_full: SpoolFull::DropOldest,
        qos0: true,
    };
    assert_eq!(loaded.settings.gateway.durability, Some(expected));
    let store = loaded.settings.store.unwrap();
    assert_eq!((store.sync, store.day_budget), (Sync::Each, 20 << 20));
}

#[test]
fn without_a_word_everything_is_kept_in_groups_of_5_ms() {
    let settings = Dir::new().load(&[]).unwrap().settings;
    let durability = settings.gateway.durability.unwrap();
    assert_eq!(
        (durability.spool_messages, durability.spool_bytes, durability.qos0),
        (100_000, 64 << 20, false)
    );
    assert_eq!(durability.when_full, SpoolFull::Refuse);
    assert_eq!(settings.gateway.upstream.when_down, WhenDown::Spool);
    let store = settings.store.unwrap();
    assert_eq!(
        (store.sync, store.day_budget),
        (Sync::Group(Duration::from_millis(5)), 1 << 30)
    );
}

fn warnings(dir: &Dir, text: &str, ephemeral: bool) -> String {
    let args = SourceArgs {
        config: vec![dir.write("snipe.toml", text)],
        ephemeral,
        ..SourceArgs::default()
    };
    let loaded = load_tree(&args, &dir.around).unwrap().loaded;
    assert_eq!(loaded.settings.store.is_none(), ephemeral);
    assert_eq!(loaded.settings.gateway.durability.is_none(), ephemeral);
    let warnings: Vec<String> = loaded.warnings.iter().map(Warning::to_string).collect();
    without_path(&warnings.join("\n\n"), dir.path())
}

#[test]
fn doubts_about_the_spool_are_shown_with_their_lines() {
    let text = "[broker]\nwhen_down = \"spool\"\n[spool]\nsync = \"never\"\ndaily_write_budget = \"1 MiB\"\n";
    insta::assert_snapshot!(warnings(&Dir::new(), text, false));
}

#[test]
fn ephemeral_has_no_spool_and_doubts_only_that_one_was_asked_for() {
    let asked = "[broker]\nwhen_down = \"spool\"\n[spool]\nsync = \"never\"\n";
    insta::assert_snapshot!(warnings(&Dir::new(), asked, true));
    assert_eq!(warnings(&Dir::new(), "[spool]\nsync = \"never\"\n", true), "");
}
