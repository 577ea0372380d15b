//! Paths in, tables and times out.

use chrono::{NaiveDate, NaiveDateTime};

use super::*;
use crate::error::Kind;

/// `database.table kind format[+gz] time`, `ignored`, or `error`.
fn shown(layout: &Layout, path: &str) -> String {
    match layout.recognise(path) {
        Ok(Recognised::Ignored) => "ignored".to_owned(),
        Ok(Recognised::Change(named)) => {
            let time = named.time_ms.map_or("-".to_owned(), |ms| {
                chrono::DateTime::from_timestamp_millis(ms).unwrap().format("%Y-%m-%dT%H:%M:%S%.3f").to_string()
            });
            let gzip = if named.gzip { "+gz" } else { "" };
            format!("{} {:?} {:?}{gzip} {time}", named.table, named.kind, named.format)
        }
        Err(error) => {
            assert_eq!(error.kind(), Kind::Data, "{path}");
            assert!(error.message().contains(path), "{path}: {error}");
            assert!(error.hint_text().is_some(), "{path}: {error}");
            "error".to_owned()
        }
    }
}

fn check(path: &str, expected: &str) {
    assert_eq!(shown(&Layout::known(), path), expected, "{path}");
}

fn check_pattern(pattern: &str, path: &str, expected: &str) {
    assert_eq!(shown(&Layout::pattern(pattern).unwrap(), path), expected, "{pattern} {path}");
}

#[test]
fn files_of_the_full_load_are_recognised() {
    check("shop/orders/LOAD00000001.parquet", "shop.orders Load Parquet -");
    check("a/b/shop/orders/LOAD0000000A.csv.gz", "shop.orders Load Csv+gz -");
    check("shop/orders/LOAD0000001f.parquet.gz", "shop.orders Load Parquet+gz -");
    check("shop/orders/SEGMENT12_LOAD00000001.csv", "shop.orders Load Csv -");
    check("shop/orders/2023/03/15/LOAD00000001.parquet.gz", "shop.orders Load Parquet+gz -");
    check("쇼핑/주문 1+2%/LOAD00000001.CSV", "쇼핑.주문 1+2% Load Csv -");
    for name in ["LOAD1", "LOAD0000000G", "load00000001", "SEGMENT_LOAD00000001", "SEGMENTx_LOAD00000001", "LOAD"] {
        check(&format!("shop/orders/{name}.parquet"), "error");
    }
}

#[test]
fn change_files_of_dms_are_recognised_with_their_time() {
    check("shop/orders/20141029-1134010000.csv", "shop.orders Cdc Csv 2014-10-29T11:34:01.000");
    check("shop/orders/20141029-1134010129.csv", "shop.orders Cdc Csv 2014-10-29T11:34:01.012");
    check("cdc/shop/orders/20221024-175902985.parquet", "shop.orders Cdc Parquet 2022-10-24T17:59:02.985");
    for name in [
        "20221024-17590298",
        "20221024-17590298555",
        "20221324-175902985",
        "20221024-245902985",
        "2022102-1759029851",
        "20221024175902985",
        "20221024-17590298x",
        "2022102é-175902985",
    ] {
        check(&format!("shop/orders/{name}.parquet"), "error");
    }
}

#[test]
fn files_renamed_by_time_are_recognised_where_they_name_the_folders_table() {
    check(
        "cdc/shop/orders/2023/03/15/20230315143022_orders.parquet.gz",
        "shop.orders Cdc Parquet+gz 2023-03-15T14:30:22.000",
    );
    check("shop/order_lines/20230315143022_order_lines.csv", "shop.order_lines Cdc Csv 2023-03-15T14:30:22.000");
    check("shop/orders/20230315143022_lines.parquet.gz", "error");
    check("shop/orders/20231345143022_orders.parquet.gz", "error");
    check("shop/orders/20230315143022.parquet.gz", "error");
}

#[test]
fn folders_of_a_date_are_passed_over_in_every_form_dms_writes() {
    let sequences = ["2023 03 15", "2023 03 15 14", "2023 03", "03 2023 15", "15 03 2023"];
    for sequence in sequences {
        for divider in ["/", "-", "_", ""] {
            let folders = sequence.replace(' ', divider);
            check(
                &format!("shop/orders/{folders}/20230315-143022000.csv"),
                "shop.orders Cdc Csv 2023-03-15T14:30:22.000",
            );
            check(&format!("x/shop/orders/{folders}/LOAD00000001.csv"), "shop.orders Load Csv -");
        }
    }
}

#[test]
fn what_only_looks_like_a_date_is_a_name() {
    check("x/shop/202313/LOAD00000001.csv", "shop.202313 Load Csv -");
    check("x/shop/2023/LOAD00000001.csv", "shop.2023 Load Csv -");
    check("shop/202303/LOAD00000001.csv", "shop.202303 Load Csv -");
    check("shop/2023/03/LOAD00000001.csv", "2023.03 Load Csv -");
    check("x/shop/2023-03_15/LOAD00000001.csv", "shop.2023-03_15 Load Csv -");
    check("x/shop/30022023/LOAD00000001.csv", "shop.30022023 Load Csv -");
    check("x/shop/2023031524/LOAD00000001.csv", "shop.2023031524 Load Csv -");
}

