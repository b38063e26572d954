//! Checked values with the places they come from, and how layers of them become one.

use core::time::Duration;
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use ipnet::IpNet;

use super::{
    schema::{Field, Kind, Shape},
    source::{Origin, Place, Source},
    walk,
};

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// What it is.
    pub(super) value: Value,
    /// Where it stands.
    pub(super) place: Place,
    /// Where earlier layers say otherwise, the latest first.
    pub(super) hides: Vec<Place>,
}

/// A value that its key may hold.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// Not a value that its key may hold; that has been reported.
    Invalid,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A number.
    Float(f64),
    /// A string, or one of the words of a choice.
    Text(String),
    /// A time.
    Duration(Duration),
    /// Octets.
    Size(u64),
    /// An IP address with a port.
    Address(SocketAddr),
    /// A network of IP addresses, or one of them.
    Network(IpNet),
    /// An array of values.
    List(Vec<Node>),
    /// A table.
    Table(Table),
    /// An array of tables.
    Tables(Vec<Table>),
}

/// A table: its keys and where it begins.
#[derive(Debug, Clone)]
pub(super) struct Table {
    /// Its header, or the whole of an inline table.
    pub(super) place: Place,
    /// Its values by key.
    pub(super) fields: BTreeMap<String, Node>,
}

impl Table {
    /// A table without keys.
    pub(super) fn empty(place: Place) -> Self {
        Table {
            place,
            fields: BTreeMap::new(),
        }
    }

    /// The node at a dotted path of keys.
    pub(super) fn node(&self, path: &str) -> Option<&Node> {
        match path.split_once('.') {
            None => self.fields.get(path),
            Some((first, rest)) => match &self.fields.get(first)?.value {
                Value::Table(table) => table.node(rest),
                _ => None,
            },
        }
    }

