//! Lists of certificates that were revoked.
//!
//! Owns whose list it is and until when it counts, which is said of the operator's file before a client comes. Which
//! certificates stand on it, and whether its authority has signed it, TLS judges in each handshake. Bounded by: the file.
//! Refuses to know: whose a certificate is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::der::{SEQUENCE, element, inside};

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The content of the name of whoever has issued a list. None where it is not as RFC 5280 has it.
pub(super) fn issuer(list: &[u8]) -> Option<&[u8]> {
    inside(SEQUENCE, fields(list)?).map(|(name, _)| name)
}

/// When the next list is due: from then on this one counts no more. None where it is not as RFC 5280 has it.
pub(super) fn next_update(list: &[u8]) -> Option<SystemTime> {
    let (_, _, dates) = element(fields(list)?)?;
    let (_, _, dates) = element(dates)?;
    let (tag, text, _) = element(dates)?;
    let (century, text) = match (tag, text.len()) {
        (UTC_TIME, 13) => (if text[0] >= b'5' { 1900 } else { 2000 }, text),
        (GENERALIZED_TIME, 15) => (100 * two(text)?, &text[2..]),
        _ => return None,
    };
    let mut pairs = text.chunks_exact(2).map(two);
    let mut next = || pairs.next().flatten();
    let (year, month, day) = (century + next()?, next()?, next()?);
    let (hour, minute, second) = (next()?, next()?, next()?);
    let legal = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second < 60;
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    (legal && text.ends_with(b"Z")).then(|| UNIX_EPOCH + Duration::from_secs(seconds))
}

/// What comes behind the version and the algorithm: issuer, this update, next update.
fn fields(list: &[u8]) -> Option<&[u8]> {
    let (list, _) = inside(SEQUENCE, list)?;
    let (mut fields, _) = inside(SEQUENCE, list)?;
    if fields.first() == Some(&INTEGER) {
        fields = element(fields)?.2;
    }
    inside(SEQUENCE, fields).map(|(_, rest)| rest)
}

/// The number that two digits are.
fn two(text: &[u8]) -> Option<u64> {
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| u64::from(byte - b'0'));
    Some(10 * digit(text.first()?)? + digit(text.get(1)?)?)
}

/// Days from the Unix epoch to a date of the Gregorian calendar; 0 for what is before. Years begin in March, so that a leap
/// day is a year's last.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year.saturating_sub(1), month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    (365 * year + leap_days + (153 * month + 2) / 5 + day).saturating_sub(719_469)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{
        CertificateParams, CertificateRevocationListParams, DnType, Issuer, KeyIdMethod, KeyPair, SerialNumber,
        date_time_ymd,
    };

    use super::*;
    use crate::http::certificate;

    fn list(next: (i32, u8, u8)) -> Vec<u8> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "an authority");
        let issuer = Issuer::new(params, KeyPair::generate().unwrap());
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(1960, 1, 1),
            next_update: date_time_ymd(next.0, next.1, next.2),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&issuer).unwrap().der().to_vec()
    }

    #[test]
    fn a_list_says_whose_it_is_and_until_when_it_counts() {
        for (date, seconds) in [
            ((1970, 1, 1), 0),
            ((1970, 3, 1), 59 * 86_400),
            ((2000, 2, 29), 951_782_400),
            ((2000, 3, 1), 951_868_800),
            ((2024, 12, 31), 1_735_603_200),
            ((2049, 12, 31), 2_524_521_600),
            ((2050, 1, 1), 2_524_608_000),
            ((2100, 3, 1), 4_107_542_400),
        ] {
            let list = list(date);
            assert_eq!(next_update(&list), Some(UNIX_EPOCH + Duration::from_secs(seconds)), "{date:?}");
            assert_eq!(issuer(&list).and_then(certificate::name), Some("an authority"));
        }
    }

    proptest! {
        #[test]
        fn whatever_bytes_come_they_are_read_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 1..300), cut in 0usize..400) {
            (issuer(&bytes), next_update(&bytes));
            let mut whole = list((2030, 1, 2));
            whole.truncate(cut.max(1));
            let at = usize::from(bytes[0]) % whole.len();
            whole[at] ^= bytes.last().copied().unwrap_or(0xff);
            (issuer(&whole), next_update(&whole));
        }
    }
}
