//! Spans of time as people write them, and moments as they read them. UTC only.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds of a span such as `30s`, `5m`, `2h` or `7d`: a positive whole number and one unit.
pub(super) fn parse_span(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!("`{}` is no span of time: write a whole number and s, m, h or d, such as 7d", super::text::shown(text))
    };
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 86_400,
        _ => return Err(wrong()),
    };
    let digits = &text[..text.len() - 1];
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let seconds = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).ok_or_else(wrong)?;
    if seconds == 0 { Err(wrong()) } else { Ok(seconds) }
}

/// A span in its two largest units: `3d 4h`, `12m 5s`.
pub(super) fn span(seconds: u64) -> String {
    let parts = [(seconds / 86_400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let first = parts.iter().position(|(n, _)| *n > 0).unwrap_or(3);
    let parts: Vec<String> = parts[first..].iter().take(2).map(|(n, unit)| format!("{n}{unit}")).collect();
    parts.join(" ")
}

/// Seconds since the Unix epoch; 0 on a clock that is set before it.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// `2026-01-31 23:59:59Z`, from seconds since the Unix epoch. Moments past the year 9999 are shown as a number.
pub(super) fn moment(epoch_secs: u64) -> String {
    date_time(epoch_secs).map_or_else(|| epoch_secs.to_string(), |text| text + "Z")
}

/// [`moment`] with milliseconds.
pub(super) fn moment_ms(epoch_ms: u64) -> String {
    let text = date_time(epoch_ms / 1000);
    text.map_or_else(|| epoch_ms.to_string(), |text| format!("{text}.{:03}Z", epoch_ms % 1000))
}

fn date_time(epoch_secs: u64) -> Option<String> {
    let (mut days, rest) = (epoch_secs / 86_400, epoch_secs % 86_400);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    // 400 years always have as many days, so that the loop below is short.
    const ERA_DAYS: u64 = 146_097;
    let mut year = 1970 + 400 * (days / ERA_DAYS);
    days %= ERA_DAYS;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    (year <= 9999).then(|| format!("{year}-{month:02}-{:02} {hour:02}:{minute:02}:{second:02}", days + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_a_positive_whole_number_and_a_unit() {
        for (text, seconds) in [("30s", 30), ("5m", 300), ("2h", 7200), ("7d", 604_800)] {
            assert_eq!(parse_span(text), Ok(seconds));
        }
        for bad in
            ["", "7", "d", "0s", "-1s", "+1s", "1.5h", "1w", "7 d", "7ä", "99999999999999999999d", "213503982334602d"]
        {
            assert!(parse_span(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_span_is_shown_in_its_two_largest_units() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (60, "1m 0s"), (3661, "1h 1m"), (273_600, "3d 4h")] {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn moments_agree_with_the_calendar() {
        assert_eq!(moment(0), "1970-01-01 00:00:00Z");
        assert_eq!(moment(951_782_400), "2000-02-29 00:00:00Z");
        assert_eq!(moment(1_709_251_199), "2024-02-29 23:59:59Z");
        assert_eq!(moment(4_107_542_400), "2100-03-01 00:00:00Z");
        assert_eq!(moment_ms(1_767_225_599_007), "2025-12-31 23:59:59.007Z");
        assert_eq!(moment(253_402_300_799), "9999-12-31 23:59:59Z");
        assert_eq!(moment(u64::MAX), u64::MAX.to_string());
    }
}
