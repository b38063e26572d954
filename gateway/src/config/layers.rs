//! Where configuration comes from, in order: defaults, files, `conf.d`, environment, `--set`, `--broker`.

use std::{
    borrow::Cow,
    ffi::OsString,
    fs::File,
    io::{self, Read},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    SourceArgs,
    report::Report,
    schema::ROOT,
    source::{Origin, Place, Source},
    tree::{Table, Value, default_source},
    walk,
};

/// The file that is read when no `--config` names one.
const DEFAULT_FILE: &str = "/etc/snipe/snipe.toml";

/// What there is when no file has a `[[radio]]`; its other keys are the schema's defaults.
pub(super) const DEFAULT_RADIO: &str = "[[radio]]\nname = \"udp0\"\nkind = \"udp\"\n";

/// Begins the names of environment variables that override keys.
const ENVIRONMENT_PREFIX: &str = "SNIPE__";

/// More is a mistake (a device, a log) and not a configuration; taste.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// What the configuration takes from the process around it; tests bring their own.
#[derive(Debug, Clone)]
pub(super) struct Surroundings {
    /// Environment variables.
    pub(super) variables: Vec<(OsString, OsString)>,
    /// The file that is read if it exists and no other is named.
    pub(super) default_file: PathBuf,
    /// The user's home directory.
    pub(super) home: Option<PathBuf>,
}

impl Surroundings {
    /// Those of this process.
    pub(super) fn of_this_process() -> Self {
        Surroundings {
            variables: std::env::vars_os().collect(),
            default_file: DEFAULT_FILE.into(),
            home: std::env::home_dir(),
        }
    }

    /// The value of an environment variable, if it is set and not empty.
    pub(super) fn variable(&self, name: &str) -> Option<&OsString> {
        let (_, value) = self.variables.iter().find(|(key, _)| key == name)?;
        (!value.is_empty()).then_some(value)
    }
}

/// All layers as one, defaults filled in.
#[derive(Debug)]
pub(super) struct Merged {
    /// The values.
    pub(super) root: Table,
    /// The files that were read.
    pub(super) files: Vec<String>,
    /// What else was given, as a person would name it.
    pub(super) overrides: Vec<&'static str>,
}

/// Reads and merges every layer.
pub(super) fn read(args: &SourceArgs, around: &Surroundings, reports: &mut Vec<Report>) -> Merged {
    let mut layers = Layers {
        root: Table::empty(Place::new(&default_source(""), 0..0)),
        rank: 0,
        reports,
    };
    let mut files = args.config.clone();
    if files.is_empty() && around.default_file.exists() {
        files.push(around.default_file.clone());
    }
    let more = drop_ins(&files);
    files.extend(more);
    files.iter().for_each(|file| layers.file(file));
    layers.default_radio();
    layers.environment(around);
    layers.set(&args.set);
    if let Some(broker) = &args.broker {
        layers.broker(broker);
    }
    let mut root = layers.root;
    root.fill(&ROOT);
    let is_ours = |name: &OsString| name.to_string_lossy().starts_with(ENVIRONMENT_PREFIX);
    let given = [
        (
            around.variables.iter().any(|(name, _)| is_ours(name)),
            "SNIPE__… variables",
        ),
        (!args.set.is_empty(), "--set"),
        (args.broker.is_some(), "--broker"),
    ];
    Merged {
        root,
        files: files.iter().map(|file| file.display().to_string()).collect(),
        overrides: given
            .into_iter()
            .filter(|(is, _)| *is)
            .map(|(_, name)| name)
            .collect(),
    }
}

/// `conf.d/*.toml` beside the files, by name.
fn drop_ins(files: &[PathBuf]) -> Vec<PathBuf> {
    let mut directories: Vec<PathBuf> = files
        .iter()
        .map(|file| directory_of(file).join("conf.d"))
        .collect();
    directories.dedup();
    let mut found = Vec::new();
    for directory in directories {
        let Ok(entries) = std::fs::read_dir(&directory) else {
            continue;
        };
        let mut here: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        here.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
        here.sort();
        found.extend(here);
    }
    found
}

fn directory_of(file: &Path) -> PathBuf {
    file.parent().map(Path::to_owned).unwrap_or_default()
}

struct Layers<'a> {
    root: Table,
    rank: usize,
    reports: &'a mut Vec<Report>,
}

