//! Writes numbers for people.

/// Writes a count with its thousands apart: `1,204`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Writes a count in at most five characters: `987`, `4.32k`, `15.6M`.
pub fn short_count(number: u64) -> String {
    let mut value = number as f64;
    let mut units = ["", "k", "M", "G", "T", "P", "E"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    // 999.5 and more would be written with four digits.
    while value >= 999.5
        && let Some(next) = units.next()
    {
        value /= 1000.0;
        unit = next;
    }
    let decimals = match value {
        _ if unit.is_empty() => 0,
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}{unit}")
}

/// Writes a share as a percentage with one decimal, without the sign: `74.8`.
pub fn percent(share: f64) -> String {
    format!("{:.1}", 100.0 * share)
}

/// Writes a speed in images a second; a dash before there is one.
pub fn speed(images: f64) -> String {
    if images > 0.0 { count(images.round() as u64) } else { "-".to_owned() }
}

/// Writes a learning rate with four digits at most: `0.1`, `0.03412`, `2.5e-5`.
pub fn rate(lr: f64) -> String {
    let trim = |text: &str| text.trim_end_matches('0').trim_end_matches('.').to_owned();
    if lr == 0.0 || lr >= 1e-3 {
        return trim(&format!("{lr:.5}"));
    }
    let text = format!("{lr:.2e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => format!("{}e{exponent}", trim(mantissa)),
        None => text,
    }
}

/// Writes a length of time with two units at most: `42 s`, `4 min 12 s`, `2 h 05 min`, `3 d 4 h`.
pub fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if minutes == 0 => format!("{seconds} s"),
        () if hours == 0 => format!("{minutes} min {:02} s", seconds % 60),
        () if days == 0 => format!("{hours} h {:02} min", minutes % 60),
        () => format!("{days} d {} h", hours % 24),
    }
}

/// Writes `one` for 1 and `many` for any other number, after the number.
pub fn plural(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_grouped_by_thousands() {
        assert_eq!([0, 12, 999, 1000, 1_204_567].map(count), ["0", "12", "999", "1,000", "1,204,567"]);
        assert_eq!(
            (plural(1, "mask", "masks"), plural(2000, "mask", "masks")),
            ("1 mask".into(), "2,000 masks".into())
        );
    }

    #[test]
    fn short_counts_never_pass_five_characters() {
        let numbers = [0, 432, 999, 1000, 4321, 9999, 43_210, 99_960, 432_100, 999_499, 999_500, 15_600_000, u64::MAX];
        let texts = numbers.map(short_count);
        assert_eq!(
            texts,
            ["0", "432", "999", "1.00k", "4.32k", "10.0k", "43.2k", "100k", "432k", "999k", "1.00M", "15.6M", "18.4E"]
        );
    }

    #[test]
    fn a_speed_needs_a_time_to_be_measured_in() {
        assert_eq!([0.0, f64::NAN, 1612.3].map(speed), ["-", "-", "1,612"]);
    }

    #[test]
    fn learning_rates_lose_their_idle_zeros() {
        let rates = [0.0, 0.1, 0.034_123, 1.0, 0.001, 0.000_025, 1e-6, 0.000_123_4];
        assert_eq!(rates.map(rate), ["0", "0.1", "0.03412", "1", "0.001", "2.5e-5", "1e-6", "1.23e-4"]);
    }

    #[test]
    fn durations_name_two_units_at_most() {
        let durations = [-1.0, 0.4, 42.0, 59.6, 252.0, 7500.0, 273_600.0];
        assert_eq!(
            durations.map(duration),
            ["0 s", "0 s", "42 s", "1 min 00 s", "4 min 12 s", "2 h 05 min", "3 d 4 h"]
        );
    }
}
