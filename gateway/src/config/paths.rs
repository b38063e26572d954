//! Whether what the gateway writes has a place, as far as that can be known without writing.
//!
//! Who checks need not be who runs the gateway: what only this user may not do is a warning, what nobody can do an error.

use std::io::ErrorKind;
use std::path::Path;

use rustix::{
    fs::{Access, PROC_SUPER_MAGIC, access, statfs},
    io::Errno,
};

use super::{
    LoadedTree,
    report::Report,
    tree::{Node, Table},
};

/// `SYSFS_MAGIC` of `linux/magic.h`.
const SYSFS_MAGIC: u32 = 0x6265_6572;

/// Why a path will not do.
enum Doubt {
    /// For this user, now.
    Here(String),
    /// For anybody.
    Everywhere(String),
}

/// Checks the paths of a configuration.
pub(super) fn check(tree: &LoadedTree) -> Vec<Report> {
    let settings = &tree.loaded.settings;
    let mut reports = Vec::new();
    if let (Some(file), Some(node)) = (&settings.log.file, named(&tree.root, "log.file"))
        && let Err(doubt) = log_file(file)
    {
        let help = "name a file in a directory that is there, or log.file = \"\" for standard error";
        reports.push(report(doubt, "log.file", node, help));
    }
    // The default is within what is this user's own.
    if let Some(node) = named(&tree.root, "gateway.state_dir")
        && let Err(doubt) = directory(&settings.state_dir)
    {
        // Without anything to keep, the gateway starts all the same.
        let needed = settings.store.is_some() || settings.gateway.keep_airtime;
        let doubt = match doubt {
            Doubt::Everywhere(why) if !needed => Doubt::Here(why),
            doubt => doubt,
        };
        let help = "name another directory, or keep nothing over a restart: --ephemeral";
        reports.push(report(doubt, "gateway.state_dir", node, help));
    }
    reports
}

fn named<'a>(root: &'a Table, path: &str) -> Option<&'a Node> {
    root.node(path).filter(|node| !node.place.is_default())
}

fn report(doubt: Doubt, key: &str, node: &Node, help: &str) -> Report {
    match doubt {
        Doubt::Everywhere(why) => {
            let title = format!("{key} cannot be written: {why}");
            Report::error("cannot-write", title, &node.place, "here").help(help)
        }
        Doubt::Here(why) => {
            let title = format!("{key} cannot be written by this user: {why}");
            let report = Report::warning("cannot-write", title, &node.place, "here");
            report.help("nothing is wrong if another user runs the gateway")
        }
    }
}

/// The file is made if need be, its directory is not.
fn log_file(path: &Path) -> Result<(), Doubt> {
    match path.metadata() {
        Ok(found) if found.is_dir() => Err(Doubt::Everywhere(format!("{} is a directory", path.display()))),
        Ok(_) => may(path, Access::WRITE_OK),
        Err(_) => {
            let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let directory = directory.unwrap_or(Path::new("."));
            match existing(directory)? {
                true => may_make_in(directory),
                false => Err(Doubt::Everywhere(format!(
                    "there is no directory {}",
                    directory.display()
                ))),
            }
        }
    }
}

/// The directory is made if need be, and those above it.
fn directory(path: &Path) -> Result<(), Doubt> {
    for above in path.ancestors() {
        let above = match above.as_os_str().is_empty() {
            true => Path::new("."),
            false => above,
        };
        if existing(above)? {
            return may_make_in(above);
        }
    }
    Ok(())
}

/// Whether the directory is there.
fn existing(path: &Path) -> Result<bool, Doubt> {
    match path.metadata() {
        Ok(found) if found.is_dir() => Ok(true),
        Ok(_) => Err(Doubt::Everywhere(format!("{} is no directory", path.display()))),
        // Something above it is none: that one is named.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
        Err(error) => Err(Doubt::Here(format!("{}: {error}", path.display()))),
    }
}

fn may_make_in(directory: &Path) -> Result<(), Doubt> {
    let of_the_kernel = statfs(directory)
        .is_ok_and(|found| [PROC_SUPER_MAGIC as u32, SYSFS_MAGIC].contains(&(found.f_type as u32)));
    if of_the_kernel {
        let why = format!("no files can be made in {}", directory.display());
        return Err(Doubt::Everywhere(why));
    }
    may(directory, Access::WRITE_OK | Access::EXEC_OK)
}

fn may(path: &Path, what: Access) -> Result<(), Doubt> {
    match access(path, what) {
        Ok(()) => Ok(()),
        Err(Errno::ROFS) => Err(Doubt::Everywhere(format!("{} is read-only", path.display()))),
        Err(error) => Err(Doubt::Here(format!("{}: {error}", path.display()))),
    }
}