impl Layers<'_> {
    fn source(&mut self, name: &str, text: String, origin: Origin) -> Arc<Source> {
        self.rank += 1;
        Arc::new(Source {
            name: name.to_owned(),
            text,
            origin,
            rank: self.rank,
        })
    }

    fn lay(&mut self, source: &Arc<Source>, toml: &DeTable<'_>) {
        let table = walk::document(source, toml, &self.root, self.reports);
        self.root.merge(&ROOT, table);
    }

    fn file(&mut self, path: &Path) {
        let name = path.display().to_string();
        let text = match read_file(path) {
            Ok(text) => text,
            Err(error) => {
                let title = format!("cannot read the configuration: {error}");
                let report = Report::file_error("unreadable", title, name);
                let missing = error.kind() == io::ErrorKind::NotFound;
                let help = format!("write one: snipe config default > {}", path.display());
                self.reports
                    .push(if missing { report.help(help) } else { report });
                return;
            }
        };
        let source = self.source(&name, text, Origin::File(directory_of(path)));
        self.document(&source);
    }

    fn document(&mut self, source: &Arc<Source>) {
        match DeTable::parse(&source.text) {
            Ok(toml) => self.lay(source, toml.get_ref()),
            Err(error) => {
                let place = Place::new(source, error.span().unwrap_or(0..0));
                self.reports
                    .push(Report::error("syntax", error.message(), &place, "here"));
            }
        }
    }

    fn default_radio(&mut self) {
        let none = match self.root.node("radio").map(|node| &node.value) {
            None => true,
            Some(Value::Tables(radios)) => radios.is_empty(),
            Some(_) => false,
        };
        if none {
            self.document(&default_source(DEFAULT_RADIO));
        }
    }

    /// `SNIPE__RADIO__UDP0__MTU=512`, all of them as the lines of one text.
    fn environment(&mut self, around: &Surroundings) {
        let mut lines = Vec::new();
        for (name, value) in &around.variables {
            let Some(name) = name.to_str().filter(|name| name.starts_with(ENVIRONMENT_PREFIX)) else {
                continue;
            };
            match value.to_str() {
                Some(value) => lines.push((name, value)),
                None => {
                    let title = format!("the value of {name} is not UTF-8");
                    self.reports
                        .push(Report::file_error("not-text", title, "environment"));
                }
            }
        }
        lines.sort_unstable();
        let text: String = lines
            .iter()
            .map(|(name, value)| format!("{name}={value}\n"))
            .collect();
        let source = self.source("environment", text, Origin::Environment);
        let mut at = 0;
        let mut overrides = Vec::new();
        for (name, value) in lines {
            let mut path = Vec::new();
            let mut start = at + ENVIRONMENT_PREFIX.len();
            for segment in name[ENVIRONMENT_PREFIX.len()..].split("__") {
                path.push((segment.to_lowercase(), start..start + segment.len()));
                start += segment.len() + "__".len();
            }
            let value_at = at + name.len() + 1;
            overrides.push(Override {
                path,
                value: value_at..value_at + value.len(),
            });
            at = value_at + value.len() + 1;
        }
        self.overrides(&source, &overrides);
    }

    /// `--set radio.udp0.mtu=512`, all of them as the lines of one text.
    fn set(&mut self, settings: &[String]) {
        let text: String = settings.iter().map(|setting| format!("{setting}\n")).collect();
        let source = self.source("--set", text, Origin::CommandLine);
        let mut at = 0;
        let mut overrides = Vec::new();
        for setting in settings {
            let end = at + setting.len();
            match key_of(setting) {
                Some((path, value)) => {
                    let path = path
                        .into_iter()
                        .map(|(key, span)| (key, at + span.start..at + span.end))
                        .collect();
                    overrides.push(Override {
                        path,
                        value: at + value..end,
                    });
                }
                None => {
                    let place = Place::new(&source, at..end);
                    let report = Report::error("syntax", "--set takes KEY=VALUE", &place, "here");
                    self.reports
                        .push(report.help("for example --set radio.udp0.mtu=512"));
                }
            }
            at = end + 1;
        }
        self.overrides(&source, &overrides);
    }

    /// `--broker URL`, `--broker embedded`.
    fn broker(&mut self, broker: &str) {
        let source = self.source("--broker", broker.to_owned(), Origin::CommandLine);
        let span = 0..broker.len();
        let text = |text: &str| Spanned::new(span.clone(), DeValue::String(Cow::Owned(text.to_owned())));
        let key = |key: &'static str| Spanned::new(span.clone(), Cow::Borrowed(key));
        let mut table = DeTable::new();
        if broker == "embedded" {
            table.insert(key("kind"), text("embedded"));
        } else {
            table.insert(key("kind"), text("external"));
            table.insert(key("url"), text(broker));
        }
        let mut root = DeTable::new();
        root.insert(key("broker"), Spanned::new(span.clone(), DeValue::Table(table)));
        self.lay(&source, &root);
    }

    /// Lays the values that stand at paths in `source`: TOML, or else bare words.
    fn overrides(&mut self, source: &Arc<Source>, overrides: &[Override]) {
        // Spaces move each value to where it stands in the source, so that spans need no shifting.
        let documents: Vec<String> = overrides
            .iter()
            .map(|Override { value, .. }| {
                format!(
                    "v{}={}",
                    " ".repeat(value.start.saturating_sub(2)),
                    &source.text[value.clone()]
                )
            })
            .collect();
        let mut root = DeTable::new();
        for (Override { path, value: span }, document) in overrides.iter().zip(&documents) {
            let raw = &source.text[span.clone()];
            let parsed = DeTable::parse(document).map(Spanned::into_inner);
            let value = match parsed.map(|table| table.into_iter().collect::<Vec<_>>()) {
                Ok(mut pairs) if pairs.len() == 1 => pairs.remove(0).1,
                Err(error) if raw.starts_with(['[', '{', '"', '\'']) => {
                    let place = Place::new(source, error.span().unwrap_or(span.clone()));
                    self.reports
                        .push(Report::error("syntax", error.message(), &place, "here"));
                    continue;
                }
                Ok(_) | Err(_) => Spanned::new(span.clone(), DeValue::String(Cow::Borrowed(raw))),
            };
            if let Err(at) = insert(&mut root, path, value) {
                let place = Place::new(source, at);
                let title = format!("`{}` is a value and a section at once", place.text());
                self.reports.push(Report::error("clash", title, &place, "here"));
            }
        }
        self.lay(source, &root);
    }
}

