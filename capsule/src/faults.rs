//! Everything that is wrong with a manifest's text, each with its place and, for an unknown key, the one that was meant.
//!
//! Reading stops at the first fault; here a text that could not be read is taken apart. Unknown keys and values of the
//! wrong kind are found by the shape of the manifest's type; then each entry is read and checked by itself, so that one
//! fault does not hide the next; then all sound entries together, for what only two of them do. At most
//! [`MAX_FAULTS`] are told. Owns no rule: those are [`Manifest`]'s.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::manifest::{MAX_BYTES, Manifest, Probe};
use crate::shape::Shape;
use crate::{near, shown, tool};

/// The most faults that are told of one text.
pub const MAX_FAULTS: usize = 32;

/// Manifests with more entries than this are told one fault of those that entries have together: finding the entry means
/// reading the others again and again.
const MANY_PARTS: usize = 256;

/// Something to change in a text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Fault {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong, and what to write instead.
    pub text: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.text)
    }
}

type Table<'t> = DeTable<'t>;

/// What is wrong with a manifest, in the order of its lines. Empty for one that [`Manifest::parse`] takes.
pub fn faults(text: &str) -> Vec<Fault> {
    if text.len() > MAX_BYTES {
        let text = format!("the manifest has {} bytes; at most {MAX_BYTES} are read", text.len());
        return vec![Fault { line: 1, column: 1, text }];
    }
    let mut search = Search { text, found: Vec::new() };
    search.run();
    search.found.sort();
    search.found.dedup();
    search.found.truncate(MAX_FAULTS);
    search.found
}

/// Where a place of the text is, as people count.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset.min(text.len())).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[start..].chars().count() + 1)
}

/// One entry of a manifest, read by itself.
#[derive(Clone)]
struct Part<'t> {
    /// The key of the document that it stands below.
    section: Cow<'t, str>,
    /// Of its header, or of the whole value.
    span: Range<usize>,
    /// Where it stands in a list.
    index: Option<usize>,
    /// The name of an entry of a map.
    name: Option<Spanned<Cow<'t, str>>>,
    shape: Shape,
    value: Spanned<DeValue<'t>>,
}

impl<'t> Part<'t> {
    /// As people write it.
    fn path(&self) -> String {
        match &self.name {
            Some(name) => format!("{}.{}", self.section, shown(name.get_ref())),
            None => self.section.clone().into_owned(),
        }
    }
}

struct Search<'t> {
    text: &'t str,
    found: Vec<Fault>,
}

impl<'t> Search<'t> {
    fn run(&mut self) {
        let (document, broken) = DeTable::parse_recoverable(self.text);
        if !broken.is_empty() {
            for error in broken.iter().take(MAX_FAULTS) {
                self.tell(error.span().map_or(0, |span| span.start), error.message());
            }
            return;
        }
        let shape = Shape::of::<Manifest>();
        let mut sound: Vec<Part<'t>> = Vec::new();
        let mut parts = self.parts(document.into_inner(), &shape);
        // What needs others comes behind them.
        parts.sort_by_key(|part| ["component", "probe", "tool"].contains(&&*part.section));
        for mut part in parts {
            if self.full() {
                return;
            }
            let before = self.found.len();
            let path = part.path();
            let fits = self.value(&mut part.value, &part.shape, &path);
            if fits && self.alone(&part, self.found.len() == before, &sound) {
                sound.push(part);
            }
        }
        if sound.len() > MANY_PARTS {
            if let Some(wrong) = read(join(&sound)) {
                self.tell(wrong.span.map_or(0, |span| span.start), wrong.text);
            }
            return;
        }
        while !self.full() && self.together(&mut sound) {}
    }

    fn full(&self) -> bool {
        self.found.len() >= MAX_FAULTS
    }

    fn tell(&mut self, offset: usize, text: impl Into<String>) {
        let (line, column) = place(self.text, offset);
        self.found.push(Fault { line, column, text: text.into() });
    }

    /// Takes what a table may not hold out of it, and tells of it.
    fn table(&mut self, table: &mut Table<'t>, shape: &Shape, within: &str) {
        let keys: Vec<Spanned<Cow<'t, str>>> = table.keys().cloned().collect();
        for key in keys {
            let name = key.get_ref().as_ref();
            let Some(wanted) = shape.key(name) else {
                self.unknown(&key, shape, within);
                table.remove(&key);
                continue;
            };
            let below = format!("{within}.{}", shown(name));
            let keep = table.get_mut(&key).is_some_and(|value| self.value(value, wanted, &below));
            if !keep {
                table.remove(&key);
            }
        }
    }

