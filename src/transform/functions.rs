//! SQL functions that freshet adds: MySQL's BIT in all the forms it arrives in.

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use datafusion::common::{Result, exec_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use crate::catalog::{bits, casts};
use crate::error::Error;

/// All functions, for registering.
pub fn all() -> Vec<ScalarUDF> {
    [BitFunction::boolean(), BitFunction::integer()].map(ScalarUDF::new_from_impl).into()
}

/// `bit(x)` → BOOLEAN, `bit_to_int(x)` → BIGINT.
#[derive(Debug, PartialEq, Eq, Hash)]
struct BitFunction {
    name: &'static str,
    to: DataType,
    signature: Signature,
}

impl BitFunction {
    fn boolean() -> Self {
        Self { name: "bit", to: DataType::Boolean, signature: Signature::any(1, Volatility::Immutable) }
    }

    fn integer() -> Self {
        Self { name: "bit_to_int", to: DataType::Int64, signature: Signature::any(1, Volatility::Immutable) }
    }

    fn convert(&self, array: &ArrayRef) -> Result<ArrayRef> {
        let (converted, wanted) = match self.to {
            DataType::Boolean => (bits::to_boolean(array), "a BIT(1): 0, 1, b'0', b'1', \\x00, \\x01, true or false"),
            _ => (bits::to_integer(array), "a BIT of up to 63 bits"),
        };
        converted.map_err(|bad| {
            Error::data(format!("{}({}): the value is not {wanted}", self.name, casts::shown(array, bad.index))).into()
        })
    }
}

impl ScalarUDFImpl for BitFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments {
            [from] if bits::possible(from) => Ok(self.to.clone()),
            [from] => plan_err!("{} takes a BIT as integer, text, bytes or Boolean, not {from}", self.name),
            _ => plan_err!("{} takes one argument", self.name),
        }
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(argument) = arguments.args.into_iter().next() else {
            return exec_err!("{} takes one argument", self.name);
        };
        match argument {
            ColumnarValue::Array(array) => Ok(ColumnarValue::Array(self.convert(&array)?)),
            ColumnarValue::Scalar(scalar) => {
                let one = self.convert(&scalar.to_array_of_size(1)?)?;
                Ok(ColumnarValue::Scalar(datafusion::common::ScalarValue::try_from_array(&one, 0)?))
            }
        }
    }
}

/// What a reader is to know of them: name, result, meaning.
pub const DOCUMENTATION: [(&str, &str, &str); 2] = [
    (
        "bit(x)",
        "BOOLEAN",
        "MySQL BIT(1) from 0/1, '0'/'1', b'0', \\x00/\\x01, true/false or a raw byte; anything else is an error",
    ),
    ("bit_to_int(x)", "BIGINT", "MySQL BIT of any width, from bytes (big-endian), b'101', \\x05 or an integer"),
];
