//! Human-readable numbers.

use std::collections::BTreeMap;

use batchline::model::phase::Phase;

/// `1234567` as `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Bytes in the decimal unit that fits.
pub(crate) fn size(bytes: u64) -> String {
    let units = [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / unit as f64),
        None => format!("{bytes} bytes"),
    }
}

/// `1 shard`, `2 shards`.
pub(crate) fn plural(number: u64, noun: &str) -> String {
    let ending = match noun {
        _ if number == 1 => "",
        "batch" => "es",
        _ => "s",
    };
    format!("{} {noun}{ending}", count(number))
}

/// Seconds, with a precision that suits their size.
pub(crate) fn seconds(seconds: f64) -> String {
    if seconds < 100.0 {
        return format!("{seconds:.1} s");
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive number of seconds")]
    let whole = seconds as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

/// How long each phase has taken.
pub(crate) fn phases(phase_seconds: &BTreeMap<Phase, f64>) -> String {
    let times = phase_seconds.iter().map(|(phase, took)| format!("{} {}", phase.name(), seconds(*took)));
    times.collect::<Vec<_>>().join(", ")
}

/// A moment in RFC 3339, to the second.
pub(crate) fn moment(rfc3339: &str) -> String {
    let moment = rfc3339.parse::<jiff::Timestamp>();
    moment.map_or_else(|_| rfc3339.to_owned(), |moment| moment.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// The message about replies whose ids are nearly those of their requests.
pub(crate) fn recognised(replies: u64) -> String {
    let noun = if replies == 1 { "reply" } else { "replies" };
    format!("recognised by nearly the same id: {} {noun}", count(replies))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_scaled() {
        assert_eq!([count(0), count(999), count(1000), count(1_234_567)], ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([size(999), size(1500), size(2_000_000_000)], ["999 bytes", "1.5 kB", "2.0 GB"]);
        assert_eq!([seconds(1.25), seconds(125.0), seconds(7300.0)], ["1.2 s", "2 min 5 s", "2 h 1 min"]);
        let times = BTreeMap::from([(Phase::Batch, 7300.0), (Phase::Check, 1.25)]);
        assert_eq!(phases(&times), "check 1.2 s, batch 2 h 1 min");
        assert_eq!(moment("2026-11-25T18:16:47.123456789Z"), "2026-11-25T18:16:47Z");
        assert_eq!([plural(1, "batch"), plural(2, "batch"), plural(0, "shard")], ["1 batch", "2 batches", "0 shards"]);
    }
}
