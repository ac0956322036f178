//! The path of a tile, as C2SP tlog-tiles writes it. Pure.

use astrid_sdk::journal::TileKind;

/// Hashes or entries in a whole tile.
const WIDTH: u32 = 256;
/// Levels of hashes that there may be.
const LEVELS: u8 = 64;

/// Which tile: its kind, its index, and how wide it is, 1 to 256. None if the path is no tile's.
pub fn parse(path: &str) -> Option<(TileKind, u64, u32)> {
    let (kind, rest) = path.split_once('/')?;
    let kind = match kind {
        "entries" => TileKind::Entries,
        level => TileKind::Hashes(number(level).and_then(|n| u8::try_from(n).ok()).filter(|level| *level < LEVELS)?),
    };
    let (index, width) = match rest.split_once(".p/") {
        None => (rest, WIDTH),
        Some((index, width)) => {
            (index, number(width).and_then(|n| u32::try_from(n).ok()).filter(|w| (1..WIDTH).contains(w))?)
        }
    };
    let mut segments = index.split('/').rev();
    let mut value = triple(segments.next()?)?;
    let mut scale: u64 = 1000;
    let mut first = None;
    for segment in segments {
        first = triple(segment.strip_prefix('x')?);
        value = first?.checked_mul(scale)?.checked_add(value)?;
        scale = scale.checked_mul(1000)?;
    }
    // The shortest form is the only one.
    (first != Some(0)).then_some((kind, value, width))
}

fn triple(text: &str) -> Option<u64> {
    (text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

/// Decimal, without zeros in front.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    (digits && (text == "0" || !text.starts_with('0'))).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_as_they_are_written() {
        for (path, want) in [
            ("0/000", (TileKind::Hashes(0), 0, 256)),
            ("63/x001/234", (TileKind::Hashes(63), 1234, 256)),
            ("entries/x001/x234/567.p/17", (TileKind::Entries, 1_234_567, 17)),
            ("entries/999.p/255", (TileKind::Entries, 999, 255)),
        ] {
            let (kind, index, width) = parse(path).unwrap_or_else(|| panic!("{path}"));
            assert_eq!((format!("{kind:?}"), index, width), (format!("{:?}", want.0), want.1, want.2), "{path}");
        }
    }

    #[test]
    fn what_is_no_path_of_a_tile_is_none() {
        let long = format!("0/{}000", "x999/".repeat(7));
        for path in [
            "",
            "0",
            "0/",
            "64/000",
            "00/000",
            "-1/000",
            "data/000",
            "0/0",
            "0/0000",
            "0/001/002",
            "0/x1/000",
            "0/x000/001",
            "0/000.p",
            "0/000.p/",
            "0/000.p/0",
            "0/000.p/256",
            "0/000.p/01",
            "0/000/",
            "0//000",
            "../000",
            &long,
        ] {
            assert!(parse(path).is_none(), "{path}");
        }
    }
}
