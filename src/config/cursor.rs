//! A place in the configuration, read with the type that is wanted there; every error names path, file and line.

use std::path::PathBuf;
use std::time::Duration;

use super::tree::{Node, Text, Value};
use super::units::{self, DURATIONS, SIZES};
use crate::error::{Error, Result};

/// A configuration file as it was read.
#[derive(Debug)]
pub(super) struct SourceFile {
    pub path: PathBuf,
    pub text: String,
}

/// A value in the tree, and the way to it: keys, and list items as `[name]` or `[index]`.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'a> {
    files: &'a [SourceFile],
    node: &'a Node,
    trail: Vec<String>,
    secret: bool,
}

impl<'a> Cursor<'a> {
    /// The root of a tree read from `files`.
    pub(super) fn root(files: &'a [SourceFile], node: &'a Node) -> Self {
        Self { files, node, trail: Vec::new(), secret: false }
    }

    /// The same place with another value there.
    pub(super) fn with<'b>(&self, node: &'b Node) -> Cursor<'b>
    where
        'a: 'b,
    {
        Cursor { files: self.files, node, trail: self.trail.clone(), secret: self.secret }
    }

    /// The same, whose values no message may show.
    pub(super) fn secret(self) -> Self {
        Self { secret: true, ..self }
    }

    /// What the tree says here.
    pub(super) fn node(&self) -> &'a Node {
        self.node
    }

    /// The way here, such as `databases.shop.tables[orders].key`.
    pub(super) fn path(&self) -> String {
        path_text(&self.trail)
    }

    /// An error about this place; `message` goes on after the path.
    pub(super) fn error(&self, message: impl std::fmt::Display) -> Error {
        error_at(self.files, self.node.file, &self.trail, message)
    }

    /// An error about a value of the wrong type.
    pub(super) fn expected(&self, expected: &str) -> Error {
        self.error(format!("takes {expected}, not {}", self.shown()))
    }

    /// What stands here, for messages.
    fn shown(&self) -> String {
        match &self.node.value {
            Value::Null => "nothing".to_owned(),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
            _ if self.secret => "what is written there".to_owned(),
            Value::Boolean(value) => format!("`{value}`"),
            Value::Integer(value) => format!("the number {value}"),
            Value::Fraction(value) => format!("the number {value}"),
            Value::Text(text) => format!("`{}`", text.shown()),
        }
    }

    fn below(&self, step: String, node: &'a Node) -> Self {
        let mut trail = self.trail.clone();
        trail.push(step);
        Self { files: self.files, node, trail, secret: self.secret }
    }

    /// The entries of a mapping, whatever their keys.
    pub(super) fn entries(&self, expected: &str) -> Result<Vec<(&'a str, Self)>> {
        match &self.node.value {
            Value::Map(entries) => {
                Ok(entries.iter().map(|(key, node)| (key.as_str(), self.below(key.clone(), node))).collect())
            }
            Value::Null => Ok(Vec::new()),
            _ => Err(self.expected(expected)),
        }
    }

    /// Checks that this is a mapping with no keys but those of `known`.
    pub(super) fn only(&self, known: &[&str]) -> Result<()> {
        let expected = format!("a mapping with {}", alternatives(known, "and"));
        for (key, cursor) in self.entries(&expected)? {
            if !known.contains(&key) {
                return Err(cursor.error("is not a known key").hint(nearest(key, known)));
            }
        }
        Ok(())
    }

    /// What stands under `key`, unless that is nothing or null.
    pub(super) fn get(&self, key: &str) -> Option<Self> {
        let node = self.node.get(key)?;
        (!matches!(node.value, Value::Null)).then(|| self.below(key.to_owned(), node))
    }

    /// The items of a list.
    pub(super) fn items(&self, expected: &str) -> Result<Vec<Self>> {
        let Value::List(items) = &self.node.value else {
            return Err(self.expected(expected));
        };
        let step =
            |index: usize, node: &Node| format!("[{}]", node.name().map_or_else(|| index.to_string(), str::to_owned));
        Ok(items.iter().enumerate().map(|(index, node)| self.below(step(index, node), node)).collect())
    }

    /// A text that is not empty.
    pub(super) fn text(&self, expected: &str) -> Result<&'a Text> {
        match &self.node.value {
            Value::Text(text) if !text.value.is_empty() => Ok(text),
            Value::Text(_) => Err(self.error(format!("takes {expected}, and is empty"))),
            Value::Boolean(_) | Value::Integer(_) | Value::Fraction(_) => {
                Err(self.expected(expected).hint("put quotes around it if it is meant as text"))
            }
            _ => Err(self.expected(expected)),
        }
    }

    /// A text, empty or not.
    pub(super) fn any_text(&self, expected: &str) -> Result<String> {
        match &self.node.value {
            Value::Text(text) => Ok(text.value.clone()),
            _ => self.text(expected).map(|text| text.value.clone()),
        }
    }

    /// One text, or a list of texts; none of them empty.
    pub(super) fn texts(&self, expected: &str) -> Result<Vec<String>> {
        match &self.node.value {
            Value::List(_) => self.items(expected)?.iter().map(|item| Ok(item.text("text")?.value.clone())).collect(),
            _ => Ok(vec![self.text(expected)?.value.clone()]),
        }
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self) -> Result<bool> {
        match &self.node.value {
            Value::Boolean(value) => Ok(*value),
            Value::Text(text) if text.value == "true" => Ok(true),
            Value::Text(text) if text.value == "false" => Ok(false),
            _ => Err(self.expected("`true` or `false`")),
        }
    }

    /// A whole number within the type's range and not below `min`.
    pub(super) fn integer<T: TryFrom<i128> + PartialOrd + std::fmt::Display>(&self, min: T) -> Result<T> {
        let value = match &self.node.value {
            Value::Integer(value) => Some(*value),
            Value::Text(text) => text.value.parse().ok(),
            _ => None,
        };
        match value.and_then(|value| T::try_from(value).ok()) {
            Some(value) if value >= min => Ok(value),
            _ => Err(self.expected(&format!("a whole number from {min} on"))),
        }
    }

    /// A number from 0 to 1.
    pub(super) fn share(&self) -> Result<f64> {
        let value = match &self.node.value {
            Value::Integer(0) => Some(0.0),
            Value::Integer(1) => Some(1.0),
            Value::Fraction(value) => Some(*value),
            Value::Text(text) => text.value.parse().ok(),
            _ => None,
        };
        value.filter(|value| (0.0..=1.0).contains(value)).ok_or_else(|| self.expected("a number from 0 to 1"))
    }

    /// Bytes, at least 1.
    pub(super) fn size(&self) -> Result<u64> {
        let value = match &self.node.value {
            Value::Integer(value) => u64::try_from(*value).ok(),
            Value::Text(text) => units::size(&text.value),
            _ => None,
        };
        value.filter(|bytes| *bytes > 0).ok_or_else(|| self.expected(SIZES))
    }

    /// A duration.
    pub(super) fn duration(&self) -> Result<Duration> {
        let value = match &self.node.value {
            Value::Text(text) => units::duration(&text.value),
            _ => None,
        };
        value.ok_or_else(|| self.expected(DURATIONS))
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T> {
        let found = match &self.node.value {
            Value::Text(text) => choices.iter().find(|(word, _)| *word == text.value),
            _ => None,
        };
        let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
        found.map(|(_, value)| *value).ok_or_else(|| self.expected(&alternatives(&words, "or")))
    }
}

