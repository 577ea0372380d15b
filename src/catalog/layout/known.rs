//! The layouts known without configuration: `…/database/table/[date/]name`.

use chrono::NaiveDate;

use super::is_load;
use crate::change::{FileKind, TableName};

/// Table, kind and time of a path whose file name without extensions is `stem`; None where none fits.
pub(super) fn fit(path: &str, stem: &str) -> Option<(TableName, FileKind, Option<i64>)> {
    let mut folders: Vec<&str> = path.split('/').collect();
    folders.pop();
    if folders.iter().any(|folder| folder.is_empty()) {
        return None;
    }
    let dated = date_folders(&folders);
    let (table, rest) = folders.get(..folders.len() - dated)?.split_last()?;
    let database = rest.last()?;
    let (kind, time_ms) = match is_load(stem) {
        true => (FileKind::Load, None),
        false => (FileKind::Cdc, Some(dms_time(stem).or_else(|| renamed_time(stem, table))?)),
    };
    Some((TableName::new(*database, *table), kind, time_ms))
}

/// `20221024-175902985` (hhmmss and ms) or `20141029-1134010000` (hhmmss and tenths of ms).
fn dms_time(stem: &str) -> Option<i64> {
    let (day, time) = stem.split_once('-')?;
    if day.len() != 8 || !matches!(time.len(), 9 | 10) {
        return None;
    }
    let fraction: u32 = digits(time, 6, 9)?.parse().ok()?;
    digits(time, 0, time.len())?;
    moment(day, time.get(..6)?, fraction)
}

/// `20230315143022_<table>`; the table's name must be the folder's, else the file may be another's.
fn renamed_time(stem: &str, table: &str) -> Option<i64> {
    let (time, name) = stem.split_once('_')?;
    if time.len() != 14 || name != table {
        return None;
    }
    moment(time.get(..8)?, time.get(8..)?, 0)
}

/// The ms since 1970 of a day `YYYYMMDD` and a time `hhmmss`.
fn moment(day: &str, time: &str, ms: u32) -> Option<i64> {
    let number = |from, to| digits(time, from, to)?.parse::<u32>().ok();
    let time = (number(0, 2)?, number(2, 4)?, number(4, 6)?);
    Some(ymd(day, [0..4, 4..6, 6..8])?.and_hms_milli_opt(time.0, time.1, time.2, ms)?.and_utc().timestamp_millis())
}

/// The digits from one byte to another; None where there is anything else.
fn digits(text: &str, from: usize, to: usize) -> Option<&str> {
    text.get(from..to).filter(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
}

/// The date in a text of digits, whose year, month and day stand in the given ranges; from 1970 to 2399.
fn ymd(text: &str, [year, month, day]: [std::ops::Range<usize>; 3]) -> Option<NaiveDate> {
    let year: i32 = digits(text, year.start, year.end)?.parse().ok()?;
    let month = digits(text, month.start, month.end)?.parse().ok()?;
    let day = digits(text, day.start, day.end)?.parse().ok()?;
    (1970..2400).contains(&year).then(|| NaiveDate::from_ymd_opt(year, month, day)).flatten()
}

/// How many folders at the end are a date, of which as many are taken as leave a database and a table.
fn date_folders(folders: &[&str]) -> usize {
    let most = folders.len().saturating_sub(2).min(4);
    let is_date = |count: usize| match folders.get(folders.len() - count..) {
        Some([one]) => is_date(one, '-') || is_date(one, '_') || is_date_of_digits(one),
        Some(parts) => is_date_of_parts(parts),
        None => false,
    };
    (1..=most).rev().find(|count| is_date(*count)).unwrap_or(0)
}

fn is_date(folder: &str, divider: char) -> bool {
    let parts: Vec<&str> = folder.split(divider).collect();
    parts.len() > 1 && is_date_of_parts(&parts)
}

/// DMS's `DatePartitionSequence`: YYYYMMDD, YYYYMMDDHH, YYYYMM, MMYYYYDD or DDMMYYYY, in parts.
fn is_date_of_parts(parts: &[&str]) -> bool {
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    let text = parts.concat();
    match lengths.as_slice() {
        [4, 2] | [4, 2, 2] | [4, 2, 2, 2] => is_year_first(&text),
        [2, 4, 2] => ymd(&text, [2..6, 0..2, 6..8]).is_some(),
        [2, 2, 4] => ymd(&text, [4..8, 2..4, 0..2]).is_some(),
        _ => false,
    }
}

fn is_date_of_digits(text: &str) -> bool {
    is_year_first(text)
        || text.len() == 8 && (ymd(text, [2..6, 0..2, 6..8]).is_some() || ymd(text, [4..8, 2..4, 0..2]).is_some())
}

/// YYYYMM, YYYYMMDD or YYYYMMDDHH.
fn is_year_first(text: &str) -> bool {
    match text.len() {
        6 => ymd(&format!("{text}01"), [0..4, 4..6, 6..8]).is_some(),
        8 => ymd(text, [0..4, 4..6, 6..8]).is_some(),
        10 => ymd(text, [0..4, 4..6, 6..8]).is_some() && digits(text, 8, 10).is_some_and(|hour| hour < "24"),
        _ => false,
    }
}
