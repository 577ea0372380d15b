#!/usr/bin/env python3
"""A real source: a MariaDB with a random workload, whose binlog becomes change files as AWS DMS writes them.

    python tests/oracle/mariadb_source.py SEED OUT

Starts a MariaDB of its own (Debian's mariadb-server) in a folder of its own, reachable by a socket alone. Three sessions
with transactions open side by side change three tables: inserts, updates, deletes, changes of keys, several changes of one row in one transaction,
rollbacks, transactions in each other's way. A full load is taken midway, within one snapshot. OUT then holds

    data/shop/<table>/LOAD*.parquet, *.parquet.gz   the load, and the changes after it with AR_H_CHANGE_SEQ and BI_ columns
    expected/                                       SELECT * of each table in the end, see expected.py
    freshet.yaml                                    the tables and their keys

DMS takes the time of a change from its commit and counts changes up; here the binlog's order is counted.
"""

import datetime
import gzip
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pymysql
from pymysql.constants import ER
from pymysqlreplication import BinLogStreamReader
from pymysqlreplication.event import XidEvent
from pymysqlreplication.row_event import DeleteRowsEvent, UpdateRowsEvent, WriteRowsEvent

import expected

DATABASE = "shop"
SESSIONS = 3
STATEMENTS = 15_000
FILE_CHANGES = 40
START_SECONDS = 60
PASSING_ERRORS = {ER.LOCK_WAIT_TIMEOUT, ER.LOCK_DEADLOCK, ER.DUP_ENTRY, ER.CHECKREAD}


@dataclass
class Column:
    name: str
    sql: str
    arrow: pa.DataType
    make: object


@dataclass
class Table:
    name: str
    key: list[str]
    columns: list[Column]

    def ddl(self) -> str:
        columns = ", ".join(f"`{column.name}` {column.sql}" for column in self.columns)
        key = ", ".join(f"`{name}`" for name in self.key)
        return f"CREATE TABLE `{self.name}` ({columns}, PRIMARY KEY ({key})) ENGINE=InnoDB CHARACTER SET utf8mb4"


def sometimes(make):
    return lambda rng: None if rng.random() < 0.15 else make(rng)


def moment(rng) -> datetime.datetime:
    return datetime.datetime(2024, 5, 6) + datetime.timedelta(microseconds=rng.randrange(10**12))


def text(rng) -> str:
    return rng.choice(["출금 요청", "it's", "a\"b\\", "", "🎰 잭팟", "NULL", "line\nbreak"]) + str(rng.randrange(100))


AMOUNT = Column("amount", "DECIMAL(18,4)", pa.decimal128(18, 4),
                sometimes(lambda rng: Decimal(rng.randrange(-10**17, 10**17)).scaleb(-4)))
TABLES = [
    Table("users", ["id"], [
        Column("id", "BIGINT NOT NULL", pa.int64(), lambda rng: rng.randrange(30)),
        Column("name", "VARCHAR(200)", pa.string(), sometimes(text)),
        AMOUNT,
        Column("created_at", "DATETIME(6)", pa.timestamp("us"), sometimes(moment)),
        Column("born", "DATE", pa.date32(), sometimes(lambda rng: moment(rng).date())),
        Column("score", "DOUBLE", pa.float64(), sometimes(lambda rng: rng.randrange(-10**9, 10**9) / 8)),
    ]),
    Table("bets", ["user id", "round"], [
        Column("user id", "INT UNSIGNED NOT NULL", pa.int64(), lambda rng: rng.randrange(8)),
        Column("round", "VARCHAR(20) COLLATE utf8mb4_bin NOT NULL", pa.string(), lambda rng: rng.choice("abcdeABC한")),
        AMOUNT,
        Column("state", "TINYINT", pa.int8(), sometimes(lambda rng: rng.randrange(-5, 5))),
    ]),
    Table("select", ["group"], [
        Column("group", "SMALLINT NOT NULL", pa.int16(), lambda rng: rng.randrange(20)),
        Column("order", "LONGTEXT", pa.string(), sometimes(text)),
        Column("raw", "VARBINARY(20)", pa.binary(), sometimes(lambda rng: rng.randbytes(rng.randrange(5)) + b"x")),
    ]),
]


