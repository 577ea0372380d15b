//! Files that cannot be used: each is named and left, and everything else arrives as if it were not there.

use crate::binary::Ended;
use crate::change_files::{columns, gzipped, integers, parquet, parquet_of, texts};
use crate::oracle::Numbers;
use crate::scene::Scene;

const LOAD: &str = "LOAD00000001.parquet";
const BAD: &str = "20240501-101500123";
const GOOD_ROWS: [&str; 2] = ["1|11", "3|30"];

/// Two tables: `orders`, whose files are all well, and `bad`, of which one file is to be spoilt.
fn scene(bad: &str, pipeline: &str) -> Scene {
    let scene = Scene::new(&format!(
        "databases: {{shop: {{tables: [{{name: orders, key: id}}, {{name: bad, key: id{bad}}}]}}}}\n\
         pipeline_config: {{retry_attempts: 2, inflate_max: 10MB{pipeline}}}"
    ));
    for table in ["orders", "bad"] {
        scene.write(&format!("data/shop/{table}/{LOAD}"), parquet(&[("I", 1, 10), ("I", 2, 20)]));
        let changes = parquet(&[("U", 1, 11), ("D", 2, 0), ("I", 3, 30)]);
        scene.write(&format!("data/shop/{table}/20240502-000000000.parquet"), changes);
    }
    scene
}

fn expect_the_rest(scene: &Scene, case: &str) {
    assert_eq!(scene.rows("shop/orders", &["id", "amount"]), GOOD_ROWS, "{case}: the other table");
    assert_eq!(scene.rows("shop/bad", &["id", "amount"]), GOOD_ROWS, "{case}: the other files of the table");
}

/// One spoilt file of `bad`: its extension, its bytes, what its table's configuration adds, and what must be said.
struct Case {
    name: &'static str,
    extension: &'static str,
    bytes: Vec<u8>,
    table: &'static str,
    told: &'static [&'static str],
}

/// A file whose last column is as given.
fn with_amount(amount: arrow::array::ArrayRef) -> Vec<u8> {
    let mut columns = columns(&[("I", 7, 70), ("I", 8, 80)]);
    columns[2].1 = amount;
    parquet_of(columns)
}

fn cut(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.len() / 2);
    bytes
}

/// Bytes that are no Parquet, no gzip, or not all of one.
fn damaged() -> Vec<Case> {
    let whole = || parquet(&[("I", 7, 70), ("I", 8, 80)]);
    let case = |name, extension, bytes, told| Case { name, extension, bytes, table: "", told };
    vec![
        case("cut off", "parquet", cut(whole()), &["not readable Parquet"]),
        case("empty", "parquet", Vec::new(), &["hint: "]),
        case("text", "parquet", b"id,amount\n1,2\n".to_vec(), &["not readable Parquet"]),
        case("the footer's magic alone", "parquet", b"PAR1\0\0\0\0PAR1".to_vec(), &["not readable Parquet"]),
        case("a huge footer", "parquet", b"PAR1xxxx\xff\xff\xff\x7fPAR1".to_vec(), &["not readable Parquet"]),
        case("gzip cut off", "parquet.gz", cut(gzipped(&whole())), &["not whole gzip data"]),
        case("empty gzip", "parquet.gz", Vec::new(), &["hint: "]),
        case("gzip of nothing", "parquet.gz", gzipped(&[]), &["hint: "]),
        case("not gzip", "parquet.gz", whole(), &["not whole gzip data"]),
        case("gzip of text", "parquet.gz", gzipped(b"id\n1\n"), &["not readable Parquet"]),
        case("gzip of gzip", "parquet.gz", gzipped(&gzipped(&whole())), &["not readable Parquet"]),
        case("inflates to 40 MB", "parquet.gz", gzipped(&vec![0; 40 << 20]), &["inflates to more than", "inflate_max"]),
    ]
}

/// CSV whose text cannot be read, or not as its columns are to be.
fn of_bad_text() -> Vec<Case> {
    let table = ", schema_override: {id: INT64, amount: INT64}";
    let case = |name, bytes: &[u8], told| Case { name, extension: "csv", bytes: bytes.to_vec(), table, told };
    vec![
        case("uneven lines", b"Op,id,amount\nI,7,70\nI,8\n", &[]),
        case("not UTF-8", b"Op,id,amount\nI,7,\xff\xfe\n", &[]),
        case("an open quote", b"Op,id,amount\nI,7,\"70\nI,8,80\n", &[]),
        case("a number that is none", b"Op,id,amount\nI,7,70\nI,8,8O\n", &["`8O` is not a INT64", "row 1"]),
        case("no operation", b"7,70\n8,80\n", &[]),
    ]
}

/// Files whose bytes are well and whose rows are not.
fn of_bad_rows() -> Vec<Case> {
    let case = |name, bytes, table, told| Case { name, extension: "parquet", bytes, table, told };
    let keys = |ids: [Option<i64>; 2]| {
        parquet_of(vec![("Op", texts(["I", "I"])), ("id", integers(ids)), ("amount", integers([7, 8]))])
    };
    let operation = parquet(&[("I", 7, 70), ("X", 8, 80)]);
    vec![
        case("a NULL key", keys([Some(7), None]), "", &["the key column `id` is NULL", "row 1"]),
        case("a wrong Op", operation, "", &["`X`", "is not I, U or D", "row 1"]),
        case(
            "an override that fails",
            with_amount(texts(["70", "a lot"])),
            ", schema_override: {amount: INT64}",
            &["`a lot` is not a INT64", "row 1"],
        ),
    ]
}

