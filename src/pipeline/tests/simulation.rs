//! Random changes under random faults, run until all is done: each change is there once, the newest wins.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::fake::{FakeSink, Fault, World};
use crate::catalog::samples::orders;
use crate::change::ChangeFile;
use crate::trial::dice::Dice;

/// Files of random changes, the rows they hold as `file id`, and the final rows by a model.
async fn random_changes(world: &World, dice: &mut Dice) -> (Vec<ChangeFile>, Vec<String>, Vec<String>) {
    let (mut files, mut all, mut finals) = (Vec::new(), Vec::new(), BTreeMap::new());
    for n in 0..2 + dice.below(8) {
        let name = format!("f{n}");
        let mut rows = Vec::new();
        for row in 0..dice.below(6) {
            let (operation, id) = (*dice.pick(&["I", "U", "D"]), dice.below(6));
            rows.push(format!("{operation},{id},v{n}_{row}"));
            all.push(format!("mem/{name}.csv {id}"));
            finals.insert(id, (operation != "D").then(|| format!("{id} v{n}_{row}")));
        }
        let lines: Vec<&str> = rows.iter().map(String::as_str).collect();
        files.push(ChangeFile { time_ms: 1_000 + i64::try_from(n).unwrap(), ..world.file(&name, &lines).await });
    }
    all.sort_unstable();
    (files, all, finals.into_values().flatten().collect())
}

fn random_faults(dice: &mut Dice, kinds: &[Fault]) -> Vec<Fault> {
    (0..dice.below(4)).map(|_| *dice.pick(kinds)).collect()
}

#[tokio::test]
async fn whatever_fails_each_change_lands_once_and_the_newest_wins() {
    for seed in 0..20 {
        let dice = &mut Dice::new(seed);
        let mut world = World::new();
        world.config.pipeline.limits.files_max = usize::try_from(1 + dice.below(4)).unwrap();
        let (files, all, finals) = random_changes(&world, dice).await;
        let sink = Arc::new(FakeSink::default());
        let ids: BTreeSet<_> = files.iter().map(ChangeFile::id).collect();
        let mut clean = false;
        for run in 0..16 {
            let last = run >= 12;
            for script in [&sink.prepare, &sink.commit, &sink.merge].into_iter().filter(|_| last) {
                script.lock().unwrap().clear();
            }
            if !last {
                FakeSink::script(
                    &sink.prepare,
                    &random_faults(dice, &[Fault::None, Fault::User, Fault::Panic, Fault::Crash]),
                );
                FakeSink::script(
                    &sink.commit,
                    &random_faults(dice, &[Fault::None, Fault::User, Fault::Crash, Fault::Lost, Fault::Panic]),
                );
                FakeSink::script(
                    &sink.merge,
                    &random_faults(dice, &[Fault::None, Fault::User, Fault::Crash, Fault::Panic]),
                );
            }
            let from = usize::try_from(dice.below(files.len() as u64)).unwrap();
            let delivered = if last { files.clone() } else { files[from..].to_vec() };
            let (report, receipts) = world.run(&sink, &delivered).await;
            let state = world.state().await;
            let done: BTreeSet<_> = ids.iter().filter(|id| state.file_state(**id).is_some()).collect();
            assert!(receipts.len() <= done.len(), "seed {seed}: only what is done is acknowledged");
            clean = report.tables.get(&orders()).is_none_or(|table| table.stopped.is_none());
        }
        assert!(clean, "seed {seed}");
        assert_eq!(sink.committed(), all, "seed {seed}");
        assert_eq!(sink.finals("shop.orders"), finals, "seed {seed}");
    }
}
