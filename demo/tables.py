"""The five tables of the demo: their columns, and the shapes in which the columns arrive.

A `Column` draws plain values (a BIT is a bool, a BIT(64) an int). How a value stands in a file is told by the
column's forms, each valid from one file on: that is how one table changes a column's shape half-way.
File 0 is the full load, 1 to 6 are the change files.
"""

import json
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from random import Random
from typing import Any, Callable

import pyarrow as pa

FILES = 7
MILLIS_UTC = pa.timestamp("ms", tz="UTC")
MICROS_UTC = pa.timestamp("us", tz="UTC")
MONEY = pa.decimal128(15, 2)
DAY = datetime(2023, 3, 15, tzinfo=timezone.utc)

NICKNAMES = ["행운의용", "달빛도박사", "lucky_77", "강남스타일", "Ace♠", "복돌이", "질풍노도", "O'Neil", "민들레", "새벽 세시"]
MEMOS = ["신규 가입 보너스", "이벤트 당첨금", "환불 처리", "VIP 캐시백", "수수료 면제, 담당자 확인", "계좌 \"확인\" 필요", ""]
GAMES = ["baccarat", "blackjack", "roulette", "sicbo", "용호대전"]


@dataclass(frozen=True)
class Form:
    """How values stand in the files from number `since` on."""

    since: int
    type: pa.DataType
    write: Callable[[Any], Any] = lambda value: value


@dataclass(frozen=True)
class Column:
    """A column: how to draw a value, how it is written, and what the table's SQL makes of it."""

    name: str
    draw: Callable[[Random], Any]
    forms: list[Form]
    out: pa.DataType
    nulls: float = 0.0
    since: int = 0

    def form(self, file: int) -> Form:
        return [form for form in self.forms if form.since <= file][-1]


@dataclass(frozen=True)
class Table:
    """A table; `key` columns hold what `fresh_key(n, rng)` gives for the n-th row."""

    database: str
    name: str
    key: list[str]
    fresh_key: Callable[[int, Random], tuple]
    columns: list[Column]
    has_late_file: bool = False
    # Output columns that the table's SQL computes: their type and value, by name.
    computed: dict[str, tuple[pa.DataType, Callable[[dict], Any]]] = field(default_factory=dict)


def column(name, draw, type_, out=None, nulls=0.0, since=0) -> Column:
    """A column that arrives in one shape only."""
    return Column(name, draw, [Form(0, type_)], out or type_, nulls, since)


def bit(name, forms, nulls=0.0) -> Column:
    """A BIT(1): a bool that arrives in the given forms."""
    return Column(name, lambda rng: rng.random() < 0.3, forms, pa.bool_(), nulls)


def bit_64(name, nulls=0.0) -> Column:
    """A BIT(64): AWS DMS writes it as 8 bytes, the most significant first."""
    form = Form(0, pa.binary(), lambda value: value.to_bytes(8, "big"))
    return Column(name, lambda rng: rng.getrandbits(40), [form], pa.int64(), nulls)


def pick(values):
    return lambda rng: rng.choice(values)


def number(low, high):
    return lambda rng: rng.randint(low, high)


def money(low, high):
    return lambda rng: Decimal(rng.randint(low * 100, high * 100)).scaleb(-2)


def moment(rng: Random) -> datetime:
    return DAY + timedelta(milliseconds=rng.randrange(-86_400_000, 43_200_000))


def time_text(rng: Random) -> str:
    """A MySQL TIME, which may exceed a day; AWS DMS writes it as text."""
    return f"{rng.choice([0, 1, 2, 5, 26]):02}:{rng.randrange(60):02}:{rng.randrange(60):02}"


def json_text(*names):
    return lambda rng: json.dumps({name: rng.randrange(1000) for name in names} | {"메모": rng.choice(NICKNAMES)},
                                  ensure_ascii=False)


def win_percent(row: dict) -> int | None:
    return row["wins"] * 100 // row["games_played"] if row["games_played"] else None


def text_moment(value: datetime) -> str:
    return value.strftime("%Y-%m-%d %H:%M:%S.") + f"{value.microsecond // 1000:03}"


USER_ACTIONS = Table(
    "casino_db1", "user_actions", ["action_id"], lambda n, rng: (900_000 + n,),
    [
        column("action_id", None, pa.int64()),
        column("user_id", number(1, 3_000_000_000), pa.uint32(), pa.int64()),
        column("action_type", pick(["login", "bet", "win", "deposit", "withdraw", "bonus"]), pa.string()),
        # The load was written by a step that made text of it; AWS DMS writes a TIMESTAMP.
        Column("timestamp", moment, [Form(0, pa.string(), text_moment), Form(1, MILLIS_UTC)], MICROS_UTC),
        bit("is_bonus", [Form(0, pa.bool_())], nulls=0.1),
        column("details", json_text("round", "bet"), pa.string(), nulls=0.2),
        column("device", pick(["ios", "android", "web", "키오스크"]), pa.string(), nulls=0.1, since=4),
    ],
)

