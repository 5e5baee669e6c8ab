//! Numbers as a reader wants them.

/// Writes a share as a percentage with two decimals; no number is a dash.
pub fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:.2} %", 100.0 * share) } else { "–".to_string() }
}

/// Writes a number with three digits and a unit prefix, as in `9.14 M`.
pub fn short(number: f64) -> String {
    if !number.is_finite() {
        return "–".to_string();
    }
    let prefixes = [(1e18, " E"), (1e15, " P"), (1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")];
    let scaled = prefixes.iter().find(|(size, _)| number.abs() >= *size);
    let (value, prefix) = scaled.map_or((number, ""), |(size, prefix)| (number / size, *prefix));
    let decimals = match value.abs() {
        _ if prefix.is_empty() && value.fract() == 0.0 => 0,
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    format!("{value:.decimals$}{prefix}")
}

/// Writes a whole number with thin spaces between thousands.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// Writes seconds as `12.3 s`, `3 min 20 s` or `1 h 02 min`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}

/// Shortens a name from the left to so many characters.
pub fn tail(name: &str, longest: usize) -> String {
    let length = name.chars().count();
    if length <= longest {
        return name.to_string();
    }
    format!("…{}", name.chars().skip(length + 1 - longest).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let written = [0.0, 5.0, 64.0, 0.5, 12.34, 999.0, 9_141_929.0, 40_551_040.0, 2.5e15, f64::NAN].map(short);
        assert_eq!(written, ["0", "5", "64", "0.50", "12.3", "999", "9.14 M", "40.6 M", "2.50 P", "–"]);
        assert_eq!(count(268_336), "268\u{202f}336");
        assert_eq!([percent(0.8167), percent(f64::NAN)], ["81.67 %", "–"]);
        assert_eq!([4.25, 238.8, 3720.0].map(duration), ["4.2 s", "3 min 58 s", "1 h 02 min"]);
        assert_eq!([tail("blocks.0.conv1", 8), tail("fc", 8)], ["…0.conv1", "fc"]);
    }
}
