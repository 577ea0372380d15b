"""A random source table and what happens to it: the changes in their true order, and the rows that remain.

The final rows come from applying each change to a dict as the source would, without a thought for files.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from random import Random
from typing import Any

import pyarrow as pa

from column_types import BIT, BIT_64, BIT_FORMS, INTEGERS, STATUS, TYPES, ColumnType, exact
from source_names import Names

FEATURES = {
    "load", "fuzzy_load", "late", "shuffled", "key_updates", "column_added", "int_to_decimal", "bit_forms", "exact",
    "no_timestamp", "csv", "headerless", "gzip", "sql", "all_queries", "key_from_sql", "rename", "mark", "delete_when",
    "dates", "overrides",
}
INT = next(kind for kind in INTEGERS if kind.name == "int")
GONE = "gone"


@dataclass
class Column:
    """A column of the source; `forms` are its Parquet types, each valid from one file on."""

    name: str
    type: ColumnType
    is_key: bool = False
    since: int = 0
    nulls: float = 0.0
    forms: list[tuple[int, pa.DataType, Any]] = field(default_factory=list)

    def form(self, file: int) -> tuple[pa.DataType, Any]:
        """The Parquet type in a file, and a mapping of values (None: as they are)."""
        found = [form for form in self.forms if form[0] <= file]
        return (found[-1][1], found[-1][2]) if found else (self.type.parquet, None)


@dataclass
class Change:
    """A row-level change. `commit` and `number` are its transaction's time and its place in the true order."""

    operation: str
    row: dict
    commit: datetime
    number: int
    before: dict | None = None


@dataclass
class Table:
    """A source table, its files and its final rows."""

    database: str
    name: str
    features: set[str]
    format: str
    columns: list[Column] = field(default_factory=list)
    timestamp_column: str | None = None
    before_images: str = "none"
    operation_in_load: bool = False
    load: list[dict] = field(default_factory=list)
    load_files: int = 1
    # files[n] holds the changes of change file n + 1, in row order; times[n] is the time in its name.
    files: list[list[Change]] = field(default_factory=list)
    times: list[datetime] = field(default_factory=list)
    rows: dict[tuple, dict] = field(default_factory=dict)

    @property
    def key(self) -> list[Column]:
        return [column for column in self.columns if column.is_key]

    @property
    def is_headerless(self) -> bool:
        """Whether its CSV files go without a header: all of them must then have the same columns."""
        return "headerless" in self.features and self.format.startswith("csv")

    def key_of(self, row: dict) -> tuple:
        return tuple(row[column.name] for column in self.key)


def random_table(rng: Random, names: Names, database: str, taken: set[str], without: set[str]) -> Table:
    """A table with columns, not yet with rows."""
    features = {feature for feature in sorted(FEATURES - without) if rng.random() < 0.5}
    if rng.random() < 0.9 and "load" not in without:
        features.add("load")
    if "exact" in features and rng.random() < 0.5:
        features.discard("exact")
    if "no_timestamp" in features and rng.random() < 0.7:
        features.discard("no_timestamp")
    kind = "csv" if "csv" in features and rng.random() < 0.6 else "parquet"
    table = Table(database, names.draw(taken), features, kind + (".gz" if "gzip" in features else ""))
    table.operation_in_load = rng.random() < 0.3
    if table.is_headerless:
        features -= {"column_added", "exact", "key_updates"}
        table.operation_in_load = True
    table.load_files = rng.choice([1, 1, 2, 11])
    columns_taken: set[str] = set()
    if "no_timestamp" not in features:
        table.timestamp_column = rng.choice(["cdc_timestamp", "dms_ts", "Commit Time", "커밋시각"])
        columns_taken.add(table.timestamp_column.casefold())
    add_key(rng, names, table, columns_taken)
    add_columns(rng, names, table, columns_taken)
    if "key_updates" in features:
        table.before_images = rng.choice(["key", "all"])
    return table


def add_key(rng: Random, names: Names, table: Table, taken: set[str]):
    kinds = [kind for kind in TYPES if kind.is_key]
    count = rng.choice([1, 1, 1, 2, 3])
    table.columns += [Column(names.draw(taken), rng.choice(kinds), is_key=True) for _ in range(count)]


def add_columns(rng: Random, names: Names, table: Table, taken: set[str]):
    for _ in range(rng.randint(2, 9)):
        column = Column(names.draw(taken), rng.choice(TYPES), nulls=rng.choice([0.0, 0.1, 0.5]))
        if column.type is BIT and table.format.startswith("parquet"):
            column.forms = [(0, *rng.choice(BIT_FORMS))]
        table.columns.append(column)
    if "delete_when" in table.features:
        table.columns.append(Column(names.draw(taken), STATUS, nulls=0.2))
    if "int_to_decimal" in table.features and table.format.startswith("parquet"):
        forms = [(0, pa.int32(), None), (2, pa.decimal128(18, 2), None)]
        table.columns.append(Column(names.draw(taken), INT, nulls=0.1, forms=forms))
    if "column_added" in table.features:
        table.columns.append(Column(names.draw(taken), rng.choice(TYPES), since=2, nulls=0.2))
    rng.shuffle(table.columns)