    /// Whether a value is of the kind that is wanted here.
    fn value(&mut self, value: &mut Spanned<DeValue<'t>>, shape: &Shape, path: &str) -> bool {
        let span = value.span();
        match (value.get_mut(), shape) {
            (DeValue::Table(table), Shape::Struct(_) | Shape::Map(_)) => self.table(table, shape, path),
            (DeValue::Array(list), Shape::List(of)) => {
                let mut sound = toml::de::DeArray::new();
                for mut element in std::mem::replace(list, toml::de::DeArray::new()) {
                    if self.value(&mut element, of, path) {
                        sound.push(element);
                    }
                }
                *list = sound;
            }
            (DeValue::String(text), Shape::OneOf(known)) if !known.contains(&text.as_ref()) => {
                let hint = near::meant(text, known.iter().copied());
                self.tell(span.start, format!("{path} can't be \"{}\"{hint}", shown(text)));
                return false;
            }
            (DeValue::Table(_), Shape::Table) => {}
            (DeValue::String(_), Shape::Text | Shape::OneOf(_) | Shape::Scalar)
            | (DeValue::Integer(_), Shape::Integer | Shape::Scalar)
            | (DeValue::Boolean(_), Shape::Boolean | Shape::Scalar)
            | (DeValue::Float(_), Shape::Scalar) => {}
            _ => {
                self.tell(span.start, format!("{path} must be {shape}"));
                return false;
            }
        }
        true
    }

    /// The entries of a document. What it asks for comes first, because others need it.
    fn parts(&mut self, table: Table<'t>, shape: &Shape) -> Vec<Part<'t>> {
        let mut parts = Vec::new();
        if !table.keys().any(|key| key.get_ref() == "package") {
            self.tell(0, "[package] is missing, with a name and a version");
        }
        for (key, value) in table {
            let section = key.get_ref();
            let Some(wanted) = shape.key(section) else {
                self.unknown(&key, shape, "");
                continue;
            };
            let span = value.span();
            let part = |span, index, name, shape: &Shape, value| {
                let (section, shape) = (section.clone(), shape.clone());
                Part { section, span, index, name, shape, value }
            };
            match (value.into_inner(), wanted) {
                (DeValue::Array(list), Shape::List(of)) => {
                    let elements = list.into_iter().enumerate();
                    parts.extend(elements.map(|(n, value)| part(value.span(), Some(n), None, of, value)));
                }
                (DeValue::Table(entries), Shape::Map(of)) => {
                    let entries = entries.into_iter();
                    parts.extend(entries.map(|(name, value)| part(name.span(), None, Some(name), of, value)));
                }
                (value, _) => parts.push(part(span.clone(), None, None, wanted, Spanned::new(span, value))),
            }
        }
        parts.sort_by_key(|part| part.section != "asks");
        parts
    }

    fn unknown(&mut self, key: &Spanned<Cow<'t, str>>, shape: &Shape, within: &str) {
        let name = key.get_ref();
        let Shape::Struct(known) = shape else { return };
        if self.full() {
            return;
        }
        let place = if within.is_empty() { String::new() } else { format!(" in {within}") };
        let hint = near::meant(name, known.iter().map(|(key, _)| *key));
        self.tell(key.span().start, format!("unknown key `{}`{place}{hint}", shown(name)));
    }

    /// Whether a part is sound by itself. Tells of everything that is wrong in it. From one that is not `whole` something
    /// has been taken out already.
    fn alone(&mut self, part: &Part<'t>, whole: bool, sound_so_far: &[Part<'t>]) -> bool {
        let mut now = part.clone();
        let mut sound = whole;
        // A list may be as long as the text: of lists, only probes and tools need others, and there are few that may be read.
        let needs: &[&str] = match &*part.section {
            "probe" if part.index.is_some_and(|index| index < Probe::MAX) => &["asks", "subscribe", "http"],
            "tool" if part.index.is_some_and(|index| index < tool::MAX) => &["subscribe"],
            "probe" | "tool" => return whole,
            "component" => &["asks", "subscribe", "intercept"],
            _ if part.index.is_none() && part.name.is_none() => &["asks"],
            _ => &[],
        };
        loop {
            let others = sound_so_far.iter().filter(|other| needs.contains(&&*other.section));
            let Some(wrong) = read(join(others.chain([&now]))) else { return sound };
            let taken_out = !sound && wrong.text.contains("missing");
            if taken_out || self.full() {
                return false;
            }
            sound = false;
            let at = wrong.span.filter(|span| span.end > 0);
            let serde = at.is_some();
            let key = match &at {
                Some(span) => covering(&now.value, span),
                None => named(&now.value, &wrong.text),
            };
            let offset = at.or_else(|| key.as_ref().map(Spanned::span)).unwrap_or(part.span.clone()).start;
            let mut text = wrong.text;
            if let Some(index) = part.index {
                text = text.replacen(&format!("{}[0]", part.section), &format!("{}[{index}]", part.section), 1);
            }
            // Rules name their key; serde does so only where one is missing.
            if let Some(key) = key.as_ref().filter(|_| serde) {
                text = format!("{}.{}: {text}", part.path(), shown(key.get_ref()));
            }
            self.tell(offset, text);
            let (Some(key), DeValue::Table(table)) = (key, now.value.get_mut()) else { return false };
            if table.remove(&key).is_none() {
                return false;
            }
        }
    }

