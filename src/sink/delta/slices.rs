//! A merge in slices of the key space: each holds a part of the keys, so that memory bounds no merge.
//!
//! Every change is guarded by itself, so slices may be merged one by one, repeated, and cut differently next time.

use std::sync::Arc;

use arrow::array::UInt64Array;
use arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::common::hash_utils::{RandomState, create_hashes};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, lit,
};

/// One of several slices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slice {
    /// Its number, from 0.
    pub(super) number: u64,
    /// How many there are.
    pub(super) of: u64,
}

impl Slice {
    /// Whether a row with this key is in the slice.
    pub(super) fn holds(self, key: Vec<Expr>) -> Expr {
        ScalarUDF::new_from_impl(SliceOfKey::new(self.of)).call(key).eq(lit(self.number))
    }
}

/// The slice that a key belongs to: a hash of its values, the same wherever they stand.
#[derive(Debug, PartialEq, Eq, Hash)]
struct SliceOfKey {
    of: u64,
    signature: Signature,
}

impl SliceOfKey {
    fn new(of: u64) -> Self {
        Self { of: of.max(1), signature: Signature::variadic_any(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for SliceOfKey {
    fn name(&self) -> &str {
        "freshet_slice_of_key"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::UInt64)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let columns = ColumnarValue::values_to_arrays(&arguments.args)?;
        let mut hashes = vec![0; arguments.number_rows];
        create_hashes(&columns, &RandomState::with_seed(0), &mut hashes)?;
        let slices = hashes.iter().map(|hash| hash % self.of);
        Ok(ColumnarValue::Array(Arc::new(UInt64Array::from_iter_values(slices))))
    }
}
