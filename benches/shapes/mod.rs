//! Rows as casino games write them, of any number and the same on each run: the columns that files and outputs share.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};

const GAMES: [&str; 6] = ["slot_001", "slot_017", "baccarat_003", "roulette_002", "poker_011", "slot_040"];
const ACTIONS: [&str; 5] = ["BET", "WIN", "LOSE", "DEPOSIT", "ROLLBACK"];
const NOTES: [&str; 4] = ["출금 요청 승인 완료", "보너스 지급: 신규 가입", "관리자 조정", "첫 충전 보너스"];
pub(crate) const START_US: i64 = 1_763_700_000_000_000;

/// Pseudorandom numbers, the same for a row each time.
pub(crate) fn random(row: u64, salt: u64) -> u64 {
    let mut x = (row + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ salt.wrapping_mul(0xD134_2543_DE82_EF95);
    x ^= x >> 31;
    x = x.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x ^ (x >> 29)
}

fn pick<'a>(from: &[&'a str], number: u64) -> &'a str {
    from[usize::try_from(number).unwrap_or(0) % from.len()]
}

/// A stretch of rows, of which columns are made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stretch {
    pub(crate) first: u64,
    pub(crate) count: u64,
}

impl Stretch {
    pub(crate) fn rows(self) -> std::ops::Range<u64> {
        self.first..self.first + self.count
    }

    pub(crate) fn integers(self, of: impl Fn(u64) -> u64) -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(self.rows().map(|row| of(row) as i64)))
    }

    pub(crate) fn texts(self, of: impl Fn(u64) -> String) -> ArrayRef {
        Arc::new(StringArray::from_iter_values(self.rows().map(of)))
    }

    /// In µs since 1970, without a zone.
    pub(crate) fn times(self, of: impl Fn(u64) -> i64) -> TimestampMicrosecondArray {
        TimestampMicrosecondArray::from_iter_values(self.rows().map(of))
    }

    /// What a player did in a round, by whom each row is: 12 columns, amounts in decimals of this precision and scale.
    pub(crate) fn played(
        self,
        user: impl Fn(u64) -> u64,
        (precision, scale): (u8, i8),
    ) -> Vec<(&'static str, ArrayRef)> {
        let cents = 10_i128.pow(u32::from(scale.unsigned_abs()) - 2);
        let amounts = |of: &dyn Fn(u64) -> u64| -> ArrayRef {
            let values = Decimal128Array::from_iter_values(self.rows().map(|row| i128::from(of(row)) * cents));
            Arc::new(values.with_precision_and_scale(precision, scale).expect("a decimal"))
        };
        let ip = |user: u64| format!("{}.{}.{}.{}", 110 + user % 80, user / 80 % 256, user / 7 % 256, user % 256);
        let notes = self.rows().map(|row| (row % 10 < 3).then(|| pick(&NOTES, random(row, 11))));
        vec![
            ("user_id", self.integers(|row| 100_000 + user(row))),
            ("session_id", self.texts(|row| format!("{:016x}{:016x}", random(user(row), 2), random(user(row), 3)))),
            ("game_code", self.texts(|row| pick(&GAMES, random(row, 4)).into())),
            ("action_type", self.texts(|row| pick(&ACTIONS, random(row, 5)).into())),
            ("bet_amount", amounts(&|row| random(row, 6) % 500 * 10_000)),
            ("win_amount", amounts(&|row| if row % 3 == 0 { random(row, 7) % 9_973 * 1_000 } else { 0 })),
            ("balance_after", amounts(&|row| random(row, 8) % 9_000_000_000)),
            ("currency", self.texts(|row| if row % 20 == 0 { "USD" } else { "KRW" }.into())),
            ("ip", self.texts(|row| ip(user(row)))),
            ("round_id", self.integers(|row| 77_000_000_000 + row * 3 + random(row, 10) % 3)),
            ("memo", Arc::new(StringArray::from_iter(notes))),
            (
                "is_bonus",
                Arc::new(BooleanArray::from_iter(self.rows().map(|row| Some(random(row, 12).is_multiple_of(12))))),
            ),
        ]
    }
}

/// When a row was changed, in µs since 1970.
pub(crate) fn changed_at(row: u64) -> i64 {
    START_US + row as i64 * 2_000 + (random(row, 9) % 2_000) as i64
}

/// The same, without what is below a second.
pub(crate) fn created_at(row: u64) -> i64 {
    changed_at(row) / 1_000_000 * 1_000_000
}

/// A row's operation.
pub(crate) fn operation(row: u64) -> String {
    if row % 10 < 7 { "I" } else { "U" }.into()
}

/// The keys that changes are of.
#[derive(Debug, Clone, Copy)]
#[allow(dead_code, reason = "not every bench reads files")]
pub(crate) struct Keys {
    /// How many there are.
    pub(crate) count: u64,
    /// Whether they are texts of 36 characters, not integers.
    pub(crate) is_text: bool,
}

/// Changes of these keys: 20 columns as DMS writes them.
#[allow(dead_code, reason = "not every bench reads files")]
pub(crate) fn user_actions(rows: Stretch, keys: Keys) -> RecordBatch {
    let key = |row: u64| random(row, 1) % keys.count;
    let user = |row: u64| key(row) % 200_000;
    let id = match keys.is_text {
        true => rows.texts(|row| format!("{:016x}-{:019}", random(key(row), 17), key(row))),
        false => rows.integers(|row| 9_000_000_000 + key(row)),
    };
    let mut columns: Vec<(&str, ArrayRef)> = vec![("Op", rows.texts(operation)), ("id", id)];
    columns.extend(rows.played(user, (18, 2)));
    columns.extend([
        ("device", rows.texts(|row| format!("device {}", random(user(row), 15) % 4))),
        ("level", rows.integers(|row| random(user(row), 16) % 100)),
        ("created_at", Arc::new(rows.times(created_at)) as ArrayRef),
        ("updated_at", Arc::new(rows.times(changed_at))),
        ("is_test", rows.integers(|row| u64::from(user(row).is_multiple_of(1_000)))),
        ("transact_id", rows.texts(|row| format!("{:035}", changed_at(row)))),
    ]);
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}
