//! The rig of a campaign: a gateway that is killed again and again, and what goes on around it.

use std::{
    fmt, fs,
    fs::File,
    io::Write as _,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use system_tests::{Broker, BrokerKind, PATIENCE, Process, RUNNING, Signal, free_port, repository, snipe};
use tempfile::TempDir;

use crate::{
    broker_log,
    ledger::{Ledger, Tail},
};

/// How long a gateway that is alive may bring no message forward before the rest counts as lost.
const NO_PROGRESS: Duration = Duration::from_secs(30);

/// How long a message that comes once too often has to show up in the end.
const REPEATS: Duration = Duration::from_secs(2);

/// What a campaign is to do.
pub(crate) struct Plan {
    pub(crate) broker: BrokerKind,
    pub(crate) kills: u32,
    pub(crate) seed: u64,
    pub(crate) publishers: u32,
    pub(crate) sleepers: u32,
}

/// What came of it.
pub(crate) struct Report {
    kills: u32,
    stops: u32,
    broker_stops: u32,
    pub(crate) ledger: Ledger,
    faults: Vec<String>,
    /// From a kill until the next life was ready, all together.
    outage: Duration,
    longest_outage: Duration,
    took: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} kills, {} orderly stops, {} stops of the broker in {:.0} s; no gateway for {:.1} s, at most {:.0} ms at a time",
            self.kills,
            self.stops,
            self.broker_stops,
            self.took.as_secs_f64(),
            self.outage.as_secs_f64(),
            self.longest_outage.as_secs_f64() * 1e3
        )?;
        writeln!(f, "  up    {}", self.ledger.up)?;
        writeln!(f, "  down  {}", self.ledger.down)?;
        let (compared, _) = self.ledger.down.overtaken(&self.ledger.calm);
        writeln!(
            f,
            "        {compared} compared with one before in the order of sending"
        )?;
        let (excused, seen) = self.ledger.excused();
        writeln!(
            f,
            "        mosquitto sent {seen} again after their PUBREC, of which {excused} came twice"
        )?;
        write!(f, "  also  {:?}", self.ledger.notes)
    }
}

/// Runs a campaign to its end.
///
/// # Panics
/// If its books do not add up, or something breaks. Then its directory stays, and is named.
#[track_caller]
pub(crate) fn run(plan: &Plan) -> Report {
    println!(
        "seed {}: {} kills beside {:?}",
        plan.seed, plan.kills, plan.broker
    );
    let dir = Evidence::new();
    let report = Campaign::start(plan, dir.path()).run();
    println!("{report}");
    let faults = &report.faults;
    assert!(
        faults.is_empty(),
        "seed {}, {} faults:\n{}",
        plan.seed,
        faults.len(),
        faults.iter().take(50).cloned().collect::<Vec<_>>().join("\n")
    );
    // Books without entries prove nothing.
    let enough = plan.kills as usize * 10;
    let ledger = &report.ledger;
    assert!(ledger.up.acked() > enough, "too few messages: {}", ledger.up);
    assert!(ledger.down.acked() > enough, "too few commands: {}", ledger.down);
    let (compared, _) = ledger.down.overtaken(&ledger.calm);
    // With the broker inside its clients are cut off in each life.
    assert!(
        plan.broker == BrokerKind::Embedded || compared > plan.kills as usize,
        "too few commands whose order is certain: {compared}"
    );
    report
}

/// A directory that stays if the test fails.
pub(crate) struct Evidence(Option<TempDir>);

impl Evidence {
    pub(crate) fn new() -> Evidence {
        Evidence(Some(TempDir::new().expect("a temporary directory")))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.as_ref().expect("taken only at the end").path()
    }
}

impl Drop for Evidence {
    fn drop(&mut self) {
        if thread::panicking()
            && let Some(dir) = self.0.take()
        {
            eprintln!("state, logs and ledgers are in {}", dir.keep().display());
        }
    }
}

struct Campaign<'a> {
    plan: &'a Plan,
    machine: Machine,
    broker: Broker,
    programs: Programs,
    rng: SmallRng,
}

