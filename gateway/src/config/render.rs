//! The configuration as text: the commented default, the effective values, and where they come from.

use core::fmt::Write;

use super::{
    layers::DEFAULT_RADIO,
    schema::{Field, Kind, ROOT, Shape, Variant},
    tree::{Node, Table, Value},
    url::{MASK, masked},
};

/// Comments begin in this column, or one blank after longer values.
const COMMENT_COLUMN: usize = 36;

/// What `snipe config default` prints: every key that this version uses, with its default and a line about it.
pub(super) fn default_file() -> String {
    let mut out = String::from(
        "# snipe: every key that this version uses, with its default.\n\
         # A key behind a # has none, or one that depends on others: take the # away to set it.\n\
         # Durations (\"90s\", \"1h 30m\") and sizes (\"64 KiB\") are strings with units.\n\n",
    );
    for field in ROOT.fields.iter().filter(|field| field.used) {
        match field.kind {
            Kind::Table(shape) => {
                section_title(&mut out, field);
                section(&mut out, field.name, shape);
            }
            Kind::Tables(shape) => {
                section_title(&mut out, field);
                entry(&mut out, field.name, shape);
            }
            _ => default_line(&mut out, "", field),
        }
    }
    out
}

fn section_title(out: &mut String, field: &Field) {
    let title = format!("# ── {} ", field.doc);
    let _ = writeln!(
        out,
        "\n{title}{}",
        "─".repeat(78_usize.saturating_sub(title.chars().count()))
    );
}

/// A table, and then those of its tables that have a header of their own.
fn section(out: &mut String, path: &str, shape: &Shape) {
    line(out, "", &format!("[{path}]"), "");
    let used = || shape.fields.iter().filter(|field| field.used);
    used()
        .filter(|field| subsection(field).is_none())
        .for_each(|field| default_line(out, "", field));
    for field in used() {
        if let Some(inner) = subsection(field) {
            let _ = writeln!(out, "\n# {}", field.doc);
            section(out, &format!("{path}.{}", field.name), inner);
        }
    }
}

/// The shape of a key that is a section within a section.
fn subsection(field: &Field) -> Option<&'static Shape> {
    match field.kind {
        Kind::Table(shape) if shape.is_section() => Some(shape),
        _ => None,
    }
}

/// The default radio as it is; an example behind `#` of what there is none of.
fn entry(out: &mut String, name: &str, shape: &Shape) {
    let is_default = DEFAULT_RADIO.starts_with(&format!("[[{name}]]"));
    let hash = if is_default { "" } else { "# " };
    line(out, hash, &format!("[[{name}]]"), "");
    for field in shape
        .fields_of(is_default.then_some("udp"))
        .filter(|field| field.used)
    {
        default_line(out, hash, &said(field));
    }
    for variant in shape.variants.iter().filter(|_| is_default) {
        if variant.used && variant.kind != "udp" {
            other_kind(out, name, variant);
        }
    }
}

/// What an entry must say is what the example says.
fn said(field: &Field) -> Field {
    Field {
        default: field.default.or(field.example.filter(|_| field.required)),
        ..*field
    }
}

/// An entry of another kind behind `#`; what it may leave out stands behind another one.
fn other_kind(out: &mut String, name: &str, variant: &Variant) {
    let kind = variant.kind;
    let _ = writeln!(out);
    line(out, "# ", &format!("[[{name}]]"), "");
    line(out, "# ", &format!("name = \"{kind}0\""), "");
    line(out, "# ", &format!("kind = \"{kind}\""), variant.doc);
    for field in variant.fields.iter().filter(|field| field.used) {
        key_line(out, "# ", "# # ", &said(field));
    }
}

fn default_line(out: &mut String, hash: &str, field: &Field) {
    key_line(out, hash, "# ", field);
}

/// A key behind `hash`, or behind `optional` if nothing, or something that depends on others, stands for it.
fn key_line(out: &mut String, hash: &str, optional: &str, field: &Field) {
    let of_its_own = matches!(field.kind, Kind::Table(_)) && field.example.is_none();
    let hash = if field.telling || field.default.is_none() && !of_its_own {
        optional
    } else {
        hash
    };
    let value = match (field.kind, field.default.or(field.example)) {
        (Kind::Table(shape), None) => {
            let pairs = shape.fields.iter().filter(|field| field.used);
            let pairs: Vec<String> = pairs
                .filter_map(|field| Some(format!("{} = {}", field.name, field.default?)))
                .collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        (_, Some(shown)) => shown.to_owned(),
        (_, None) => return,
    };
    line(out, hash, &format!("{} = {value}", field.name), field.doc);
}

fn line(out: &mut String, hash: &str, text: &str, comment: &str) {
    let text = format!("{hash}{text}");
    let _ = match comment {
        "" => writeln!(out, "{text}"),
        _ => writeln!(out, "{text:<COMMENT_COLUMN$} # {comment}"),
    };
}

/// What `snipe config show` prints: the effective values, as a file that says the same.
pub(super) fn effective(root: &Table, section: Option<&str>) -> String {
    let mut out = String::new();
    for field in ROOT
        .fields
        .iter()
        .filter(|field| field.used && section.is_none_or(|name| name == field.name))
    {
        let Some(node) = root.fields.get(field.name) else {
            continue;
        };
        match (field.kind, &node.value) {
            (Kind::Table(shape), Value::Table(table)) => {
                effective_section(&mut out, field.name, shape, table);
            }
            (Kind::Tables(shape), Value::Tables(entries)) => {
                for entry in entries.iter().filter(|entry| is_used(shape, entry)) {
                    let _ = writeln!(out, "\n[[{}]]", field.name);
                    let used = shape.fields_of(entry.text("kind")).filter(|field| field.used);
                    pairs(&mut out, field.name, used, entry);
                }
            }
            _ => {
                let _ = writeln!(out, "{} = {}", field.name, toml_of(field.name, node));
            }
        }
    }
    out.trim_start().to_owned()
}

/// As [`section`], with the values in effect.
fn effective_section(out: &mut String, path: &str, shape: &Shape, table: &Table) {
    let _ = writeln!(out, "\n[{path}]");
    let used = || shape.fields.iter().filter(|field| field.used);
    pairs(
        out,
        path,
        used().filter(|field| subsection(field).is_none()),
        table,
    );
    for field in used() {
        let node = table.fields.get(field.name);
        if let (Some(inner), Some(Value::Table(table))) = (subsection(field), node.map(|node| &node.value)) {
            effective_section(out, &format!("{path}.{}", field.name), inner, table);
        }
    }
}

fn pairs<'a>(out: &mut String, path: &str, fields: impl Iterator<Item = &'a Field>, table: &Table) {
    for field in fields {
        if let Some(node) = table.fields.get(field.name) {
            let path = format!("{path}.{}", field.name);
            let hash = if field.telling && node.place.is_default() {
                "# "
            } else {
                ""
            };
            let _ = writeln!(out, "{hash}{} = {}", field.name, toml_of(&path, node));
        }
    }
}

