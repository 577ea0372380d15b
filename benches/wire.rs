//! What compression saves on the way to BigQuery: bytes and CPU time for a million rows of 20 columns, as casino games
//! change them, in the Arrow messages that are sent: raw, gzipped, and with Arrow's own compression of buffers. Level 6 is what
//! gRPC's gzip is here; of Arrow's own BigQuery's documents do not say that they are taken from writers.
//!
//! `cargo bench --bench wire` prints a line each, with the price of so much egress at 0.09 USD a GB.

#![allow(clippy::expect_used, clippy::print_stdout, reason = "a bench ends where anything fails, and prints")]
#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Decimal128Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};

const ROWS: u64 = 300_000;
/// Of one message, so that it has about 2 MiB.
const MESSAGE_ROWS: u64 = 6_000;
const USD_PER_GB: f64 = 0.09;
const GAMES: [&str; 6] = ["slot_001", "slot_017", "baccarat_003", "roulette_002", "poker_011", "slot_040"];
const ACTIONS: [&str; 5] = ["BET", "WIN", "LOSE", "DEPOSIT", "ROLLBACK"];
const NOTES: [&str; 4] = ["출금 요청 승인 완료", "보너스 지급: 신규 가입", "관리자 조정", "첫 충전 보너스"];
const START_US: i64 = 1_763_700_000_000_000;

fn main() {
    let batches: Vec<RecordBatch> = (0..ROWS / MESSAGE_ROWS).map(|number| batch(number * MESSAGE_ROWS)).collect();
    let begun = Instant::now();
    let messages: Vec<Vec<u8>> = batches.iter().map(|batch| message(batch, None)).collect();
    let encoding = begun.elapsed().as_secs_f64();
    println!("{ROWS} rows measured, told for a million");
    tell("raw", 0.0, messages.iter().map(Vec::len).sum());
    for level in [1, 3, 6] {
        let begun = Instant::now();
        let bytes = messages.iter().map(|message| gzipped(message, level)).sum();
        tell(&format!("gzip level {level}"), begun.elapsed().as_secs_f64(), bytes);
    }
    for (name, compression) in [("Arrow's LZ4", CompressionType::LZ4_FRAME), ("Arrow's ZSTD", CompressionType::ZSTD)] {
        let begun = Instant::now();
        let bytes = batches.iter().map(|batch| message(batch, Some(compression)).len()).sum();
        // What it takes beyond writing the messages raw.
        tell(name, begun.elapsed().as_secs_f64() - encoding, bytes);
    }
}

fn tell(how: &str, seconds: f64, bytes: usize) {
    let times = 1_000_000.0 / ROWS as f64;
    let megabytes = bytes as f64 * times / 1e6;
    println!("{how:<14} {megabytes:>7.0} MB {:>6.1} s {:>7.4} USD", seconds * times, megabytes / 1e3 * USD_PER_GB);
}

fn gzipped(message: &[u8], level: u32) -> usize {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
    encoder.write_all(message).expect("memory takes all");
    encoder.finish().expect("memory takes all").len()
}

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

fn message(batch: &RecordBatch, compression: Option<CompressionType>) -> Vec<u8> {
    let options = IpcWriteOptions::default().try_with_compression(compression).expect("it is built in");
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), &batch.schema(), options).expect("a writer");
    writer.write(batch).expect("memory takes all");
    writer.into_inner().expect("a message")
}

fn batch(first: u64) -> RecordBatch {
    let rows = || first..first + MESSAGE_ROWS;
    let integers = |of: &dyn Fn(u64) -> u64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(rows().map(|row| of(row) as i64)))
    };
    let texts = |of: &dyn Fn(u64) -> String| -> ArrayRef { Arc::new(StringArray::from_iter_values(rows().map(of))) };
    let amounts = |of: &dyn Fn(u64) -> u64| -> ArrayRef {
        let values = Decimal128Array::from_iter_values(rows().map(|row| i128::from(of(row)) * 10_000_000));
        Arc::new(values.with_precision_and_scale(38, 9).expect("a decimal"))
    };
    let time = |row: u64| START_US + row as i64 * 2_000 + (random(row, 9) % 2_000) as i64;
    let times = |of: &dyn Fn(u64) -> i64| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from_iter_values(rows().map(of)).with_timezone("UTC"))
    };
    let user = |row: u64| random(row, 1) % 200_000;
    let file = |row: u64| row / 4_096;
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", integers(&|row| 9_000_000_000 + row)),
        ("user_id", integers(&|row| 100_000 + user(row))),
        ("session_id", texts(&|row| format!("{:016x}{:016x}", random(user(row), 2), random(user(row), 3)))),
        ("game_code", texts(&|row| pick(&GAMES, random(row, 4)).into())),
        ("action_type", texts(&|row| pick(&ACTIONS, random(row, 5)).into())),
        ("bet_amount", amounts(&|row| random(row, 6) % 500 * 10_000)),
        ("win_amount", amounts(&|row| if row % 3 == 0 { random(row, 7) % 9_973 * 1_000 } else { 0 })),
        ("balance_after", amounts(&|row| random(row, 8) % 9_000_000_000)),
        ("currency", texts(&|row| if row % 20 == 0 { "USD" } else { "KRW" }.into())),
        (
            "ip",
            texts(&|row| {
                format!("{}.{}.{}.{}", 110 + user(row) % 80, user(row) / 80 % 256, user(row) / 7 % 256, user(row) % 256)
            }),
        ),
        ("round_id", integers(&|row| 77_000_000_000 + row * 3 + random(row, 10) % 3)),
        (
            "memo",
            Arc::new(StringArray::from_iter(rows().map(|row| (row % 10 < 3).then(|| pick(&NOTES, random(row, 11)))))),
        ),
        ("is_bonus", Arc::new(BooleanArray::from_iter(rows().map(|row| Some(random(row, 12).is_multiple_of(12)))))),
        ("created_at", times(&|row| time(row) / 1_000_000 * 1_000_000)),
        ("_cdc_operation", texts(&|row| if row % 10 < 7 { "I" } else { "U" }.into())),
        ("_cdc_timestamp", times(&time)),
        (
            "_cdc_sequence",
            texts(&|row| {
                format!(
                    "{:016x}/{:016x}/{:016x}/{:016x}",
                    1,
                    time(row),
                    (time(row) as u64 / 1_000) << 20,
                    (row % 4_096) * 2 + 1
                )
            }),
        ),
        ("_cdc_batch", texts(&|row| format!("019a9d2e-7c31-7f00-8a5b-{:012x}", row / 131_072))),
        ("_cdc_loaded_at", times(&|row| START_US + (row / 131_072) as i64 * 5_000_000)),
        (
            "_cdc_file_id",
            Arc::new(BinaryArray::from_iter_values(
                rows().map(|row| [random(file(row), 13).to_le_bytes(), random(file(row), 14).to_le_bytes()].concat()),
            )),
        ),
    ];
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}
