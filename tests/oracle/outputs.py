"""What freshet is asked to make of a source table: overrides and SQL, and which value each cell then has."""

from dataclasses import dataclass
from decimal import Decimal
from random import Random
from typing import Any

import pyarrow as pa

from column_types import BIT, BIT_64, BIT_FORMS, STATUS
from source_names import Names
from workload import GONE, INT, Column, Table

FALLBACK = "없음"


@dataclass
class Output:
    """A column of the final table: its source column, the override before the SQL and what the SQL makes of it."""

    column: Column
    name: str
    override: str | None = None
    change: str = "same"

    def sql(self) -> str:
        source = quoted(self.column.name)
        expression = {
            "same": source, "bit": f"bit({source})", "bit_to_int": f"bit_to_int({source})",
            "bigint": f"CAST({source} AS BIGINT)", "text": f"CAST({source} AS VARCHAR)",
            "coalesce": f"coalesce({source}, '{FALLBACK}')",
        }[self.change]
        return source if expression == quoted(self.name) else f"{expression} AS {quoted(self.name)}"


@dataclass
class Plan:
    """A table with the outputs it is to have; `sql` is None where the standard transform serves."""

    table: Table
    outputs: list[Output]
    sql: str | None = None
    delete_when: Output | None = None

    def key(self) -> list[str]:
        return [output.name for output in self.outputs if output.column.is_key]


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def is_int_to_decimal(column: Column) -> bool:
    return column.type is INT and bool(column.forms)


def random_plan(rng: Random, names: Names, table: Table) -> Plan:
    """Overrides and SQL for a table; must run before the table's files are written, as BIT forms may change."""
    has_sql = "sql" in table.features
    taken = {column.name.casefold() for column in table.columns}
    outputs = [Output(column, column.name, random_override(rng, table, column)) for column in table.columns]
    plan = Plan(table, outputs)
    if has_sql:
        plan.outputs = [output for output in outputs if not may_drop(output.column) or rng.random() < 0.9]
        for output in plan.outputs:
            if "rename" in table.features and rng.random() < 0.3:
                output.name = names.draw(taken)
            output.change = random_change(rng, table, output)
    if "delete_when" in table.features:
        plan.delete_when = next(output for output in plan.outputs if output.column.type is STATUS)
        plan.delete_when.change = "same"
    if has_sql:
        plan.sql = select(rng, plan)
    return plan


def may_drop(column: Column) -> bool:
    return not column.is_key and column.type is not STATUS


def random_override(rng: Random, table: Table, column: Column) -> str | None:
    if table.format.startswith("csv"):
        return column.type.override if rng.random() < 0.8 else None
    if "overrides" not in table.features or is_int_to_decimal(column) or rng.random() < 0.6:
        return None
    return column.type.override


def random_change(rng: Random, table: Table, output: Output) -> str:
    column, kind = output.column, output.column.type
    if kind is BIT and output.override is None and not column.is_key:
        if "bit_forms" in table.features and table.format.startswith("parquet"):
            column.forms = [(0, *rng.choice(BIT_FORMS)), (2, *rng.choice(BIT_FORMS))]
            return "bit"
        return rng.choice(["bit", "same"])
    if column.is_key or is_int_to_decimal(column) or rng.random() < 0.5:
        return "same"
    if kind is BIT_64:
        return "bit_to_int"
    if pa.types.is_integer(kind.parquet) and kind.parquet != pa.uint64():
        return rng.choice(["bigint", "text"]) if output.override != "NUMERIC" else "bigint"
    return "coalesce" if pa.types.is_string(kind.parquet) else "same"


def select(rng: Random, plan: Plan) -> str:
    """The table's SQL."""
    table = plan.table
    columns = [output.sql() for output in plan.outputs] + ["_cdc_operation", "_cdc_sequence"]
    name = quoted(table.name) if "all_queries" in table.features else f"{quoted(table.database)}.{quoted(table.name)}"
    lines = ["-- Generated.", "SELECT", "    " + ",\n    ".join(columns), f"FROM {name}"]
    if rng.random() < 0.7:
        key = ", ".join(quoted(column.name) for column in table.key)
        lines.append(f"QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY _cdc_sequence DESC) = 1")
    return "\n".join(lines) + "\n"


def final_type(table: Table, output: Output) -> pa.DataType:
    kind, column = output.column.type, output.column
    if output.change in ("bit", "bit_to_int", "bigint", "text"):
        return {"bit": pa.bool_(), "bit_to_int": pa.int64(), "bigint": pa.int64(), "text": pa.string()}[output.change]
    if is_int_to_decimal(column):
        return pa.decimal128(18, 2)
    if output.override is not None:
        return kind.final
    if table.format.startswith("csv"):
        return pa.string()
    return column.form(0)[0] if column.forms else kind.final


def final_value(table: Table, output: Output, value: Any) -> Any:
    """What stands in the final table for a value of the source."""
    kind, column = output.column.type, output.column
    if value is None:
        return FALLBACK if output.change == "coalesce" else None
    if output.change == "bit_to_int":
        return int.from_bytes(value, "big")
    if output.change == "text":
        return str(value)
    if is_int_to_decimal(column):
        return Decimal(value)
    if output.change in ("bit", "bigint") or output.override is not None:
        return value
    if table.format.startswith("csv"):
        return kind.text(value)
    mapping = column.form(0)[1]
    return value if mapping is None else mapping[value]


def final_table(plan: Plan) -> pa.Table:
    """The final rows, from the rows that the source has."""
    rows = list(plan.table.rows.values())
    if plan.delete_when is not None:
        name = plan.delete_when.column.name
        rows = [row for row in rows if row[name] != GONE]
    columns = {}
    for output in plan.outputs:
        values = [final_value(plan.table, output, row[output.column.name]) for row in rows]
        columns[output.name] = pa.array(values, final_type(plan.table, output))
    return pa.table(columns)
