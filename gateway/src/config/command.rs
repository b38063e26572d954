//! `snipe check` and `snipe config`.

use std::{path::PathBuf, process::ExitCode};

use super::{
    Broker, EXIT_INVALID, Loaded, SourceArgs, forecast,
    layers::Surroundings,
    load_to_check, load_tree, render,
    report::{ConfigErrors, colours_on_stderr},
    schema::ROOT,
};
use crate::online;

/// Arguments of `snipe check`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct CheckArgs {
    /// Files to check instead of those of --config, merged in this order
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Also open the radios, ask each modem what it is, and try the broker
    #[arg(long)]
    pub(crate) online: bool,
    /// Where the rest comes from.
    #[command(flatten)]
    pub(crate) source: SourceArgs,
}

/// Arguments of `snipe config`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ConfigArgs {
    /// What to show.
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
}

/// What `snipe config` can do.
#[derive(Debug, Clone, clap::Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print every key that this version uses with its default, ready to be a file
    Default,
    /// Print the effective values
    Show(ShowArgs),
}

/// Arguments of `snipe config show`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ShowArgs {
    /// Only this section, for example broker
    pub(crate) section: Option<String>,
    /// Say for each value where it comes from
    #[arg(long)]
    pub(crate) origins: bool,
    /// Where the values come from.
    #[command(flatten)]
    pub(crate) source: SourceArgs,
}

impl CheckArgs {
    /// Prints every warning and error and a summary, and what is there if that was asked for. Exit code 0, 78 if there
    /// are errors, 69 or 77 if something is not there.
    pub(crate) fn run(mut self) -> ExitCode {
        if !self.files.is_empty() {
            self.source.config = std::mem::take(&mut self.files);
        }
        match load_to_check(&self.source) {
            Ok(loaded) => {
                warn(&loaded);
                println!("{}: ok ({})", loaded.origin, summary(&loaded));
                for line in loaded.settings.radios.iter().filter_map(forecast::of) {
                    println!("  {line}");
                }
                if self.online {
                    return online::check(&loaded.settings);
                }
                ExitCode::SUCCESS
            }
            Err(errors) => refuse(&errors),
        }
    }
}

impl ConfigArgs {
    /// Prints what was asked for. Exit code 0, 2 for a section that does not exist, 78 for a wrong configuration.
    pub(crate) fn run(self) -> ExitCode {
        match self.command {
            ConfigCommand::Default => {
                print!("{}", render::default_file());
                ExitCode::SUCCESS
            }
            ConfigCommand::Show(args) => args.run(),
        }
    }
}

impl ShowArgs {
    fn run(self) -> ExitCode {
        let section = self.section.as_deref();
        if let Some(name) = section {
            let known: Vec<&str> = ROOT
                .fields
                .iter()
                .filter(|field| field.used)
                .map(|field| field.name)
                .collect();
            if !known.contains(&name) {
                eprintln!(
                    "error: no section is called `{name}`; there are: {}",
                    known.join(", ")
                );
                return ExitCode::from(2);
            }
        }
        match load_tree(&self.source, &Surroundings::of_this_process()) {
            Ok(tree) => {
                warn(&tree.loaded);
                let password = match &tree.loaded.settings.broker {
                    Broker::External(remote) | Broker::Unnamed { taken: remote, .. } => {
                        remote.password.is_some()
                    }
                    Broker::Embedded(_) => false,
                };
                if self.origins {
                    print!("{}", render::origins(&tree.root, section, password));
                } else {
                    print!("{}", render::effective(&tree.root, section));
                }
                ExitCode::SUCCESS
            }
            Err(errors) => refuse(&errors),
        }
    }
}

fn warn(loaded: &Loaded) {
    for warning in &loaded.warnings {
        if colours_on_stderr() {
            eprintln!("{warning:#}\n");
        } else {
            eprintln!("{warning}\n");
        }
    }
}

/// Shows what is wrong on standard error.
pub(crate) fn print_errors(errors: &ConfigErrors) {
    if colours_on_stderr() {
        eprintln!("{errors:#}");
    } else {
        eprintln!("{errors}");
    }
}

/// Shows what is wrong on standard error and gives the exit code that stops systemd from trying again.
pub(crate) fn refuse(errors: &ConfigErrors) -> ExitCode {
    print_errors(errors);
    ExitCode::from(EXIT_INVALID)
}

fn summary(loaded: &Loaded) -> String {
    let settings = &loaded.settings;
    let broker = match &settings.broker {
        Broker::Embedded(embedded) | Broker::Unnamed { embedded, .. } => {
            let addresses: Vec<String> = embedded.bind.iter().map(ToString::to_string).collect();
            format!("embedded broker on {}", addresses.join(" and "))
        }
        Broker::External(remote) if remote.host.contains(':') => {
            format!("broker mqtt://[{}]:{}", remote.host, remote.port)
        }
        Broker::External(remote) => format!("broker mqtt://{}:{}", remote.host, remote.port),
    };
    let of_clients: usize = settings
        .gateway
        .clients
        .iter()
        .map(|rule| rule.predefined.len())
        .sum();
    [
        format!("gateway {}", settings.gateway.gateway_id),
        counted(settings.radios.len(), "radio"),
        broker,
        counted(settings.gateway.predefined.len() + of_clients, "predefined topic"),
        counted(settings.gateway.clients.len(), "client rule"),
        counted(loaded.warnings.len(), "warning"),
    ]
    .join(", ")
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}
