//! README's commands, run as they stand there, and what its first one must make of the demo.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::binary::{self, Ended, REPOSITORY, freshet};
use crate::delta_table;
use crate::python;
use crate::scene::{Scene, copy, files_below};

/// Commands of README that are not run here: they install things, or run these tests.
const NOT_RUN: [&str; 6] = ["./test.sh", "git ", "cd ", "rustup ", "just ", "curl "];
const TABLES: [&str; 5] = [
    "casino_db1.game_sessions",
    "casino_db1.transactions",
    "casino_db1.user_actions",
    "casino_db2.game_results",
    "casino_db2.player_stats",
];

/// The demo and its queries in a folder of their own, without what an earlier run left.
fn demo() -> Scene {
    let scene = Scene::empty();
    let repository = Path::new(REPOSITORY);
    copy(&repository.join("demo/data"), &scene.path("demo/data"));
    copy(&repository.join("queries"), &scene.path("queries"));
    fs::copy(repository.join("demo/freshet.yaml"), scene.path("demo/freshet.yaml")).unwrap();
    scene
}

fn run_demo(scene: &Scene) -> Ended {
    freshet(scene.folder(), &["run", "--once", "-c", "demo/freshet.yaml"]).exits(0)
}

#[test]
fn the_demo_becomes_the_tables_that_generator_and_duckdb_know() {
    let scene = demo();
    let output = run_demo(&scene).stdout();
    for table in TABLES {
        let line = output.lines().find(|line| line.starts_with(table)).unwrap_or_else(|| panic!("{table}:\n{output}"));
        let (_, bare) = table.split_once('.').unwrap();
        let rows: usize = line.rsplit_once(&format!("{bare} ")).unwrap().1.parse().unwrap();
        assert_eq!(rows, rows_of(&scene, table), "{line}");
    }
    let tables = scene.path("demo/out/tables");
    let (own, duckdb) = (scene.path("expected"), scene.path("duckdb"));
    let anew = scene.path("anew");
    let arguments = ["--out", python::text(&anew), "--expected", python::text(&own)];
    python::script("demo/generate.py", &arguments).exits(0);
    python::compare("the generator's own model", &tables, &own);
    let data = scene.path("demo/data");
    python::script("tests/oracle/duckdb_oracle.py", &[python::text(&data), python::text(&duckdb)]).exits(0);
    python::compare("DuckDB", &tables, &duckdb);
}

fn rows_of(scene: &Scene, table: &str) -> usize {
    let place = scene.path("demo/out/tables").join(table.replace('.', "/"));
    delta_table::rows(&place, &[]).len()
}

#[test]
fn a_second_run_changes_not_one_byte() {
    let scene = demo();
    run_demo(&scene);
    let before = files_below(&scene.path("demo"));
    let output = run_demo(&scene).stdout();
    assert!(output.contains("done: 0 files, 0 changes"), "{output}");
    let after = files_below(&scene.path("demo"));
    let names = |files: &std::collections::BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&before), names(&after));
    let changed: Vec<_> = before.iter().filter(|(path, bytes)| after[*path] != **bytes).map(|(path, _)| path).collect();
    assert!(changed.is_empty(), "{changed:?}");
}

/// A command of README and the output that README shows for it.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    command: String,
    output: Vec<String>,
}

/// The commands in fenced blocks marked `console`: lines that begin `$ `, each with what follows it.
fn shown(text: &str) -> Vec<Shown> {
    let (mut found, mut inside): (Vec<Shown>, bool) = (Vec::new(), false);
    for line in text.lines() {
        match (inside, line.trim_end()) {
            (false, "```console") => inside = true,
            (true, "```") => inside = false,
            (true, line) => match (line.strip_prefix("$ "), found.last_mut()) {
                (Some(command), _) => found.push(Shown { command: command.to_owned(), output: Vec::new() }),
                (None, Some(last)) if !line.is_empty() => last.output.push(line.to_owned()),
                _ => {}
            },
            _ => {}
        }
    }
    found
}

/// The command with the program under test in the place of `cargo run --`.
fn runnable(command: &str) -> Option<String> {
    if NOT_RUN.iter().any(|start| command.starts_with(start)) {
        return None;
    }
    let program = binary::path();
    let rest = match command.strip_prefix("cargo run ") {
        Some(rest) => rest.split_once("-- ").map(|(_, arguments)| arguments),
        None => command.strip_prefix("freshet "),
    };
    let rest = rest.unwrap_or_else(|| panic!("README has a command that is not known here: {command}"));
    Some(format!("'{}' {rest}", program.display()))
}

/// Whether an output line is the one shown, in which `…` stands for anything.
fn is_shown(line: &str, shown: &str) -> bool {
    let mut rest = line;
    shown.split('…').all(|part| match rest.split_once(part.trim()) {
        Some((_, after)) => {
            rest = after;
            true
        }
        None => false,
    })
}

#[test]
fn every_command_of_readme_does_what_readme_shows() {
    let Ok(text) = fs::read_to_string(Path::new(REPOSITORY).join("README.md")) else { return };
    let scene = demo();
    let mut run = 0;
    for Shown { command, output } in shown(&text) {
        let Some(runnable) = runnable(&command) else { continue };
        let ended = Command::new("sh").current_dir(scene.folder()).args(["-c", &runnable]).output().unwrap();
        let ended = Ended::new(command, ended).exits(0);
        let said = ended.stdout() + &ended.stderr();
        for line in output {
            let there = said.lines().any(|said| is_shown(said, &line));
            assert!(there, "README shows a line that is not said: {line}\n{}", ended.report());
        }
        run += 1;
    }
    assert!(run > 0, "README.md has no command to run in a block marked ```console");
}

#[test]
fn commands_are_found_in_console_blocks_alone() {
    let text = "$ no\n```sh\n$ no\n```\n```console\n$ cargo run -- query 'x'\none … 2 s\n\n$ ./test.sh\n```\n$ no\n";
    let found = shown(text);
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!((found[0].command.as_str(), found[0].output.len()), ("cargo run -- query 'x'", 1));
    assert!(runnable(&found[0].command).unwrap().ends_with("' query 'x'"));
    assert_eq!(runnable(&found[1].command), None);
    assert!(is_shown("done: one and 2 s", "one … 2 s") && !is_shown("2 s one", "one … 2 s"));
}

/// The blocks marked `yaml`.
fn yaml_blocks(text: &str) -> Vec<String> {
    let blocks = text.split("```yaml\n").skip(1);
    blocks.filter_map(|block| block.split("```").next()).map(str::to_owned).collect()
}

#[test]
fn every_configuration_in_readme_is_one() {
    let text = fs::read_to_string(Path::new(REPOSITORY).join("README.md")).unwrap();
    let blocks = yaml_blocks(&text);
    assert_eq!(blocks.len(), 2, "the local configuration and that of production");
    for block in blocks {
        let scene = Scene::empty();
        scene.write("freshet.yaml", &block);
        let config = freshet::config::Config::load(&[scene.path("freshet.yaml")], |_| None, None);
        let config = config.unwrap_or_else(|error| panic!("{block}\n{}", error.report()));
        assert!(config.sink().is_ok() && config.ledger().is_ok() && !config.tables.is_empty());
    }
}