    /// Whether something was wrong with parts that are sound each by itself: then the first that does not go with those
    /// before it is told of and taken out.
    fn together(&mut self, parts: &mut Vec<Part<'t>>) -> bool {
        let fails = |n: usize| read(join(&parts[..n]));
        let Some(wrong) = fails(parts.len()) else { return false };
        // What goes wrong with some parts goes wrong with more of them as well.
        let (mut fine, mut bad) = (0, parts.len());
        while bad - fine > 1 {
            let middle = fine + (bad - fine) / 2;
            match fails(middle) {
                Some(_) => bad = middle,
                None => fine = middle,
            }
        }
        let text = fails(bad).unwrap_or(wrong).text;
        let part = parts.remove(bad - 1);
        self.tell(part.span.start, text);
        true
    }
}

fn within(inner: &Range<usize>, outer: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

/// The key of a table whose value, or which itself, stands there.
fn covering<'t>(value: &Spanned<DeValue<'t>>, span: &Range<usize>) -> Option<Spanned<Cow<'t, str>>> {
    let table = value.get_ref().as_table()?;
    let entry = table.iter().find(|(key, value)| within(span, &key.span()) || within(span, &value.span()))?;
    Some(entry.0.clone())
}

/// The key of a table that a sentence speaks of.
fn named<'t>(value: &Spanned<DeValue<'t>>, text: &str) -> Option<Spanned<Cow<'t, str>>> {
    let table = value.get_ref().as_table()?;
    let words: Vec<&str> = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_').collect();
    table.keys().find(|key| words.contains(&key.get_ref().as_ref())).cloned()
}

/// A document of some parts, with a package of no consequence where none of them is that.
fn join<'p, 't: 'p>(parts: impl IntoIterator<Item = &'p Part<'t>>) -> Table<'t> {
    let bare = |text: &'static str| Spanned::new(0..0, Cow::Borrowed(text));
    let mut table = Table::new();
    for part in parts {
        let section = Spanned::new(part.span.clone(), part.section.clone());
        let empty = |value| Spanned::new(part.span.clone(), value);
        match (&part.name, part.index) {
            (Some(name), _) => {
                let entry = table.entry(section).or_insert_with(|| empty(DeValue::Table(Table::new())));
                if let DeValue::Table(entries) = entry.get_mut() {
                    entries.insert(name.clone(), part.value.clone());
                }
            }
            (None, Some(_)) => {
                let entry = table.entry(section).or_insert_with(|| empty(DeValue::Array(toml::de::DeArray::new())));
                if let DeValue::Array(list) = entry.get_mut() {
                    list.push(part.value.clone());
                }
            }
            (None, None) => drop(table.insert(section, part.value.clone())),
        }
    }
    table.entry(bare("package")).or_insert_with(|| {
        let text = |text: &'static str| Spanned::new(0..0, DeValue::String(text.into()));
        let package = Table::from_iter([(bare("name"), text("a")), (bare("version"), text("0.1.0"))]);
        Spanned::new(0..0, DeValue::Table(package))
    });
    table
}

/// Why a document was refused.
struct Wrong {
    text: String,
    span: Option<Range<usize>>,
}