/// The trouble must be told with the table and the file; later runs leave the file alone.
fn check(case: &Case) {
    let scene = scene(case.table, "");
    let file = format!("data/shop/bad/{BAD}.{}", case.extension);
    scene.write(&file, &case.bytes);
    let ended = scene.run();
    assert_eq!(ended.code(), Some(4), "{}: {}", case.name, ended.report());
    let ended = ended.tells(&["file set aside", "table shop.bad", &file]).tells(case.told);
    assert!(ended.stderr().contains("1 files were set aside and 0 tables stopped"), "{}", ended.report());
    expect_the_rest(&scene, case.name);
    let again = scene.run().exits(0);
    assert!(again.stdout().contains("done: 0 files, 0 changes"), "{}: {}", case.name, again.report());
    assert!(!again.stderr().contains("set aside="), "{}: tried again: {}", case.name, again.report());
    expect_the_rest(&scene, case.name);
}

#[test]
fn a_damaged_file_costs_itself_alone() {
    damaged().iter().for_each(check);
}

#[test]
fn a_file_with_rows_that_cannot_be_used_costs_itself_alone() {
    of_bad_rows().iter().for_each(check);
}

#[test]
fn a_csv_file_that_cannot_be_read_costs_itself_alone() {
    of_bad_text().iter().for_each(check);
}

#[test]
fn a_path_that_fits_no_layout_is_told_and_the_rest_arrives() {
    for path in ["shop/bad/notes.parquet", "notes.parquet", "shop/bad/readme.txt", "shop/bad/CDC_TXN-1.csv"] {
        let scene = scene("", "");
        scene.write(&format!("data/{path}"), parquet(&[("I", 7, 70)]));
        scene.run().exits(4).tells(&["left: ", path, "hint: "]);
        expect_the_rest(&scene, path);
    }
}

#[test]
fn files_of_a_table_that_is_not_listed_are_told_and_left() {
    let scene = scene("", "");
    scene.write("data/shop/more/20240503-000000000.parquet", parquet(&[("I", 7, 70)]));
    scene.run().exits(0).tells(&["1 files of shop.more", "does not list"]);
    expect_the_rest(&scene, "an unlisted table");
    assert!(!scene.table("shop/more").exists());
}

#[test]
fn too_many_bad_files_stop_the_table_before_they_are_lost() {
    let scene = scene("", ", error_threshold: 0.02");
    for number in 1..=4 {
        scene.write(&format!("data/shop/bad/20240501-00000000{number}.parquet"), "no Parquet");
    }
    let ended = scene.run().exits(4).tells(&["2 files were set aside and 1 tables stopped", "table shop.bad"]);
    assert!(ended.stdout().contains("shop.orders"), "{}", ended.report());
    assert_eq!(scene.rows("shop/orders", &["id", "amount"]), GOOD_ROWS);
}

/// Bytes flipped at places that a seed chooses. In plain Parquet a flip in a data page may go unnoticed; gzip has a
/// checksum, so there the rows are right or the file is set aside.
#[test]
fn flipped_bytes_never_end_in_a_panic_and_under_gzip_never_in_wrong_rows() {
    const FLIPS: usize = 60;
    let plain = parquet(&[("I", 7, 70), ("U", 8, 80), ("D", 9, 90)]);
    for (extension, whole) in [("parquet", plain.clone()), ("parquet.gz", gzipped(&plain))] {
        let tables: Vec<String> = (0..FLIPS).map(|number| format!("{{name: t{number}, key: id}}")).collect();
        let scene = Scene::new(&format!(
            "databases: {{shop: {{tables: [{}]}}}}\npipeline_config: {{retry_attempts: 1}}",
            tables.join(", ")
        ));
        let mut numbers = Numbers::new(7);
        for number in 0..FLIPS {
            let mut bytes = whole.clone();
            let place = numbers.below(bytes.len());
            bytes[place] ^= u8::try_from(1 + numbers.below(255)).unwrap();
            scene.write(&format!("data/shop/t{number}/{BAD}.{extension}"), bytes);
        }
        let ended = scene.run();
        assert_eq!(ended.code(), Some(4), "{}", ended.report());
        assert!(!ended.stderr().contains("broke down"), "{}", ended.report());
        if extension == "parquet.gz" {
            (0..FLIPS).for_each(|number| expect_whole_or_set_aside(&scene, number, &ended));
        }
    }
}

fn expect_whole_or_set_aside(scene: &Scene, number: usize, ended: &Ended) {
    let place = scene.table(&format!("shop/t{number}"));
    if place.exists() {
        let rows = crate::delta_table::rows(&place, &["id", "amount"]);
        assert_eq!(rows, ["7|70", "8|80"], "table {number}");
    } else {
        let told = ended.stderr().contains(&format!("file set aside table=shop.t{number} "));
        assert!(told, "the file of table {number} vanished\n{}", ended.report());
    }
}
