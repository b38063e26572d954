//! A network of its own, where the well-known ports are free.

use std::process::Command;

use crate::{client::PATIENCE, process::Process};

/// A network namespace with nothing but a loopback interface.
///
/// Tests of what happens with the ports that the gateway uses when nobody names others run in it, since on the machine
/// a broker may have them.
pub struct Namespace {
    /// Holds it open.
    holder: Process,
}

impl Namespace {
    /// A new one.
    ///
    /// # Panics
    /// If the system does not let its user make one: then user namespaces are switched off, or `unshare`, `nsenter` or
    /// `ip` are missing (Debian packages util-linux and iproute2).
    #[track_caller]
    pub fn new() -> Namespace {
        let mut command = Command::new("unshare");
        let hold = "PATH=$PATH:/sbin:/usr/sbin; ip link set lo up && echo up && exec sleep infinity";
        command.args(["--net", "--map-root-user", "sh", "-c", hold]);
        let holder = Process::spawn("a network namespace", command);
        holder.wait_for_line("the loopback interface", 0, PATIENCE, |line| line == "up");
        Namespace { holder }
    }

    /// The same command, to be run within.
    pub fn within(&self, command: &Command) -> Command {
        let mut wrapped = Command::new("nsenter");
        wrapped.args(["--preserve-credentials", "--user", "--net", "--target"]);
        wrapped.arg(self.holder.id().to_string()).arg("--");
        wrapped.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(name, value),
                None => wrapped.env_remove(name),
            };
        }
        wrapped
    }

    /// Starts a command within.
    #[track_caller]
    pub fn spawn(&self, name: &str, command: &Command) -> Process {
        Process::spawn(name, self.within(command))
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Namespace::new()
    }
}