    /// The string at `path`.
    pub(super) fn text(&self, path: &str) -> Option<&str> {
        match &self.node(path)?.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The whole number at `path`.
    pub(super) fn integer(&self, path: &str) -> Option<i64> {
        match self.node(path)?.value {
            Value::Integer(number) => Some(number),
            _ => None,
        }
    }

    /// The number at `path`.
    pub(super) fn float(&self, path: &str) -> Option<f64> {
        match self.node(path)?.value {
            Value::Float(number) => Some(number),
            _ => None,
        }
    }

    /// The truth at `path`.
    pub(super) fn bool(&self, path: &str) -> Option<bool> {
        match self.node(path)?.value {
            Value::Bool(bool) => Some(bool),
            _ => None,
        }
    }

    /// The time at `path`.
    pub(super) fn duration(&self, path: &str) -> Option<Duration> {
        match self.node(path)?.value {
            Value::Duration(duration) => Some(duration),
            _ => None,
        }
    }

    /// The octets at `path`.
    pub(super) fn size(&self, path: &str) -> Option<u64> {
        match self.node(path)?.value {
            Value::Size(octets) => Some(octets),
            _ => None,
        }
    }

    /// The socket addresses of the list at `path`, each with its place.
    pub(super) fn addresses(&self, path: &str) -> impl Iterator<Item = (SocketAddr, &Place)> {
        let nodes = match self.node(path).map(|node| &node.value) {
            Some(Value::List(nodes)) => nodes.as_slice(),
            _ => &[],
        };
        nodes.iter().filter_map(|node| match node.value {
            Value::Address(address) => Some((address, &node.place)),
            _ => None,
        })
    }

    /// The network at `path`.
    pub(super) fn network(&self, path: &str) -> Option<IpNet> {
        match self.node(path)?.value {
            Value::Network(network) => Some(network),
            _ => None,
        }
    }

    /// The strings of the list at `path`, each with its node.
    pub(super) fn texts(&self, path: &str) -> impl Iterator<Item = (&str, &Node)> {
        let nodes = match self.node(path).map(|node| &node.value) {
            Some(Value::List(nodes)) => nodes.as_slice(),
            _ => &[],
        };
        nodes.iter().filter_map(|node| match &node.value {
            Value::Text(text) => Some((text.as_str(), node)),
            _ => None,
        })
    }

    /// The entries of the array of tables at `path`.
    pub(super) fn tables(&self, path: &str) -> &[Table] {
        match self.node(path).map(|node| &node.value) {
            Some(Value::Tables(tables)) => tables,
            _ => &[],
        }
    }

    /// The same, to be changed.
    pub(super) fn tables_mut(&mut self, key: &str) -> &mut [Table] {
        match self.fields.get_mut(key).map(|node| &mut node.value) {
            Some(Value::Tables(tables)) => tables,
            _ => &mut [],
        }
    }

    /// Puts a default that depends on other values where `key` is missing; `text` is how TOML writes it.
    pub(super) fn derive(&mut self, key: &str, value: Value, text: &str) {
        self.fields.entry(key.to_owned()).or_insert_with(|| Node {
            value,
            place: Place::new(&default_source(text), 0..text.len()),
            hides: Vec::new(),
        });
    }

    /// The value of `key` as it is written in paths and compared between layers.
    pub(super) fn identity(&self, key: &str) -> Option<String> {
        match &self.fields.get(key)?.value {
            Value::Text(text) => Some(text.clone()),
            Value::Integer(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// Lays `over` on top: its values win, tables merge, entries of arrays of tables merge by identity.
    pub(super) fn merge(&mut self, shape: &Shape, over: Table) {
        let kind = over.text("kind").or(self.text("kind")).map(str::to_owned);
        for (name, node) in over.fields {
            let Some(below) = self.fields.get_mut(&name) else {
                self.fields.insert(name, node);
                continue;
            };
            match (
                shape.field(kind.as_deref(), &name).map(|field| field.kind),
                &mut below.value,
                node.value,
            ) {
                (Some(Kind::Table(inner)), Value::Table(below), Value::Table(over)) => {
                    below.merge(inner, over);
                }
                (Some(Kind::Tables(inner)), Value::Tables(below), Value::Tables(over)) => {
                    merge_entries(inner, below, over);
                }
                (_, _, value) => {
                    let mut hides = vec![below.place.clone()];
                    hides.append(&mut below.hides);
                    *below = Node {
                        value,
                        place: node.place,
                        hides,
                    };
                }
            }
        }
    }

    /// Puts the schema's default where a key that this version uses is missing.
    pub(super) fn fill(&mut self, shape: &Shape) {
        let kind = self.text("kind").map(str::to_owned);
        for field in shape.fields_of(kind.as_deref()).filter(|field| field.used) {
            match (field.kind, self.fields.get_mut(field.name)) {
                (
                    Kind::Table(inner),
                    Some(Node {
                        value: Value::Table(table),
                        ..
                    }),
                ) => table.fill(inner),
                (Kind::Table(inner), None) => {
                    let place = Place::new(&default_source(""), 0..0);
                    let mut table = Table::empty(place.clone());
                    table.fill(inner);
                    // One that takes the place of another's values has no defaults of its own.
                    if table.fields.is_empty() {
                        continue;
                    }
                    let node = Node {
                        value: Value::Table(table),
                        place,
                        hides: Vec::new(),
                    };
                    self.fields.insert(field.name.into(), node);
                }
                (
                    Kind::Tables(inner),
                    Some(Node {
                        value: Value::Tables(tables),
                        ..
                    }),
                ) => {
                    tables.iter_mut().for_each(|table| table.fill(inner));
                }
                (_, Some(_)) => {}
                (_, None) => {
                    if let Some(node) = default_of(field) {
                        self.fields.insert(field.name.into(), node);
                    }
                }
            }
        }
    }
}

fn merge_entries(shape: &Shape, below: &mut Vec<Table>, over: Vec<Table>) {
    let Some(identity) = &shape.identity else {
        below.extend(over);
        return;
    };
    for entry in over {
        let name = entry.identity(identity.key);
        let same = |other: &&mut Table| name.is_some() && other.identity(identity.key) == name;
        match below.iter_mut().find(same) {
            Some(known) => known.merge(shape, entry),
            None => below.push(entry),
        }
    }
}

/// A text that the schema wrote.
pub(super) fn default_source(text: &str) -> Arc<Source> {
    Arc::new(Source {
        name: "defaults".into(),
        text: text.into(),
        origin: Origin::Default,
        rank: 0,
    })
}

fn default_of(field: &Field) -> Option<Node> {
    let source = default_source(field.default?);
    walk::value_of_default(&source, field)
}