/// An error about the place at the end of `trail`; `message` goes on after its path.
pub(super) fn error_at(files: &[SourceFile], file: usize, trail: &[String], message: impl std::fmt::Display) -> Error {
    let error = match trail {
        [] => Error::user(format!("the configuration {message}")),
        _ => Error::user(format!("`{}` {message}", path_text(trail))),
    };
    let Some(file) = files.get(file) else {
        return error;
    };
    let error = error.in_query(file.path.display());
    match super::excerpt::find(&file.text, trail) {
        Some(found) => error.at(found.line, found.column, &found.text),
        None => error,
    }
}

fn path_text(trail: &[String]) -> String {
    let mut out = String::new();
    for step in trail {
        if !out.is_empty() && !step.starts_with('[') {
            out.push('.');
        }
        out.push_str(step);
    }
    out
}

fn alternatives(words: &[&str], last: &str) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        Some((end, [])) => end.clone(),
        Some((end, others)) => format!("{} {last} {end}", others.join(", ")),
        None => String::new(),
    }
}

fn nearest(key: &str, known: &[&str]) -> String {
    let near = known.iter().max_by(|a, b| strsim::jaro_winkler(a, key).total_cmp(&strsim::jaro_winkler(b, key)));
    let all = alternatives(known, "and");
    match near {
        Some(near) if strsim::jaro_winkler(near, key) > 0.7 => {
            format!("did you mean `{near}`? Known keys here: {all}")
        }
        _ => format!("known keys here: {all}"),
    }
}