impl<'a> Campaign<'a> {
    #[track_caller]
    fn start(plan: &'a Plan, dir: &Path) -> Campaign<'a> {
        let broker = match plan.broker {
            BrokerKind::Mosquitto => {
                let mut broker = Broker::stopped()
                    .for_many_messages(|line| line.ends_with(RUNNING) || broker_log::matters(line));
                broker.start();
                broker
            }
            BrokerKind::Embedded => Broker::start_new(BrokerKind::Embedded),
        };
        let mut machine = Machine::new(dir, &broker);
        machine.start();
        machine.wait_until_ready();
        let port = ("port", broker.port().to_string());
        let seed = ("seed", plan.seed.to_string());
        let sleepers = ("sleepers", plan.sleepers.to_string());
        let mut programs = Programs::default();
        // Each subscription is there before the first message for it.
        programs.start(dir, "mqtt.py", &["observe"], std::slice::from_ref(&port));
        let sensors = [
            ("port", machine.port.to_string()),
            ("publishers", plan.publishers.to_string()),
            sleepers.clone(),
            seed.clone(),
        ];
        programs.start(dir, "sensors.py", &[], &sensors);
        // A client's own QoS 2 publish comes twice if the broker ends before PUBREC arrives, as the one inside does with
        // every kill.
        let qos = match plan.broker {
            BrokerKind::Mosquitto => "1,2",
            BrokerKind::Embedded => "1",
        };
        let qos = ("qos", qos.to_owned());
        programs.start(dir, "mqtt.py", &["command"], &[port, sleepers, seed, qos]);
        Campaign {
            plan,
            machine,
            broker,
            programs,
            rng: SmallRng::seed_from_u64(plan.seed),
        }
    }

    fn run(mut self) -> Report {
        let started = Instant::now();
        let mut report = Report {
            kills: self.plan.kills,
            stops: 0,
            broker_stops: 0,
            ledger: Ledger::default(),
            faults: Vec::new(),
            outage: Duration::ZERO,
            longest_outage: Duration::ZERO,
            took: Duration::ZERO,
        };
        let mut last = started;
        for kill in 0..self.plan.kills {
            // Many short lives and some long ones.
            let pause = Duration::from_secs_f64(0.2 + 1.8 * self.rng.random::<f64>().powi(2));
            thread::sleep(pause.saturating_sub(last.elapsed()));
            last = Instant::now();
            if self.nothing_else_breaks(kill) {
                report.ledger.calm.extend(self.machine.connected_until_now());
            }
            self.machine.kill();
            self.machine.start();
            // Some lives end before they have begun.
            if !self.rng.random_bool(0.1) {
                self.machine.wait_until_ready();
                let outage = last.elapsed();
                report.outage += outage;
                report.longest_outage = report.longest_outage.max(outage);
            }
            // Others are told to end.
            if self.rng.random_bool(0.15) {
                self.machine.wait_until_ready();
                thread::sleep(Duration::from_secs_f64(0.4 * self.rng.random::<f64>()));
                self.machine.stop();
                self.machine.start();
                report.stops += 1;
            }
            report.broker_stops += u32::from(self.visit_broker(kill, &mut report.ledger));
            self.programs.expect_running();
            if kill % 100 == 99 {
                println!(
                    "{} kills after {:.0} s",
                    kill + 1,
                    started.elapsed().as_secs_f64()
                );
            }
        }
        if !self.broker.is_running() {
            self.broker.start();
        }
        self.settle(&mut report);
        self.machine.stop();
        report.took = started.elapsed();
        report
    }

    /// In the life before this kill mosquitto was there all the time, and its clients too.
    fn nothing_else_breaks(&self, kill: u32) -> bool {
        // From the life that it is stopped in until that after the one that it is started in.
        self.plan.broker == BrokerKind::Mosquitto && !matches!(kill % 9, 5..=8)
    }

    /// Now and then mosquitto is away for a few lives of the gateway.
    ///
    /// Stopped in good order it keeps sessions and messages, but not how far it is with one of QoS 2: after PUBREL it
    /// begins with PUBLISH again (2.0.11), which no receiver can tell from another message. So nothing is under way when
    /// it is stopped. What comes while it is away is what matters here.
    fn visit_broker(&mut self, kill: u32, ledger: &mut Ledger) -> bool {
        if self.plan.broker == BrokerKind::Embedded {
            return false;
        }
        match kill % 9 {
            4 => {
                self.machine.wait_until_ready();
                self.programs.pause(ledger);
                self.read_broker_log(ledger);
                self.broker.stop();
                self.programs.go_on();
                true
            }
            6 => {
                self.broker.start();
                false
            }
            _ => false,
        }
    }

    /// What the mosquitto that runs sent again although it must not.
    fn read_broker_log(&self, ledger: &mut Ledger) {
        if self.plan.broker == BrokerKind::Mosquitto {
            let lines = self.broker.log().lines();
            let again = broker_log::sent_again_after_pubrec(lines.iter().map(|line| &*line.text));
            again.into_iter().for_each(|sleeper| ledger.excuse(sleeper));
        }
    }

    /// Waits until everything that was promised has come true, or nothing comes true any more.
    fn settle(&mut self, report: &mut Report) {
        report.faults = self.programs.begin_nothing_new();
        let ledger = &mut report.ledger;
        let mut progress = (usize::MAX, Instant::now());
        loop {
            self.programs.read(ledger);
            let left = ledger.outstanding();
            if left < progress.0 {
                progress = (left, Instant::now());
            }
            if left == 0 || progress.1.elapsed() > NO_PROGRESS {
                break;
            }
            thread::sleep(Duration::from_millis(100));
        }
        thread::sleep(REPEATS);
        self.programs.stop();
        self.programs.read(ledger);
        self.read_broker_log(&mut report.ledger);
        let ledger = &report.ledger;
        report.faults.extend(ledger.faults());
    }
}

/// The outer ends, and their books.
#[derive(Default)]
struct Programs(Vec<(Process, Tail)>);

impl Programs {
    /// Starts a program of this directory, in the virtual environment that has paho-mqtt.
    #[track_caller]
    fn start(&mut self, dir: &Path, program: &str, role: &[&str], options: &[(&str, String)]) {
        let executable = std::env::current_exe().expect("the system knows what it runs");
        let target = executable.ancestors().nth(3).expect("target/<profile>/deps/test");
        let clients = target.join("interop-mqtt");
        assert!(
            clients.join("installed.txt").is_file(),
            "the MQTT clients are not installed in {}\nrun tests/run.sh setup",
            clients.display()
        );
        let ledger = dir.join(format!("{program}-{}.ledger", self.0.len()));
        let mut command = Command::new(clients.join("bin/python"));
        command.arg(repository().join("tests/crash").join(program));
        command.args(role).arg("--ledger").arg(&ledger);
        for (name, value) in options {
            command.arg(format!("--{name}={value}"));
        }
        let process = Process::spawn(program, command);
        wait_for("ready", &process, PATIENCE * 3);
        self.0.push((process, Tail::new(&ledger)));
    }