#[test]
fn markers_and_hidden_or_temporary_files_are_passed_over() {
    for path in [
        "",
        "shop/",
        "shop/orders/_SUCCESS",
        "shop/orders/.LOAD00000001.parquet.crc",
        "shop/orders/LOAD00000001.parquet.crc",
        "shop/orders/20230315-143022000.csv.tmp",
        "shop/orders_$folder$",
        "shop/orders/.parquet/x",
        ".git/shop/orders/LOAD00000001.csv",
        "lake/_delta_log/00000000000000000000.json",
        "_freshet_ledger/shop.orders/1.json",
    ] {
        check(path, "ignored");
    }
    check("shop/_orders/LOAD00000001.csv", "shop._orders Load Csv -");
}

#[test]
fn anything_else_is_an_error_that_says_what_to_do() {
    for path in [
        "LOAD00000001.parquet",
        "orders/LOAD00000001.parquet",
        "shop/orders/part-0.parquet",
        "shop/orders/readme.txt",
        "shop//LOAD00000001.parquet",
        "/orders/LOAD00000001.parquet",
        "shop/orders/x.gz",
        "parquet",
    ] {
        check(path, "error");
    }
    let error = Layout::known().recognise("shop/CDC_TXN-20230315143022000.csv").unwrap_err();
    assert!(error.report().contains("PreserveTransactions"), "{}", error.report());
}

#[test]
fn a_pattern_tells_table_kind_and_time() {
    check_pattern(
        "{database}/{table}/{time:%Y%m%d%H%M%S}_{*}.parquet",
        "shop/orders/20230315143022_x.parquet",
        "shop.orders Cdc Parquet 2023-03-15T14:30:22.000",
    );
    check_pattern(
        "{*}/{database}.{table}.{kind}/{*}.csv.gz",
        "x/shop.orders.LOAD/1.csv.gz",
        "shop.orders Load Csv+gz -",
    );
    check_pattern("{*}/{database}.{table}.{kind}/{*}.csv.gz", "x/shop.orders.cdc/1.csv.gz", "shop.orders Cdc Csv+gz -");
    check_pattern("{**}/{table}@{database}/{*}", "a/b/orders@shop/LOAD00000001.csv", "shop.orders Load Csv -");
    check_pattern("{**}/{database}/{table}/{*}", "shop/orders/x.csv", "shop.orders Cdc Csv -");
    check_pattern("{**}/{database}/{table}/{*}", "a/b/shop/orders/x.csv", "shop.orders Cdc Csv -");
    check_pattern(
        "{database}/{table}/{**}/{*}{time:%Y%m%d}.csv",
        "shop/orders/x20230315.csv",
        "shop.orders Cdc Csv 2023-03-15T00:00:00.000",
    );
    check_pattern("{database}/{table}/a{**}/{*}", "shop/orders/ab/x.csv", "shop.orders Cdc Csv -");
    check_pattern(
        "{database}/{table}/dt={time:%Y-%m-%d}/{*}",
        "shop/orders/dt=2023-03-15/x.csv",
        "shop.orders Cdc Csv 2023-03-15T00:00:00.000",
    );
    check_pattern(
        "{database}/{table}/{time:%Y/%m/%d/%H}/{*}",
        "shop/orders/2023/03/15/14/x.csv",
        "shop.orders Cdc Csv 2023-03-15T14:00:00.000",
    );
    check_pattern(
        "{database}/{table}/{time:%s}.csv",
        "shop/orders/1678890622.csv",
        "shop.orders Cdc Csv 2023-03-15T14:30:22.000",
    );
    check_pattern(
        "{database}/{table}/{time:%Y%m%dT%H%M%S%z}.csv",
        "shop/orders/20230315T143022+0900.csv",
        "shop.orders Cdc Csv 2023-03-15T05:30:22.000",
    );
    check_pattern("/{database}/{table}/{*}", "쇼핑/주문/파일.csv", "쇼핑.주문 Cdc Csv -");
}

#[test]
fn a_path_the_pattern_does_not_fit_may_be_of_a_known_layout() {
    let pattern = "{database}/{table}/{time:%Y%m%d}.csv";
    check_pattern(pattern, "shop/orders/LOAD00000001.csv", "shop.orders Load Csv -");
    check_pattern(pattern, "shop/orders/20231345.csv", "error");
    check_pattern(pattern, "shop/orders/2023315.csv", "error");
    check_pattern(pattern, "shop/orders/20230315.parquet", "error");
    check_pattern(pattern, "x/shop/orders/20230315.csv", "error");
    check_pattern("{database}/{table}/{kind}.csv", "shop/orders/loads.csv", "error");
}

#[test]
fn a_path_that_fits_in_two_ways_is_refused() {
    check_pattern("{database}.{table}/{*}", "a.b.c/x.csv", "error");
    check_pattern("{database}.{table}/{*}", "a.b/x.y.csv", "a.b Cdc Csv -");
    check_pattern("{**}{database}/{table}/{*}", "shop/orders/x.csv", "error");
    let endless = format!("{}{{database}}/{{table}}/b", "{**}a".repeat(20));
    check_pattern(&endless, &format!("{}.csv", "a".repeat(1_000)), "error");
}

