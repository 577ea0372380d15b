//! A pattern of paths, for layouts that are not known: see [`Layout`](super::Layout).

use std::collections::{HashMap, HashSet};
use std::fmt;

use chrono::format::{Item, Parsed, StrftimeItems};
use chrono::{DateTime, FixedOffset, NaiveTime, TimeZone, Utc};

use crate::change::{FileKind, TableName};
use crate::error::{Error, Result};

/// A pattern has no more parts, and a path no more bytes (the longest key of S3), so that fitting stays cheap.
const PARTS_MAX: usize = 64;
const PATH_BYTES_MAX: usize = 1024;

/// A pattern, in its parts.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    text: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Database,
    Table,
    Kind,
    Time(String),
    /// `{*}`
    Name,
    /// `{**}`
    Anything,
    /// `{**}/` at the start of a folder's name
    Folders,
}

/// What the placeholders took from a path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Taken<'a> {
    database: &'a str,
    table: &'a str,
    kind: Option<FileKind>,
    time_ms: Option<i64>,
}

const PLACEHOLDERS: [&str; 6] = ["{database}", "{table}", "{time:FORMAT}", "{kind}", "{*}", "{**}"];

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User), see [`Layout::pattern`](super::Layout::pattern).
    pub(super) fn parse(text: &str) -> Result<Self> {
        let wrong = |what: &str| {
            Error::user(format!("`layout: {text}` {what}")).hint(format!(
                "placeholders are {}; for example `{{database}}/{{table}}/{{time:%Y%m%d}}_{{*}}.csv`",
                PLACEHOLDERS.join(", ")
            ))
        };
        let mut parts = Vec::new();
        let mut rest = text.strip_prefix('/').unwrap_or(text);
        while let Some(start) = rest.find('{') {
            let (before, open) = rest.split_at(start);
            let (inside, after) = open[1..].split_once('}').ok_or_else(|| wrong("has a `{` without its `}`"))?;
            if !before.is_empty() {
                parts.push(Part::Literal(before.to_owned()));
            }
            let mut found =
                part(inside).ok_or_else(|| wrong(&format!("has the unknown placeholder `{{{inside}}}`")))?;
            let starts = parts.last().is_none_or(|last| matches!(last, Part::Literal(text) if text.ends_with('/')));
            (found, rest) = match after.strip_prefix('/') {
                Some(after) if found == Part::Anything && starts => (Part::Folders, after),
                _ => (found, after),
            };
            parts.push(found);
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        check(&parts).map_err(wrong)?;
        Ok(Self { text: text.to_owned(), parts })
    }

    /// Table, kind and time of a path; None where the pattern does not fit. Without `{kind}`, `load` tells.
    ///
    /// # Errors
    /// [`Data`](crate::error::Kind::Data) where it fits in two ways.
    pub(super) fn fit(&self, path: &str, load: bool) -> Result<Option<(TableName, FileKind, Option<i64>)>> {
        if path.len() > PATH_BYTES_MAX {
            return Ok(None);
        }
        let Some(taken) = self.take(path, Greed::Least) else {
            return Ok(None);
        };
        if self.take(path, Greed::Most).as_ref() != Some(&taken) {
            return Err(Error::data(format!("the path `{path}` fits `layout: {self}` in two ways"))
                .hint("write more of the path into the pattern, so that only one reading is left"));
        }
        let kind = taken.kind.unwrap_or(if load { FileKind::Load } else { FileKind::Cdc });
        Ok(Some((TableName::new(taken.database, taken.table), kind, taken.time_ms)))
    }

    fn take<'a>(&self, path: &'a str, greed: Greed) -> Option<Taken<'a>> {
        let mut search =
            Search { parts: &self.parts, path, greed, failed: HashSet::new(), failed_from: HashMap::new() };
        let mut taken = Taken::default();
        search.from(0, 0, &mut taken).then_some(taken)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn part(inside: &str) -> Option<Part> {
    Some(match inside {
        "database" => Part::Database,
        "table" => Part::Table,
        "kind" => Part::Kind,
        "*" => Part::Name,
        "**" => Part::Anything,
        _ => Part::Time(inside.strip_prefix("time:")?.to_owned()),
    })
}

fn check(parts: &[Part]) -> Result<(), &'static str> {
    let count = |wanted: fn(&Part) -> bool| parts.iter().filter(|part| wanted(part)).count();
    if count(|part| *part == Part::Database) != 1 {
        return Err("does not have `{database}` exactly once");
    }
    if count(|part| *part == Part::Table) != 1 {
        return Err("does not have `{table}` exactly once");
    }
    if count(|part| *part == Part::Kind) > 1 || count(|part| matches!(part, Part::Time(_))) > 1 {
        return Err("has a placeholder twice that may stand once");
    }
    if parts.len() > PARTS_MAX {
        return Err("has more than 64 parts");
    }
    match parts.iter().find_map(|part| if let Part::Time(format) = part { Some(format) } else { None }) {
        Some(format) if !tells_a_day(format) => Err("has a time format that does not tell year, month and day"),
        _ => Ok(()),
    }
}