class Server:
    """A MariaDB in a folder of its own."""

    def __init__(self, folder: Path):
        self.socket = str(folder / "s")
        data = folder / "data"
        self.log = folder / "log"
        log = open(self.log, "wb")
        as_root = ["--user=root"] if os.geteuid() == 0 else []
        made = subprocess.run(["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db",
                               "--auth-root-authentication-method=normal", *as_root], stdout=log, stderr=log)
        if made.returncode:
            self.give_up("MariaDB's folder cannot be made")
        self.process = subprocess.Popen(
            [shutil.which("mariadbd", path="/usr/sbin:/usr/bin:/usr/local/bin"), "--no-defaults", f"--datadir={data}",
             *as_root, "--skip-networking", f"--socket={self.socket}", "--log-bin=binlog", "--server-id=1",
             "--binlog-format=ROW", "--binlog-row-image=FULL", "--binlog-row-metadata=FULL",
             "--innodb-lock-wait-timeout=0", "--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=32M",
             "--innodb-stats-persistent=0", "--default-time-zone=+00:00"], stdout=log, stderr=log)

    def connect(self, database: str | None = DATABASE):
        return pymysql.connect(unix_socket=self.socket, user="root", database=database, charset="utf8mb4")

    def give_up(self, what: str):
        sys.exit(f"{what}:\n{self.log.read_text(errors='replace')[-4_000:]}")

    def wait(self):
        for _ in range(START_SECONDS * 10):
            try:
                return self.connect(None).close()
            except pymysql.OperationalError:
                if self.process.poll() is not None:
                    self.give_up("MariaDB does not start")
                time.sleep(0.1)
        self.give_up("MariaDB does not answer")

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Workload:
    """Sessions that take turns, each in a transaction of its own."""

    def __init__(self, server: Server, rng: random.Random):
        self.rng = rng
        self.sessions = [server.connect() for _ in range(SESSIONS)]

    def run(self, statements: int):
        for _ in range(statements):
            session = self.rng.choice(self.sessions)
            try:
                self.step(session)
            except pymysql.MySQLError as error:
                if error.args[0] not in PASSING_ERRORS:
                    raise
                session.rollback()
        for session in self.sessions:
            session.commit()

    def step(self, session):
        luck = self.rng.random()
        if luck < 0.25:
            return session.commit()
        if luck < 0.30:
            return session.rollback()
        table = self.rng.choice(TABLES)
        row = {column.name: column.make(self.rng) for column in table.columns}
        where = " AND ".join(f"`{name}` = %s" for name in table.key)
        key = [row[name] for name in table.key]
        names = ", ".join(f"`{name}`" for name in row)
        others = [column for column in table.columns if column.name not in table.key]
        with session.cursor() as cursor:
            if luck < 0.55:
                marks = ", ".join(["%s"] * len(row))
                cursor.execute(f"INSERT INTO `{table.name}` ({names}) VALUES ({marks})", list(row.values()))
            elif luck < 0.80:
                column = self.rng.choice(others)
                cursor.execute(f"UPDATE `{table.name}` SET `{column.name}` = %s WHERE {where}", [row[column.name], *key])
            elif luck < 0.90:
                name = self.rng.choice(table.key)
                column = next(column for column in table.columns if column.name == name)
                to = column.make(self.rng)
                cursor.execute(f"UPDATE `{table.name}` SET `{column.name}` = %s WHERE {where}", [to, *key])
            else:
                cursor.execute(f"DELETE FROM `{table.name}` WHERE {where}", key)


@dataclass
class Change:
    operation: str
    row: dict
    before: dict | None
    commit: datetime.datetime
    number: int


def all_rows(session, table: Table) -> list[dict]:
    with session.cursor(pymysql.cursors.DictCursor) as cursor:
        cursor.execute(f"SELECT * FROM `{table.name}`")
        return list(cursor.fetchall())


def changes_since(server: Server, file: str, position: int) -> dict[str, list[Change]]:
    """The changes of each table, in the order of the binlog."""
    stream = BinLogStreamReader(
        connection_settings={"unix_socket": server.socket, "user": "root", "host": None}, server_id=2, is_mariadb=True,
        log_file=file, log_pos=position, resume_stream=True, blocking=False,
        only_events=[WriteRowsEvent, UpdateRowsEvent, DeleteRowsEvent, XidEvent])
    out = {table.name: [] for table in TABLES}
    open_changes, number, latest = [], 0, datetime.datetime(1970, 1, 1)
    for event in stream:
        if isinstance(event, XidEvent):
            latest = max(latest, datetime.datetime.fromtimestamp(event.timestamp, datetime.UTC).replace(tzinfo=None))
            for table, operation, row, before in open_changes:
                number += 1
                out[table].append(Change(operation, row, before, latest, number))
            open_changes = []
            continue
        for row in event.rows:
            if isinstance(event, UpdateRowsEvent):
                open_changes.append((event.table, "U", row["after_values"], row["before_values"]))
            else:
                operation = "I" if isinstance(event, WriteRowsEvent) else "D"
                open_changes.append((event.table, operation, row["values"], None))
    stream.close()
    return out


