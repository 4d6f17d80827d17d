//! Completion windows: how long a batch may take.
//!
//! In: a text such as `24h`. Out: a time. OpenAI itself takes `24h` alone; those who copied it take others, and here
//! `3s` is a way to see a batch expire.

use std::time::Duration;

/// Longest window: a year.
const LONGEST: Duration = Duration::from_hours(366 * 24);

/// Reads a number and a unit: `s`, `m`, `h` or `d`.
pub(crate) fn read(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        _ => return None,
    };
    let window = Duration::from_secs(number.checked_mul(seconds)?);
    (!window.is_zero() && window <= LONGEST).then_some(window)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_have_a_number_and_a_unit() {
        for (text, seconds) in [("24h", 86_400), ("3s", 3), ("5m", 300), ("7d", 604_800)] {
            assert_eq!(read(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "h", "24", "0h", "-1h", "1.5h", "24 h", "24H", "400d", "99999999999999999999d", "2ä"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
