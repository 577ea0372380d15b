//! Several programs at once, each killed at whatever instruction it is, over files that come in any order: from seeds, at
//! both sinks as they are. When each dies is up to the machine, so that a seed that fails need not fail again.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::binary::{Running, number_asked_for};
use crate::change_files::Change;
use crate::kills::{Place, Stage};
use crate::strict_bigquery::{Options, StrictBigQuery};

#[path = "../../src/trial/dice.rs"]
mod dice;

use dice::Dice;

/// How many seeds each sink is tried with; `FRESHET_CHAOS` asks for another number than CI's.
const SEEDS: usize = 3;
/// The longest a program that is to die may live: it would be done in less.
const LIFE_MS_MAX: u64 = 1_200;

/// Change files in the order of their time, and the rows that they make.
fn history(dice: &mut Dice) -> (Vec<Vec<Change>>, BTreeMap<i64, i64>) {
    let mut rows = BTreeMap::new();
    let mut amount = 0;
    let mut change = |dice: &mut Dice| {
        amount += 1;
        let id = i64::try_from(dice.below(12)).unwrap();
        match (dice.below(3), rows.remove(&id)) {
            (0, Some(before)) => ("D", id, before),
            (_, before) => {
                rows.insert(id, amount);
                (if before.is_some() { "U" } else { "I" }, id, amount)
            }
        }
    };
    let files = (0..10 + dice.below(10)).map(|_| (0..1 + dice.below(6)).map(|_| change(dice)).collect()).collect();
    (files, rows)
}

/// The numbers of files, in an order of chance and in a few portions.
fn portions(dice: &mut Dice, files: usize) -> Vec<Vec<usize>> {
    let mut left: Vec<usize> = (0..files).collect();
    let mut portions = vec![Vec::new(); 3 + usize::try_from(dice.below(4)).unwrap()];
    while !left.is_empty() {
        let file = left.swap_remove(usize::try_from(dice.below(left.len() as u64)).unwrap());
        let portion = usize::try_from(dice.below(portions.len() as u64)).unwrap();
        portions[portion].push(file);
    }
    portions
}

/// Waits until a program has ended, or has lived for so long; then it is killed.
async fn live(mut running: Running, life: Option<Duration>) {
    if let Some(life) = life {
        tokio::time::sleep(life).await;
        running.kill();
    }
    tokio::task::spawn_blocking(move || running.wait()).await.unwrap();
}

async fn lived_through(seed: usize, place: Place) {
    let mut dice = Dice::new(seed as u64);
    let stage = Stage::new(place);
    let (files, rows) = history(&mut dice);
    for portion in portions(&mut dice, files.len()) {
        for number in portion {
            stage.changes(&format!("20240501-{number:06}000"), &files[number]);
        }
        for _ in 0..1 + dice.below(2) {
            let lives: Vec<_> = (0..*dice.pick(&[1, 2, 3]))
                .map(|_| {
                    let life = Duration::from_millis(50 + dice.below(LIFE_MS_MAX));
                    live(stage.begin_run(), (dice.below(4) > 0).then_some(life))
                })
                .collect();
            futures::future::join_all(lives).await;
        }
    }
    let what = format!("seed {seed}");
    stage.run().exits(0);
    stage.expect(files.iter().map(Vec::len).sum(), &rows, &what);
    stage.run().exits(0).says(&["done: 0 files, 0 changes"]);
    stage.expect(files.iter().map(Vec::len).sum(), &rows, &what);
}

#[tokio::test]
async fn whatever_is_killed_whenever_delta_tables_come_out_right() {
    for seed in 0..number_asked_for("FRESHET_CHAOS", SEEDS) {
        lived_through(seed, Place::Delta).await;
    }
}

#[tokio::test]
async fn whatever_is_killed_whenever_bigquery_tables_come_out_right() {
    for seed in 0..number_asked_for("FRESHET_CHAOS", SEEDS) {
        lived_through(seed, Place::BigQuery(StrictBigQuery::start(Options::default()).await)).await;
    }
}
