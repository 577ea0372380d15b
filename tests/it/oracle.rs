//! Random databases: whatever way their files are delivered, the final tables are those that the generator's model
//! of the source knows, cell by cell.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::binary::{Ended, freshet};
use crate::delta_table::whole_rows;
use crate::python;
use crate::scene::{Scene, files_below};

/// Runs that the files of a database are spread over, when they come bit by bit.
const DELIVERIES: usize = 7;

macro_rules! seeds {
    ($($name:ident = $seed:literal),* $(,)?) => {
        const SEEDS: &[u32] = &[$($seed),*];
        mod any_delivery_gives_the_tables_of {
            $(#[test] fn $name() { super::check($seed); })*
        }
    };
}

seeds! {
    seed_1 = 1, seed_2 = 2, seed_3 = 3, seed_4 = 4, seed_5 = 5, seed_6 = 6,
    seed_7 = 7, seed_8 = 8, seed_9 = 9, seed_10 = 10, seed_11 = 11, seed_12 = 12,
}

/// One seed's database, delivered in every way.
fn check(seed: u32) {
    let scene = Scene::empty();
    python::generate_database(seed, scene.folder());
    let at_once = all_at_once(&scene, seed);
    assert_eq!(at_once, one_by_one_in_batches(&scene, seed), "seed {seed}: batches of one file");
    assert_eq!(at_once, bit_by_bit(&scene, seed), "seed {seed}: shuffled, over several runs");
    repeated(&scene, seed);
}

/// Writes a configuration that writes below `out`. A file gets a single try, so that no second one hides a failure.
fn configure(scene: &Scene, name: &str, out: &str, batch_size: usize) {
    let text = fs::read(scene.path("freshet.yaml")).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&text).unwrap();
    config["sink"]["delta"] = format!("{out}/tables").into();
    config["ledger"] = format!("{out}/ledger").into();
    config["pipeline_config"] = serde_json::json!({"batch_size": batch_size, "retry_attempts": 1});
    scene.write(name, config.to_string());
}

fn run(scene: &Scene, config: &str) -> Ended {
    freshet(scene.folder(), &["run", "--once", "-c", config])
}

fn expect_equal(scene: &Scene, what: &str, out: &str) -> BTreeMap<PathBuf, Vec<String>> {
    let tables = scene.path(out).join("tables");
    python::compare(what, &tables, &scene.path("expected"));
    final_tables(&tables)
}

/// The rows of every final table; logs and tombstones may differ by how files were batched.
fn final_tables(tables: &Path) -> BTreeMap<PathBuf, Vec<String>> {
    let mut found = BTreeMap::new();
    for path in files_below(tables).into_keys() {
        let Some(table) = path.parent().filter(|folder| folder.ends_with("_delta_log")).and_then(Path::parent) else {
            continue;
        };
        let name = table.to_string_lossy();
        if !name.ends_with("_changes") && !name.ends_with("_tombstones") && !found.contains_key(table) {
            found.insert(table.to_owned(), whole_rows(&tables.join(table)));
        }
    }
    found
}

fn all_at_once(scene: &Scene, seed: u32) -> BTreeMap<PathBuf, Vec<String>> {
    configure(scene, "once.yaml", "out", 1000);
    run(scene, "once.yaml").exits(0);
    expect_equal(scene, &format!("seed {seed}, all at once"), "out")
}

fn one_by_one_in_batches(scene: &Scene, seed: u32) -> BTreeMap<PathBuf, Vec<String>> {
    configure(scene, "single.yaml", "single", 1);
    run(scene, "single.yaml").exits(0);
    expect_equal(scene, &format!("seed {seed}, batches of one file"), "single")
}

/// The files in an order that the seed shuffles, a few at each run. A table may wait for the first file that has a
/// column its SQL names, but the last run must carry everything.
fn bit_by_bit(scene: &Scene, seed: u32) -> BTreeMap<PathBuf, Vec<String>> {
    configure(scene, "bits.yaml", "bits", 1000);
    fs::rename(scene.path("data"), scene.path("waiting")).unwrap();
    let mut files: Vec<PathBuf> = files_below(&scene.path("waiting")).into_keys().collect();
    shuffle(&mut files, seed);
    let deliveries: Vec<_> = files.chunks(files.len().div_ceil(DELIVERIES)).collect();
    for (number, delivery) in deliveries.iter().enumerate() {
        for file in *delivery {
            let to = scene.path("data").join(file);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::rename(scene.path("waiting").join(file), to).unwrap();
        }
        let ended = run(scene, "bits.yaml");
        assert!(!ended.stderr().contains("file set aside"), "seed {seed}: {}", ended.report());
        let last = number + 1 == deliveries.len();
        assert!(ended.code() == Some(0) || !last && ended.code() == Some(4), "seed {seed}: {}", ended.report());
    }
    expect_equal(scene, &format!("seed {seed}, shuffled, over several runs"), "bits")
}

/// The same files again, under the same names and with a new time.
fn repeated(scene: &Scene, seed: u32) {
    let before = files_below(&scene.path("bits"));
    for (path, bytes) in files_below(&scene.path("data")) {
        let path = scene.path("data").join(path);
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
    }
    run(scene, "bits.yaml").exits(0);
    assert!(before == files_below(&scene.path("bits")), "seed {seed}: repeated files changed tables or ledger");
}

/// Fisher and Yates, with a small generator of pseudorandom numbers (xorshift).
pub(crate) fn shuffle<T>(items: &mut [T], seed: u32) {
    let mut numbers = Numbers::new(seed);
    for last in (1..items.len()).rev() {
        items.swap(last, numbers.below(last + 1));
    }
}

/// Pseudorandom numbers that a seed determines.
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u32) -> Self {
        Self(u64::from(seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(bound).unwrap()).unwrap()
    }
}

#[test]
fn the_seeds_together_have_every_feature_and_format() {
    let scene = Scene::empty();
    let mut found = BTreeSet::new();
    for seed in SEEDS {
        let said = python::generate_database(*seed, &scene.path("database"));
        let words = said.split([',', ':', ' ', '\n']).map(str::to_owned);
        found.extend(words.filter(|word| !word.is_empty()));
    }
    let wanted = [
        "load",
        "late",
        "shuffled",
        "key_updates",
        "column_added",
        "int_to_decimal",
        "bit_forms",
        "exact",
        "headerless",
        "sql",
        "key_from_sql",
        "rename",
        "mark",
        "delete_when",
        "overrides",
        "parquet",
        "parquet.gz",
        "csv",
        "csv.gz",
    ];
    let missing: Vec<_> = wanted.iter().filter(|feature| !found.contains(**feature)).collect();
    assert!(missing.is_empty(), "no seed has {missing:?}");
}
