//! Sizes and durations as people write them: `512MiB`, `1GB`, `5s`, `250ms`.

use std::time::Duration;

/// What `size` takes, for messages.
pub(super) const SIZES: &str = "a size such as `512MiB`, `1GB` or a plain number of bytes";
/// What `duration` takes, for messages.
pub(super) const DURATIONS: &str = "a duration such as `250ms`, `5s` or `1m`";

/// Bytes; a number with or without a unit: powers of 1000 (`KB`) or of 1024 (`KiB`), whatever the case.
/// None where it is neither, or does not fit 64 bits.
pub(super) fn size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// A whole number with a unit: `ms`, `s`, `m`, `h` or `d`. A number alone is refused: nobody could tell its unit.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let factor_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(factor_ms).map(Duration::from_millis)
}

fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    Some((number.parse().ok()?, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_decimal_and_binary_units() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("17", Some(17)),
            ("17B", Some(17)),
            ("1GB", Some(1_000_000_000)),
            ("512MiB", Some(512 << 20)),
            ("512 mib", Some(512 << 20)),
            ("8GiB", Some(8 << 30)),
            ("16777215TiB", Some(16_777_215 << 40)),
            ("16777216TiB", None),
            ("99999999999999999999", None),
            ("1.5GiB", None),
            ("512M", None),
            ("-1", None),
            ("", None),
            ("MiB", None),
            ("1é", None),
        ] {
            assert_eq!(size(text), bytes, "{text}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        for (text, ms) in [
            ("250ms", Some(250)),
            ("5s", Some(5_000)),
            ("1m", Some(60_000)),
            ("2 h", Some(7_200_000)),
            ("30d", Some(2_592_000_000)),
            ("0s", Some(0)),
            ("5", None),
            ("5S", None),
            ("1.5s", None),
            ("s", None),
            ("18446744073709551615h", None),
        ] {
            assert_eq!(duration(text), ms.map(Duration::from_millis), "{text}");
        }
    }
}
