//! The command line: every subcommand and its help.

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser, Subcommand};

#[cfg(feature = "sim")]
use crate::sim::SimArgs;
use crate::{
    config::{CheckArgs, ConfigArgs, SourceArgs},
    decode::DecodeArgs,
    spool::SpoolArgs,
    tools::{PingArgs, PubArgs, SubArgs},
    topics::TopicsArgs,
};

/// `snipe`, with or without a subcommand.
#[derive(Debug, Parser)]
#[command(
    name = "snipe",
    version,
    about = "MQTT-SN gateway: from battery sensors to any MQTT broker",
    args_conflicts_with_subcommands = true,
    after_help = AFTER_HELP
)]
pub(crate) struct Cli {
    /// What to do; without one the gateway runs.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    /// `snipe --broker …` is `snipe run --broker …`.
    #[command(flatten)]
    pub(crate) run: SourceArgs,
}

impl Cli {
    /// The command line of this process; what is wrong with it, or help, is printed and ends the process.
    pub(crate) fn of_process() -> Cli {
        Cli::try_parse().unwrap_or_else(|error| with_tip(error).exit())
    }
}

/// Says where options go to who put them before the command (there they would be those of `snipe run`), and how a file is
/// named to who names it as for `snipe check`.
fn with_tip(mut error: clap::Error) -> clap::Error {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text),
        _ => None,
    };
    let tip = match (
        error.kind(),
        text(ContextKind::InvalidSubcommand),
        text(ContextKind::InvalidArg),
    ) {
        (ErrorKind::ArgumentConflict, Some(command), _) => {
            format!("options stand behind the command: snipe {command} --set KEY=VALUE")
        }
        (ErrorKind::InvalidSubcommand, Some(file), _) | (ErrorKind::UnknownArgument, _, Some(file))
            if file.ends_with(".toml") =>
        {
            format!("a configuration is named by --config {file}")
        }
        _ => return error,
    };
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    error
}

const AFTER_HELP: &str = "\
Examples:
  snipe                                    run the gateway, nothing to configure
  snipe --broker mqtt://192.168.1.10:1883  run it for the broker at that address
  snipe check /etc/snipe/snipe.toml        say everything that is wrong there
  snipe sub -t 'demo/#' -v                 watch what devices publish
  snipe pub -t demo/hello -m 21.5          publish as a device would
  snipe decode 0b0c226162010232312e35      explain a datagram
  snipe spool ls                           what waits on disk for the broker

Exit codes:
  0    ok
  1    failed while running
  2    wrong usage
  4    the gateway that was asked for does not run
  27   the time of -W is over (pub, sub)
  69   broker or radio unavailable
  73   cannot write state
  77   no permission
  78   configuration invalid
  130  interrupted";

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the gateway (the default)
    Run(SourceArgs),
    /// Validate a configuration
    Check(CheckArgs),
    /// Print the default or the effective configuration
    Config(ConfigArgs),
    /// Print the topic registry of a running gateway
    Topics(TopicsArgs),
    /// Look at and drop what waits on disk for the broker
    Spool(SpoolArgs),
    /// Explain a datagram field by field
    Decode(DecodeArgs),
    /// Publish messages as an MQTT-SN client
    Pub(PubArgs),
    /// Subscribe as an MQTT-SN client and print what comes
    Sub(SubArgs),
    /// Measure round trips to a gateway
    Ping(PingArgs),
    /// Simulate radios and sensors, to try a configuration without hardware
    #[cfg(feature = "sim")]
    Sim(SimArgs),
}

/// Says on stderr what is wrong with the use of `subcommand`, as clap would; the exit code is 2.
pub(crate) fn usage_error(subcommand: &str, message: &str) -> ExitCode {
    let mut root = Cli::command();
    root.build();
    let error = match root.find_subcommand_mut(subcommand) {
        Some(command) => command.error(ErrorKind::ValueValidation, message),
        None => root.error(ErrorKind::ValueValidation, message),
    };
    // If stderr is closed there is nobody to tell.
    let _ = error.print();
    ExitCode::from(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn bare_snipe_runs_the_gateway() {
        let cli = Cli::try_parse_from(["snipe"]).unwrap();
        assert!(cli.command.is_none());
    }

    #[test]
    fn flags_without_subcommand_are_those_of_run() {
        let bare = Cli::try_parse_from(["snipe", "--broker", "mqtt://b"]).unwrap();
        assert!(bare.command.is_none());
        assert_eq!(bare.run.broker.as_deref(), Some("mqtt://b"));

        let named = Cli::try_parse_from(["snipe", "run", "--broker", "mqtt://b"]).unwrap();
        let Some(Command::Run(run)) = named.command else {
            panic!("not run: {named:?}")
        };
        assert_eq!(run.broker.as_deref(), Some("mqtt://b"));
    }

    #[test]
    fn options_before_a_command_are_told_their_place() {
        let line = ["snipe", "--set", "gateway.id=2", "check"];
        let error = with_tip(Cli::try_parse_from(line).expect_err("they are those of run"));
        assert_eq!(error.exit_code(), 2);
        let told = error.to_string();
        assert!(
            told.contains("tip: options stand behind the command: snipe check --set KEY=VALUE"),
            "{told}"
        );
    }

    #[test]
    fn who_names_a_file_as_for_check_is_told_the_option() {
        for line in ["snipe a.toml", "snipe run a.toml"] {
            let error = with_tip(Cli::try_parse_from(line.split(' ')).expect_err("it is no argument"));
            let told = error.to_string();
            assert!(
                told.contains("tip: a configuration is named by --config a.toml"),
                "{told}"
            );
        }
    }

    #[test]
    fn dropping_asks_which_messages() {
        let error = Cli::try_parse_from(["snipe", "spool", "drop"]).expect_err("it must be told");
        assert!(error.to_string().contains("<ID|--all>"), "{error}");
    }

    #[test]
    fn wrong_usage_has_exit_code_2() {
        for line in [
            "snipe nonsense",
            "snipe --nonsense",
            "snipe pub -t a/b",
            "snipe sub",
            "snipe decode",
        ] {
            let error = Cli::try_parse_from(line.split(' ')).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn h_is_the_host_for_client_tools_and_help_elsewhere() {
        let cli = Cli::try_parse_from(["snipe", "ping", "-h", "gw.example"]).unwrap();
        let Some(Command::Ping(ping)) = cli.command else {
            panic!("not ping: {cli:?}")
        };
        assert_eq!(ping.link.host, "gw.example");

        for line in [
            "snipe -h",
            "snipe decode -h",
            "snipe pub --help",
            "snipe sub --help",
            "snipe ping --help",
        ] {
            let help = Cli::try_parse_from(line.split(' ')).expect_err(line);
            assert_eq!(help.kind(), ErrorKind::DisplayHelp, "{line}");
        }
    }

    #[test]
    fn version_is_the_packages() {
        let version = Cli::try_parse_from(["snipe", "--version"]).expect_err("prints and exits");
        assert_eq!(
            version.to_string(),
            format!("snipe {}\n", env!("CARGO_PKG_VERSION"))
        );
    }
}