/// The keys of `radio.udp0.mtu`, each with its span.
type KeyPath = Vec<(String, Range<usize>)>;

/// Keys and the span of their value.
struct Override {
    path: KeyPath,
    value: Range<usize>,
}

/// Puts `value` at `path`; the error is the place of a key that is a value already.
fn insert<'t>(
    table: &mut DeTable<'t>,
    path: &[(String, Range<usize>)],
    value: Spanned<DeValue<'t>>,
) -> Result<(), Range<usize>> {
    let Some(((name, span), rest)) = path.split_first() else {
        return Ok(());
    };
    let key = Spanned::new(span.clone(), Cow::Owned(name.clone()));
    if rest.is_empty() {
        let is_table = |value: &Spanned<DeValue<'_>>| value.get_ref().is_table();
        if table.get(name.as_str()).is_some_and(is_table) && !is_table(&value) {
            return Err(span.clone());
        }
        // The last one counts, with its own place.
        table.remove(name.as_str());
        table.insert(key, value);
        return Ok(());
    }
    let inner = table
        .entry(key)
        .or_insert_with(|| Spanned::new(span.clone(), DeValue::Table(DeTable::new())));
    match inner.get_mut() {
        DeValue::Table(inner) => insert(inner, rest, value),
        _ => Err(span.clone()),
    }
}

/// Splits `radio.udp0.mtu=512` into keys with their spans, and where the value begins.
fn key_of(setting: &str) -> Option<(KeyPath, usize)> {
    let mut quote = None;
    let equals = setting.char_indices().find_map(|(at, c)| {
        match quote {
            Some(open) if open == c => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => quote = Some(c),
            None if c == '=' => return Some(at),
            None => {}
        }
        None
    })?;
    let document = format!("{}=0", &setting[..equals]);
    let parsed = DeTable::parse(&document).ok()?;
    let mut path = Vec::new();
    let mut table = parsed.get_ref();
    loop {
        let (key, value) = table.iter().next().filter(|_| table.len() == 1)?;
        path.push((key.get_ref().to_string(), key.span()));
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => return Some((path, equals + 1)),
        }
    }
}

fn read_file(path: &Path) -> io::Result<String> {
    let mut octets = Vec::new();
    File::open(path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut octets)?;
    if octets.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is larger than 16 MiB",
        ));
    }
    String::from_utf8(octets).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..at]
            .iter()
            .filter(|&&octet| octet == b'\n')
            .count();
        io::Error::new(io::ErrorKind::InvalidData, format!("line {line} is not UTF-8"))
    })
}
