//! `snipe sim field`: a LoRa network in virtual time, to plan one with.

mod args;
mod table;

use std::io::{self, Write};
use std::process::ExitCode;

use gateway_core::time::Instant;
use snipe_sim::field::scene::Scene;

pub(crate) use args::FieldArgs;
use table::Table;

use crate::cli::usage_error;

/// `snipe sim field`.
pub(super) fn run(args: &FieldArgs) -> ExitCode {
    let scene = match args.population() {
        Ok(population) => Scene::new(population),
        Err(message) => return usage_error("sim", &message),
    };
    match print(args, scene, &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        // Who piped this into `head` has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("snipe: cannot print: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A row for each stretch of time as soon as it has passed, and what it all came to.
fn print(args: &FieldArgs, mut scene: Scene, out: &mut impl Write) -> io::Result<()> {
    let end = Instant::START + args.length();
    if let Some(every) = args.commands {
        scene.plan_commands(end, every);
    }
    let mut table = Table::new(args);
    writeln!(out, "{}\n\n{}", table.title(), Table::head())?;
    while scene.field.now() < end {
        let until = (scene.field.now() + table.stretch()).min(end);
        scene.run_until(until);
        writeln!(out, "{}", table.row(&scene))?;
        out.flush()?;
    }
    writeln!(out, "\n{}", table.sum(&scene))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::sim::args::{SimArgs, SimCommand};

    #[derive(Debug, Parser)]
    struct TestCli {
        #[command(flatten)]
        sim: SimArgs,
    }

    fn printed(options: &str) -> Result<String, String> {
        let line = format!("snipe field {options}");
        let cli = TestCli::try_parse_from(line.split_whitespace()).map_err(|error| error.to_string())?;
        let SimCommand::Field(args) = &cli.sim.command else {
            panic!("{line}");
        };
        let mut out = Vec::new();
        print(args, Scene::new(args.population()?), &mut out).unwrap();
        Ok(String::from_utf8(out).unwrap())
    }

    /// All of it, and the same each time: a seed is a field.
    #[test]
    fn a_quarter_of_a_day_is_printed() {
        let table = printed("--nodes 20 --days 0.25 --interval 10m --commands 5m").unwrap();
        insta::assert_snapshot!(table);
        assert_eq!(
            printed("--nodes 20 --days 0.25 --interval 10m --commands 5m").unwrap(),
            table
        );
    }

    /// At SF12 and 1 % there is an answer every two minutes, for thirty nodes that say something every fifteen.
    #[test]
    fn too_many_nodes_show_in_the_table_and_in_what_is_said_of_it() {
        let table = printed("--nodes 30 --sf 12 --days 0.25").unwrap();
        assert!(table.contains("the gateway's airtime is used up"), "{table}");
        let calm = printed("--nodes 5 --sf 12 --days 0.25 --interval 1h").unwrap();
        assert!(!calm.contains("used up"), "{calm}");
    }

    #[test]
    fn what_cannot_be_simulated_is_refused() {
        for (options, reason) in [
            ("--nodes 0", "0 is not in 1..=254"),
            ("--nodes 255", "255 is not in 1..=254"),
            ("--sf 6", "6 is not in 7..=12"),
            ("--days 0", "expected a number of days"),
            ("--days NaN", "expected a number of days"),
            ("--keep-alive 20h", "expected a time such as 1h"),
            ("--duty-cycle 0%", "the gateway could never send"),
            ("--payload 11", "11 is not in 12..=200"),
            (
                "--nodes 254 --days 366 --interval 1m",
                "messages are too many to simulate",
            ),
        ] {
            let error = printed(options).unwrap_err();
            assert!(error.contains(reason), "{options}: {error}");
        }
    }
}
