//! Every file format in every layout gives the same table.

use crate::change_files::{self, Columns, csv_of, gzipped, integers, parquet_of, texts};
use crate::scene::Scene;

const EXTENSIONS: [&str; 4] = ["parquet", "parquet.gz", "csv", "csv.gz"];
const PATTERN: &str = "exports/{database}/v1@{table}/{kind} {time:%Y-%m-%dT%H-%M-%S}.{*}";
/// What the files of [`write_table`] must come to.
const FINAL: [&str; 3] = ["1|newer, \"quoted\"", "3|한국어", "4|NULL"];

/// Where a layout puts a table's load and its two change files, the older first.
struct Places {
    name: &'static str,
    load: &'static str,
    changes: [&'static str; 2],
}

/// `TABLE` and `EXT` stand for the table's name and the extension.
const LAYOUTS: [Places; 6] = [
    Places {
        name: "plain",
        load: "shop/TABLE/LOAD00000001.EXT",
        changes: ["shop/TABLE/20240501-101500123.EXT", "shop/TABLE/20240501-1015001240.EXT"],
    },
    Places {
        name: "dated",
        load: "dms/out/shop/TABLE/LOAD00000001.EXT",
        changes: [
            "dms/out/shop/TABLE/2024/04/30/23/20240430-235959999.EXT",
            "dms/out/shop/TABLE/2024/05/01/00/20240501-000000000.EXT",
        ],
    },
    Places {
        name: "dashed",
        load: "shop/TABLE/LOAD00000001.EXT",
        changes: ["shop/TABLE/31-12-2023/20231231-235959999.EXT", "shop/TABLE/01-01-2024/20240101-000000000.EXT"],
    },
    Places {
        name: "digits",
        load: "shop/TABLE/LOAD00000001.EXT",
        changes: ["shop/TABLE/202404/20240430-101500123.EXT", "shop/TABLE/202405/20240501-101500123.EXT"],
    },
    Places {
        name: "renamed",
        load: "cdc/shop/TABLE/LOAD00000001.EXT",
        changes: [
            "cdc/shop/TABLE/2024/05/01/20240501101500_TABLE.EXT",
            "cdc/shop/TABLE/2024/05/01/20240501101501_TABLE.EXT",
        ],
    },
    Places {
        name: "pattern",
        load: "exports/shop/v1@TABLE/load 2024-04-01T00-00-00.EXT",
        changes: [
            "exports/shop/v1@TABLE/cdc 2024-05-01T10-15-00.EXT",
            "exports/shop/v1@TABLE/cdc 2024-05-01T10-15-01.EXT",
        ],
    },
];

fn rows(changes: &[(&'static str, i64, Option<&'static str>)]) -> Columns {
    vec![
        ("Op", texts(changes.iter().map(|change| change.0))),
        ("id", integers(changes.iter().map(|change| change.1))),
        ("note", texts(changes.iter().map(|change| change.2))),
    ]
}

/// A CSV file that tells NULL from text: arrow's writer leaves NULL empty, and DMS writes `NULL`.
fn csv(changes: &[(&'static str, i64, Option<&'static str>)], header: bool) -> Vec<u8> {
    let told: Vec<_> = changes.iter().map(|(op, id, note)| (*op, *id, Some(note.unwrap_or("NULL")))).collect();
    csv_of(rows(&told), header)
}

fn encoded(extension: &str, header: bool, changes: &[(&'static str, i64, Option<&'static str>)]) -> Vec<u8> {
    let plain = if extension.starts_with("csv") { csv(changes, header) } else { parquet_of(rows(changes)) };
    if extension.ends_with(".gz") { gzipped(&plain) } else { plain }
}

/// A load of three rows, an update, a delete, an insert, a NULL, and text that CSV must quote. The newest file is
/// written first: the time in the name counts, not when the file came.
fn write_table(scene: &Scene, table: &str, extension: &str, places: &Places, header: bool) {
    let newer = [("U", 1, Some("newer, \"quoted\"")), ("D", 2, None), ("I", 4, None)];
    let older = [("U", 1, Some("older")), ("U", 2, Some("older")), ("U", 3, Some("한국어"))];
    let load = [("I", 1, Some("loaded")), ("I", 2, Some("loaded")), ("I", 3, Some("loaded"))];
    let files = [(places.changes[1], &newer), (places.changes[0], &older), (places.load, &load)];
    for (path, changes) in files {
        let path = path.replace("TABLE", table).replace("EXT", extension);
        scene.write(&format!("data/{path}"), encoded(extension, header, changes));
    }
}

#[test]
fn every_format_in_every_layout_gives_the_same_table() {
    let tables: Vec<(String, &str, &Places)> = EXTENSIONS
        .iter()
        .flat_map(|extension| LAYOUTS.iter().map(move |places| (*extension, places)))
        .map(|(extension, places)| (format!("{}_{}", places.name, extension.replace('.', "_")), extension, places))
        .collect();
    let listed = |(name, ..): &(String, _, _)| format!("{{name: {name}, key: id, schema_override: {{id: INT64}}}}");
    let listed = tables.iter().map(listed).collect::<Vec<_>>().join(", ");
    let scene = Scene::empty();
    let source = format!("source: {{files: data, layout: '{PATTERN}'}}\nsink: {{delta: out/tables}}\n");
    scene.write("freshet.yaml", format!("{source}databases: {{shop: {{tables: [{listed}]}}}}\n"));
    for (name, extension, places) in &tables {
        write_table(&scene, name, extension, places, true);
    }
    let output = scene.run().exits(0).stdout();
    assert!(output.contains(&format!("done: {} files, {} changes", tables.len() * 3, tables.len() * 9)), "{output}");
    for (name, ..) in &tables {
        assert_eq!(scene.rows(&format!("shop/{name}"), &["id", "note"]), FINAL, "{name}");
    }
}

#[test]
fn csv_without_a_header_has_the_columns_that_the_configuration_names() {
    for extension in ["csv", "csv.gz"] {
        let scene = Scene::new(
            "databases: {shop: {tables: [{name: orders, key: id, schema_override: {id: INT64}, \
             csv: {columns: [Op, id, note]}}]}}",
        );
        write_table(&scene, "orders", extension, &LAYOUTS[0], false);
        scene.run().exits(0);
        assert_eq!(scene.rows("shop/orders", &["id", "note"]), FINAL, "{extension}");
    }
}

#[test]
fn a_change_file_may_hold_no_row_at_all() {
    let scene = Scene::new("databases: {shop: {tables: [{name: orders, key: id}]}}");
    scene.write("data/shop/orders/20240501-101500123.parquet", change_files::parquet(&[]));
    scene.run().exits(0);
    scene.write("data/shop/orders/20240501-101500124.parquet", change_files::parquet(&[("I", 1, 10)]));
    scene.run().exits(0);
    assert_eq!(scene.rows("shop/orders", &["id", "amount"]), ["1|10"]);
}

#[test]
fn integers_become_decimals_half_way_without_losing_a_digit() {
    use arrow::array::Decimal128Array;
    let scene = Scene::new("databases: {shop: {tables: [{name: orders, key: id}]}}");
    let large = i64::MAX - 1;
    scene.write("data/shop/orders/20240501-101500001.parquet", change_files::parquet(&[("I", 1, large), ("I", 2, -5)]));
    let cents = Decimal128Array::from(vec![1, 250]).with_precision_and_scale(15, 2).unwrap();
    let columns = vec![
        ("Op", texts(["U", "I"])),
        ("id", integers([2, 3])),
        ("amount", std::sync::Arc::new(cents) as arrow::array::ArrayRef),
    ];
    scene.write("later/20240501-101500002.parquet", parquet_of(columns));
    scene.run().exits(0);
    std::fs::rename(
        scene.path("later/20240501-101500002.parquet"),
        scene.path("data/shop/orders/20240501-101500002.parquet"),
    )
    .unwrap();
    scene.run().exits(0);
    assert_eq!(scene.rows("shop/orders", &["id", "amount"]), [format!("1|{large}"), "2|0.01".into(), "3|2.5".into()]);
}

/// A load of `id` alone, and changes that also have `note`, in one batch; the SQL gives the NULLs no type.
#[test]
fn a_column_that_only_some_files_of_a_batch_have_is_null_in_the_others() {
    for sql in ["SELECT *", "SELECT id, note, _cdc_operation, _cdc_sequence"] {
        let scene =
            Scene::new("databases: {shop: {tables: [{name: orders, key: id}]}}\npipeline_config: {retry_attempts: 1}");
        scene.write("queries/shop/orders.sql", format!("{sql} FROM shop.orders"));
        scene.write("data/shop/orders/LOAD00000001.parquet", parquet_of(vec![("id", integers([1, 2]))]));
        let changes = parquet_of(rows(&[("U", 2, Some("two")), ("I", 3, None)]));
        scene.write("data/shop/orders/20240501-101500001.parquet", changes);
        scene.run().exits(0);
        assert_eq!(scene.rows("shop/orders", &["id", "note"]), ["1|NULL", "2|two", "3|NULL"], "{sql}");
    }
}

/// Whether a column is known to the table must not hang on how many other files come first.
#[test]
fn sql_may_name_a_column_that_only_one_file_among_many_has() {
    for batch_size in [1, 1000] {
        let scene = Scene::new(&format!(
            "databases: {{shop: {{tables: [{{name: orders, key: id}}]}}}}\n\
             pipeline_config: {{batch_size: {batch_size}}}"
        ));
        scene.write("queries/shop/orders.sql", "SELECT id, note, _cdc_operation, _cdc_sequence FROM shop.orders");
        for number in 0..30 {
            let file = if number == 15 {
                rows(&[("I", number, Some("x"))])
            } else {
                rows(&[("I", number, None)])[..2].to_vec()
            };
            scene.write(&format!("data/shop/orders/20240501-{number:06}000.parquet"), parquet_of(file));
        }
        scene.run().exits(0);
        assert_eq!(scene.rows("shop/orders", &["id"]).len(), 30, "batch_size {batch_size}");
    }
}
