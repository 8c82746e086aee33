//! Instants as text.
//!
//! Owns the forms of RFC 3339 that the contract uses, and the date of HTTP (RFC 9110, section 5.6.7).

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;

use crate::clock::WallMs;

/// `2025-01-15T10:00:00Z`: whole seconds, cut off.
pub fn date_time(at: WallMs) -> String {
    const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(0));
    PRINTER.timestamp_to_string(&timestamp(at.ms().div_euclid(1000) * 1000))
}

/// `2025-01-15T10:00:00.312Z`.
pub fn date_time_ms(at: WallMs) -> String {
    const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(3));
    PRINTER.timestamp_to_string(&timestamp(at.ms()))
}

/// `2025-01-15T10:00:00.312000Z`: six digits, always, so that the order of texts is the order of instants.
pub fn date_time_us(at: WallMs) -> String {
    const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(6));
    PRINTER.timestamp_to_string(&timestamp(at.ms()))
}

/// `Wed, 15 Jan 2025 10:00:00 GMT`.
pub fn imf_fixdate(at: WallMs) -> String {
    timestamp(at.ms()).strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// Out of jiff's range of years (-9999 to 9999) is the epoch: no clock of a running exam shows that.
fn timestamp(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_cut_and_not_rounded() {
        let at = WallMs::from_ms(1_736_935_205_999);
        assert_eq!(date_time(at), "2025-01-15T10:00:05Z");
        assert_eq!(date_time_ms(at), "2025-01-15T10:00:05.999Z");
        assert_eq!(date_time_us(at), "2025-01-15T10:00:05.999000Z");
        assert_eq!(date_time_ms(WallMs::from_ms(1_736_935_205_000)), "2025-01-15T10:00:05.000Z");
        assert_eq!(imf_fixdate(at), "Wed, 15 Jan 2025 10:00:05 GMT");
    }
}
