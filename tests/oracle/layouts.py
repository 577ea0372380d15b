"""Where AWS DMS, or the steps after it, put change files, and how their bytes are written."""

import csv
import gzip
import io
from datetime import datetime
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq

from workload import Change, Table

# https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Target.S3.html (DatePartitionSequence, DatePartitionDelimiter)
DATE_FOLDERS = [["%Y", "%m", "%d"], ["%Y", "%m", "%d", "%H"], ["%Y", "%m"], ["%m", "%Y", "%d"], ["%d", "%m", "%Y"]]
DELIMITERS = ["/", "-", "_", ""]
PREFIXES = ["", "cdc/", "export/dms/"]
CSV_NULL = "\\N"


class Layout:
    """How the files of one database are named."""

    def __init__(self, rng: Random, without: set[str]):
        self.prefix = rng.choice(PREFIXES)
        self.style = rng.choice(["plain"] if "dates" in without else ["plain", "dates", "user"])
        self.date_parts = rng.choice(DATE_FOLDERS)
        self.delimiter = rng.choice(DELIMITERS)
        self.time_digits = rng.choice([9, 10])

    def load_path(self, table: Table, number: int) -> str:
        return f"{self.prefix}{table.database}/{table.name}/LOAD{number:08X}.{table.format}"

    def change_path(self, table: Table, time: datetime) -> str:
        folder = f"{self.prefix}{table.database}/{table.name}"
        if self.style == "user":
            return f"{folder}/{time:%Y/%m/%d}/{time:%Y%m%d%H%M%S}_{table.name}.{table.format}"
        fraction = f"{time.microsecond // 1000:03}" + "0" * (self.time_digits - 9)
        name = f"{time:%Y%m%d}-{time:%H%M%S}{fraction}.{table.format}"
        if self.style == "dates":
            folder += "/" + self.delimiter.join(time.strftime(part) for part in self.date_parts)
        return f"{folder}/{name}"


def change_sequence(change: Change) -> str:
    """AR_H_CHANGE_SEQ: YYYYMMDDHHmmSShh and a counter of 19 digits."""
    return f"{change.commit:%Y%m%d%H%M%S}{change.commit.microsecond // 10_000:02}{change.number:019}"


def before_columns(table: Table) -> list:
    return {"none": [], "key": table.key, "all": table.columns}[table.before_images]


def change_columns(table: Table, file: int, changes: list[Change]) -> dict[str, tuple[pa.DataType, list]]:
    """A change file's columns: name, Parquet type and values as they stand in Parquet."""
    columns = {"Op": (pa.string(), [change.operation for change in changes])}
    columns |= data_columns(table, file, [change.row for change in changes])
    # Before-images are told of updates alone.
    before = data_columns(table, file, [change.before or {} for change in changes], before_columns(table))
    columns |= {f"BI_{name}": column for name, column in before.items()}
    if "exact" in table.features:
        columns["AR_H_CHANGE_SEQ"] = (pa.string(), [change_sequence(change) for change in changes])
    return columns | timestamps(table, [change.commit for change in changes])


def load_columns(table: Table, rows: list[dict]) -> dict[str, tuple[pa.DataType, list]]:
    """A load file's columns; its timestamp is when rows were carried over, later than the first changes."""
    columns = {"Op": (pa.string(), ["I"] * len(rows))} if table.operation_in_load else {}
    return columns | data_columns(table, 0, rows) | timestamps(table, [table.times[0]] * len(rows))


def timestamps(table: Table, times: list[datetime]) -> dict:
    if table.timestamp_column is None:
        return {}
    return {table.timestamp_column: (pa.string(), [f"{time:%Y-%m-%d %H:%M:%S.%f}" for time in times])}


def data_columns(table: Table, file: int, rows: list[dict], only: list | None = None) -> dict:
    columns = {}
    for column in table.columns if only is None else only:
        if column.since > file:
            continue
        kind, mapping = column.form(file)
        values = [row.get(column.name) for row in rows]
        if table.format.startswith("csv"):
            values = [None if value is None else column.type.text(value) for value in values]
            kind = pa.string()
        elif mapping is not None:
            values = [None if value is None else mapping[value] for value in values]
        columns[column.name] = (kind, values)
    return columns


def encode(table: Table, columns: dict[str, tuple[pa.DataType, list]], rng: Random) -> bytes:
    """The bytes of a file with these columns, in the table's format."""
    data = csv_bytes(columns, not table.is_headerless) if table.format.startswith("csv") else parquet_bytes(columns, rng)
    return gzip.compress(data, mtime=0) if table.format.endswith(".gz") else data


def parquet_bytes(columns: dict, rng: Random) -> bytes:
    out = io.BytesIO()
    arrays = [pa.array(values, kind) for kind, values in columns.values()]
    pq.write_table(pa.Table.from_arrays(arrays, names=list(columns)), out, store_schema=False,
                   compression=rng.choice(["snappy", "gzip", "none"]), row_group_size=rng.choice([7, 10_000]),
                   use_dictionary=rng.random() < 0.8)
    return out.getvalue()


def csv_bytes(columns: dict, header: bool) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    if header:
        writer.writerow(columns)
    for row in zip(*(values for _, values in columns.values()), strict=True):
        writer.writerow([CSV_NULL if value is None else value for value in row])
    return out.getvalue().encode()
