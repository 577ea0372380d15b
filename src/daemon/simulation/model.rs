//! A source database that lives by chance: what it changes, the files that tell of it, and what its tables are in the
//! end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::change::TableName;
use crate::trial::dice::Dice;

/// The busy hours.
pub(super) const HOURS: Duration = Duration::from_secs(3_600);

/// What becomes of a file's object after it was put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Later {
    /// It stays.
    Stays,
    /// After so long it is overwritten by this text.
    Overwritten(Duration, String),
    /// After so long it is deleted.
    Deleted(Duration),
}

/// A change file, when it appears, and when the queue is told of it.
#[derive(Debug, Clone)]
pub(super) struct Arrival {
    pub(super) table: TableName,
    pub(super) key: String,
    /// The moment in its name, in ms since 1970.
    pub(super) moment_ms: i64,
    pub(super) text: String,
    pub(super) put_after: Duration,
    /// From then on, one after the other.
    pub(super) told_after: Vec<Duration>,
    pub(super) later: Later,
}

impl Arrival {
    /// The location as the log's rows have it.
    pub(super) fn location(&self) -> String {
        format!("s3://cdc-files/{}", self.key)
    }
}

/// The rows of a text, as the log has them: `file operation id`, key updates as two.
pub(super) fn log_rows(location: &str, text: &str) -> Vec<String> {
    let mut rows = Vec::new();
    for line in text.lines().skip(1) {
        let cells: Vec<&str> = line.split(',').collect();
        if is_key_update(&cells) {
            rows.push(format!("{location} D {}", cells[3]));
        }
        rows.push(format!("{location} {} {}", cells[0], cells[1]));
    }
    rows
}

fn is_key_update(cells: &[&str]) -> bool {
    cells[3] != "NULL" && cells[3] != cells[1]
}

/// The final rows that these texts make, one after the other, as `id name`.
pub(super) fn finals_of<'a>(texts: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    let mut rows: BTreeMap<&str, &str> = BTreeMap::new();
    for line in texts.into_iter().flat_map(|text| text.lines().skip(1)) {
        let cells: Vec<&str> = line.split(',').collect();
        if is_key_update(&cells) {
            rows.remove(cells[3]);
        }
        match cells[0] {
            "D" => _ = rows.remove(cells[1]),
            _ => _ = rows.insert(cells[1], cells[2]),
        }
    }
    rows.into_iter().map(|(id, name)| format!("{id} {name}")).collect()
}

/// How many rows of a text change their key.
pub(super) fn key_updates(text: &str) -> usize {
    text.lines().skip(1).filter(|line| is_key_update(&line.split(',').collect::<Vec<_>>())).count()
}

/// All that a run of the source gives.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) files: Vec<Arrival>,
    /// The final rows of each table as `id name`, but for those of files that may vanish unread.
    pub(super) finals: BTreeMap<TableName, BTreeSet<String>>,
    /// Tables that are loaded anew.
    pub(super) reloads: BTreeMap<TableName, Reload>,
    /// Tables that forget what was deleted so long ago, in the time that files name.
    pub(super) horizons: BTreeMap<TableName, Duration>,
}

/// The moment named by the first file.
const FIRST_MS: i64 = 1_000;
/// Between the moments that files name.
const FILE_MS: i64 = 1_000;
/// 2024-05-06.
const DAY_MS: i64 = 1_714_953_600_000;

/// A table is loaded anew, and differs then from what its changes say.
#[derive(Debug, Clone)]
pub(super) struct Reload {
    /// Files since this moment follow the load, or are of it.
    pub(super) cut_over_ms: i64,
    pub(super) begins_after: Duration,
    /// The object of the load, as key and text; none where the table is empty.
    pub(super) load: Option<(String, String)>,
    pub(super) loads_after: Duration,
    pub(super) completed_after: Duration,
    /// How many people complete it at once.
    pub(super) people: u64,
}

impl Reload {
    /// When somebody says that it is complete, if nothing goes wrong.
    fn completes_after(&self) -> Duration {
        self.begins_after + self.loads_after + self.completed_after
    }
}

/// The moment that a file's name tells.
fn moment_ms(file: u64) -> i64 {
    FIRST_MS + FILE_MS * i64::try_from(file).unwrap()
}

const HEADER: &str = "Op,id,name,BI_id\n";

/// One table while it lives.
struct Table {
    name: TableName,
    rows: BTreeMap<u64, String>,
    /// Counts whatever gets a number.
    number: u64,
}