    #[track_caller]
    fn expect_running(&mut self) {
        for (program, _) in &mut self.0 {
            assert!(program.is_running(), "it ended:\n{}", program.transcript());
        }
    }

    /// Has them begin nothing for now, and waits until nothing is under way.
    #[track_caller]
    fn pause(&mut self, ledger: &mut Ledger) {
        self.go_on();
        let mut quiet = 0;
        let mut progress = (usize::MAX, Instant::now());
        // For a while: the last packets of an exchange are behind the last entry.
        while quiet < 10 {
            thread::sleep(Duration::from_millis(20));
            self.read(ledger);
            let left = ledger.under_way();
            quiet = if left == 0 { quiet + 1 } else { 0 };
            if left < progress.0 {
                progress = (left, Instant::now());
            }
            assert!(
                left == 0 || progress.1.elapsed() < NO_PROGRESS,
                "{left} messages under way stay there"
            );
        }
    }

    /// Has them go on; SIGUSR2 is for both.
    fn go_on(&self) {
        for (program, _) in &self.0 {
            program.signal(Signal::USR2);
        }
    }

    /// Waits until everything that was begun is acknowledged; names the programs that wait in vain.
    fn begin_nothing_new(&mut self) -> Vec<String> {
        for (program, _) in &self.0 {
            program.signal(Signal::USR1);
        }
        let deadline = Instant::now() + PATIENCE * 3;
        let finished = |program: &Process| program.lines().iter().any(|line| line.text == "finished");
        while Instant::now() < deadline && !self.0.iter().all(|(program, _)| finished(program)) {
            self.expect_running();
            thread::sleep(Duration::from_millis(50));
        }
        let waiting = self.0.iter().filter(|(program, _)| !finished(program));
        let names = waiting.map(|(_, tail)| format!("{} waits for acknowledgements in vain", tail.name()));
        names.collect()
    }

