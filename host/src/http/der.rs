//! Elements of DER, as far as certificates and lists of them are read here.
//!
//! Bounded by what it is given: nothing is copied. Refuses to know: what an element means.

pub(super) const SEQUENCE: u8 = 0x30;

/// What is in an element of this tag, and what comes after it.
pub(super) fn inside(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    element(der).filter(|(found, ..)| *found == tag).map(|(_, content, after)| (content, after))
}

/// An element's tag, what is in it, and what comes after it.
pub(super) fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let [tag, first, rest @ ..] = der else { return None };
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81..=0x83 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, after) = rest.split_at_checked(length)?;
    Some((*tag, content, after))
}
