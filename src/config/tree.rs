//! YAML as a tree that remembers which file every value stands in, so that several files can be laid over each
//! other and a message still names the right one. Bounded: neither depth nor aliases can make it explode.

use std::cell::Cell;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_yaml_ng::Deserializer;

/// Most values in one file, aliases followed.
const VALUES_MAX: usize = 500_000;

/// A value and the number of the file it stands in.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub file: usize,
    pub value: Value,
}

/// What a file says somewhere.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Null,
    Boolean(bool),
    Integer(i128),
    Fraction(f64),
    Text(Text),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

/// A text with its variables expanded, and as it was written where that differs: only the latter may be shown.
#[derive(Debug, Clone)]
pub(super) struct Text {
    pub value: String,
    pub written: Option<String>,
}

impl Text {
    /// What a message may show.
    pub(super) fn shown(&self) -> &str {
        self.written.as_deref().unwrap_or(&self.value)
    }
}

impl Node {
    /// The only document of `text`; an empty map where there is none.
    pub(super) fn parse(file: usize, text: &str) -> Result<Self, serde_yaml_ng::Error> {
        let mut documents = Deserializer::from_str(text);
        let empty = Self { file, value: Value::Map(Vec::new()) };
        let Some(first) = documents.next() else {
            return Ok(empty);
        };
        let node = Seed { file, left: &Cell::new(VALUES_MAX) }.deserialize(first)?;
        if documents.next().is_some() {
            return Err(serde_yaml_ng::Error::custom("more than one document"));
        }
        Ok(if matches!(node.value, Value::Null) { empty } else { node })
    }

    /// The value under `key` of a map.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, node)| node),
            _ => None,
        }
    }

    /// The `name` of a list's item, as it is written.
    pub(super) fn name(&self) -> Option<&str> {
        match &self.get("name")?.value {
            Value::Text(text) => Some(text.shown()),
            _ => None,
        }
    }

    /// The value one step below: under a key, or the list item `[name]` or `[index]`.
    pub(super) fn step(&self, step: &str) -> Option<&Self> {
        let Value::List(items) = &self.value else {
            return self.get(step);
        };
        let item = step.strip_prefix('[')?.strip_suffix(']')?;
        let named = items.iter().find(|node| node.name() == Some(item));
        named.or_else(|| items.get(item.parse::<usize>().ok()?))
    }

    /// Lays `over` over this: maps merge, `tables` merge by `name`, everything else is replaced.
    pub(super) fn merge(&mut self, over: Self) {
        match (&mut self.value, over.value) {
            (Value::Map(entries), Value::Map(later)) => {
                for (key, node) in later {
                    merge_entry(entries, key, node);
                }
            }
            (_, value) => *self = Self { file: over.file, value },
        }
    }
}

fn merge_entry(entries: &mut Vec<(String, Node)>, key: String, node: Node) {
    let Some((_, known)) = entries.iter_mut().find(|(name, _)| *name == key) else {
        entries.push((key, node));
        return;
    };
    match (&mut known.value, node) {
        (Value::List(items), Node { value: Value::List(later), .. }) if key == "tables" => {
            for item in later {
                match items.iter_mut().find(|known| item.name().is_some() && known.name() == item.name()) {
                    Some(known) => known.merge(item),
                    None => items.push(item),
                }
            }
        }
        (_, node) => known.merge(node),
    }
}

/// Builds nodes of one file, as long as the number of values `left` allows.
#[derive(Clone, Copy)]
struct Seed<'a> {
    file: usize,
    left: &'a Cell<usize>,
}

impl Seed<'_> {
    fn node<E>(self, value: Value) -> Result<Node, E> {
        Ok(Node { file: self.file, value })
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Node;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        let left = self.left.get().checked_sub(1);
        self.left.set(left.ok_or_else(|| D::Error::custom("too many values, aliases followed"))?);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, a number of 64 bits, true, false, null, a list or a mapping, without tags")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        self.node(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        self.node(Value::Boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        self.node(Value::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        self.node(Value::Integer(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        self.node(Value::Fraction(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        self.node(Value::Text(Text { value: value.to_owned(), written: None }))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(self)? {
            items.push(item);
        }
        self.node(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut entries: Vec<(String, Node)> = Vec::new();
        let mut names = std::collections::HashSet::new();
        while let Some(Key(key)) = access.next_key()? {
            if !names.insert(key.clone()) {
                return Err(A::Error::custom(format!("the key `{key}` is written twice")));
            }
            let node = access.next_value_seed(self)?;
            entries.push((key, node));
        }
        take_merge_key(&mut entries).map_err(A::Error::custom)?;
        self.node(Value::Map(entries))
    }
}

/// Replaces YAML's merge key `<<` by the entries it brings: <https://yaml.org/type/merge.html>.
fn take_merge_key(entries: &mut Vec<(String, Node)>) -> Result<(), &'static str> {
    let Some(place) = entries.iter().position(|(key, _)| key == "<<") else {
        return Ok(());
    };
    let (_, merged) = entries.remove(place);
    let sources = match merged.value {
        Value::List(items) => items,
        _ => vec![merged],
    };
    for source in sources {
        let Value::Map(brought) = source.value else {
            return Err("`<<` takes a mapping or a list of mappings");
        };
        for (key, node) in brought {
            if !entries.iter().any(|(known, _)| *known == key) {
                entries.push((key, node));
            }
        }
    }
    Ok(())
}

/// A key, which must be text. `null` is a key here (`csv: {null: NULL}`), though YAML reads it as no text.
struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeyVisitor)
    }
}

struct KeyVisitor;

impl Visitor<'_> for KeyVisitor {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key that is text (put quotes around numbers, true and false)")
    }

    fn visit_unit<E>(self) -> Result<Key, E> {
        Ok(Key("null".to_owned()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Key, E> {
        Ok(Key(value.to_owned()))
    }
}