    fn read(&mut self, ledger: &mut Ledger) {
        for (_, tail) in &mut self.0 {
            tail.read_into(ledger).expect("the programs keep their books");
        }
    }

    #[track_caller]
    fn stop(&mut self) {
        for (program, _) in &mut self.0 {
            program.signal(Signal::TERM);
            let exit = program.wait_for_exit(PATIENCE);
            assert!(exit.success(), "{exit}:\n{}", program.transcript());
        }
    }
}

/// What stays when the gateway is killed: its configuration, its state, its log.
pub(crate) struct Machine {
    config: PathBuf,
    pub(crate) state: PathBuf,
    log: File,
    pub(crate) port: u16,
    gateway: Option<Process>,
}

impl Machine {
    /// Gateway not started.
    pub(crate) fn new(dir: &Path, broker: &Broker) -> Machine {
        let (port, state, config) = (free_port(), dir.join("state"), dir.join("snipe.toml"));
        let broker = match broker.kind() {
            BrokerKind::Mosquitto => format!("kind = 'external'\nurl = '{}'", broker.url()),
            BrokerKind::Embedded => format!(
                "kind = 'embedded'\nembedded.bind = ['127.0.0.1:{}']",
                broker.port()
            ),
        };
        let text = format!(
            "[gateway]\nstate_dir = '{}'\n\
             [[radio]]\nname = 'udp0'\nkind = 'udp'\nrequired = true\nbind = ['127.0.0.1:{port}']\nmulticast = []\n\
             [broker]\nclient_id = 'snipe'\nreconnect = {{ first = '50ms', max = '300ms' }}\n{broker}\n\
             [timers]\nretry = {{ first = '500ms', max = '2s', count = 5 }}\n",
            state.display()
        );
        fs::write(&config, text).expect("the directory is ours");
        Machine {
            config,
            state,
            log: File::create(dir.join("gateway.log")).expect("the directory is ours"),
            port,
            gateway: None,
        }
    }

    /// Starts the gateway.
    pub(crate) fn start(&mut self) {
        let mut command = snipe();
        command.arg("run").arg("--config").arg(&self.config);
        command.args(
            std::env::var("SNIPE_CRASH_ARGS")
                .iter()
                .flat_map(|args| args.split_whitespace()),
        );
        self.gateway = Some(Process::spawn("snipe run", command));
    }

    /// The process.
    pub(crate) fn gateway(&self) -> &Process {
        self.gateway.as_ref().expect("it was started")
    }

    pub(crate) fn wait_until_ready(&self) {
        self.gateway()
            .wait_for_line("the gateway to be ready", 0, PATIENCE, |line| {
                line.starts_with("ready")
            });
    }

    /// Since when it is connected to its broker, and now, in milliseconds since 1970; `None` if it is not.
    fn connected_until_now(&self) -> Option<RangeInclusive<u64>> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("the clock is past 1970");
        let lines = self.gateway().lines();
        let mut links = lines.iter().filter(|line| line.text.contains("conn=0"));
        let up = links.find(|line| line.text.contains("link up"))?;
        let ms = |time: Duration| u64::try_from(time.as_millis()).expect("in some time");
        Some(ms(now - up.at.elapsed()) + 1..=ms(now))
    }

    /// Ends the gateway in the middle of whatever it does.
    pub(crate) fn kill(&mut self) {
        let mut gateway = self.gateway.take().expect("it was started");
        assert!(
            gateway.is_running(),
            "it ended by itself:\n{}",
            gateway.transcript()
        );
        gateway.signal(Signal::KILL);
        gateway.wait_for_exit(PATIENCE);
        self.keep_log(&gateway);
    }

    /// Ends the gateway in good order.
    pub(crate) fn stop(&mut self) {
        let mut gateway = self.gateway.take().expect("it was started");
        gateway.signal(Signal::TERM);
        let exit = gateway.wait_for_exit(PATIENCE);
        self.keep_log(&gateway);
        assert_eq!(
            exit.code(),
            Some(0),
            "SIGTERM is an orderly end:\n{}",
            gateway.transcript()
        );
    }

    fn keep_log(&mut self, gateway: &Process) {
        for line in gateway.lines() {
            writeln!(self.log, "{}", line.text).expect("the directory is ours");
        }
    }
}

fn wait_for(word: &str, program: &Process, patience: Duration) {
    program.wait_for_line(word, 0, patience, |line| line == word);
}
