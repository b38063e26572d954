//! What a durable message costs an SD card: octets written to the whole device, file system included.
//!
//! `tests/run.sh wear`, as root: the state directory is on ext4 on a loop device, in a mount namespace of its own, and
//! the kernel counts what is written to that device. Without root or loop devices nothing is measured, and it says so.
//! The figures do not depend on how fast the machine is, nor on how the gateway was compiled.

use std::env;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use sn_codec::{PublishQoS, QoS, ReturnCode, TopicRef};
use system_tests::{Broker, Client, Gateway, Setup};
use tempfile::TempDir;

/// Set where the mount namespace is our own.
const INSIDE: &str = "SNIPE_WEAR_INSIDE";

const PAYLOAD: [u8; 100] = [b'x'; 100];

/// Messages that are durable one by one, and groups of ten.
const SINGLE: u32 = 500;
const GROUPS: u32 = 100;

fn main() -> Result<()> {
    if env::args().any(|arg| arg == "--test") {
        return Ok(()); // `cargo test --benches` only wants to know that it builds.
    }
    if env::var_os(INSIDE).is_none() {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "--"]);
        command.arg(env::current_exe()?).env(INSIDE, "1");
        let error = command.exec();
        bail!("not measured: cannot run unshare: {error}");
    }
    let dir = TempDir::new()?;
    let device = match Device::mount(dir.path()) {
        Ok(device) => device,
        Err(error) => bail!("not measured: {error:#}\nit takes root, loop devices and mkfs.ext4"),
    };
    measure(&device)
}

fn measure(device: &Device) -> Result<()> {
    let state = device.mounted.join("state");
    // A broker that is away: every message goes to disk before it is acknowledged, and stays there.
    let gateway = Setup::beside(&Broker::stopped())
        .toml(&format!("gateway.state_dir = '{}'", state.display()))
        .start();
    let clients: Vec<(Client, TopicRef)> = (0..10).map(|at| publisher(&gateway, at)).collect();
    // The first makes the segment.
    let (first, topic) = &clients[0];
    first.publish_acknowledged(*topic, &PAYLOAD);

    let single = device.written_by(|| {
        for _ in 0..SINGLE {
            first.publish_acknowledged(*topic, &PAYLOAD);
        }
    })?;
    let grouped = device.written_by(|| {
        for _ in 0..GROUPS {
            let publish = |(client, topic): &(Client, TopicRef)| {
                client.publish(*topic, PublishQoS::Level(QoS::AtLeastOnce), &PAYLOAD)
            };
            let ids: Vec<_> = clients.iter().map(publish).collect();
            for ((client, topic), id) in clients.iter().zip(ids) {
                client.expect_puback(*topic, id, ReturnCode::Accepted);
            }
        }
    })?;
    let each = |octets: u64, messages: u32| octets as f64 / f64::from(messages);
    println!("octets written to the device for each QoS 1 message of 100 octets, acknowledged when durable:");
    println!("  one at a time  {:>7.0}", each(single, SINGLE));
    println!("  ten at a time  {:>7.0}", each(grouped, GROUPS * 10));
    println!("a new segment costs its size, 4 MiB, once for some 20,000 such messages: 210 octets each");
    Ok(())
}

fn publisher(gateway: &Gateway, at: usize) -> (Client, TopicRef) {
    let client = gateway.connected_client(&format!("sensor-{at}"));
    let topic = TopicRef::Normal(client.register("wear/of/a/card"));
    (client, topic)
}

/// ext4 on a loop device. It goes with the mount namespace.
struct Device {
    mounted: PathBuf,
    /// Counters of the kernel, `Documentation/block/stat.rst`.
    counters: PathBuf,
}

impl Device {
    fn mount(dir: &Path) -> Result<Device> {
        let (image, mounted) = (dir.join("image"), dir.join("mounted"));
        File::create(&image)?.set_len(256 << 20)?;
        fs::create_dir(&mounted)?;
        // Blocks as on a card, where so small an image would get smaller ones; no lazy initialisation, which would write
        // in the background.
        let options = "lazy_itable_init=0,lazy_journal_init=0";
        run(Command::new("mkfs.ext4")
            .args(["-q", "-F", "-b", "4096", "-E", options])
            .arg(&image))?;
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(&image)
            .arg(&mounted))?;
        let device = run(Command::new("losetup")
            .args(["--noheadings", "--output", "NAME", "--associated"])
            .arg(&image))?;
        let name = device.trim().trim_start_matches("/dev/");
        ensure!(!name.is_empty(), "no loop device has {}", image.display());
        Ok(Device {
            mounted,
            counters: PathBuf::from(format!("/sys/block/{name}/stat")),
        })
    }

    /// Octets that reach the device for what `work` does.
    fn written_by(&self, work: impl FnOnce()) -> Result<u64> {
        let before = self.written()?;
        work();
        Ok(self.written()? - before)
    }

    fn written(&self) -> Result<u64> {
        // What the file system has put off counts too.
        run(Command::new("sync").arg("--file-system").arg(&self.mounted))?;
        let counters = fs::read_to_string(&self.counters)?;
        let sectors = counters.split_whitespace().nth(6).context("seven counters")?;
        // In units of 512 octets, whatever the device's sectors are.
        Ok(sectors.parse::<u64>()? * 512)
    }
}

fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program}: {}", said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
