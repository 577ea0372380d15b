//! SQL that breaks a rule stops its own table, with the place; once mended, a later run carries everything.

use crate::binary::freshet;
use crate::change_files::{columns, integers, parquet, parquet_of, texts};
use crate::scene::Scene;

const FINE: &str = "SELECT id, amount, _cdc_operation, _cdc_sequence FROM shop.orders";
const FINAL: [&str; 2] = ["1|11", "3|30"];

/// Two tables of the same changes, of which `shop.orders` has the SQL.
fn scene(sql: &str) -> Scene {
    let scene =
        Scene::new("databases: {shop: {tables: [{name: orders, key: id, mode: merge}, {name: other, key: id}]}}");
    for table in ["orders", "other"] {
        scene.write(&format!("data/shop/{table}/LOAD00000001.parquet"), parquet(&[("I", 1, 10), ("I", 2, 20)]));
        let changes = parquet(&[("U", 1, 11), ("D", 2, 0), ("I", 3, 30)]);
        scene.write(&format!("data/shop/{table}/20240502-000000000.parquet"), changes);
    }
    scene.write("queries/shop/orders.sql", sql);
    scene
}

/// SQL with `§` before what is wrong, and what must be said of it.
const REFUSED: [(&str, &str); 22] = [
    ("SELECT id,\n  amount,\n  FROM FROM shop§.orders", ""),
    ("SELECT id,\n  §amout, _cdc_operation, _cdc_sequence\nFROM shop.orders", "there is no column `amout`"),
    (
        "SELECT a.id, a._cdc_operation, a._cdc_sequence\nFROM shop.orders AS a §JOIN shop.orders AS b ON a.id = b.id",
        "join",
    ),
    ("SELECT id, count(*) AS n\nFROM shop.orders §GROUP BY id", "aggregate"),
    ("SELECT §DISTINCT id, _cdc_operation, _cdc_sequence FROM shop.orders", "DISTINCT"),
    ("SELECT id, _cdc_operation, _cdc_sequence\nFROM shop.orders\n§LIMIT 1", "LIMIT"),
    ("SELECT id, _cdc_operation, _cdc_sequence,\n  §now() AS seen\nFROM shop.orders", "`now`"),
    ("SELECT id, §current_date AS day, _cdc_operation, _cdc_sequence FROM shop.orders", "another value"),
    ("SELECT id, §random() AS r, _cdc_operation, _cdc_sequence FROM shop.orders", "`random`"),
    ("SELECT id, §uuid() AS u, _cdc_operation, _cdc_sequence FROM shop.orders", "`uuid`"),
    ("SELECT id, _cdc_operation, _cdc_sequence FROM shop.orders\n§WHERE amount > 5", "only key columns"),
    ("SELECT id, _cdc_operation, _cdc_sequence FROM shop.orders\n§WHERE _cdc_operation <> 'D'", "only key columns"),
    ("§SELECT id, amount, _cdc_operation FROM shop.orders", "must keep `_cdc_sequence`"),
    ("§SELECT id, amount, _cdc_sequence FROM shop.orders", "must keep `_cdc_operation`"),
    ("§SELECT amount, _cdc_operation, _cdc_sequence FROM shop.orders", "the key column `id`"),
    ("SELECT §id + 1 AS id, _cdc_operation, _cdc_sequence FROM shop.orders", "as it is"),
    ("SELECT id, _cdc_operation, upper(§_cdc_sequence) AS _cdc_sequence FROM shop.orders", "unmodified"),
    ("SELECT id, amount AS §_cdc_batch, _cdc_operation, _cdc_sequence FROM shop.orders", "added by the sink"),
    ("SELECT id, §amount, AMOUNT AS Amount, _cdc_operation, _cdc_sequence FROM shop.orders", "two output columns"),
    ("SELECT id, sum(amount) §OVER () AS s, _cdc_operation, _cdc_sequence FROM shop.orders", "window"),
    (
        "SELECT id, amount, _cdc_operation, _cdc_sequence\nFROM shop.orders\n\
         QUALIFY row_number() OVER (§PARTITION BY amount ORDER BY _cdc_sequence DESC) = 1",
        "PARTITION BY must be exactly",
    ),
    (
        "SELECT id, amount, _cdc_operation, _cdc_sequence\nFROM shop.orders\n\
         QUALIFY row_number() OVER (PARTITION BY id §ORDER BY amount DESC) = 1",
        "ORDER BY _cdc_sequence DESC",
    ),
];

/// The SQL without its `§`, and the line and column that it marked.
fn marked(text: &str) -> (String, usize, usize) {
    let (before, after) = text.split_once('§').unwrap();
    let line = before.lines().count().max(1) + usize::from(before.ends_with('\n'));
    let column = before.rsplit('\n').next().unwrap().chars().count() + 1;
    (format!("{before}{after}"), line, column)
}