/// Whether a time can be read back from what the format writes.
fn tells_a_day(format: &str) -> bool {
    if StrftimeItems::new(format).any(|item| matches!(item, Item::Error)) {
        return false;
    }
    let Some(sample) = DateTime::from_timestamp(1_678_890_622, 0) else {
        return false;
    };
    let text = sample.format(format).to_string();
    time(&text, format).is_some_and(|ms| ms / 86_400_000 == sample.timestamp_millis() / 86_400_000)
}

/// The ms since 1970 of a text that is exactly what the format writes for it; what the format leaves out is zero.
fn time(text: &str, format: &str) -> Option<i64> {
    let mut parsed = Parsed::new();
    chrono::format::parse(&mut parsed, text, StrftimeItems::new(format)).ok()?;
    if parsed.hour_mod_12().is_some() && parsed.minute().is_none() {
        parsed.set_minute(0).ok()?;
    }
    let offset = FixedOffset::east_opt(parsed.offset().unwrap_or(0))?;
    let naive = match parsed.to_naive_datetime_with_offset(offset.local_minus_utc()) {
        Ok(naive) => naive,
        Err(_) if parsed.hour_mod_12().is_none() && parsed.minute().is_none() && parsed.second().is_none() => {
            parsed.to_naive_date().ok()?.and_time(NaiveTime::MIN)
        }
        Err(_) => return None,
    };
    let moment = offset.from_local_datetime(&naive).single()?;
    (moment.format(format).to_string() == text).then(|| moment.with_timezone(&Utc).timestamp_millis())
}

/// Where the time ends that a text begins with, in bytes.
fn time_end(text: &str, format: &str) -> Option<usize> {
    let mut parsed = Parsed::new();
    let rest = chrono::format::parse_and_remainder(&mut parsed, text, StrftimeItems::new(format)).ok()?;
    text.len().checked_sub(rest.len()).filter(|end| *end > 0)
}

/// Which of several ways to fit comes first: the one where the first placeholder takes least, or most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Greed {
    Least,
    Most,
}

/// One way through the parts; places from which the rest cannot fit are remembered, so none is tried twice.
struct Search<'a, 'p> {
    parts: &'p [Part],
    path: &'a str,
    greed: Greed,
    failed: HashSet<(usize, usize)>,
    /// For parts that take anything: to take up to here or further cannot fit.
    failed_from: HashMap<usize, usize>,
}

impl<'a> Search<'a, '_> {
    /// Fits the parts from number `part` on to the path from byte `at` on.
    fn from(&mut self, part: usize, at: usize, taken: &mut Taken<'a>) -> bool {
        let (Some(rest), parts) = (self.path.get(at..), self.parts) else {
            return false;
        };
        let Some(wanted) = parts.get(part) else {
            return rest.is_empty();
        };
        let bound = self.failed_from.get(&part).copied().unwrap_or(usize::MAX);
        if at >= bound || self.failed.contains(&(part, at)) {
            return false;
        }
        let mut ends = ends(wanted, rest);
        ends.retain(|end| at + end < bound);
        if self.greed == Greed::Most {
            ends.reverse();
        }
        for end in ends {
            let Some(text) = rest.get(..end) else {
                continue;
            };
            if note(wanted, text, taken) && self.from(part + 1, at + end, taken) {
                return true;
            }
        }
        self.failed.insert((part, at));
        if *wanted == Part::Anything {
            self.failed_from.entry(part).and_modify(|bound| *bound = at.min(*bound)).or_insert(at);
        }
        false
    }
}

/// How many bytes a part may take from the start of `rest`, ascending.
fn ends(part: &Part, rest: &str) -> Vec<usize> {
    let up_to = |end: usize, min: usize| (min..=end).filter(|end| rest.is_char_boundary(*end)).collect();
    let slash = rest.find('/').unwrap_or(rest.len());
    match part {
        Part::Literal(text) if rest.starts_with(text.as_str()) => vec![text.len()],
        Part::Literal(_) => Vec::new(),
        Part::Database | Part::Table => up_to(slash, 1),
        Part::Kind => [3, 4].into_iter().filter(|end| rest.is_char_boundary(*end)).collect(),
        Part::Time(format) => time_end(rest, format).into_iter().collect(),
        Part::Name => up_to(slash, 0),
        Part::Anything => up_to(rest.len(), 0),
        Part::Folders => std::iter::once(0).chain(rest.match_indices('/').map(|(slash, _)| slash + 1)).collect(),
    }
}

/// Notes what a part took; false where it cannot be that.
fn note<'a>(part: &Part, text: &'a str, taken: &mut Taken<'a>) -> bool {
    match part {
        Part::Database => taken.database = text,
        Part::Table => taken.table = text,
        Part::Time(format) => match time(text, format) {
            Some(time_ms) => taken.time_ms = Some(time_ms),
            None => return false,
        },
        Part::Kind if text.eq_ignore_ascii_case("load") => taken.kind = Some(FileKind::Load),
        Part::Kind if text.eq_ignore_ascii_case("cdc") => taken.kind = Some(FileKind::Cdc),
        Part::Kind => return false,
        Part::Literal(_) | Part::Name | Part::Anything | Part::Folders => {}
    }
    true
}
