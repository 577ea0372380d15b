//! Rows as casino games write them, of any number and the same on each run: 20 columns as DMS has them in its files.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

const GAMES: [&str; 6] = ["slot_001", "slot_017", "baccarat_003", "roulette_002", "poker_011", "slot_040"];
const ACTIONS: [&str; 5] = ["BET", "WIN", "LOSE", "DEPOSIT", "ROLLBACK"];
const NOTES: [&str; 4] = ["출금 요청 승인 완료", "보너스 지급: 신규 가입", "관리자 조정", "첫 충전 보너스"];
const DEVICES: [&str; 4] = ["ios", "android", "web", "desktop"];
const START_US: i64 = 1_763_700_000_000_000;
/// Of one row group, as DMS writes them.
const GROUP_ROWS: usize = 10_000;

/// Pseudorandom numbers, the same for a row each time.
fn random(row: u64, salt: u64) -> u64 {
    let mut x = (row + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ salt.wrapping_mul(0xD134_2543_DE82_EF95);
    x ^= x >> 31;
    x = x.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x ^ (x >> 29)
}

fn pick<'a>(from: &[&'a str], number: u64) -> &'a str {
    from[usize::try_from(number).unwrap_or(0) % from.len()]
}

/// Changes number `first` and on, so many of them, of keys below `keys`.
pub(crate) fn changes(first: u64, count: u64, keys: u64) -> RecordBatch {
    let rows = || first..first + count;
    let integers = |of: &dyn Fn(u64) -> u64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(rows().map(|row| of(row) as i64)))
    };
    let texts = |of: &dyn Fn(u64) -> String| -> ArrayRef { Arc::new(StringArray::from_iter_values(rows().map(of))) };
    let amounts = |of: &dyn Fn(u64) -> u64| -> ArrayRef {
        let values = Decimal128Array::from_iter_values(rows().map(|row| i128::from(of(row))));
        Arc::new(values.with_precision_and_scale(18, 2).expect("a decimal"))
    };
    let time = |row: u64| START_US + row as i64 * 2_000 + (random(row, 9) % 2_000) as i64;
    let times =
        |of: &dyn Fn(u64) -> i64| -> ArrayRef { Arc::new(TimestampMicrosecondArray::from_iter_values(rows().map(of))) };
    let key = |row: u64| random(row, 1) % keys;
    let user = |row: u64| key(row) % 200_000;
    let notes = rows().map(|row| (row % 10 < 3).then(|| pick(&NOTES, random(row, 11))));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("Op", texts(&|row| if row % 10 < 7 { "I" } else { "U" }.into())),
        ("id", integers(&|row| 9_000_000_000 + key(row))),
        ("user_id", integers(&|row| 100_000 + user(row))),
        ("session_id", texts(&|row| format!("{:016x}{:016x}", random(user(row), 2), random(user(row), 3)))),
        ("game_code", texts(&|row| pick(&GAMES, random(row, 4)).into())),
        ("action_type", texts(&|row| pick(&ACTIONS, random(row, 5)).into())),
        ("bet_amount", amounts(&|row| random(row, 6) % 500 * 100)),
        ("win_amount", amounts(&|row| if row % 3 == 0 { random(row, 7) % 9_973 * 10 } else { 0 })),
        ("balance_after", amounts(&|row| random(row, 8) % 900_000_000)),
        ("currency", texts(&|row| if row % 20 == 0 { "USD" } else { "KRW" }.into())),
        (
            "ip",
            texts(&|row| {
                format!("{}.{}.{}.{}", 110 + user(row) % 80, user(row) / 80 % 256, user(row) / 7 % 256, user(row) % 256)
            }),
        ),
        ("round_id", integers(&|row| 77_000_000_000 + row * 3 + random(row, 10) % 3)),
        ("memo", Arc::new(StringArray::from_iter(notes))),
        ("is_bonus", Arc::new(BooleanArray::from_iter(rows().map(|row| Some(random(row, 12).is_multiple_of(12)))))),
        ("device", texts(&|row| pick(&DEVICES, random(user(row), 15)).into())),
        ("level", integers(&|row| random(user(row), 16) % 100)),
        ("created_at", times(&|row| time(row) / 1_000_000 * 1_000_000)),
        ("updated_at", times(&time)),
        ("is_test", integers(&|row| u64::from(user(row).is_multiple_of(1_000)))),
        ("transact_id", texts(&|row| format!("{:035}", time(row)))),
    ];
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}

/// The rows as one of DMS's files: snappy pages, the whole of it gzipped.
pub(crate) fn file(rows: &RecordBatch) -> Vec<u8> {
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_compression(Compression::SNAPPY)
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties)).expect("a plain schema");
    writer.write(rows).expect("memory takes all");
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(&writer.into_inner().expect("a file")).expect("memory takes all");
    encoder.finish().expect("memory takes all")
}