class Workload:
    """Runs transactions on a table and keeps them in their true order."""

    def __init__(self, rng: Random, table: Table):
        self.rng = rng
        self.table = table
        self.number = 0
        self.file = 0
        self.graves: list[tuple] = []

    def draw(self, column: Column) -> Any:
        if self.file < column.since or self.rng.random() < column.nulls:
            return None
        if column.forms and column.forms[-1][1] == pa.decimal128(18, 2) and column.type is INT:
            value = self.rng.randint(-(1 << 31), (1 << 31) - 1)
            return exact(value, 2) if self.file >= 2 else value
        return column.type.draw(self.rng)

    def unused_key(self) -> tuple | None:
        """A key that no row has now, sometimes one that a row had before."""
        if self.graves and self.rng.random() < 0.4:
            key = self.rng.choice(self.graves)
            if key not in self.table.rows:
                return key
        for _ in range(20):
            key = tuple(column.type.draw(self.rng) for column in self.table.key)
            if key not in self.table.rows:
                return key
        return None

    def with_key(self, row: dict, key: tuple) -> dict:
        return row | {column.name: value for column, value in zip(self.table.key, key)}

    def fresh_row(self, key: tuple) -> dict:
        row = {column.name: self.draw(column) for column in self.table.columns if not column.is_key}
        return self.with_key(row, key)

    def touched(self, row: dict) -> dict:
        free = [column for column in self.table.columns if not column.is_key]
        picked = self.rng.sample(free, self.rng.randint(1, len(free)))
        return row | {column.name: self.draw(column) for column in picked}

    def change(self, commit: datetime) -> Change | None:
        """One random change, applied to the table."""
        table, rows = self.table, self.table.rows
        kind = self.rng.choices(["insert", "update", "delete", "move"], [30, 45, 18, 12])[0]
        if kind == "insert" or not rows:
            key = self.unused_key()
            return None if key is None else self.record("I", self.fresh_row(key), commit)
        key = self.rng.choice(list(rows))
        before = rows[key]
        if kind == "delete":
            return self.record("D", before, commit)
        after = self.touched(before)
        if kind == "move" and "key_updates" in table.features and (new_key := self.moved_key(key)) is not None:
            after = self.with_key(after, new_key)
        return self.record("U", after, commit, before)

    def moved_key(self, key: tuple) -> tuple | None:
        """An unused key; of a composite key, sometimes only one part differs."""
        new_key = self.unused_key()
        if new_key is None or self.rng.random() < 0.5:
            return new_key
        part = self.rng.randrange(len(key))
        partly = key[:part] + new_key[part:part + 1] + key[part + 1:]
        return new_key if partly in self.table.rows else partly

    def record(self, operation: str, row: dict, commit: datetime, before: dict | None = None) -> Change:
        rows = self.table.rows
        gone = before if operation == "U" else row if operation == "D" else None
        if gone is not None:
            rows.pop(self.table.key_of(gone))
            self.graves.append(self.table.key_of(gone))
        if operation != "D":
            rows[self.table.key_of(row)] = row
        self.number += 1
        return Change(operation, row, commit, self.number, before)

    def transaction(self, commit: datetime) -> list[Change]:
        changes = [self.change(commit) for _ in range(self.rng.choice([1, 1, 2, 3, 5]))]
        return [change for change in changes if change is not None]

    def run(self):
        """Fills the table's load, files, times and final rows."""
        for _ in range(self.rng.randint(1, 60)):
            key = self.unused_key()
            if key is not None and "load" in self.table.features:
                self.table.rows[key] = self.fresh_row(key)
        loaded = dict(self.table.rows)
        count = self.rng.randint(2, 7)
        now = datetime(2023, 3, 15, tzinfo=timezone.utc) + timedelta(seconds=self.rng.randrange(86_400 * 600))
        windows: list[list[list[Change]]] = [[] for _ in range(count)]
        for n in range(count):
            self.file = n + 1
            for _ in range(self.rng.randint(1, 12)):
                now += timedelta(microseconds=self.rng.choice([1, 1000, self.rng.randrange(1, 3_000_000)]))
                windows[self.place(n, count)].append(self.transaction(now))
            now = now.replace(microsecond=0) + timedelta(seconds=self.rng.choice([1, 2, 60, 40_000]))
            self.table.times.append(now)
            if n == 0 and "fuzzy_load" in self.table.features:
                loaded = self.fuzzy(loaded)
        self.table.load = list(loaded.values()) if "load" in self.table.features else []
        self.table.files = [self.arranged(window) for window in windows]

    def place(self, n: int, count: int) -> int:
        """The file of a transaction: its time's, or where files may be late, sometimes a later one."""
        may = "late" in self.table.features and self.is_ordered_by_itself()
        return self.rng.randint(n, count - 1) if may and self.rng.random() < 0.15 else n

    def is_ordered_by_itself(self) -> bool:
        return self.table.timestamp_column is not None or "exact" in self.table.features

    def fuzzy(self, loaded: dict) -> dict:
        """A load that ran while the first changes came: some rows as before them, others as after."""
        keys = list(loaded | self.table.rows)
        later = {key for key in keys if self.rng.random() < 0.5}
        return {key: source[key] for key in keys if key in (source := self.table.rows if key in later else loaded)}

    def arranged(self, transactions: list[list[Change]]) -> list[Change]:
        """The row order in a file: rows of a transaction stay in order unless each row tells its own."""
        transactions = list(transactions)
        if "shuffled" in self.table.features and self.is_ordered_by_itself():
            self.rng.shuffle(transactions)
        changes = [change for transaction in transactions for change in transaction]
        if "shuffled" in self.table.features and "exact" in self.table.features:
            self.rng.shuffle(changes)
        return changes