fn is_used(shape: &Shape, entry: &Table) -> bool {
    entry
        .text("kind")
        .and_then(|kind| shape.variant(kind))
        .is_none_or(|variant| variant.used)
}

/// What `snipe config show --origins` prints: a line for each value with where it comes from and what it hides.
pub(super) fn origins(root: &Table, section: Option<&str>, password: bool) -> String {
    let mut rows = Vec::new();
    let fields = ROOT
        .fields
        .iter()
        .filter(|field| field.used && section.is_none_or(|name| name == field.name));
    for field in fields {
        if let Some(node) = root.fields.get(field.name) {
            rows_of(&mut rows, field.name, field.kind, node);
        }
    }
    if password && let Some(at) = rows.iter().position(|row| row[0] == "broker.password_file") {
        let file = root.text("broker.password_file").unwrap_or_default().to_owned();
        rows.insert(at + 1, ["broker.password".into(), MASK.into(), file]);
    }
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or_default()
    };
    let (first, second) = (width(0), width(1));
    rows.iter()
        .map(|[key, value, origin]| format!("{key:first$}  {value:second$}  {origin}\n"))
        .collect()
}

fn rows_of(rows: &mut Vec<[String; 3]>, path: &str, kind: Kind, node: &Node) {
    match (kind, &node.value) {
        (Kind::Table(shape), Value::Table(table)) => rows_in(rows, path, shape, table),
        (Kind::Tables(shape), Value::Tables(entries)) => {
            for entry in entries.iter().filter(|entry| is_used(shape, entry)) {
                let name = shape
                    .identity
                    .as_ref()
                    .and_then(|identity| entry.identity(identity.key));
                rows_in(
                    rows,
                    &format!("{path}.{}", quoted_key(&name.unwrap_or_default())),
                    shape,
                    entry,
                );
            }
        }
        _ => {
            let hides: Vec<String> = node.hides.iter().map(|place| place.origin()).collect();
            let mut origin = node.place.origin();
            if !hides.is_empty() {
                let _ = write!(origin, "   (hides {})", hides.join(", "));
            }
            let shown = toml_of(path, node);
            let plain = shown.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
            let value = plain
                .filter(|text| !text.is_empty() && !text.contains('\\'))
                .map(str::to_owned);
            rows.push([path.to_owned(), value.unwrap_or(shown), origin]);
        }
    }
}

fn rows_in(rows: &mut Vec<[String; 3]>, path: &str, shape: &Shape, table: &Table) {
    for field in shape.fields_of(table.text("kind")).filter(|field| field.used) {
        let is_identity = shape
            .identity
            .as_ref()
            .is_some_and(|identity| identity.key == field.name);
        if let Some(node) = table.fields.get(field.name).filter(|_| !is_identity) {
            rows_of(rows, &format!("{path}.{}", field.name), field.kind, node);
        }
    }
}

fn toml_of(path: &str, node: &Node) -> String {
    match &node.value {
        Value::Invalid => String::new(),
        Value::Bool(bool) => bool.to_string(),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => format!("{number:?}"),
        Value::Text(text) if path == "broker.url" => quoted(&masked(text)),
        Value::Text(text) => quoted(text),
        // As it was written: who says 90s does not look for 1m30s.
        Value::Duration(_) | Value::Size(_) => quoted(node.place.text().trim_matches(['"', '\''])),
        Value::Address(address) => quoted(&address.to_string()),
        Value::Network(network) => quoted(&network.to_string()),
        Value::List(nodes) => {
            let items: Vec<String> = nodes.iter().map(|node| toml_of(path, node)).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Table(table) => inline_table(path, table),
        Value::Tables(tables) => {
            let items: Vec<String> = tables.iter().map(|table| inline_table(path, table)).collect();
            format!("[{}]", items.join(", "))
        }
    }
}

fn inline_table(path: &str, table: &Table) -> String {
    if table.fields.is_empty() {
        return "{}".into();
    }
    let pair = |(key, node): (&String, &Node)| format!("{} = {}", quoted_key(key), toml_of(path, node));
    let pairs: Vec<String> = table.fields.iter().map(pair).collect();
    format!("{{ {} }}", pairs.join(", "))
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A key as it stands in a path: bare where TOML allows it.
fn quoted_key(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !key.is_empty() && key.chars().all(bare) {
        key.to_owned()
    } else {
        quoted(key)
    }
}
