//! Durations, sizes and rates, as people write them.

use std::fmt::Write;
use std::time::Duration;

/// A text that is not a duration or a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}: {why}")]
pub struct UnitError {
    /// The text, cut at 80 characters.
    pub text: String,
    /// What was wanted, such as "duration".
    pub what: &'static str,
    /// Which rule it breaks.
    pub why: String,
}

/// Units of time, largest first, with their milliseconds.
const TIMES: [(&str, u64); 6] = [
    ("w", 7 * 24 * 3_600_000),
    ("d", 24 * 3_600_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Units of size, with their bytes.
const SIZES: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// Reads a duration: whole numbers with their units, largest first, such as `30m`, `1h30m`, `90s` or `2d`. Units are `w`,
/// `d`, `h`, `m`, `s` and `ms`; a number without one is refused.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let fault = |why: String| UnitError {
        text: clip(text),
        what: "duration",
        why,
    };
    let mut rest = text;
    let mut millis = 0_u64;
    let mut smallest = u64::MAX;
    while !rest.is_empty() {
        let (number, unit, after) = number_and_unit(rest);
        if number.is_empty() {
            return Err(fault("expected a number and a unit, such as 30m, 1h30m or 90s".into()));
        }
        if unit.is_empty() {
            return Err(fault(format!(
                "{number} has no unit; write {number}s, {number}m or {number}h"
            )));
        }
        let (_, each) = TIMES
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(|| fault(format!("unit {unit:?} is none of w, d, h, m, s and ms")))?;
        if *each >= smallest {
            return Err(fault("units go from large to small, each once".into()));
        }
        smallest = *each;
        millis = number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(*each))
            .and_then(|part| millis.checked_add(part))
            .ok_or_else(|| fault("it is too long".into()))?;
        rest = after;
    }
    if text.is_empty() {
        return Err(fault("it is empty".into()));
    }
    Ok(Duration::from_millis(millis))
}

/// Writes a duration as `parse_duration` reads it, to the millisecond: `1h30m`, `0s`.
pub fn print_duration(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, each) in TIMES {
        // "14d" says more than "2w" to most people.
        if unit != "w" && rest >= each {
            let _ = write!(text, "{}{unit}", rest / each);
            rest %= each;
        }
    }
    if text.is_empty() { "0s".into() } else { text }
}

/// Reads a size in bytes: a whole number or a decimal one, with its unit, such as `512KiB`, `64 MiB`, `1.5GiB` or `100MB`.
/// Units are `B`, `KiB`, `MiB`, `GiB`, `TiB` (powers of 1,024) and `kB`, `MB`, `GB`, `TB` (powers of 1,000); a number
/// without one is refused.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let units = Units {
        what: "size",
        all: &SIZES,
        example: "64MiB or 1.5GB",
        usual: |number| format!("{number}B, {number}MiB or {number}GB"),
    };
    units.parse(text, 1)
}

/// Units of one kind, for decimal numbers.
struct Units {
    what: &'static str,
    all: &'static [(&'static str, u64)],
    example: &'static str,
    /// What a number without one could mean.
    usual: fn(&str) -> String,
}

impl Units {
    /// A number and its unit, divided by `divisor`.
    fn parse(&self, text: &str, divisor: u128) -> Result<u64, UnitError> {
        let fault = |why: String| UnitError {
            text: clip(text),
            what: self.what,
            why,
        };
        let at = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, unit) = (&text[..at], text[at..].trim_start());
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(fraction) || fraction.len() > 9 {
            return Err(fault(format!("expected a number and a unit, such as {}", self.example)));
        }
        if unit.is_empty() {
            return Err(fault(format!("{number} has no unit; write {}", (self.usual)(number))));
        }
        let (_, each) = self.all.iter().find(|(name, _)| *name == unit).ok_or_else(|| {
            let known: Vec<&str> = self.all.iter().map(|(name, _)| *name).collect();
            fault(format!("unit {unit:?} is none of {}", known.join(", ")))
        })?;
        let scale = 10_u128.pow(fraction.len() as u32);
        whole
            .parse::<u64>()
            .ok()
            .zip(fraction.parse::<u128>().ok())
            .map(|(whole, fraction)| {
                (u128::from(whole) * u128::from(*each) + fraction * u128::from(*each) / scale) / divisor
            })
            .and_then(|number| u64::try_from(number).ok())
            .ok_or_else(|| fault("it is too large".into()))
    }
}

/// Writes a size in the largest binary unit that divides it, so that `parse_size` reads the same: `64MiB`, `1025B`.
pub fn print_size(bytes: u64) -> String {
    let (unit, each) = SIZES[..5]
        .iter()
        .rev()
        .find(|(_, each)| bytes.is_multiple_of(*each) && bytes >= *each)
        .unwrap_or(&SIZES[0]);
    format!("{}{unit}", bytes / each)
}

