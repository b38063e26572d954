//! A child process whose output is kept and which does not outlive its owner.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// A running program. Dropping it kills it, and shows its output if the test failed.
pub struct Process {
    name: String,
    child: Child,
    output: Arc<Output>,
}

/// A program that ended.
#[derive(Debug)]
pub struct Finished {
    /// How.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Finished {
    /// The exit code; `None` if a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

/// A line of output.
#[derive(Debug, Clone)]
pub struct Line {
    /// When it was read.
    pub at: Instant,
    /// Without the line end.
    pub text: String,
    /// It came on the standard error stream.
    pub is_error: bool,
}

#[derive(Default)]
struct Output {
    kept: Mutex<Kept>,
    changed: Condvar,
}

#[derive(Default)]
struct Kept {
    lines: Vec<Line>,
    streams_closed: usize,
}

impl Process {
    /// Starts `command` with both output streams read line by line.
    ///
    /// # Panics
    /// If the program cannot be started: it is missing, and `tests/run.sh` installs it.
    #[track_caller]
    pub fn spawn(name: &str, command: Command) -> Process {
        Process::spawn_keeping(name, command, |_| true)
    }

    /// As [`Process::spawn`], of a program that prints more than can be kept: only lines that `keeps` accepts are.
    ///
    /// # Panics
    /// If it cannot be started.
    #[track_caller]
    pub fn spawn_keeping(name: &str, mut command: Command, keeps: fn(&str) -> bool) -> Process {
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("cannot start {program}: {error}\nrun tests/run.sh, which installs it")
            });
        let output = Arc::new(Output::default());
        output.follow(child.stdout.take().expect("stdout is piped"), false, keeps);
        output.follow(child.stderr.take().expect("stderr is piped"), true, keeps);
        Process {
            name: name.to_owned(),
            child,
            output,
        }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has printed so far.
    pub fn lines(&self) -> Vec<Line> {
        self.output.kept().lines.clone()
    }

    /// How many lines it has printed so far: a place to wait from.
    pub fn mark(&self) -> usize {
        self.output.kept().lines.len()
    }

    /// The first line from the `from`th on that `wanted` accepts, and its number.
    ///
    /// # Panics
    /// If there is none within `patience`, or the process ended without it; shows what there is.
    #[track_caller]
    pub fn wait_for_line(
        &self,
        what: &str,
        from: usize,
        patience: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> (usize, Line) {
        let deadline = Instant::now() + patience;
        let mut kept = self.output.kept();
        let mut next = from;
        loop {
            while let Some(line) = kept.lines.get(next) {
                if wanted(&line.text) {
                    return (next, line.clone());
                }
                next += 1;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || kept.streams_closed == 2 {
                let ended = if kept.streams_closed == 2 {
                    "ended"
                } else {
                    "did not print it in time"
                };
                drop(kept);
                panic!(
                    "{}: waited for {what}, but it {ended}; its output:\n{}",
                    self.name,
                    self.transcript()
                );
            }
            kept = self
                .output
                .changed
                .wait_timeout(kept, left)
                .expect("no reader panics")
                .0;
        }
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If that fails.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a child may be sent signals");
    }

    /// Waits until it ended.
    ///
    /// # Panics
    /// If it is still running after `patience`.
    #[track_caller]
    pub fn wait_for_exit(&mut self, patience: Duration) -> ExitStatus {
        let deadline = Instant::now() + patience;
        let mut kept = self.output.kept();
        // Both streams close when the process ends; waiting for that needs no polling.
        while kept.streams_closed < 2 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(kept);
                panic!(
                    "{} still runs after {patience:?}; its output:\n{}",
                    self.name,
                    self.transcript()
                );
            }
            kept = self
                .output
                .changed
                .wait_timeout(kept, left)
                .expect("no reader panics")
                .0;
        }
        drop(kept);
        self.child.wait().expect("it is our child")
    }

    /// Waits until it ended, and returns how, and what it printed.
    ///
    /// # Panics
    /// If it is still running after `patience`.
    #[track_caller]
    pub fn finish(mut self, patience: Duration) -> Finished {
        let status = self.wait_for_exit(patience);
        let text = |is_error| {
            let lines = self.lines().into_iter().filter(|line| line.is_error == is_error);
            lines.map(|line| line.text + "\n").collect()
        };
        Finished {
            status,
            stdout: text(false),
            stderr: text(true),
        }
    }

    /// True while it has not ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Everything it has printed so far, as one text.
    pub fn transcript(&self) -> String {
        self.lines()
            .iter()
            .map(|line| format!("    {}\n", line.text))
            .collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- output of {} ---\n{}", self.name, self.transcript());
        }
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Output {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("no reader panics")
    }

    fn follow(self: &Arc<Self>, stream: impl Read + Send + 'static, is_error: bool, keeps: fn(&str) -> bool) {
        let output = Arc::clone(self);
        thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while matches!(stream.read_until(b'\n', &mut line), Ok(n) if n > 0) {
                let text = String::from_utf8_lossy(&line)
                    .trim_end_matches(['\n', '\r'])
                    .to_owned();
                if keeps(&text) {
                    output.kept().lines.push(Line {
                        at: Instant::now(),
                        text,
                        is_error,
                    });
                    output.changed.notify_all();
                }
                line.clear();
            }
            output.kept().streams_closed += 1;
            output.changed.notify_all();
        });
    }
}
