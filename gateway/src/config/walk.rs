//! One pass over a parsed text with the schema beside it: every unknown key, wrong type and value out of range is
//! reported, and what is right becomes a [`Table`].

use std::{collections::BTreeMap, fmt::Display, net::SocketAddr, sync::Arc};

use toml::{
    Spanned,
    de::{DeArray, DeInteger, DeTable, DeValue},
};

use super::{
    report::Report,
    schema::{Field, Kind, ROOT, Shape},
    source::{Place, Source},
    tree::{Node, Table, Value},
    units::{parse_duration, parse_network, parse_size, show_duration, show_size},
};

/// Checks the document `toml` of `source`; `base` is what earlier layers say.
pub(super) fn document(
    source: &Arc<Source>,
    toml: &DeTable<'_>,
    base: &Table,
    reports: &mut Vec<Report>,
) -> Table {
    let mut walker = Walker {
        source,
        reports,
        quiet: false,
    };
    walker.table("", &ROOT, toml, Place::new(source, 0..0), Some(base))
}

/// The default of `field`, which is the whole text of `source`.
pub(super) fn value_of_default(source: &Arc<Source>, field: &Field) -> Option<Node> {
    let value = DeValue::parse(&source.text).ok()?;
    let mut reports = Vec::new();
    let mut walker = Walker {
        source,
        reports: &mut reports,
        quiet: true,
    };
    Some(walker.node(field.name, field.kind, Some(field), &value, None))
}

/// The known word nearest to `word`, if it is near enough for a slip of the fingers: a third of the letters wrong, or one.
pub(super) fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let letters = word.chars().count();
    let scored = known
        .into_iter()
        .map(|candidate| (strsim::osa_distance(word, candidate), candidate));
    let (wrong, nearest) = scored.min_by_key(|(wrong, _)| *wrong)?;
    (wrong <= (letters / 3).max(1) && wrong < letters).then_some(nearest)
}

/// The only known word that begins with `word`, or that `word` begins with: half a word, or one with an ending.
pub(super) fn begins_like<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let alike = |known: &&str| {
        let shorter = known.len().min(word.len());
        shorter >= BEGINNING && (known.starts_with(word) || word.starts_with(known))
    };
    let mut found = known.into_iter().filter(alike);
    let only = found.next()?;
    found.next().is_none().then_some(only)
}

/// Letters that say which word is meant; taste.
const BEGINNING: usize = 3;

struct Walker<'a> {
    source: &'a Arc<Source>,
    reports: &'a mut Vec<Report>,
    /// Within a part that this version does not use: errors only.
    quiet: bool,
}

