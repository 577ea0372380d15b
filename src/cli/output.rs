//! Rows on stdout, in the format asked for. Memory stays bounded: only `table` holds rows, and not many.

use std::io::{BufWriter, IsTerminal, Stdout, Write};

use arrow::array::RecordBatch;
use arrow::csv::WriterBuilder;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::json::{ArrayWriter, LineDelimitedWriter};
use datafusion::execution::SendableRecordBatchStream;
use futures::{StreamExt, TryStreamExt};
use parquet::arrow::ArrowWriter;

use crate::cli::{output_error, tell};
use crate::error::{Error, Result};

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// For reading
    Table,
    /// Comma-separated, with a header
    Csv,
    /// Tab-separated, with a header
    Tsv,
    /// One JSON array
    Json,
    /// One JSON object a line
    Ndjson,
    /// Parquet, to a file or pipe
    Parquet,
}

type Out = BufWriter<Stdout>;

/// Writes all rows; `rows_max` bounds only [`Format::Table`]. Of what has no columns, such as a SET, nothing is written.
///
/// # Errors
/// Those of the rows, and those of stdout.
pub(super) async fn write(rows: SendableRecordBatchStream, format: Format, rows_max: usize) -> Result<()> {
    if format == Format::Parquet && std::io::stdout().is_terminal() {
        return Err(
            Error::user("Parquet is not for a terminal").hint("add `> rows.parquet`, or choose another --format")
        );
    }
    if rows.schema().fields().is_empty() {
        return rows.map(|batch| batch.map(drop).map_err(Error::of_rows)).try_collect().await;
    }
    if format == Format::Table {
        return write_table(rows, rows_max).await;
    }
    let mut writer = RowWriter::new(format, rows.schema())?;
    let mut rows = rows;
    while let Some(batch) = rows.next().await {
        writer.write(&batch.map_err(Error::of_rows)?)?;
    }
    writer.finish()
}

async fn write_table(mut rows: SendableRecordBatchStream, rows_max: usize) -> Result<()> {
    let schema = rows.schema();
    let (mut shown, mut held, mut more) = (Vec::new(), 0, false);
    while let Some(batch) = rows.next().await {
        let batch = batch.map_err(Error::of_rows)?;
        let take = batch.num_rows().min(rows_max - held);
        more = take < batch.num_rows();
        held += take;
        shown.push(batch.slice(0, take));
        if more {
            break;
        }
    }
    drop(rows);
    if shown.is_empty() {
        shown.push(RecordBatch::new_empty(schema));
    }
    let text = arrow::util::pretty::pretty_format_batches(&shown).map_err(arrow_error)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").map_err(output_error)?;
    let rest = if more { "; there are more: --max-rows, or another --format" } else { "" };
    tell(&format!("{held} rows{rest}"));
    Ok(())
}

/// Rows in every format but the table.
enum RowWriter {
    Separated(Box<arrow::csv::Writer<Out>>, SchemaRef),
    Json(Box<ArrayWriter<Out>>),
    Ndjson(Box<LineDelimitedWriter<Out>>),
    Parquet(Box<ArrowWriter<Out>>),
}

impl RowWriter {
    fn new(format: Format, schema: SchemaRef) -> Result<Self> {
        let out = BufWriter::new(std::io::stdout());
        let separated = |out, delimiter| {
            let writer = WriterBuilder::new().with_header(true).with_delimiter(delimiter).build(out);
            Self::Separated(Box::new(writer), schema.clone())
        };
        Ok(match format {
            Format::Tsv => separated(out, b'\t'),
            Format::Json => Self::Json(Box::new(ArrayWriter::new(out))),
            Format::Ndjson => Self::Ndjson(Box::new(LineDelimitedWriter::new(out))),
            Format::Parquet => {
                let writer = ArrowWriter::try_new(out, schema, None);
                Self::Parquet(Box::new(writer.map_err(|cause| arrow_error(cause.into()))?))
            }
            Format::Csv | Format::Table => separated(out, b','),
        })
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        match self {
            Self::Separated(writer, _) => writer.write(batch).map_err(arrow_error),
            Self::Json(writer) => writer.write(batch).map_err(arrow_error),
            Self::Ndjson(writer) => writer.write(batch).map_err(arrow_error),
            Self::Parquet(writer) => writer.write(batch).map_err(|cause| arrow_error(cause.into())),
        }
    }

    fn finish(self) -> Result<()> {
        match self {
            Self::Separated(mut writer, schema) => {
                // A result without rows still has its header.
                writer.write(&RecordBatch::new_empty(schema)).map_err(arrow_error)?;
                writer.into_inner().flush().map_err(output_error)
            }
            Self::Json(mut writer) => {
                writer.finish().map_err(arrow_error)?;
                let mut out = writer.into_inner();
                writeln!(out).and_then(|()| out.flush()).map_err(output_error)
            }
            Self::Ndjson(mut writer) => {
                writer.finish().map_err(arrow_error)?;
                writer.into_inner().flush().map_err(output_error)
            }
            Self::Parquet(writer) => {
                let mut out = writer.into_inner().map_err(|cause| arrow_error(cause.into()))?;
                out.flush().map_err(output_error)
            }
        }
    }
}

/// What a writer's refusal means; that of the pipe behind it stays recognisable.
fn arrow_error(cause: ArrowError) -> Error {
    match cause {
        ArrowError::IoError(_, io) => output_error(io),
        other if other.to_string().contains("Broken pipe") => {
            output_error(std::io::Error::from(std::io::ErrorKind::BrokenPipe))
        }
        other => {
            Error::user("the rows cannot be written in this format").because(other).hint("choose another --format")
        }
    }
}