/// Units of rates, with their bits a second.
const RATES: [(&str, u64); 10] = [
    ("bit/s", 1),
    ("kbit/s", 1_000),
    ("Mbit/s", 1_000_000),
    ("Gbit/s", 1_000_000_000),
    ("B/s", 8),
    ("KiB/s", 8 << 10),
    ("MiB/s", 8 << 20),
    ("GiB/s", 8 << 30),
    ("kB/s", 8_000),
    ("MB/s", 8_000_000),
];

/// Reads a rate and gives bytes a second: a whole number or a decimal one, with its unit, such as `10 Mbit/s`, `1.5 MiB/s` or
/// `500 kB/s`. Units are `bit/s`, `kbit/s`, `Mbit/s`, `Gbit/s`, `kB/s`, `MB/s` (powers of 1,000) and `B/s`, `KiB/s`, `MiB/s`,
/// `GiB/s`; a number without one is refused.
pub fn parse_rate(text: &str) -> Result<u64, UnitError> {
    let units = Units {
        what: "rate",
        all: &RATES,
        example: "10 Mbit/s or 1.5 MiB/s",
        usual: |number| format!("{number} Mbit/s or {number} MiB/s"),
    };
    units.parse(text, 8)
}

/// Writes bytes a second in the largest unit of bits that divides them, so that `parse_rate` reads the same: `10 Mbit/s`.
pub fn print_rate(bytes: u64) -> String {
    let bits = u128::from(bytes) * 8;
    let (unit, each) = RATES[..4]
        .iter()
        .rev()
        .find(|(_, each)| bits.is_multiple_of(u128::from(*each)) && bits >= u128::from(*each))
        .unwrap_or(&RATES[0]);
    format!("{} {unit}", bits / u128::from(*each))
}

fn number_and_unit(text: &str) -> (&str, &str, &str) {
    let number = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(number);
    let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(unit);
    (number, unit, rest)
}

fn clip(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, seconds) in [
            ("30m", 1_800),
            ("1h30m", 5_400),
            ("90s", 90),
            ("2d", 172_800),
            ("1w", 604_800),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse_duration("1s500ms"), Ok(Duration::from_millis(1_500)));
    }

    #[test]
    fn durations_that_could_mean_something_else_are_refused() {
        for text in [
            "",
            "30",
            "m",
            "-1s",
            "1.5h",
            "1m1h",
            "1s1s",
            "1h30",
            "1 h",
            "5min",
            "99999999999999999999s",
            "300000000000w",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert_eq!(
            parse_duration("30").unwrap_err().to_string(),
            "\"30\" is not a duration: 30 has no unit; write 30s, 30m or 30h"
        );
    }

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("0B", 0),
            ("512KiB", 512 << 10),
            ("64 MiB", 64 << 20),
            ("1.5GiB", 3 << 29),
            ("100MB", 100_000_000),
            ("2kB", 2_000),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn sizes_that_could_mean_something_else_are_refused() {
        for text in [
            "",
            "64",
            "MiB",
            "64M",
            "64mb",
            "-1B",
            "1.B",
            ".5B",
            "1.2.3B",
            "99999999TiB",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert_eq!(
            parse_size("64").unwrap_err().to_string(),
            "\"64\" is not a size: 64 has no unit; write 64B, 64MiB or 64GB"
        );
    }

    #[test]
    fn rates_are_read_as_bytes_a_second() {
        for (text, bytes) in [
            ("10 Mbit/s", 1_250_000),
            ("1MiB/s", 1 << 20),
            ("1.5 MB/s", 1_500_000),
            ("64 kbit/s", 8_000),
            ("1 Gbit/s", 125_000_000),
            ("9 bit/s", 1),
        ] {
            assert_eq!(parse_rate(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "10",
            "10 MB",
            "Mbit/s",
            "10 mbit/s",
            "-1 MB/s",
            "10 Mbps",
            "1.2.3 MB/s",
        ] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
        assert_eq!(
            parse_rate("10").unwrap_err().to_string(),
            "\"10\" is not a rate: 10 has no unit; write 10 Mbit/s or 10 MiB/s"
        );
    }

    proptest! {
        #[test]
        fn rates_round_trip(bytes in 0..u64::MAX / 8) {
            prop_assert_eq!(parse_rate(&print_rate(bytes)), Ok(bytes));
        }

        #[test]
        fn durations_round_trip(millis in 0_u64..1 << 50) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&print_duration(duration)), Ok(duration));
        }

        #[test]
        fn sizes_round_trip(bytes: u64) {
            prop_assert_eq!(parse_size(&print_size(bytes)), Ok(bytes));
        }

        #[test]
        fn any_text_is_read_or_refused(text: String) {
            let _ = parse_duration(&text);
            let _ = parse_size(&text);
        }
    }
}
