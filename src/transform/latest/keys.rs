//! The columns of the first pass as keys and orders that compare: numbers where both are one, else Arrow's row format.

use arrow::array::{AsArray, RecordBatch, UInt64Array};
use arrow::compute::SortOptions;
use arrow::datatypes::{Schema, UInt64Type};
use arrow::row::{RowConverter, SortField};
use datafusion::common::{Result, exec_datafusion_err};

use super::winners::{ByteWinners, Winners};
use super::words::{self, WordWinners};

/// How the columns of the first pass are to be understood: keys, then order, then the row's number.
#[derive(Debug, Clone)]
pub(super) struct KeyColumns {
    /// How many keys there are.
    pub(super) keys: usize,
    /// For each column of the order, how it is sorted.
    pub(super) order: Vec<SortOptions>,
}

/// Reads keys and orders.
pub(super) struct KeyReader {
    columns: KeyColumns,
    /// None where key and order are one number each.
    converters: Option<(RowConverter, RowConverter)>,
}

impl KeyReader {
    /// For batches of this schema.
    pub(super) fn new(columns: &KeyColumns, schema: &Schema) -> Result<Self> {
        let types = || schema.fields().iter().map(|field| field.data_type());
        let are_words = columns.keys == 1 && columns.order.len() == 1 && types().take(2).all(words::is_word);
        let keys = types().take(columns.keys).cloned().map(SortField::new).collect();
        let order = types().skip(columns.keys).cloned().zip(&columns.order);
        let order = order.map(|(data_type, options)| SortField::new_with_options(data_type, *options)).collect();
        let converters = || Ok::<_, arrow::error::ArrowError>((RowConverter::new(keys)?, RowConverter::new(order)?));
        let converters = if are_words { None } else { Some(converters()?) };
        Ok(Self { columns: columns.clone(), converters })
    }

    /// No winners yet, of the kind that it offers rows to.
    pub(super) fn winners(&self) -> Winners {
        match &self.converters {
            None => Winners::Words(WordWinners::default()),
            Some(_) => Winners::Bytes(ByteWinners::default()),
        }
    }

    /// Offers the batch's rows.
    pub(super) fn offer(&self, batch: &RecordBatch, winners: &mut Winners) -> Result<()> {
        let ids = batch.columns().last().and_then(|column| column.as_primitive_opt::<UInt64Type>());
        let ids = ids.ok_or_else(|| exec_datafusion_err!("rows have no numbers"))?;
        match (&self.converters, winners) {
            (None, Winners::Words(winners)) => self.offer_words(batch, ids, winners),
            (Some(converters), Winners::Bytes(winners)) => self.offer_bytes(batch, ids, converters, winners),
            _ => Err(exec_datafusion_err!("keys are offered as what they are not")),
        }
    }

    fn offer_words(&self, batch: &RecordBatch, ids: &UInt64Array, winners: &mut WordWinners) -> Result<()> {
        let options = self.columns.order.first().copied().unwrap_or_default();
        let keys = words::words(batch.column(0))?.into_iter();
        let orders = words::words(batch.column(1))?.into_iter();
        for ((key, order), id) in keys.zip(orders).zip(ids.values()) {
            winners.offer(key, words::place(order, options), *id);
        }
        Ok(())
    }

    fn offer_bytes(
        &self,
        batch: &RecordBatch,
        ids: &UInt64Array,
        (keys, orders): &(RowConverter, RowConverter),
        winners: &mut ByteWinners,
    ) -> Result<()> {
        let (key_columns, rest) = batch.columns().split_at(self.columns.keys);
        let keys = keys.convert_columns(key_columns)?;
        let orders = orders.convert_columns(&rest[..self.columns.order.len()])?;
        for ((key, order), id) in keys.iter().zip(orders.iter()).zip(ids.values()) {
            winners.offer(key.data(), order.data(), *id)?;
        }
        Ok(())
    }
}