fn refused(text: &str, told: &str) {
    let (sql, line, column) = marked(text);
    let scene = scene(&sql);
    let ended = scene.run();
    assert_eq!(ended.code(), Some(4), "{text}: {}", ended.report());
    let place = format!("queries/shop/orders.sql:{line}:{column}");
    let ended =
        ended.tells(&["table stopped", "table shop.orders", told, &place, "0 files were set aside and 1 tables"]);
    assert!(!ended.stderr().contains("bug"), "{}", ended.report());
    assert_eq!(scene.rows("shop/other", &["id", "amount"]), FINAL, "{text}");
    assert!(!scene.table("shop/orders").exists(), "{text}: something was written");
    scene.write("queries/shop/orders.sql", FINE);
    scene.run().exits(0);
    assert_eq!(scene.rows("shop/orders", &["id", "amount"]), FINAL, "{text}, mended");
}

/// Splits the table of cases, so that they run side by side.
fn refused_of(part: usize, parts: usize) {
    let wrong: Vec<String> = REFUSED
        .iter()
        .skip(part)
        .step_by(parts)
        .filter_map(|(text, told)| {
            let outcome = std::panic::catch_unwind(|| refused(text, told));
            outcome.err().map(|cause| cause.downcast_ref::<String>().cloned().unwrap_or_default())
        })
        .collect();
    assert!(wrong.is_empty(), "{} cases are wrong:\n{}", wrong.len(), wrong.join("\n=====\n"));
}

#[test]
fn sql_that_may_not_be_stops_its_table_with_line_and_column() {
    refused_of(0, 2);
}

#[test]
fn sql_that_may_not_be_stops_its_table_alone_until_it_is_mended() {
    refused_of(1, 2);
}

#[test]
fn sql_that_is_cut_off_is_pointed_at_too() {
    let scene = scene("SELECT id, amount, _cdc_operation, _cdc_sequence\nFROM shop.orders WHERE (id > 1");
    scene.run().exits(4).tells(&["table shop.orders", "the SQL cannot be read", "queries/shop/orders.sql:2:"]);
}

#[test]
fn a_join_by_a_comma_is_pointed_at_too() {
    let scene = scene("SELECT a.id, a._cdc_operation, a._cdc_sequence\nFROM shop.orders AS a, shop.orders AS b");
    scene.run().exits(4).tells(&["table shop.orders", "join", "queries/shop/orders.sql:"]);
}

#[test]
fn sql_may_not_read_another_table() {
    let scene = scene("SELECT id, amount, _cdc_operation, _cdc_sequence FROM shop.other");
    scene.run().exits(4).tells(&["table stopped", "table shop.orders", "shop.other", "queries/shop/orders.sql:1"]);
    assert_eq!(scene.rows("shop/other", &["id", "amount"]), FINAL);
}

#[test]
fn sql_may_not_be_several_statements_or_change_anything() {
    for sql in
        ["SELECT id FROM shop.orders; SELECT 1", "DROP TABLE shop.orders", "COPY shop.orders TO '/tmp/x.csv'", ""]
    {
        let scene = scene(sql);
        let ended = scene.run();
        assert_eq!(ended.code(), Some(4), "{sql}: {}", ended.report());
        ended.tells(&["table stopped", "table shop.orders", "queries/shop/orders.sql"]);
        assert_eq!(scene.rows("shop/other", &["id", "amount"]), FINAL, "{sql}");
    }
}

#[test]
fn an_expression_in_delete_when_is_bound_by_the_same_rules() {
    for condition in ["now() > _cdc_timestamp", "amout = 1", "random() > 0.5", "amount ="] {
        let scene = scene(FINE);
        scene.configure(&format!(
            "databases: {{shop: {{tables: [{{name: orders, key: id, delete_when: '{condition}'}}, \
             {{name: other, key: id}}]}}}}"
        ));
        let ended = scene.run();
        assert_eq!(ended.code(), Some(4), "{condition}: {}", ended.report());
        ended.tells(&["table stopped", "table shop.orders", "delete_when"]);
        assert_eq!(scene.rows("shop/other", &["id", "amount"]), FINAL, "{condition}");
    }
}

#[test]
fn a_column_that_vanished_from_newer_files_is_null_there() {
    let scene = scene(FINE);
    scene.run().exits(0);
    let mut changes = columns(&[("U", 3, 0), ("I", 4, 0)]);
    changes.remove(2);
    scene.write("data/shop/orders/20240503-000000000.parquet", parquet_of(changes));
    scene.run().exits(0);
    assert_eq!(scene.rows("shop/orders", &["id", "amount"]), ["1|11", "3|NULL", "4|NULL"]);
}

