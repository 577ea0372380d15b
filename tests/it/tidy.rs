//! The shape of the code, as ARCHITECTURE.md promises it.

use std::path::{Path, PathBuf};

/// Every file below `folder`, as its path and text.
fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push((path.clone(), std::fs::read_to_string(&path).unwrap()));
        }
    }
    out
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The top modules, in the order of lib.rs.
fn modules() -> Vec<String> {
    let lib = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let names = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    names.map(str::to_owned).collect()
}

#[test]
fn every_file_says_why_it_exists_and_is_of_readable_length() {
    for folder in ["src", "tests/it", "benches"] {
        for (path, text) in sources(&root().join(folder)) {
            assert!(text.starts_with("//!"), "{} does not begin with //!", path.display());
            let lines = text.lines().count();
            assert!(lines <= 800, "{} has {lines} lines", path.display());
        }
    }
}

/// Files that only tests are made of may import what they please.
fn is_test(path: &Path) -> bool {
    let test = ["simulation", "tests", "tests.rs", "samples.rs", "fake.rs", "fake_rest.rs", "faulty.rs"];
    path.iter().map(|part| part.to_str().unwrap()).any(|part| test.contains(&part) || part.ends_with("_tests.rs"))
}

#[test]
fn imports_go_only_upwards_in_the_order_of_lib_rs() {
    let modules = modules();
    assert!(modules.len() > 10, "the order was not read: {modules:?}");
    let rank = |name: &str| modules.iter().position(|module| module == name);
    for (path, text) in sources(&root().join("src")) {
        let inside = path.strip_prefix(root().join("src")).unwrap();
        let own = inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        let Some(own_rank) = rank(own) else { continue };
        if is_test(inside) {
            continue;
        }
        for imported in text.split("crate::").skip(1) {
            let name: String = imported.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            if let Some(imported_rank) = rank(&name) {
                assert!(imported_rank <= own_rank, "{} imports {name}, which stands below it", path.display());
            }
        }
    }
}

#[test]
fn sources_sinks_and_ledger_know_nothing_of_each_other() {
    let apart = ["source", "sink", "ledger"];
    for (path, text) in sources(&root().join("src")) {
        let inside = path.strip_prefix(root().join("src")).unwrap();
        let own = inside.iter().next().unwrap().to_str().unwrap();
        for other in apart.iter().filter(|other| apart.contains(&own) && **other != own) {
            assert!(!text.contains(&format!("crate::{other}::")), "{} imports {other}", path.display());
        }
    }
}

/// The module that a file of `tests/it` is, and the file whose `mod` line it needs.
fn module_and_namer(tests: &Path, path: &Path) -> (String, PathBuf) {
    let folder = path.parent().unwrap();
    let is_folder = path.ends_with("mod.rs");
    let (module, inside) = if is_folder { (folder, folder.parent().unwrap()) } else { (path, folder) };
    let namer = match inside {
        inside if inside == tests => tests.join("main.rs"),
        inside if inside.join("mod.rs").exists() => inside.join("mod.rs"),
        inside => inside.with_extension("rs"),
    };
    (module.file_stem().unwrap().to_str().unwrap().to_owned(), namer)
}

#[test]
fn no_test_file_is_forgotten() {
    let tests = root().join("tests/it");
    for (path, _) in sources(&tests).into_iter().filter(|(path, _)| *path != tests.join("main.rs")) {
        let (name, namer) = module_and_namer(&tests, &path);
        let named = std::fs::read_to_string(&namer).unwrap().lines().any(|line| line == format!("mod {name};"));
        assert!(named, "{} does not name {name}", namer.display());
    }
}
