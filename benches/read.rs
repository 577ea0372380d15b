//! Reading a gzipped Parquet file: what freshet adds to inflating and decoding it, as ratios in one run.
//!
//! `cargo bench --bench read` prints, for each stage, its time and its ratio to the plain library calls on the same bytes.

#![allow(clippy::expect_used, clippy::print_stdout, reason = "a bench ends where anything fails, and prints")]

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use bytes::Bytes;
use freshet::catalog::inflate::{Staging, StagingLimits};
use freshet::catalog::opened::{Opener, ReadRequest};
use freshet::change::{ChangeFile, FileFormat, FileKind, TableName};
use freshet::config::CsvConfig;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

const ROWS: i64 = 1_000_000;
const ROUNDS: usize = 5;

fn main() {
    let plain = parquet_file();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(&plain).expect("memory takes all");
    let gzipped = Bytes::from(encoder.finish().expect("memory takes all"));
    println!("{ROWS} rows, {} bytes of Parquet, {} gzipped; median of {ROUNDS} rounds", plain.len(), gzipped.len());

    let inflate = median(|| inflate_by_library(&gzipped).len());
    let in_one_step = median(|| inflate_in_one_step(&gzipped, plain.len()).len());
    let decode = median(|| decode_by_library(plain.clone()));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let ours = median(|| runtime.block_on(read_by_freshet(gzipped.clone())));
    println!("inflate, zlib-rs alone     {inflate:>10.1?}");
    println!("inflate, libdeflate alone  {in_one_step:>10.1?}");
    println!("decode, parquet alone      {decode:>10.1?}");
    println!("freshet: open and read     {ours:>10.1?}");
    println!("freshet / (zlib-rs+decode) {:>10.2}", ours.as_secs_f64() / (inflate + decode).as_secs_f64());
}

fn median(mut round: impl FnMut() -> usize) -> Duration {
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            #[allow(clippy::disallowed_methods, reason = "a bench measures time")]
            let start = Instant::now();
            std::hint::black_box(round());
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[ROUNDS / 2]
}

/// A file of the shape DMS writes: row groups of 10,000 rows, snappy pages.
fn parquet_file() -> Bytes {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("Op", Arc::new(StringArray::from_iter_values((0..ROWS).map(|n| ["I", "U", "D"][(n % 3) as usize])))),
        ("id", Arc::new(Int64Array::from_iter_values((0..ROWS).map(|n| n.wrapping_mul(7_919) % 200_000)))),
        ("name", Arc::new(StringArray::from_iter_values((0..ROWS).map(|n| format!("player {}", n % 977))))),
        ("amount", Arc::new(Float64Array::from_iter_values((0..ROWS).map(|n| n as f64 / 7.0)))),
    ];
    let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
    let properties = parquet::file::properties::WriterProperties::builder()
        .set_max_row_group_row_count(Some(10_000))
        .set_compression(parquet::basic::Compression::SNAPPY)
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).expect("a plain schema");
    writer.write(&batch).expect("memory takes all");
    Bytes::from(writer.into_inner().expect("memory takes all"))
}

fn inflate_by_library(gzipped: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    flate2::read::GzDecoder::new(gzipped).read_to_end(&mut out).expect("whole gzip");
    out
}

fn inflate_in_one_step(gzipped: &[u8], length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    let inflated = libdeflater::Decompressor::new().gzip_decompress(gzipped, &mut out).expect("whole gzip");
    assert_eq!(inflated, length);
    out
}

fn decode_by_library(plain: Bytes) -> usize {
    let reader = ParquetRecordBatchReaderBuilder::try_new(plain).expect("Parquet").with_batch_size(8_192).build();
    reader.expect("Parquet").map(|batch| batch.expect("Parquet").num_rows()).sum()
}

async fn read_by_freshet(gzipped: Bytes) -> usize {
    let store = Arc::new(InMemory::new());
    let path = Path::from("file.parquet.gz");
    store.put(&path, gzipped.clone().into()).await.expect("memory takes all");
    let limits = StagingLimits {
        file_memory_bytes_max: 1 << 30,
        memory_bytes_max: 1 << 30,
        whole_bytes_max: 1 << 30,
        file_bytes_max: 1 << 30,
        staged_bytes_max: 1 << 30,
        folder: None,
    };
    let opener = Opener::new(store as Arc<dyn ObjectStore>, Staging::new(limits));
    let opened = opener.open(change_file(gzipped.len() as u64), &CsvConfig::default()).await.expect("a whole file");
    let columns = (0..opened.schema.fields().len()).collect();
    let request = ReadRequest { columns, predicate: None, row_groups: None, rows: None, batch_rows: 8_192 };
    let rows: Vec<usize> = opened.read(request).map_ok(|raw| raw.rows.len()).try_collect().await.expect("whole rows");
    rows.iter().sum()
}

fn change_file(size: u64) -> ChangeFile {
    ChangeFile {
        location: "file.parquet.gz".into(),
        path: "file.parquet.gz".into(),
        size,
        version: "1".into(),
        e_tag: None,
        modified_ms: 0,
        table: TableName::new("db", "t"),
        kind: FileKind::Cdc,
        format: FileFormat::Parquet,
        gzip: true,
        time_ms: 0,
        time_named: true,
        rows: None,
    }
}
