//! Parsers of option values: sizes, times, names.
//!
//! In: the text of a value. Out: the value, or what was expected instead.

use std::time::Duration;

use batchline::dialect::{DIALECTS, Dialect};
use batchline::results::normalize::Shape;
use batchline::run::OnAmbiguous;

/// Reads `5000`, `20MB`, `256MiB`. K, M, G, T are decimal, with `i` binary; the `B` may be left out.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 =
        number.parse().map_err(|_| "expected a number of bytes, such as 5000, 20MB or 256MiB".to_owned())?;
    let unit = unit.trim().to_ascii_lowercase();
    let factor: u64 = match unit.strip_suffix('b').unwrap_or(&unit) {
        "" => 1,
        "k" => 1_000,
        "m" => 1_000_000,
        "g" => 1_000_000_000,
        "t" => 1_000_000_000_000,
        "ki" => 1 << 10,
        "mi" => 1 << 20,
        "gi" => 1 << 30,
        "ti" => 1 << 40,
        _ => return Err(format!("{unit:?} is not a unit of bytes; use kB, MB, GB, TB, KiB, MiB, GiB or TiB")),
    };
    number.checked_mul(factor).ok_or_else(|| "too many bytes".to_owned())
}

/// Reads `200ms`, `45s`, `10m`, `2h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "expected a time, such as 200ms, 45s, 10m or 2h".to_owned())?;
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err(format!("{unit:?} is not a unit of time; use ms, s, m or h")),
    };
    number.checked_mul(milliseconds).map(Duration::from_millis).ok_or_else(|| "too long".to_owned())
}

/// Upper limit of the options that set how many requests may be in flight.
pub(crate) const CONCURRENCY_MAX: i64 = batchline::remote::online::CONCURRENCY_MAX as i64;

/// Maximum length of a completion window, in bytes.
const WINDOW_BYTES: usize = 32;

/// Accepts text such as `24h`, `7d` or `1d2h30min`; which of them are valid is defined by the provider.
pub(crate) fn completion_window(text: &str) -> Result<String, String> {
    let is_word = (1..=WINDOW_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if is_word { Ok(text.to_owned()) } else { Err("expected a time as the provider writes it, such as 24h".to_owned()) }
}

pub(crate) fn dialect(text: &str) -> Result<&'static dyn Dialect, String> {
    let names = || DIALECTS.iter().map(|dialect| dialect.name()).collect::<Vec<_>>().join(" or ");
    batchline::dialect::named(text).ok_or_else(|| format!("expected {}", names()))
}

pub(crate) fn shape(text: &str) -> Result<Shape, String> {
    Shape::named(text).ok_or_else(|| "expected native or common".to_owned())
}

pub(crate) fn on_ambiguous(text: &str) -> Result<OnAmbiguous, String> {
    match text.split_once(':') {
        None if text == "hold" => Ok(OnAmbiguous::Hold),
        Some(("retry-after", time)) => duration(time).map(OnAmbiguous::RetryAfter),
        _ => Err("expected hold or retry-after:TIME, such as retry-after:30m".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_have_units() {
        assert_eq!(bytes("5000"), Ok(5000));
        assert_eq!(bytes("20MB"), Ok(20_000_000));
        assert_eq!(bytes("256MiB"), Ok(1 << 28));
        assert_eq!(bytes("10g"), Ok(10_000_000_000));
        assert!(bytes("MB").is_err() && bytes("5 parsecs").is_err() && bytes("99999999999TB").is_err());
        assert_eq!(duration("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        assert!(duration("5").is_err() && duration("").is_err());
        assert_eq!(completion_window("1d2h30min").as_deref(), Ok("1d2h30min"));
        assert!(completion_window("").is_err() && completion_window("24 h").is_err());
    }
}