impl Table {
    fn change(&mut self, dice: &mut Dice) -> String {
        self.number += 1;
        let id = dice.below(8);
        let name = format!("v{}", self.number);
        let there: Vec<u64> = self.rows.keys().copied().collect();
        match dice.below(10) {
            0..=4 => {
                let operation = if self.rows.insert(id, name.clone()).is_some() { "U" } else { "I" };
                format!("{operation},{id},{name},{}\n", if operation == "U" { id.to_string() } else { "NULL".into() })
            }
            5..=7 if !there.is_empty() => {
                let id = *dice.pick(&there);
                let name = self.rows.remove(&id).unwrap();
                format!("D,{id},{name},NULL\n")
            }
            8 | 9 if !there.is_empty() => {
                let (old, new) = (*dice.pick(&there), 8 + dice.below(8));
                self.rows.remove(&old);
                self.rows.insert(new, name.clone());
                format!("U,{new},{name},{old}\n")
            }
            _ => {
                self.rows.insert(id, name.clone());
                format!("I,{id},{name},NULL\n")
            }
        }
    }

    /// Rows come and go and no change tells of it; then the table is loaded anew.
    fn reload(&mut self, dice: &mut Dice, file: u64) -> Reload {
        for id in 0..16 {
            match dice.below(4) {
                0 => _ = self.rows.remove(&id),
                1 => {
                    self.number += 1;
                    self.rows.insert(id, format!("v{}", self.number));
                }
                _ => {}
            }
        }
        let rows: String = self.rows.iter().map(|(id, name)| format!("I,{id},{name},NULL\n")).collect();
        let key = format!("dms/shop/{}/LOAD00000001.csv", self.name.table);
        Reload {
            cut_over_ms: DAY_MS + moment_ms(file),
            begins_after: seconds(dice, HOURS.as_secs()),
            load: (!rows.is_empty()).then(|| (key, format!("{HEADER}{rows}"))),
            loads_after: seconds(dice, 300),
            completed_after: seconds(dice, 900),
            people: 1 + dice.below(3) / 2,
        }
    }

    /// A file of keys that no other file has.
    fn own_rows(&mut self, dice: &mut Dice) -> String {
        let mut text = HEADER.to_owned();
        for _ in 0..1 + dice.below(3) {
            self.number += 1;
            text += &format!("I,{},once,NULL\n", 1_000_000 + self.number);
        }
        text
    }
}

fn seconds(dice: &mut Dice, below: u64) -> Duration {
    Duration::from_millis(dice.below(below * 1_000))
}

/// What this seed's source does.
pub(super) fn history(dice: &mut Dice) -> History {
    let mut history = History::default();
    let files = 4 + dice.below(16);
    for number in 0..1 + dice.below(3) {
        let name = TableName::new("shop", format!("t{number}"));
        let mut table = Table { name: name.clone(), rows: BTreeMap::new(), number: 0 };
        let reloaded_at = (dice.below(2) == 0).then(|| dice.below(files));
        let forgets = dice.below(2) == 0;
        if forgets {
            history.horizons.insert(name.clone(), Duration::from_secs(1 + dice.below(3)));
        }
        for file in 0..files {
            if reloaded_at == Some(file) {
                history.reloads.insert(name.clone(), table.reload(dice, file));
            }
            let mut arrival = arrival(dice, &mut table, file);
            if forgets {
                // Rather in order, so that there is always something newer to come, and a few are late.
                let each = HOURS.as_secs() / 4 / files;
                arrival.put_after = Duration::from_secs(each * file) + seconds(dice, each * 8);
            }
            if let Some(reload) = history.reloads.get(&name)
                && dice.below(2) == 0
            {
                // Just when the new generation takes the other's place.
                arrival.put_after = reload.completes_after() + seconds(dice, 120);
                arrival.told_after.fill(Duration::ZERO);
            }
            history.files.push(arrival);
        }
        let finals = table.rows.iter().map(|(id, name)| format!("{id} {name}")).collect();
        history.finals.insert(name, finals);
    }
    history
}

fn arrival(dice: &mut Dice, table: &mut Table, file: u64) -> Arrival {
    let later = match dice.below(12) {
        0 => Later::Deleted(seconds(dice, 200)),
        1 => Later::Overwritten(seconds(dice, 200), table.own_rows(dice)),
        _ => Later::Stays,
    };
    let text = match later {
        Later::Stays => {
            let changes: String = (0..1 + dice.below(5)).map(|_| table.change(dice)).collect();
            format!("{HEADER}{changes}")
        }
        _ => table.own_rows(dice),
    };
    let told = 1 + dice.below(4) / 2;
    Arrival {
        table: table.name.clone(),
        // The time in the name is that of the changes; when the file comes is another matter.
        key: format!("dms/shop/{}/20240506-{:09}.csv", table.name.table, moment_ms(file)),
        moment_ms: DAY_MS + moment_ms(file),
        text,
        put_after: seconds(dice, HOURS.as_secs()),
        told_after: (0..told).map(|_| seconds(dice, 400)).collect(),
        later,
    }
}
