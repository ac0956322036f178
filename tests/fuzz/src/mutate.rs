//! Inputs made of seeds by chance. The same target, seeds and number give the same input.

use crate::{MAX_INPUT_BYTES, Target};

/// The most changes to one seed.
const MAX_CHANGES: usize = 8;
/// Bytes that mean something to some grammar.
const BYTES: &[u8] = b"\0\xff\"'\n\r\t .:*[]{}=#,-+/\\09azAZ";
/// Numbers at which something ends.
const NUMBERS: [&str; 10] =
    ["0", "-1", "1", "65536", "4294967295", "4294967296", "9223372036854775807", "18446744073709551615", "1e400", "00"];

/// A stream of chance.
struct Chance(blake3::OutputReader);

impl Chance {
    fn new(target: &str, number: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&number.to_le_bytes()).update(target.as_bytes());
        Self(hasher.finalize_xof())
    }

    fn next(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Below `end`, which is not 0; the slight bias of the remainder does not matter here.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    /// A place in, or at the end of, so many bytes.
    fn place(&mut self, len: usize) -> usize {
        self.below(len + 1)
    }

    /// A range of them, short as a rule.
    fn range(&mut self, len: usize) -> std::ops::Range<usize> {
        let most = if self.below(4) == 0 { len } else { len.min(32) };
        let (from, length) = (self.place(len), self.place(most));
        from..(from + length).min(len)
    }
}

/// The input of this number. `seeds` are the target's, at least one.
///
/// # Panics
/// If there are no seeds.
pub fn input(target: &Target, seeds: &[(String, Vec<u8>)], number: u64) -> Vec<u8> {
    let mut chance = Chance::new(target.name, number);
    let mut bytes = chance.one_of(seeds).1.clone();
    for _ in 0..=chance.below(MAX_CHANGES) {
        change(&mut bytes, target, seeds, &mut chance);
        bytes.truncate(MAX_INPUT_BYTES);
    }
    bytes
}

fn change(bytes: &mut Vec<u8>, target: &Target, seeds: &[(String, Vec<u8>)], chance: &mut Chance) {
    let at = chance.place(bytes.len());
    match chance.below(11) {
        0 if at < bytes.len() => bytes[at] ^= 1 << chance.below(8),
        1 if at < bytes.len() => bytes[at] = *chance.one_of(BYTES),
        2 => insert(bytes, at, &chance.next().to_le_bytes()[..chance.below(8)]),
        3 => drop(bytes.drain(chance.range(bytes.len()))),
        4 => {
            let copy = bytes[chance.range(bytes.len())].to_vec();
            insert(bytes, at, &copy);
        }
        5 if !target.words.is_empty() => insert(bytes, at, chance.one_of(target.words).as_bytes()),
        6 => {
            let other = &chance.one_of(seeds).1;
            insert(bytes, at, &other[chance.range(other.len())]);
        }
        7 if chance.below(4) == 0 => bytes.truncate(at),
        8 => {
            // A number that stands there, else a new one.
            let from = bytes[at..].iter().position(u8::is_ascii_digit).map_or(at, |n| at + n);
            let to = from + bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count();
            bytes.splice(from..to, chance.one_of(&NUMBERS).bytes());
        }
        9 => {
            let mut lines: Vec<&[u8]> = bytes.split_inclusive(|b| *b == b'\n').collect();
            if lines.len() > 1 {
                let (one, other) = (chance.below(lines.len()), chance.below(lines.len()));
                lines.swap(one, other);
                *bytes = lines.concat();
            }
        }
        10 => {
            let piece = bytes[chance.range(bytes.len())].to_vec();
            let times = (1 << chance.below(10)).min(MAX_INPUT_BYTES / piece.len().max(1));
            insert(bytes, at, &piece.repeat(times));
        }
        _ => bytes.push(*chance.one_of(BYTES)),
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, what: &[u8]) {
    bytes.splice(at..at, what.iter().copied());
}
