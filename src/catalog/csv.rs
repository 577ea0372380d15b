//! Reads CSV: columns named by a header or by configuration, every value as text.
//!
//! Types are never guessed from values: one file of digits and one with letters would not agree, and `007`
//! would turn into 7. `schema_override` and CASTs say what a column is.

use std::io::{BufReader, Cursor, Read};
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use arrow::csv::ReaderBuilder;
use arrow::csv::reader::Format;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use futures::StreamExt;
use futures::stream::BoxStream;

use crate::catalog::content::Content;
use crate::catalog::opened::{RawRows, ReadRequest};
use crate::config::CsvConfig;
use crate::error::{Error, Result};

/// No CSV header is longer.
const HEADER_BYTES_MAX: u64 = 1 << 20;

/// How one CSV file is read.
#[derive(Debug, Clone)]
pub struct CsvBody {
    schema: SchemaRef,
    format: Format,
    header: bool,
    null: String,
}

/// Reads the header, if there is one.
///
/// # Errors
/// [`Data`](crate::error::Kind::Data) where there is no header or it is not text,
/// [`User`](crate::error::Kind::User) where neither header nor names are configured.
pub fn open(content: &Content, config: &CsvConfig) -> Result<(SchemaRef, CsvBody)> {
    let delimiter = u8::try_from(config.delimiter).map_err(|_| {
        Error::user(format!("the CSV delimiter {:?} is not one byte", config.delimiter)).hint("use , ; | or a tab")
    })?;
    let format = Format::default().with_header(config.header).with_delimiter(delimiter);
    let names =
        if config.columns.is_empty() { header(content, &format, config.header)? } else { config.columns.clone() };
    let fields: Vec<Field> = names.iter().map(|name| Field::new(name, DataType::Utf8, true)).collect();
    let schema = Arc::new(Schema::new(fields));
    let body = CsvBody { schema: Arc::clone(&schema), format, header: config.header, null: config.null.clone() };
    Ok((schema, body))
}

fn header(content: &Content, format: &Format, has_header: bool) -> Result<Vec<String>> {
    if !has_header {
        return Err(Error::user("a CSV file without a header needs its columns' names")
            .hint("set csv: {columns: [Op, id, …]} for the table, or csv: {header: true}"));
    }
    demand_line_end(content)?;
    let (schema, _) = format.infer_schema(reader(content)?, Some(0)).map_err(damaged)?;
    if schema.fields().is_empty() {
        return Err(Error::data("the CSV file has no header"));
    }
    Ok(schema.fields().iter().map(|field| field.name().clone()).collect())
}

/// A header without an end would be taken into memory many times over.
fn demand_line_end(content: &Content) -> Result<()> {
    let mut begin = Vec::new();
    reader(content)?
        .take(HEADER_BYTES_MAX)
        .read_to_end(&mut begin)
        .map_err(|cause| Error::retry("the file cannot be read now").because(cause))?;
    if begin.contains(&b'\n') || content.len() < HEADER_BYTES_MAX {
        return Ok(());
    }
    Err(Error::data(format!("the CSV header does not end within {HEADER_BYTES_MAX} bytes")).hint("is this a CSV file?"))
}

/// Reads the wanted columns of all rows.
pub fn read(content: &Content, body: &CsvBody, request: &ReadRequest) -> BoxStream<'static, Result<RawRows>> {
    let rows = start(content, body, request).map(|batches| {
        let mut next_row = 0_i64;
        futures::stream::iter(batches).map(move |batch| {
            let columns = batch.map_err(damaged)?;
            let first = next_row;
            next_row += i64::try_from(columns.num_rows()).map_err(|_| Error::data("too many rows"))?;
            Ok(RawRows { columns, rows: Int64Array::from_iter_values(first..next_row) })
        })
    });
    match rows {
        Ok(rows) => rows.boxed(),
        Err(error) => futures::stream::once(async { Err(error) }).boxed(),
    }
}

type Batches = Box<dyn Iterator<Item = std::result::Result<RecordBatch, arrow::error::ArrowError>> + Send>;

fn start(content: &Content, body: &CsvBody, request: &ReadRequest) -> Result<Batches> {
    let null = regex_of(&body.null)?;
    let builder = ReaderBuilder::new(Arc::clone(&body.schema))
        .with_format(body.format.clone().with_null_regex(null))
        .with_header(body.header)
        .with_batch_size(request.batch_rows)
        .with_projection(request.columns.clone());
    Ok(Box::new(builder.build(reader(content)?).map_err(damaged)?))
}

/// A pattern that matches just this text.
fn regex_of(text: &str) -> Result<regex::Regex> {
    regex::Regex::new(&format!("^{}$", regex::escape(text)))
        .map_err(|cause| Error::user(format!("the CSV null text {text:?} cannot be used")).because(cause))
}

fn reader(content: &Content) -> Result<Box<dyn Read + Send>> {
    match content {
        Content::Memory(bytes, _) => Ok(Box::new(Cursor::new(bytes.clone()))),
        Content::Staged(file) => Ok(Box::new(BufReader::new(file.reopen()?))),
        Content::Stored(_) => Err(Error::bug("a CSV file was not taken in before it is read")),
    }
}

fn damaged(cause: arrow::error::ArrowError) -> Error {
    Error::data("the file is not readable CSV")
        .because(cause)
        .hint("check csv: {header, columns, delimiter} of the table, and that the file is whole")
}
