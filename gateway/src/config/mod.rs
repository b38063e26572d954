//! The configuration: from files, environment and options to [`Settings`], with everything that is wrong said at once.
//!
//! [`load`] reads each layer in turn, checks it against the schema while it still knows every line and column, lays
//! it over the ones before, fills in defaults, and then applies the rules that tie values together.

mod assemble;
mod command;
mod derive;
mod forecast;
mod layers;
mod paths;
mod radio_rules;
mod radio_settings;
mod render;
mod report;
mod rules;
mod schema;
mod settings;
mod source;
#[cfg(test)]
mod tests;
mod tree;
mod units;
mod url;
mod walk;

use std::path::PathBuf;

pub(crate) use command::{CheckArgs, ConfigArgs, print_errors, refuse};
pub(crate) use report::{ConfigErrors, Warning};
pub(crate) use settings::{Broker, LogFormat, LogSettings, Radio, RadioKind, Settings, StoreSettings};
#[cfg(feature = "sim")]
pub(crate) use units::{parse_duration, show_duration};

use layers::Surroundings;
use report::Report;
use source::Place;
use tree::Table;

/// Exit code for a configuration that is wrong, `EX_CONFIG` of sysexits.
pub(crate) const EXIT_INVALID: u8 = 78;

/// Options that say where configuration comes from.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct SourceArgs {
    /// Configuration file; several merge in order [default: /etc/snipe/snipe.toml if it exists]
    #[arg(long, short, value_name = "FILE", env = "SNIPE_CONFIG")]
    pub(crate) config: Vec<PathBuf>,
    /// Override a key, for example radio.udp0.mtu=512
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Where the messages go: mqtt://HOST:PORT or embedded
    #[arg(long, value_name = "URL")]
    pub(crate) broker: Option<String>,
    /// Keep nothing over a restart: for systems that cannot write
    #[arg(long)]
    pub(crate) ephemeral: bool,
}

/// A configuration without errors.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Loaded {
    /// What it comes to.
    pub(crate) settings: Settings,
    /// What deserves a look.
    pub(crate) warnings: Vec<Warning>,
    /// The files that were read, or `built-in defaults`, and what else was given.
    pub(crate) origin: String,
    /// Where the log file is named.
    log_file: Option<Place>,
}

impl Loaded {
    /// What to tell the person who named a log file that cannot be opened; `None` if nobody did.
    pub(crate) fn log_refused(&self, error: &anyhow::Error) -> Option<ConfigErrors> {
        let title = format!("cannot write the log: {error:#}");
        let report = Report::error("cannot-write", title, self.log_file.as_ref()?, "log.file")
            .help("name a file in a directory that is there, or log.file = \"\" for standard error");
        report::settle(vec![report]).err()
    }
}

/// Reads the configuration of this process.
///
/// # Errors
/// All that is wrong with it; the process should end with [`EXIT_INVALID`].
pub(crate) fn load(args: &SourceArgs) -> Result<Loaded, ConfigErrors> {
    load_tree(args, &Surroundings::of_this_process()).map(|tree| tree.loaded)
}

/// Reads the configuration of this process, and looks whether what it names can be written.
fn load_to_check(args: &SourceArgs) -> Result<Loaded, ConfigErrors> {
    let mut tree = load_tree(args, &Surroundings::of_this_process())?;
    let warnings = report::settle(paths::check(&tree))?;
    tree.loaded.warnings.extend(warnings);
    Ok(tree.loaded)
}

/// A configuration and the values it was made from.
#[derive(Debug)]
struct LoadedTree {
    loaded: Loaded,
    root: Table,
}

fn load_tree(args: &SourceArgs, around: &Surroundings) -> Result<LoadedTree, ConfigErrors> {
    let mut reports = Vec::new();
    let mut merged = layers::read(args, around, &mut reports);
    derive::radios(&mut merged.root);
    rules::check(&merged.root, &mut reports);
    rules::spool(&merged.root, args.ephemeral, &mut reports);
    let mut settings = assemble::settings(&merged.root, around, &mut reports);
    if args.ephemeral {
        settings.store = None;
        settings.gateway.durability = None;
    }
    let warnings = report::settle(reports)?;
    let mut origin = if merged.files.is_empty() {
        "built-in defaults".into()
    } else {
        merged.files.join(", ")
    };
    for given in merged.overrides {
        origin.push_str(" + ");
        origin.push_str(given);
    }
    Ok(LoadedTree {
        loaded: Loaded {
            settings,
            warnings,
            origin,
            log_file: merged.root.node("log.file").map(|node| node.place.clone()),
        },
        root: merged.root,
    })
}
