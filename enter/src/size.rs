//! Sizes as users write them: `512M`, `1.5g`, `1048576`.

use anyhow::Result;
use d_common::exit::Exit;
use d_common::fail;

/// Bytes: a number with an optional suffix b, k, m, g or t, powers of 1024, in any case (docker's form).
///
/// # Errors
/// [`Exit::Enter`].
pub fn parse(text: &str) -> Result<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(['b', 'i']);
    let (number, shift) = match digits.as_bytes().last() {
        Some(b'k') => (&digits[..digits.len() - 1], 10),
        Some(b'm') => (&digits[..digits.len() - 1], 20),
        Some(b'g') => (&digits[..digits.len() - 1], 30),
        Some(b't') => (&digits[..digits.len() - 1], 40),
        _ => (digits, 0),
    };
    let value = number.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0 && !number.starts_with('+'));
    match value.map(|n| n * f64::from(2u32).powi(shift)) {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Some(bytes) if bytes < 1e18 => Ok(bytes as u64),
        _ => fail!(Exit::Enter, "{text:?} is not a size: expected a number with b, k, m, g or t, as 512M"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes() {
        assert_eq!(parse("1048576").unwrap(), 1 << 20);
        assert_eq!(parse("64M").unwrap(), 64 << 20);
        assert_eq!(parse("1.5g").unwrap(), 3 << 29);
        assert_eq!(parse("2KiB").unwrap(), 2048);
        for bad in ["", "M", "-1", "1x", "inf", "1e300", "12 34"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
