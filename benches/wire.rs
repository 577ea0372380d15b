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

use arrow::array::{ArrayRef, BinaryArray, RecordBatch};
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use libdeflater::{CompressionLvl, Compressor};

mod shapes;

use shapes::{START_US, Stretch, changed_at, created_at, operation, random};

const ROWS: u64 = 300_000;
/// Of one message, so that it has about 2 MiB.
const MESSAGE_ROWS: u64 = 6_000;
const USD_PER_GB: f64 = 0.09;

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
        tell(&format!("zlib-rs {level}"), begun.elapsed().as_secs_f64(), bytes);
    }
    for level in [1, 2, 6] {
        let begun = Instant::now();
        let bytes = messages.iter().map(|message| by_libdeflate(message, level)).sum();
        tell(&format!("libdeflate {level}"), begun.elapsed().as_secs_f64(), bytes);
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

fn by_libdeflate(message: &[u8], level: i32) -> usize {
    let mut compressor = Compressor::new(CompressionLvl::new(level).expect("a level"));
    let mut gzip = vec![0; compressor.gzip_compress_bound(message.len())];
    compressor.gzip_compress(message, &mut gzip).expect("it fits")
}

fn message(batch: &RecordBatch, compression: Option<CompressionType>) -> Vec<u8> {
    let options = IpcWriteOptions::default().try_with_compression(compression).expect("it is built in");
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), &batch.schema(), options).expect("a writer");
    writer.write(batch).expect("memory takes all");
    writer.into_inner().expect("a message")
}

fn batch(first: u64) -> RecordBatch {
    let rows = Stretch { first, count: MESSAGE_ROWS };
    let file = |row: u64| row / 4_096;
    let times = |of: &dyn Fn(u64) -> i64| -> ArrayRef { Arc::new(rows.times(of).with_timezone("UTC")) };
    let sequence = |row: u64| {
        let time = changed_at(row) as u64;
        format!("{:016x}/{time:016x}/{:016x}/{:016x}", 1, (time / 1_000) << 20, (row % 4_096) * 2 + 1)
    };
    let file_id = |row| [random(file(row), 13).to_le_bytes(), random(file(row), 14).to_le_bytes()].concat();
    let mut columns: Vec<(&str, ArrayRef)> = vec![("id", rows.integers(|row| 9_000_000_000 + row))];
    columns.extend(rows.played(|row| random(row, 1) % 200_000, (38, 9)));
    columns.extend([
        ("created_at", times(&created_at)),
        ("_cdc_operation", rows.texts(operation)),
        ("_cdc_timestamp", times(&changed_at)),
        ("_cdc_sequence", rows.texts(sequence)),
        ("_cdc_batch", rows.texts(|row| format!("019a9d2e-7c31-7f00-8a5b-{:012x}", row / 131_072))),
        ("_cdc_loaded_at", times(&|row| START_US + (row / 131_072) as i64 * 5_000_000)),
        ("_cdc_file_id", Arc::new(BinaryArray::from_iter_values(rows.rows().map(file_id))) as ArrayRef),
    ]);
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}