def arrow_table(table: Table, rows: list[dict], prefix: str = "", only: list[str] | None = None) -> dict[str, pa.Array]:
    columns = [column for column in table.columns if only is None or column.name in only]
    return {prefix + column.name: pa.array([row.get(column.name) for row in rows], column.arrow) for column in columns}


def parquet(columns: dict[str, pa.Array], zipped: bool) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return gzip.compress(sink.getvalue(), mtime=0) if zipped else sink.getvalue()


def write_changes(table: Table, changes: list[Change], out: Path):
    for first in range(0, len(changes), FILE_CHANGES):
        some = changes[first:first + FILE_CHANGES]
        sequences = [f"{change.commit:%Y%m%d%H%M%S}00{change.number:019}" for change in some]
        columns = {"Op": pa.array([change.operation for change in some]), "AR_H_CHANGE_SEQ": pa.array(sequences)}
        columns |= arrow_table(table, [change.row for change in some])
        columns |= arrow_table(table, [change.before or {} for change in some], "BI_", table.key)
        # Names come from when a file is written: they say little of the order of changes.
        named = some[-1].commit + datetime.timedelta(milliseconds=first)
        name = f"{named:%Y%m%d-%H%M%S}{named.microsecond // 1000:03}.parquet.gz"
        (out / name).write_bytes(parquet(columns, True))


def main() -> int:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    rng, out = random.Random(int(sys.argv[1])), Path(sys.argv[2])
    with tempfile.TemporaryDirectory(prefix="mariadb") as folder:
        server = Server(Path(folder))
        try:
            server.wait()
            counts = run(server, rng, out)
        finally:
            server.stop()
    print(", ".join(f"{name} {count}" for name, count in counts.items()))
    if missing := [name for name, count in counts.items() if not count]:
        sys.exit(f"there are no {missing}")
    return 0


def run(server: Server, rng: random.Random, out: Path) -> dict[str, int]:
    session = server.connect(None)
    with session.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE `{DATABASE}`")
        cursor.execute(f"USE `{DATABASE}`")
        for table in TABLES:
            cursor.execute(table.ddl())
    Workload(server, rng).run(STATEMENTS // 5)
    with session.cursor() as cursor:
        # No session is at work, so that the snapshot and the binlog's position are one moment.
        cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT")
        cursor.execute("SHOW MASTER STATUS")
        file, position = cursor.fetchone()[:2]
    for table in TABLES:
        folder = out / "data" / DATABASE / table.name
        folder.mkdir(parents=True)
        (folder / "LOAD00000001.parquet").write_bytes(parquet(arrow_table(table, all_rows(session, table)), False))
    session.commit()
    Workload(server, rng).run(STATEMENTS)
    changes = changes_since(server, file, position)
    for table in TABLES:
        write_changes(table, changes[table.name], out / "data" / DATABASE / table.name)
    ends = [pa.table(arrow_table(table, all_rows(session, table))) for table in TABLES]
    entries = [{"database": DATABASE, "table": table.name, "key": table.key, "ignore": ["Op", "AR_H_*", "BI_*"]}
               for table in TABLES]
    expected.write(out / "expected", entries, ends)
    config = {
        "source": "data", "sink": {"delta": "out/tables"}, "ledger": "out/ledger",
        "databases": {DATABASE: {"tables": [{"name": table.name, "key": table.key, "order": "exact"}
                                            for table in TABLES]}},
    }
    (out / "freshet.yaml").write_text(json.dumps(config, indent=1))
    of = [change for table in TABLES for change in changes[table.name]]
    moved = sum(1 for table in TABLES for change in changes[table.name]
                if change.before and any(change.before[name] != change.row[name] for name in table.key))
    return {"changes": len(of), "deletes": sum(change.operation == "D" for change in of), "key updates": moved,
            "rows": sum(end.num_rows for end in ends)}


if __name__ == "__main__":
    sys.exit(main())