#[test]
fn a_column_that_no_file_has_any_more_stops_the_table_with_its_name() {
    let scene = scene(FINE);
    for file in ["LOAD00000001", "20240502-000000000"] {
        let renamed = vec![("id", integers([1])), ("total", integers([10]))];
        scene.write(&format!("data/shop/orders/{file}.parquet"), parquet_of(renamed));
    }
    scene.run().exits(4).tells(&["there is no column `amount`", "queries/shop/orders.sql:1:12", "`total`"]);
    assert_eq!(scene.rows("shop/other", &["id", "amount"]), FINAL);
}

#[test]
fn tables_named_like_sql_are_tables_like_any_other() {
    let names = ["select", "a\"b; drop", "x y", "주문", "100%", "it's"];
    let folders = ["select", "a=22b=3B=20drop", "x=20y", "주문", "100=25", "it=27s"];
    let listed: Vec<String> =
        names.iter().map(|name| format!("{{name: {}, key: id}}", serde_json::to_string(name).unwrap())).collect();
    for standard in [true, false] {
        let scene = Scene::new(&format!("databases: {{from: {{tables: [{}]}}}}", listed.join(", ")));
        for name in names {
            scene.write(&format!("data/from/{name}/LOAD00000001.parquet"), parquet(&[("I", 1, 10), ("I", 2, 20)]));
            let changes = parquet(&[("U", 1, 11), ("D", 2, 0), ("I", 3, 30)]);
            scene.write(&format!("data/from/{name}/20240502-000000000.parquet"), changes);
            if !standard {
                let quoted = name.replace('"', "\"\"");
                let sql = format!("SELECT id, amount, _cdc_operation, _cdc_sequence FROM \"from\".\"{quoted}\"");
                scene.write(&format!("queries/from/{name}.sql"), sql);
            }
        }
        scene.run().exits(0);
        for (name, folder) in names.iter().zip(folders) {
            assert_eq!(scene.rows(&format!("from/{folder}"), &["id", "amount"]), FINAL, "{name}");
            let quoted = name.replace('"', "\"\"");
            let sql = format!("SELECT count(*) AS n FROM \"from\".\"{quoted}\"");
            let said = freshet(scene.folder(), &["query", "--format", "csv", &sql]).exits(0).stdout();
            assert_eq!(said, "n\n5\n", "{name}");
        }
    }
}

#[test]
fn a_column_named_in_the_configuration_that_no_file_has_stops_the_table_and_loses_nothing() {
    let orders = |rest: &str| format!("databases: {{shop: {{tables: [{{name: orders, key: id{rest}}}]}}}}");
    for (rest, told) in
        [(", timestamp_column: att", "`att`, which timestamp_column demands"), (", order: exact", "AR_H_CHANGE_SEQ")]
    {
        let scene = Scene::new(&orders(rest));
        scene.write("data/shop/orders/20240101-000000001.parquet", parquet(&[("I", 1, 10)]));
        scene.run().exits(4).tells(&["table stopped", "shop.orders", told, "hint"]);
        scene.configure(&orders(""));
        scene.run().exits(0);
        assert_eq!(scene.rows("shop/orders", &["id", "amount"]), ["1|10"]);
    }
}

#[test]
fn a_value_that_cannot_be_cast_is_an_error_even_where_a_later_change_replaces_it() {
    let text = |operations: &[&'static str], ids: &[i64], amounts: &[&'static str]| {
        parquet_of(vec![
            ("Op", texts(operations.iter().copied())),
            ("id", integers(ids.iter().copied())),
            ("amount", texts(amounts.iter().copied())),
        ])
    };
    let mut seen = Vec::new();
    for batch_size in [1, 1_000] {
        let scene = Scene::new(&format!(
            "databases: {{shop: {{tables: [{{name: orders, key: id}}]}}}}\npipeline_config: {{batch_size: {batch_size}}}"
        ));
        let sql = "SELECT id, CAST(amount AS BIGINT) AS amount, _cdc_operation, _cdc_sequence FROM shop.orders\n\
                   QUALIFY row_number() OVER (PARTITION BY id ORDER BY _cdc_sequence DESC) = 1";
        scene.write("queries/shop/orders.sql", sql);
        let first = text(&["I", "I"], &[1, 2], &["x", "5"]);
        scene.write("data/shop/orders/20240101-000000001.parquet", first);
        scene.write("data/shop/orders/20240101-000000002.parquet", text(&["U"], &[1], &["7"]));
        scene.run().exits(4).tells(&["file set aside", "20240101-000000001.parquet"]);
        seen.push(scene.rows("shop/orders", &["id", "amount"]));
    }
    assert_eq!(seen[0], seen[1], "how files are cut must not show");
    assert_eq!(seen[0], ["1|7"]);
}
