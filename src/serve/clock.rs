//! Times, as the server keeps and shows them.

use jiff::Timestamp;

/// The time, in Unix microseconds.
pub(crate) fn now() -> i64 {
    Timestamp::now().as_microsecond()
}

/// A time, given in Unix microseconds, in RFC 3339 with microseconds and `Z`.
pub(crate) fn rfc3339(micros: i64) -> String {
    let time = Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_microseconds_and_a_z() {
        assert_eq!(rfc3339(1_763_802_899_428_336), "2025-11-22T09:14:59.428336Z");
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000000Z");
    }
}