fn read(table: Table<'_>) -> Option<Wrong> {
    let document = toml::de::Deserializer::from(Spanned::new(0..0, table));
    match Manifest::deserialize(document) {
        Ok(manifest) => manifest.check().err().map(|text| Wrong { text, span: None }),
        Err(error) => Some(Wrong { text: error.message().to_owned(), span: error.span() }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(text: &str) -> Vec<String> {
        faults(text).iter().map(Fault::to_string).collect()
    }

    const PACKAGE: &str = "[package]\nname = \"a\"\nversion = \"0.1.0\"\n";

    #[test]
    fn every_fault_is_told_with_its_place() {
        let text = "\
asks = [\"root\", \"http:mount\", \"keys:X\"]
[package]
nmae = \"notes\"
version = \"1.2\"
[[subscribe]]
topic = \"notes..add\"
handlre = \"add\"
[[subscribe]]
topic = \"notes.v1.list\"
handler = 7
[[subscribe]]
topic = \"notes.v1.list\"
handler = \"list\"
public = true
requires = [\"a\"]
[[intercept]]
topic = \"notes.v1.*\"
handler = \"judge\"
fail = \"open \"
priority = 2000
[env.key]
type = \"secrt\"
[http]
mounts = [\"/a/\"]

[limits]
timeout-ms = 0
max-fuel = 1
";
        let told = told(text);
        let want = [
            "line 1, column 9: asks `root`, which no host offers",
            "line 1, column 31: asks `keys:X`, which no host offers",
            "line 3, column 1: unknown key `nmae` in package; did you mean `name`?",
            "line 4, column 11: package.version: unexpected end",
            "line 6, column 9: subscribe.topic: topic pattern `notes..add` has an empty segment",
            "line 7, column 1: unknown key `handlre` in subscribe; did you mean `handler`?",
            "line 10, column 11: subscribe.handler must be a string",
            "line 14, column 1: subscribe[2] (notes.v1.list): is public and requires [a]",
            "line 19, column 8: intercept.fail can't be \"open \"; did you mean `open`?",
            "line 20, column 1: intercept[0] (notes.v1.*): priority = 2000 must be 0 to 1000",
            "line 22, column 8: env.key.type can't be \"secrt\"; did you mean `secret`?",
            "line 24, column 1: http.mounts `/a/` must be",
            "line 27, column 1: limits.timeout-ms = 0 must be",
            "line 28, column 1: limits.max-fuel = 1 must be",
        ];
        assert_eq!(told.len(), want.len(), "{told:#?}");
        let missing: Vec<&&str> = want.iter().filter(|w| !told.iter().any(|line| line.starts_with(**w))).collect();
        assert!(missing.is_empty(), "{missing:#?}\nin {told:#?}");
    }

    #[test]
    fn what_two_entries_do_together_is_told_at_the_second() {
        let binding = "[[subscribe]]\ntopic = \"a.b\"\nhandler = \"x\"\n";
        let told = told(&format!("{PACKAGE}{binding}{binding}{binding}"));
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].starts_with("line 7, ") && told[0].contains("bound twice"), "{told:?}");
        assert!(told[1].starts_with("line 10, "), "{told:?}");
    }

    #[test]
    fn broken_toml_is_told_with_its_place() {
        let told = told("[package]\nname = \nversion = \"0.1.0\n");
        assert!(told.len() >= 2 && told[0].starts_with("line 2, "), "{told:?}");
    }

    #[test]
    fn a_sound_manifest_has_no_faults_and_a_large_one_is_not_read() {
        assert_eq!(told(PACKAGE), Vec::<String>::new());
        assert!(told(&"#".repeat(MAX_BYTES + 1))[0].contains("at most"));
        assert_eq!(told(""), ["line 1, column 1: [package] is missing, with a name and a version"]);
    }

    #[test]
    fn faults_are_bounded() {
        let many: String = (0..1000).map(|n| format!("k{n} = 1\n")).collect();
        assert_eq!(faults(&many).len(), MAX_FAULTS);
        let binding = |n: usize| format!("[[subscribe]]\ntopic = \"a.n{n}\"\nhandler = \"x\"\n");
        let bindings: String = (0..300).map(|n| binding(n % 299)).collect();
        let told = told(&format!("{PACKAGE}{bindings}"));
        assert!(told.len() == 1 && told[0].contains("(a.n0): the topic is bound twice"), "{told:?}");
    }

    const LINES: [&str; 24] = [
        "asks = [\"http:mount\"]",
        "[package]",
        "name = \"a\"",
        "version = \"0.1.0\"",
        "[[publish]]",
        "topic = \"b.c\"",
        "[[subscribe]]",
        "topic = \"a.b\"",
        "handler = \"b\"",
        "requires = [\"a:b\"]",
        "public = true",
        "delivery = \"lossy\"",
        "[[intercept]]",
        "topic = \"*\"",
        "handler = \"c\"",
        "priority = 7",
        "[env.KEY]",
        "type = \"string\"",
        "default = 3",
        "[http]",
        "mounts = [\"/a\"]",
        "[limits]",
        "max-fuel = 12345",
        "timeout-ms = \"soon\"",
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn a_text_has_faults_exactly_if_it_does_not_read(
            kept in proptest::sample::subsequence(&LINES[..], 0..=LINES.len()),
            moved in proptest::collection::vec((0..LINES.len(), 0..LINES.len()), 0..3),
        ) {
            let mut lines = kept;
            for (from, to) in moved {
                let line = LINES[from];
                lines.insert(to.min(lines.len()), line);
            }
            let text = lines.join("\n");
            let reads = toml::from_str::<Manifest>(&text).is_ok_and(|manifest| manifest.check().is_ok());
            let found = faults(&text);
            prop_assert_eq!(found.is_empty(), reads, "{}\n{:?}", text, found);
            let count = lines.len().max(1);
            prop_assert!(found.iter().all(|fault| (1..=count).contains(&fault.line)), "{}\n{:?}", text, found);
        }
    }
}