GAME_SESSIONS = Table(
    "casino_db1", "game_sessions", ["sessionId"], lambda n, rng: (f"S-{rng.getrandbits(48):012x}-{n}",),
    [
        column("sessionId", None, pa.string()),
        column("user_id", number(1, 3_000_000_000), pa.uint32(), pa.int64()),
        column("gameCode", pick(GAMES), pa.string()),
        column("nickname", pick(NICKNAMES), pa.string(), nulls=0.1),
        column("started_at", moment, MILLIS_UTC, MICROS_UTC),
        column("ended_at", moment, MILLIS_UTC, MICROS_UTC, nulls=0.3),
        column("play_time", time_text, pa.string(), nulls=0.2),
        column("rounds", number(0, 65_535), pa.uint16(), pa.int64()),
        column("bet_total", money(0, 5_000_000), MONEY),
        bit("isMobile", [Form(0, pa.string(), lambda value: "b'1'" if value else "b'0'")], nulls=0.1),
        bit_64("feature_flags", nulls=0.1),
    ],
)

TRANSACTIONS = Table(
    "casino_db1", "transactions", ["transaction_id"], lambda n, rng: (5_000_000_000 + n,),
    [
        column("transaction_id", None, pa.int64()),
        column("user_id", number(1, 3_000_000_000), pa.uint32(), pa.int64()),
        column("kind", pick(["DEPOSIT", "WITHDRAW", "BET", "PAYOUT", "ADJUST"]), pa.string()),
        column("amount", money(-9_999_999, 9_999_999), MONEY),
        column("balance_after", money(0, 99_999_999_999), MONEY),
        column("currency", pick(["KRW", "USD", "JPY"]), pa.string()),
        # One character, U+0000 or U+0001, until the step that made text of it was mended.
        bit("is_settled", [Form(0, pa.string(), lambda value: "\x01" if value else "\x00"), Form(4, pa.bool_())]),
        column("memo", pick(MEMOS), pa.string(), nulls=0.3),
        # A DATETIME: wall time, no zone.
        column("requested_at", lambda rng: moment(rng).replace(tzinfo=None), pa.timestamp("ms"), pa.timestamp("us")),
        column("settled_at", moment, MILLIS_UTC, MICROS_UTC, nulls=0.4),
    ],
    has_late_file=True,
    computed={"memo": (pa.string(), lambda row: row["memo"] or None)},
)

PLAYER_STATS = Table(
    "casino_db2", "player_stats", ["player_id", "stat_date"],
    lambda n, rng: (4_000_000_000 + n // 3, date(2023, 3, 13) + timedelta(days=n % 3)),
    [
        column("player_id", None, pa.uint32(), pa.int64()),
        column("stat_date", None, pa.date32()),
        column("nickname", pick(NICKNAMES), pa.string()),
        column("games_played", number(0, 65_535), pa.uint16(), pa.int64()),
        column("wins", number(0, 9_999), pa.uint16(), pa.int64()),
        column("total_bet", money(0, 9_000_000), MONEY),
        column("net_result", money(-900_000, 900_000), MONEY, nulls=0.1),
        column("best_multiplier", lambda rng: rng.randrange(1, 5000) / 7, pa.float64(), nulls=0.1),
        column("longest_session", time_text, pa.string(), nulls=0.2),
        bit("is_vip", [Form(0, pa.int8(), int), Form(3, pa.string(), lambda value: "1" if value else "0")]),
        bit_64("badges", nulls=0.2),
        column("vip_level", number(0, 9), pa.int8(), pa.int64(), nulls=0.2, since=3),
    ],
    computed={"win_percent": (pa.int64(), win_percent)},
)

GAME_RESULTS = Table(
    "casino_db2", "game_results", ["result_id"], lambda n, rng: (70_000 + n,),
    [
        column("result_id", None, pa.int32(), pa.int64()),
        column("session_id", lambda rng: f"S-{rng.getrandbits(48):012x}", pa.string()),
        column("game_code", pick(GAMES), pa.string()),
        column("outcome", pick(["player", "banker", "tie", "bust"]), pa.string()),
        column("payout", money(0, 20_000_000), MONEY),
        column("odds", lambda rng: rng.randrange(100, 3600) / 100, pa.float64()),
        column("rng_seed", lambda rng: rng.getrandbits(64), pa.uint64(), pa.decimal128(38, 9)),
        bit("is_jackpot", [Form(0, pa.bool_())]),
        column("cards", json_text("player", "banker"), pa.string(), nulls=0.1),
        column("played_at", moment, MILLIS_UTC, MICROS_UTC),
        column("note", pick(MEMOS), pa.string(), nulls=0.5),
    ],
)

TABLES = [USER_ACTIONS, GAME_SESSIONS, TRANSACTIONS, PLAYER_STATS, GAME_RESULTS]
