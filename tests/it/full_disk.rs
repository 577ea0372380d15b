//! The disk is full from any write on: the program says so and ends, and with space the next run has every change once.

use std::path::PathBuf;
use std::process::Command;

use crate::binary::{self, Ended, REPOSITORY, number_asked_for};
use crate::kills::{Place, Stage};

/// At how many of a run's writes the disk is tried; `FRESHET_FULL_DISKS` asks for another number than CI's.
const MOMENTS: usize = 8;

/// The library that fills disks, built by the C compiler that every build of the program needs.
fn library() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let built = folder.path().join("full_disk.so");
    let source = format!("{REPOSITORY}/tests/it/full_disk/full_disk.c");
    let built_by = Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(&built).arg(source).status();
    assert!(built_by.unwrap().success());
    (folder, built)
}

/// A run for which the disk is full after so many writes, and how many there were.
fn run(stage: &Stage, library: &PathBuf, after: usize) -> (Ended, usize) {
    let count = tempfile::NamedTempFile::new().unwrap();
    let mut command = binary::command(stage.scene.folder(), &["run", "--once"]);
    command.env("LD_PRELOAD", library).env("FULL_DISK_AFTER", after.to_string());
    command.env("FULL_DISK_BELOW", stage.scene.path("out")).env("FULL_DISK_COUNT", count.path());
    let ended =
        Ended::new(format!("freshet run --once, the disk full after {after} writes"), command.output().unwrap());
    let counted = std::fs::read_to_string(count.path()).unwrap();
    (ended, counted.parse().unwrap())
}

/// Change files in two halves, of which the first is carried, so that there is something to be damaged.
fn half_carried() -> Stage {
    let stage = Stage::new(Place::Delta);
    stage.put(0);
    stage.run().exits(0);
    stage.put(1);
    stage
}

#[test]
fn a_disk_that_is_full_from_any_write_on_costs_no_change_and_doubles_none() {
    let (_folder, library) = library();
    let stage = half_carried();
    let (whole, writes) = run(&stage, &library, usize::MAX >> 1);
    whole.exits(0);
    stage.expect_whole("with room");
    assert!(writes > 50, "{writes}");
    let moments = number_asked_for("FRESHET_FULL_DISKS", MOMENTS).min(writes);
    for moment in 0..moments {
        let after = moment * writes / moments;
        let stage = half_carried();
        let (ended, _) = run(&stage, &library, after);
        let report = ended.report();
        assert!(matches!(ended.code(), Some(0 | 4 | 75)), "{report}");
        assert!(ended.stderr().contains("No space left on device"), "{report}");
        stage.run().exits(0);
        stage.expect_whole(&format!("full after {after} of {writes} writes"));
        stage.run().exits(0);
        stage.expect_whole(&format!("full after {after} of {writes} writes, and run again"));
    }
}
