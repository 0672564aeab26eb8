//! Numbers, spans and times as people read them.

use std::borrow::Cow;
use std::time::Duration;

use potluck_model::{UnixMicros, UnixSeconds};

/// Bytes in binary units with one decimal: `0 B`, `812 B`, `12.3 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    // What would be rounded to 1024.0 belongs to the next unit.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A span with as much precision as matters: `38 ms`, `4.2 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`.
pub(crate) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0 if span.as_millis() < 1000 => format!("{} ms", span.as_millis()),
        0..60 => format!("{:.1} s", span.as_secs_f64().min(59.9)),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// How long before `now` something was: `just now`, `42 s ago`, `3 d ago`.
pub(crate) fn ago(then: UnixSeconds, now: UnixSeconds) -> String {
    let seconds = now.0.saturating_sub(then.0);
    match seconds {
        0..2 => "just now".into(),
        2..60 => format!("{seconds} s ago"),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..86_400 => format!("{} h ago", seconds / 3600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

/// A date and time in UTC: `2026-03-01 08:00:00Z`.
pub(crate) fn stamp(time: UnixSeconds) -> String {
    let (year, month, day) = date(time.0 / 86_400);
    let (hour, minute, second) = (time.0 / 3600 % 24, time.0 / 60 % 60, time.0 % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}Z")
}

/// The time of the day in UTC, to the millisecond: `08:00:00.123`.
pub(crate) fn clock(time: UnixMicros) -> String {
    let seconds = time.0 / 1_000_000;
    let millis = time.0 / 1000 % 1000;
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{hour:02}:{minute:02}:{second:02}.{millis:03}")
}

/// Days since 1970-01-01 as a date of the Gregorian calendar (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// A number and its noun: `1 file`, `3 files`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    if number == 1 {
        format!("1 {noun}")
    } else {
        format!("{number} {noun}s")
    }
}

/// Text that came from elsewhere, without control characters: it must not command the terminal.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    if text.chars().any(|c| c.is_control() && c != '\t') {
        Cow::Owned(
            text.chars()
                .map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c })
                .collect(),
        )
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_well_at_every_size() {
        let read: Vec<String> = [0, 1023, 1024, 12_900_000, 1024 * 1024 - 1, 1 << 30, u64::MAX]
            .map(bytes)
            .into();
        assert_eq!(
            read,
            ["0 B", "1023 B", "1.0 KiB", "12.3 MiB", "1.0 MiB", "1.0 GiB", "16.0 EiB"]
        );
    }

    #[test]
    fn spans_show_two_units_at_most() {
        let read: Vec<String> = [38, 4_200, 59_999, 200_000, 7_500_000, 273_600_000]
            .map(|millis| span(Duration::from_millis(millis)))
            .into();
        assert_eq!(read, ["38 ms", "4.2 s", "59.9 s", "3 min 20 s", "2 h 5 min", "3 d 4 h"]);
    }

    #[test]
    fn stamps_are_calendar_dates() {
        assert_eq!(stamp(UnixSeconds(0)), "1970-01-01 00:00:00Z");
        assert_eq!(stamp(UnixSeconds(951_782_399)), "2000-02-28 23:59:59Z");
        assert_eq!(stamp(UnixSeconds(951_782_400)), "2000-02-29 00:00:00Z");
        assert_eq!(stamp(UnixSeconds(1_772_352_000)), "2026-03-01 08:00:00Z");
        assert_eq!(clock(UnixMicros(1_772_352_000_123_456)), "08:00:00.123");
    }

    #[test]
    fn text_from_elsewhere_cannot_command_the_terminal() {
        assert_eq!(clean("plain\ttext"), "plain\ttext");
        assert_eq!(clean("\x1b]0;x\x07\r\n"), "\u{fffd}]0;x\u{fffd}\u{fffd}\u{fffd}");
    }

    #[test]
    fn ages_are_short() {
        let now = UnixSeconds(100_000);
        assert_eq!(ago(UnixSeconds(100_005), now), "just now");
        assert_eq!(ago(UnixSeconds(99_958), now), "42 s ago");
        assert_eq!(ago(UnixSeconds(0), now), "1 d ago");
    }
}