impl Walker<'_> {
    fn place(&self, span: std::ops::Range<usize>) -> Place {
        Place::new(self.source, span)
    }

    fn table(
        &mut self,
        path: &str,
        shape: &Shape,
        toml: &DeTable<'_>,
        place: Place,
        base: Option<&Table>,
    ) -> Table {
        let mut table = Table::empty(place);
        let kind = toml
            .get("kind")
            .and_then(|kind| kind.get_ref().as_str())
            .or(base.and_then(|b| b.text("kind")));
        let kind_known = shape.variants.is_empty() || kind.is_some_and(|kind| shape.variant(kind).is_some());
        let was_quiet = self.quiet;
        if let Some(variant) = kind.and_then(|kind| shape.variant(kind))
            && !variant.used
        {
            let place = toml
                .get("kind")
                .map_or(table.place.clone(), |kind| self.place(kind.span()));
            self.not_used(format!("a radio of kind `{}`", variant.kind), &place);
            self.quiet = true;
        }
        // In the order of the text, so that the first of several messages is about the first mistake.
        let mut entries: Vec<_> = toml.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            let name = key.get_ref().as_ref();
            let Some(field) = shape.field(kind, name) else {
                if kind_known {
                    self.unknown_key(path, shape, kind, key);
                }
                continue;
            };
            let was_quiet = self.quiet;
            let path = join(path, name);
            if !field.used {
                self.not_used(
                    described(&path, field.kind, &self.place(value.span())),
                    &self.place(key.span()),
                );
                self.quiet = true;
            }
            let below = base.and_then(|base| base.fields.get(name));
            let node = self.node(&path, field.kind, Some(field), value, below);
            table.fields.insert(name.to_owned(), node);
            self.quiet = was_quiet;
        }
        self.quiet = was_quiet;
        table
    }

    fn not_used(&mut self, what: String, place: &Place) {
        if !self.quiet && !place.is_default() {
            let title = format!("{what} is not used by this version yet");
            self.reports
                .push(Report::warning("not-used-yet", title, place, "has no effect"));
        }
    }

    fn unknown_key(
        &mut self,
        path: &str,
        shape: &Shape,
        kind: Option<&str>,
        key: &Spanned<std::borrow::Cow<'_, str>>,
    ) {
        let name = key.get_ref().as_ref();
        let known: Vec<&str> = shape.fields_of(kind).map(|field| field.name).collect();
        let list: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
        let title = format!(
            "unknown field `{}`, expected one of {}",
            join(path, name),
            list.join(", ")
        );
        let mut report = Report::error("invalid-config", title, &self.place(key.span()), "here");
        if let Some(near) = did_you_mean(name, known) {
            report = report.help(format!("did you mean `{near}`?"));
        } else if let Some(home) = home_of(shape, name) {
            report = report.help(format!("`{name}` belongs to {home}"));
        }
        self.reports.push(report);
    }

    fn node(
        &mut self,
        path: &str,
        kind: Kind,
        field: Option<&Field>,
        toml: &Spanned<DeValue<'_>>,
        below: Option<&Node>,
    ) -> Node {
        let place = self.place(toml.span());
        let value = self
            .value(path, kind, field, toml, &place, below)
            .unwrap_or(Value::Invalid);
        Node {
            value,
            place,
            hides: Vec::new(),
        }
    }

    /// The value; `None` after a report.
    fn value(
        &mut self,
        path: &str,
        kind: Kind,
        field: Option<&Field>,
        toml: &Spanned<DeValue<'_>>,
        place: &Place,
        below: Option<&Node>,
    ) -> Option<Value> {
        let bare = self.bare_word(kind, toml, place);
        match (kind, toml.get_ref()) {
            (Kind::Bool, DeValue::Boolean(bool)) => Some(Value::Bool(*bool)),
            (Kind::Integer(min, max), DeValue::Integer(number)) => {
                let number = integer(number).filter(|number| (min..=max).contains(number));
                self.in_range(path, number.map(Value::Integer), &min, &max, place)
            }
            (Kind::Number(few), DeValue::Integer(number)) => match integer(number) {
                Some(number) if few.contains(&number) => Some(Value::Integer(number)),
                _ => self.not_one_of(path, few.iter().map(i64::to_string), place),
            },
            (Kind::Float(min, max), DeValue::Integer(_) | DeValue::Float(_)) => {
                let number = float(toml.get_ref()).filter(|number| (min..=max).contains(number));
                self.in_range(path, number.map(Value::Float), &min, &max, place)
            }
            (Kind::Text, DeValue::String(text)) => Some(Value::Text(text.to_string())),
            (Kind::Text, _) if bare.is_some() => bare.map(Value::Text),
            (
                Kind::Choice(words),
                DeValue::String(_) | DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_),
            ) if bare.is_some() || toml.get_ref().is_str() => {
                let word = bare.unwrap_or_else(|| toml.get_ref().as_str().unwrap_or_default().to_owned());
                if words.contains(&word.as_str()) {
                    return Some(Value::Text(word));
                }
                self.not_one_of(path, words.iter().map(|word| (*word).to_owned()), place)
            }
            (Kind::Duration(min, max), DeValue::String(text)) => {
                let Some(duration) = parse_duration(text) else {
                    let title = format!("{path} is not a duration: `{text}`");
                    return self.wrong(
                        "invalid-value",
                        title,
                        place,
                        "",
                        "numbers with units: us, ms, s, m, h, d, as in \"90s\" or \"1h 30m\"",
                    );
                };
                let fits = (min..=max)
                    .contains(&duration)
                    .then_some(Value::Duration(duration));
                self.in_range(path, fits, &show_duration(min), &show_duration(max), place)
            }
            (Kind::Size(min, max), DeValue::String(text)) => {
                let Some(octets) = parse_size(text) else {
                    let title = format!("{path} is not a size: `{text}`");
                    return self.wrong(
                        "invalid-value",
                        title,
                        place,
                        "",
                        "a number with a unit: B, KiB, MiB, GiB, kB, MB, GB, as in \"64 KiB\"",
                    );
                };
                let fits = (min..=max).contains(&octets).then_some(Value::Size(octets));
                self.in_range(path, fits, &show_size(min), &show_size(max), place)
            }
            (Kind::Address, DeValue::String(text)) => match text.parse::<SocketAddr>() {
                Ok(address) => Some(Value::Address(address)),
                Err(_) => {
                    let title = format!("{path} is not an address with a port: `{text}`");
                    let help =
                        "an IP address and a port, as in \"0.0.0.0:1883\" or \"[::]:1883\"; no host names";
                    self.wrong("bad-address", title, place, "", help)
                }
            },
            (Kind::Network, DeValue::String(text)) => match parse_network(text) {
                Some(network) => Some(Value::Network(network)),
                None => {
                    let title = format!("{path} is not an address or a network: `{text}`");
                    let help =
                        "an IP address, or a network with the length of its prefix, as in \"10.20.0.0/16\"";
                    self.wrong("bad-address", title, place, "", help)
                }
            },
            (Kind::List(inner), DeValue::Array(items)) => {
                let nodes = items
                    .iter()
                    .map(|item| self.node(path, *inner, None, item, None))
                    .collect();
                Some(Value::List(nodes))
            }
            // `--set radio.udp0.bind=127.0.0.1:1883`: one element needs no brackets there.
            (Kind::List(inner), DeValue::String(_)) if self.source.is_override() => {
                Some(Value::List(vec![self.node(path, *inner, None, toml, None)]))
            }
            (Kind::Map(inner), DeValue::Table(items)) => {
                let mut table = Table::empty(place.clone());
                for (key, value) in items {
                    let name = key.get_ref().to_string();
                    let node = self.node(&join(path, &name), *inner, None, value, None);
                    table.fields.insert(name, node);
                }
                Some(Value::Table(table))
            }
            (Kind::Table(shape), DeValue::Table(items)) => {
                let base = below.and_then(|node| match &node.value {
                    Value::Table(table) => Some(table),
                    _ => None,
                });
                Some(Value::Table(self.table(path, shape, items, place.clone(), base)))
            }
            (Kind::Tables(shape), DeValue::Array(items)) => self.entries(path, shape, items, below),
            (Kind::Tables(shape), DeValue::Table(items)) if self.source.is_override() => {
                self.named_entries(path, shape, items, below)
            }
            _ => {
                let title = format!(
                    "{path} must be {}, not {}",
                    expected(kind),
                    article(toml.get_ref().type_str())
                );
                let help =
                    field.and_then(|field| field.default.or(field.example).map(|shown| (field.name, shown)));
                let mut report =
                    Report::error("wrong-type", title, place, article(toml.get_ref().type_str()));
                if let (Kind::Tables(_), Some(field)) = (kind, field) {
                    report = report.help(format!("begin each entry with [[{}]]", field.name));
                } else if let (Kind::Table(_), Some(field), false) = (kind, field, path.contains('.')) {
                    report = report.help(format!("begin the section with [{}]", field.name));
                } else if let Some((name, shown)) = help {
                    report = report.help(format!("for example {name} = {shown}"));
                }
                self.reports.push(report);
                None
            }
        }
    }

    /// `--set broker.username=42`: where a string is wanted, what was typed is one, even if TOML reads a number.
    fn bare_word(&self, kind: Kind, toml: &Spanned<DeValue<'_>>, place: &Place) -> Option<String> {
        let scalar = match toml.get_ref() {
            DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => true,
            DeValue::String(_) | DeValue::Array(_) | DeValue::Table(_) => false,
        };
        let wanted = matches!(kind, Kind::Text | Kind::Choice(_));
        (self.source.is_override() && scalar && wanted).then(|| place.text().to_owned())
    }

    /// An array of tables as a file has it.
    fn entries(
        &mut self,
        path: &str,
        shape: &Shape,
        items: &DeArray<'_>,
        below: Option<&Node>,
    ) -> Option<Value> {
        let mut entries = Vec::new();
        let mut seen: BTreeMap<String, Place> = BTreeMap::new();
        for item in items {
            let place = self.place(item.span());
            let DeValue::Table(toml) = item.get_ref() else {
                let kind = article(item.get_ref().type_str());
                self.reports.push(Report::error(
                    "wrong-type",
                    format!("an entry of {path} must be a table, not {kind}"),
                    &place,
                    kind,
                ));
                continue;
            };
            let Some(identity) = &shape.identity else {
                entries.push(self.table(path, shape, toml, place, None));
                continue;
            };
            let name = toml.get(identity.key).and_then(|value| word_of(value.get_ref()));
            let path = name.as_deref().map_or(path.to_owned(), |name| join(path, name));
            let base = name
                .as_deref()
                .and_then(|name| entry_named(below, identity.key, name, false));
            let table = self.table(&path, shape, toml, place, base);
            if let (Some(name), Some(node)) = (table.identity(identity.key), table.fields.get(identity.key)) {
                if let Some(first) = seen.get(&name) {
                    let quotes = if matches!(node.value, Value::Text(_)) {
                        "`"
                    } else {
                        ""
                    };
                    let title = format!("{} {quotes}{name}{quotes} is defined twice", identity.noun);
                    let report = Report::error(identity.code, title, &node.place, "again here");
                    self.reports
                        .push(report.also(first, "first defined here").help(identity.help));
                    continue;
                }
                seen.insert(name, node.place.clone());
            }
            entries.push(table);
        }
        Some(Value::Tables(entries))
    }

    /// An array of tables as paths have it: `radio.udp0.mtu` is the `mtu` of the radio whose name is `udp0`.
    fn named_entries(
        &mut self,
        path: &str,
        shape: &Shape,
        items: &DeTable<'_>,
        below: Option<&Node>,
    ) -> Option<Value> {
        let identity = shape.identity.as_ref()?;
        let mut entries = Vec::new();
        for (key, item) in items {
            let place = self.place(key.span());
            let typed = key.get_ref().as_ref();
            let base = entry_named(below, identity.key, typed, true);
            let name = base
                .and_then(|base| base.identity(identity.key))
                .unwrap_or_else(|| typed.to_owned());
            let path = join(path, &name);
            let DeValue::Table(toml) = item.get_ref() else {
                let title = format!("{path} is an entry with keys of its own");
                self.wrong(
                    "wrong-type",
                    title,
                    &place,
                    "a key of it must follow",
                    "for example radio.udp0.mtu",
                );
                continue;
            };
            let mut table = self.table(&path, shape, toml, place.clone(), base);
            let value = match shape.field(None, identity.key).map(|field| field.kind) {
                Some(Kind::Integer(min, max)) => {
                    let number = name.parse().ok().filter(|number| (min..=max).contains(number));
                    self.in_range(&path, number.map(Value::Integer), &min, &max, &place)
                }
                _ => Some(Value::Text(name)),
            };
            let node = Node {
                value: value.unwrap_or(Value::Invalid),
                place,
                hides: Vec::new(),
            };
            table.fields.entry(identity.key.into()).or_insert(node);
            entries.push(table);
        }
        Some(Value::Tables(entries))
    }

    fn in_range(
        &mut self,
        path: &str,
        value: Option<Value>,
        min: &dyn Display,
        max: &dyn Display,
        place: &Place,
    ) -> Option<Value> {
        if value.is_none() {
            let shown = place.text().trim_matches('"');
            let title = format!("{path} must be between {min} and {max}, not {shown}");
            self.reports
                .push(Report::error("out-of-range", title, place, "out of range"));
        }
        value
    }

    fn not_one_of(
        &mut self,
        path: &str,
        known: impl Iterator<Item = String>,
        place: &Place,
    ) -> Option<Value> {
        let known: Vec<String> = known.collect();
        let typed = place.text().trim_matches(['"', '\'']).to_owned();
        let list: Vec<String> = known.iter().map(|word| format!("`{word}`")).collect();
        let choice = if known.len() == 1 {
            list.join("")
        } else {
            format!("one of {}", list.join(", "))
        };
        let title = format!("{path} must be {choice}, not `{typed}`");
        let mut report = Report::error("invalid-value", title, place, "here");
        let words = || known.iter().map(String::as_str);
        if let Some(near) = did_you_mean(&typed, words()).or_else(|| begins_like(&typed, words())) {
            report = report.help(format!("did you mean `{near}`?"));
        }
        self.reports.push(report);
        None
    }

    fn wrong(
        &mut self,
        code: &'static str,
        title: String,
        place: &Place,
        label: &str,
        help: &str,
    ) -> Option<Value> {
        self.reports
            .push(Report::error(code, title, place, label).help(help));
        None
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// What to call a part that is not used: sections by their header, all else by its path.
fn described(path: &str, kind: Kind, value: &Place) -> String {
    match kind {
        Kind::Table(_) if value.text().starts_with('[') => format!("[{path}]"),
        Kind::Tables(_) if value.text().starts_with("[[") => format!("[[{path}]]"),
        _ => path.to_owned(),
    }
}

/// Where a key of this name lives: with other kinds of the same table, or in exactly one section.
fn home_of(shape: &Shape, name: &str) -> Option<String> {
    let has = |fields: &[Field]| fields.iter().any(|field| field.name == name);
    let kinds: Vec<&str> = shape
        .variants
        .iter()
        .filter(|variant| has(variant.fields))
        .map(|variant| variant.kind)
        .collect();
    if !kinds.is_empty() {
        return Some(format!("kind = \"{}\"", kinds.join("\" or \"")));
    }
    let mut homes = ROOT.fields.iter().filter_map(|section| match section.kind {
        Kind::Table(shape) if has(shape.fields) => Some(format!("[{}]", section.name)),
        Kind::Table(shape) => shape.fields.iter().find_map(|inner| match inner.kind {
            Kind::Table(shape) if shape.is_section() && has(shape.fields) => {
                Some(format!("[{}.{}]", section.name, inner.name))
            }
            _ => None,
        }),
        Kind::Tables(shape) => {
            let special = shape.variants.iter().any(|variant| has(variant.fields));
            (special || has(shape.fields)).then(|| format!("[[{}]]", section.name))
        }
        _ => None,
    });
    let home = homes.next()?;
    homes.next().is_none().then_some(home)
}

/// The entry of an earlier layer with this name; `loosely` where the name may come from the environment, which has
/// neither lower case nor hyphens.
fn entry_named<'a>(below: Option<&'a Node>, key: &str, name: &str, loosely: bool) -> Option<&'a Table> {
    let Value::Tables(entries) = &below?.value else {
        return None;
    };
    let plain = |name: &str| name.to_lowercase().replace('-', "_");
    let named = |test: &dyn Fn(&str) -> bool| {
        entries
            .iter()
            .find(|entry| entry.identity(key).is_some_and(|id| test(&id)))
    };
    named(&|id| id == name).or_else(|| named(&|id| loosely && plain(id) == plain(name)))
}

fn word_of(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => integer(number).map(|number| number.to_string()),
        DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_)
        | DeValue::Table(_) => None,
    }
}

fn integer(number: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

fn float(value: &DeValue<'_>) -> Option<f64> {
    match value {
        DeValue::Integer(number) => number.as_str().parse().ok().filter(|_| number.radix() == 10),
        DeValue::Float(number) => number.as_str().parse().ok(),
        DeValue::String(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_)
        | DeValue::Table(_) => None,
    }
}

fn expected(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool => "true or false",
        Kind::Integer(..) | Kind::Number(_) => "an integer",
        Kind::Float(..) => "a number",
        Kind::Text | Kind::Choice(_) => "a string",
        Kind::Duration(..) => "a string with a duration",
        Kind::Size(..) => "a string with a size",
        Kind::Address => "a string with an address",
        Kind::Network => "a string with an address or a network",
        Kind::List(_) => "an array",
        Kind::Map(_) | Kind::Table(_) => "a table",
        Kind::Tables(_) => "an array of tables",
    }
}

fn article(type_name: &str) -> String {
    let vowel = type_name.starts_with(['a', 'i']);
    format!("{} {type_name}", if vowel { "an" } else { "a" })
}