#[test]
fn a_pattern_is_refused_with_the_placeholders_there_are() {
    for (pattern, message) in [
        ("{database}/{*}.csv", "`{table}`"),
        ("{table}/{*}.csv", "`{database}`"),
        ("{database}/{table}/{tabel}", "unknown placeholder `{tabel}`"),
        ("{database}/{table}/{*", "without its `}`"),
        ("{database}/{table}/{table}", "`{table}`"),
        ("{database}/{table}/{kind}{kind}", "twice"),
        ("{database}/{table}/{time:%Y%m}", "year, month and day"),
        ("{database}/{table}/{time:}", "year, month and day"),
        ("{database}/{table}/{time:%Q}", "year, month and day"),
        ("{database}/{table}/{time:%H%M%S}", "year, month and day"),
        ("", "`{database}`"),
    ] {
        let error = Layout::pattern(pattern).unwrap_err();
        assert_eq!(error.kind(), Kind::User);
        assert!(error.message().contains(message), "{pattern}: {error}");
        assert!(error.hint_text().unwrap().contains("{time:FORMAT}"), "{error:?}");
    }
}

/// Numbers that depend on the seed alone (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % bound
    }

    fn pick<'a>(&mut self, items: &[&'a str]) -> &'a str {
        items[usize::try_from(self.below(items.len() as u64)).unwrap()]
    }

    /// A name that no date looks like.
    fn name(&mut self) -> String {
        let mut name = "n".to_owned();
        for _ in 0..self.below(6) {
            name.push_str(self.pick(&["a", "B", "7", "_", "-", ".", " ", "%", "+", "'", "\"", "é", "주", "{", "LOAD"]));
        }
        name
    }

    fn time(&mut self) -> NaiveDateTime {
        let day = NaiveDate::from_ymd_opt(1970, 1, 1).unwrap() + chrono::Days::new(self.below(150_000));
        day.and_hms_milli_opt(0, 0, 0, 0).unwrap() + chrono::TimeDelta::milliseconds(self.below(86_400_000) as i64)
    }
}

#[test]
fn every_path_written_in_a_layout_is_read_back() {
    let pattern = Layout::pattern("p/{database}/{table}/{kind}/{time:%Y%m%d%H%M%S%3f}{*}").unwrap();
    let numbers = &mut Numbers(7);
    for _ in 0..5_000 {
        let (database, table, time) = (numbers.name(), numbers.name(), numbers.time());
        let date = numbers.pick(&["", "/%Y/%m/%d", "/%Y%m%d%H", "/%Y-%m", "/%m_%Y_%d", "/%d%m%Y", "/%Y/%m/%d/%H"]);
        let folders = format!("{}{database}/{table}{}", numbers.pick(&["", "x/", "y/z/"]), time.format(date));
        let (layout, stem, kind, ms) = match numbers.below(5) {
            0 => (Layout::known(), format!("{folders}/LOAD{:08X}", numbers.below(1 << 32)), FileKind::Load, None),
            1 => (Layout::known(), format!("{folders}/{}", time.format("%Y%m%d-%H%M%S%3f")), FileKind::Cdc, Some(1)),
            2 => (Layout::known(), format!("{folders}/{}7", time.format("%Y%m%d-%H%M%S%3f")), FileKind::Cdc, Some(1)),
            3 => (
                Layout::known(),
                format!("{folders}/{}_{table}", time.format("%Y%m%d%H%M%S")),
                FileKind::Cdc,
                Some(1_000),
            ),
            _ => {
                let name = format!("p/{database}/{table}/cdc/{}{}", time.format("%Y%m%d%H%M%S%3f"), numbers.name());
                (pattern.clone(), name, FileKind::Cdc, Some(1))
            }
        };
        let (format, gzip) = (numbers.pick(&[".csv", ".parquet"]), numbers.pick(&["", ".gz"]));
        let path = format!("{stem}{format}{gzip}");
        let expected = Named {
            table: TableName::new(database, table),
            kind,
            format: if format == ".csv" { FileFormat::Csv } else { FileFormat::Parquet },
            gzip: !gzip.is_empty(),
            time_ms: ms.map(|unit| time.and_utc().timestamp_millis() / unit * unit),
        };
        assert_eq!(layout.recognise(&path).unwrap(), Recognised::Change(expected), "{path}");
    }
}

#[test]
fn no_path_brings_it_down() {
    let pattern = Layout::pattern("{**}{database}.{table}/{time:%Y%m%d}{*}.csv").unwrap();
    let numbers = &mut Numbers(11);
    let pieces =
        ["/", "/", "LOAD00000001", "2023", "0315", "-", "_", ".csv", ".gz", ".parquet", "é", "주", "n", ".", " ", "\0"];
    for _ in 0..20_000 {
        let path: String = (0..numbers.below(12)).map(|_| numbers.pick(&pieces)).collect();
        shown(&Layout::known(), &path);
        shown(&pattern, &path);
    }
}
