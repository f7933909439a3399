//! Times and durations as Kafka's tools take them.

/// `2026-05-17T08:30:00.000` in ms since the Unix epoch: UTC, unless `Z` or an offset such as `+02:00` is behind it. Seconds and
/// their fraction may be missing.
pub(super) fn datetime_ms(text: &str) -> Result<i64, String> {
    parse_datetime(text).ok_or_else(|| {
        "write YYYY-MM-DDTHH:MM:SS.sss, in UTC or with Z, +HH:MM or -HH:MM behind it".to_owned()
    })
}

/// `PnDTnHnMnS` in ms.
pub(super) fn duration_ms(text: &str) -> Result<i64, String> {
    parse_duration(text).ok_or_else(|| "write PnDTnHnMnS, such as P7D or PT1H30M".to_owned())
}

/// A number of so many digits, and what is behind it.
fn digits(text: &str, count: usize) -> Option<(i64, &str)> {
    let (number, rest) = text.split_at_checked(count)?;
    number.bytes().all(|byte| byte.is_ascii_digit()).then(|| Some((number.parse().ok()?, rest)))?
}

/// The fraction of a second behind a dot, in ms.
fn millis(fraction: &str) -> Option<i64> {
    if fraction.is_empty() || fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    format!("{fraction:0<3}").get(..3)?.parse().ok()
}

fn parse_datetime(text: &str) -> Option<i64> {
    let (date, time) = text.split_once('T')?;
    let (year, rest) = digits(date, 4)?;
    let (month, rest) = digits(rest.strip_prefix('-')?, 2)?;
    let (day, rest) = digits(rest.strip_prefix('-')?, 2)?;
    if !rest.is_empty() || !(1..=12).contains(&month) || !(1..=days_of(year, month)).contains(&day) {
        return None;
    }
    let (time, zone) = match time.find(['Z', '+', '-']) {
        Some(at) => time.split_at(at),
        None => (time, "Z"),
    };
    let (hour, rest) = digits(time, 2)?;
    let (minute, rest) = digits(rest.strip_prefix(':')?, 2)?;
    let (second, rest) = match rest.strip_prefix(':') {
        Some(rest) => digits(rest, 2)?,
        None => (0, rest),
    };
    let ms = match rest.strip_prefix('.') {
        Some(fraction) => millis(fraction)?,
        None if rest.is_empty() => 0,
        None => return None,
    };
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let minutes = (days_since_epoch(year, month, day) * 24 + hour) * 60 + minute - offset_minutes(zone)?;
    Some((minutes * 60 + second) * 1_000 + ms)
}

fn offset_minutes(zone: &str) -> Option<i64> {
    if zone == "Z" {
        return Some(0);
    }
    let (sign, rest) = zone.split_at_checked(1)?;
    let (hours, rest) = digits(rest, 2)?;
    let minutes = match rest.strip_prefix(':').unwrap_or(rest) {
        "" => 0,
        minutes => digits(minutes, 2).filter(|(_, rest)| rest.is_empty())?.0,
    };
    let offset = (hours <= 18 && minutes <= 59).then_some(hours * 60 + minutes)?;
    Some(if sign == "-" { -offset } else { offset })
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let before = |year: i64| (year - 1) * 365 + (year - 1) / 4 - (year - 1) / 100 + (year - 1) / 400;
    let months: i64 = (1..month).map(|month| days_of(year, month)).sum();
    before(year) - before(1970) + months + day - 1
}

fn parse_duration(text: &str) -> Option<i64> {
    let text = text.strip_prefix('P')?;
    let (days, time) = match text.split_once('T') {
        Some((_, "")) => return None,
        Some((days, time)) => (days, time),
        None => (text, ""),
    };
    if days.is_empty() && time.is_empty() {
        return None;
    }
    let mut ms = 0i64;
    if !days.is_empty() {
        ms = days.strip_suffix('D').and_then(whole)?.checked_mul(86_400_000)?;
    }
    let mut rest = time;
    for (unit, each) in [('H', 3_600_000), ('M', 60_000)] {
        if let Some((number, after)) = rest.split_once(unit) {
            ms = ms.checked_add(whole(number)?.checked_mul(each)?)?;
            rest = after;
        }
    }
    if !rest.is_empty() {
        let seconds = rest.strip_suffix('S')?;
        let (seconds, fraction) = seconds.split_once('.').unwrap_or((seconds, "0"));
        ms = ms.checked_add(whole(seconds)?.checked_mul(1_000)?)?.checked_add(millis(fraction)?)?;
    }
    Some(ms)
}

fn whole(number: &str) -> Option<i64> {
    (!number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())).then(|| number.parse().ok())?
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "that is how a test fails")]
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (text, ms) in [
            ("1970-01-01T00:00:00.000", 0),
            ("1969-12-31T23:59:59.999Z", -1),
            ("2026-05-17T08:30:00.000Z", 1_779_006_600_000),
            ("2026-05-17T10:30:00.000+02:00", 1_779_006_600_000),
            ("2026-05-17T03:00:00-0530", 1_779_006_600_000),
            ("2026-05-17T08:30", 1_779_006_600_000),
            ("2000-02-29T12:00:00.5", 951_825_600_500),
            ("2100-03-01T00:00:00", 4_107_542_400_000),
        ] {
            assert_eq!(datetime_ms(text), Ok(ms), "{text}");
        }
        for text in [
            "",
            "2026-05-17",
            "2026-13-01T00:00:00",
            "2026-02-29T00:00:00",
            "2026-05-17T24:00:00",
            "2026-05-17T08:30:00.",
            "2026-05-17T08:30:00+2",
            "2026-05-17 08:30:00",
            "17.05.2026T08:30",
            "2026-05-17T08:30:00Zx",
            "2026-05-17T0é:30",
        ] {
            assert!(datetime_ms(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_those_of_java() {
        for (text, ms) in [
            ("P7D", 604_800_000),
            ("PT1H30M", 5_400_000),
            ("P1DT2H3M4.5S", 93_784_500),
            ("PT0S", 0),
            ("PT15S", 15_000),
        ] {
            assert_eq!(duration_ms(text), Ok(ms), "{text}");
        }
        for text in
            ["", "P", "PT", "7D", "P7", "P1DT", "PT1M1H", "P-1D", "PT1.5H", "P99999999999999999D", "1h"]
        {
            assert!(duration_ms(text).is_err(), "{text}");
        }
    }
}
