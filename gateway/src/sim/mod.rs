//! `snipe sim`: radios and sensors to try a configuration with, before there is any hardware.

mod args;
mod build;
mod field;
mod live;
mod print;

use std::{
    io::{BufRead as _, IsTerminal as _},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

use tokio::signal::unix::{SignalKind, signal};

pub(crate) use args::SimArgs;
use args::{ModemArgs, SimCommand};

use crate::cli::usage_error;
use live::Live;

/// `snipe sim`.
pub(crate) fn run(args: &SimArgs) -> ExitCode {
    match &args.command {
        SimCommand::Modem(args) => modem(args),
        SimCommand::Field(args) => field::run(args),
    }
}

/// The modem lives on a thread of its own; this one waits for signals.
fn modem(args: &ModemArgs) -> ExitCode {
    let site = match build::site(args) {
        Ok(site) => site,
        Err(message) => return usage_error("sim", &message),
    };
    let stop = Arc::new(AtomicBool::new(false));
    let mut live = match Live::new(args, site, stop.clone(), commands()) {
        Ok(live) => live,
        Err(error) => {
            eprintln!("snipe: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let (ended, end) = tokio::sync::oneshot::channel();
    let modem = thread::spawn(move || {
        let result = live.run();
        // Nobody waits any more if a signal came first.
        let _ = ended.send(());
        result
    });
    let interrupted = wait(end);
    stop.store(true, Ordering::Relaxed);
    match modem.join() {
        Ok(Ok(())) if interrupted => ExitCode::from(130),
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            eprintln!("snipe: {error:#}");
            ExitCode::FAILURE
        }
        Err(_) => ExitCode::FAILURE,
    }
}

/// Waits for the end of the modem or a signal; true for Ctrl-C.
fn wait(end: tokio::sync::oneshot::Receiver<()>) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return false };
    runtime.block_on(async {
        let (Ok(mut interrupt), Ok(mut terminate)) =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            let _ = end.await;
            return false;
        };
        tokio::select! {
            _ = end => false,
            _ = interrupt.recv() => true,
            _ = terminate.recv() => false,
        }
    })
}

/// Lines typed by the user. Nobody types to a process in the background, and reading there would stop it.
fn commands() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    let stdin = std::io::stdin();
    let in_foreground = || {
        let group = rustix::termios::tcgetpgrp(rustix::stdio::stdin());
        group.is_ok_and(|group| group == rustix::process::getpgrp())
    };
    if !stdin.is_terminal() || in_foreground() {
        thread::spawn(move || {
            for line in stdin.lock().lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
    }
    receiver
}
