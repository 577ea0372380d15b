//! The columns of the first pass as keys and orders that compare: numbers where they are such, else Arrow's row format.

use arrow::array::{AsArray, RecordBatch, UInt64Array};
use arrow::compute::SortOptions;
use arrow::datatypes::{Schema, UInt64Type};
use arrow::row::{RowConverter, SortField};
use datafusion::common::{Result, exec_datafusion_err};

use super::winners::{ByteWinners, Winners};
use super::words::{self, Place, WordWinners};

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
    form: Form,
}

/// What keys and orders are compared as.
enum Form {
    /// One number each.
    Words,
    /// A number, and a sequence of changes.
    Sequences,
    /// Bytes.
    Rows(RowConverter, RowConverter),
}

impl KeyReader {
    /// For batches of this schema.
    pub(super) fn new(columns: &KeyColumns, schema: &Schema) -> Result<Self> {
        Ok(Self { columns: columns.clone(), form: Form::of(columns, schema)? })
    }

    /// No winners yet, of the kind that it offers rows to.
    pub(super) fn winners(&self) -> Winners {
        match &self.form {
            Form::Words => Winners::Words(WordWinners::default()),
            Form::Sequences => Winners::Sequences(WordWinners::default()),
            Form::Rows(..) => Winners::Bytes(ByteWinners::default()),
        }
    }

    /// Offers the batch's rows.
    pub(super) fn offer(&self, batch: &RecordBatch, winners: &mut Winners) -> Result<()> {
        let ids = batch.columns().last().and_then(|column| column.as_primitive_opt::<UInt64Type>());
        let ids = ids.ok_or_else(|| exec_datafusion_err!("rows have no numbers"))?;
        let options = self.columns.order.first().copied().unwrap_or_default();
        match (&self.form, winners) {
            (Form::Words, Winners::Words(winners)) => {
                let orders = words::words(batch.column(1))?.into_iter();
                offer_words(batch, orders.map(|order| words::place(order, options)), ids, winners)
            }
            (Form::Sequences, Winners::Sequences(winners)) => {
                let orders = batch.column(1).as_fixed_size_binary_opt();
                let orders = orders.ok_or_else(|| exec_datafusion_err!("rows have no sequences"))?;
                offer_words(batch, words::sequence_places(orders, options)?.into_iter(), ids, winners)
            }
            (Form::Rows(keys, orders), Winners::Bytes(winners)) => {
                self.offer_bytes(batch, ids, (keys, orders), winners)
            }
            _ => Err(exec_datafusion_err!("keys are offered as what they are not")),
        }
    }

    fn offer_bytes(
        &self,
        batch: &RecordBatch,
        ids: &UInt64Array,
        (keys, orders): (&RowConverter, &RowConverter),
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

impl Form {
    fn of(columns: &KeyColumns, schema: &Schema) -> Result<Self> {
        let fields = schema.fields();
        if let (1, 1, [key, order, ..]) = (columns.keys, columns.order.len(), &fields[..])
            && words::is_word(key.data_type())
        {
            if words::is_word(order.data_type()) {
                return Ok(Self::Words);
            }
            if words::is_sequence(order) {
                return Ok(Self::Sequences);
            }
        }
        let types = || fields.iter().map(|field| field.data_type().clone());
        let keys = types().take(columns.keys).map(SortField::new).collect();
        let order = types().skip(columns.keys).zip(&columns.order);
        let order = order.map(|(data_type, options)| SortField::new_with_options(data_type, *options)).collect();
        Ok(Self::Rows(RowConverter::new(keys)?, RowConverter::new(order)?))
    }
}

fn offer_words<P: Place>(
    batch: &RecordBatch,
    orders: impl Iterator<Item = P>,
    ids: &UInt64Array,
    winners: &mut WordWinners<P>,
) -> Result<()> {
    let keys = words::words(batch.column(0))?.into_iter();
    keys.zip(orders).zip(ids.values()).for_each(|((key, order), id)| winners.offer(key, order, *id));
    Ok(())
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field};

    use super::*;
    use crate::catalog::cdc::order_field;

    #[test]
    fn only_one_number_by_a_number_or_by_a_sequence_needs_no_bytes() {
        let of = |columns: &[Field], keys: usize| {
            let order = vec![SortOptions::default(); columns.len() - keys];
            let form = Form::of(&KeyColumns { keys, order }, &Schema::new(columns.to_vec())).unwrap();
            match form {
                Form::Words => "numbers",
                Form::Sequences => "sequences",
                Form::Rows(..) => "bytes",
            }
        };
        let number = Field::new("number", DataType::Int64, true);
        let text = Field::new("text", DataType::Utf8, true);
        let sequence = order_field();
        assert_eq!(of(&[number.clone(), number.clone()], 1), "numbers");
        assert_eq!(of(&[number.clone(), sequence.clone()], 1), "sequences");
        // Files may have bytes of that length, and none in a row.
        assert_eq!(of(&[number.clone(), sequence.clone().with_nullable(true)], 1), "bytes");
        assert_eq!(of(&[text, number.clone()], 1), "bytes");
        assert_eq!(of(&[number.clone(), number.clone(), sequence.clone()], 2), "bytes");
        assert_eq!(of(&[number.clone(), number, sequence], 1), "bytes");
    }
}
