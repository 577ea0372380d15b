"""The column types that MySQL tables have after AWS DMS: how values are drawn, and how they stand in files.

In Parquet a value has DMS's type
(https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Source.MySQL.html#CHAP_Source.MySQL.DataTypes); in CSV it
is text, and `override` is the type that `schema_override` may give it back. Decimals stay within NUMERIC.
"""

import struct
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from random import Random
from typing import Any, Callable

import pyarrow as pa

TEXTS = ["", "plain", " leading and trailing ", "tab\there", "comma, \"quote\"", "two\nlines", "cr\r\nlf", "한글 이름",
         "😀♠", "NULL", "null", "0", "b'1'", "'; DROP TABLE x; --", "back\\slash", "%_", "\u00e9", "e\u0301"]
KEY_TEXTS = ["a", "A", "a ", "b", "키", "O'Neil", "x\"y", "1", "01", "ß", "😀", "p/q", "-"]


@dataclass(frozen=True)
class ColumnType:
    """A type; `draw` gives values as Python keeps them."""

    name: str
    draw: Callable[[Random], Any]
    parquet: pa.DataType
    text: Callable[[Any], str]
    override: str | None
    # The type whose values the final table is expected to have, where it is read as what it is.
    final: pa.DataType
    is_key: bool = False


def integer(name: str, bits: int, signed: bool) -> ColumnType:
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    physical = getattr(pa, f"{'' if signed else 'u'}int{bits}")()
    wide = bits == 64 and not signed

    def draw(rng: Random) -> int:
        return rng.choice([rng.randint(low, high), rng.randint(0, min(high, 1000)), low, high])

    final = pa.decimal128(38, 9) if wide else pa.int64()
    return ColumnType(name, draw, physical, str, "NUMERIC" if wide else "INT64", final, is_key=bits >= 32)


def decimal(precision: int, scale: int) -> ColumnType:
    top = 10**precision - 1

    def draw(rng: Random) -> Decimal:
        return exact(rng.choice([rng.randint(-top, top), rng.randint(-999, 999), top, -top]), scale)

    name = f"decimal({precision},{scale})"
    physical = pa.decimal128(precision, scale)
    return ColumnType(name, draw, physical, lambda value: f"{value:f}", "NUMERIC", physical, is_key=scale == 0)


def exact(units: int, scale: int) -> Decimal:
    """units / 10^scale, however many digits that has."""
    return Decimal((int(units < 0), tuple(int(digit) for digit in str(abs(units))), -scale))


def draw_float(rng: Random) -> float:
    value = rng.choice([rng.uniform(-1e6, 1e6), 0.1, -0.5, 1e30, 3.0])
    return struct.unpack("<f", struct.pack("<f", value))[0]


def draw_double(rng: Random) -> float:
    return rng.choice([rng.uniform(-1e9, 1e9), 0.1, 1 / 3, 1e300, 5e-324, -2.5, 0.0])


def draw_date(rng: Random) -> date:
    return rng.choice([date(2023, 1, 1) + timedelta(days=rng.randrange(700)), date(1000, 1, 1), date(9999, 12, 31)])


def moments(unit: str, zone: timezone | None) -> Callable[[Random], datetime]:
    def draw(rng: Random) -> datetime:
        seconds = timedelta(seconds=rng.randrange(2_000_000_000))
        fraction = rng.choice([0, rng.randrange(10**6) if unit == "us" else rng.randrange(1000) * 1000])
        return datetime(1971, 1, 1, tzinfo=zone) + seconds + timedelta(microseconds=fraction)
    return draw


def moment(name: str, unit: str, zone: timezone | None) -> ColumnType:
    tz = "UTC" if zone else None

    def text(value: datetime) -> str:
        return value.strftime("%Y-%m-%d %H:%M:%S.%f" if unit == "us" else "%Y-%m-%d %H:%M:%S") + (
            f".{value.microsecond // 1000:03}" if unit == "ms" else "")

    override = "TIMESTAMP" if zone else "DATETIME"
    return ColumnType(name, moments(unit, zone), pa.timestamp(unit, tz), text, override, pa.timestamp("us", tz))


def text(name: str, draw: Callable[[Random], str], is_key: bool = False) -> ColumnType:
    return ColumnType(name, draw, pa.string(), lambda value: value, "STRING", pa.string(), is_key)


def draw_key_text(rng: Random) -> str:
    return rng.choice(KEY_TEXTS) + rng.choice(["", str(rng.randrange(100_000))])


UTC = timezone.utc
STATUS = text("enum", lambda rng: rng.choice(["new", "open", "gone"]))
BIT = ColumnType("bit(1)", lambda rng: rng.random() < 0.5, pa.bool_(), lambda value: "01"[value], "BOOL", pa.bool_())
BIT_64 = ColumnType("bit(64)", lambda rng: rng.choice([rng.getrandbits(63), 0, 1, 258]).to_bytes(8, "big"), pa.binary(),
                    lambda value: str(int.from_bytes(value, "big")), None, pa.binary())
WIDTHS = [("tinyint", 8), ("smallint", 16), ("int", 32), ("bigint", 64)]
INTEGERS = [integer(name if signed else f"{name} unsigned", bits, signed)
            for name, bits in WIDTHS for signed in (True, False)]
TYPES = [
    *INTEGERS,
    *[decimal(*digits) for digits in [(5, 0), (10, 2), (15, 2), (18, 6), (20, 9), (38, 9)]],
    ColumnType("float", draw_float, pa.float32(), repr, "FLOAT64", pa.float64()),
    ColumnType("double", draw_double, pa.float64(), repr, "FLOAT64", pa.float64()),
    ColumnType("year", lambda rng: rng.randint(1901, 2155), pa.int16(), str, "INT64", pa.int64()),
    ColumnType("date", draw_date, pa.date32(), date.isoformat, "DATE", pa.date32(), is_key=True),
    moment("datetime", "ms", None), moment("datetime(6)", "us", None),
    moment("timestamp", "ms", UTC), moment("timestamp(6)", "us", UTC),
    text("time", lambda rng: f"{rng.randrange(-30, 100):02}:{rng.randrange(60):02}:{rng.randrange(60):02}"),
    text("varchar", lambda rng: rng.choice(TEXTS)),
    text("varchar key", draw_key_text, is_key=True),
    text("json", lambda rng: f'{{"n": {rng.randrange(100)}, "이름": "값"}}'),
    STATUS,
    ColumnType("blob", lambda rng: rng.randbytes(rng.randrange(0, 9)), pa.binary(), bytes.hex, None, pa.binary()),
    BIT, BIT, BIT_64,
]

# The forms in which a BIT(1) arrives in Parquet, after whatever steps the files went through.
BIT_FORMS: list[tuple[pa.DataType, dict[bool, Any]]] = [
    (pa.bool_(), {False: False, True: True}),
    (pa.string(), {False: "b'0'", True: "b'1'"}),
    (pa.string(), {False: "0", True: "1"}),
    (pa.string(), {False: "\x00", True: "\x01"}),
    (pa.string(), {False: "\\x00", True: "\\x01"}),
    (pa.string(), {False: "false", True: "true"}),
    (pa.int8(), {False: 0, True: 1}),
    (pa.int64(), {False: 0, True: 1}),
    (pa.binary(), {False: b"\x00", True: b"\x01"}),
]
