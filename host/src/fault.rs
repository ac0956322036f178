//! Points at which a test ends the process as a crash does: what is half done there must be whole after the next start.
//!
//! Only in builds with debug assertions; elsewhere [`reach`] is nothing.

use std::sync::OnceLock;

/// Where a process can be made to die. In the order in which an installation comes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// The archive was read and checked.
    Checked,
    /// The code is compiled and in the cache.
    Compiled,
    /// `bin/` has the component.
    Kept,
    /// The installation hook has run.
    Hooked,
    /// The live run loop has stopped and given its state, and the new one does not have it yet. Only where both have one.
    HandedOver,
    /// The new generation has started and passed its probes.
    Probed,
    /// The record is committed.
    Committed,
    /// The new generation is live.
    Flipped,
    /// The old one has been let go.
    Retired,
}

impl Point {
    pub const ALL: [Point; 9] = [
        Point::Checked,
        Point::Compiled,
        Point::Kept,
        Point::Hooked,
        Point::HandedOver,
        Point::Probed,
        Point::Committed,
        Point::Flipped,
        Point::Retired,
    ];

    /// As the command line has it.
    pub fn name(self) -> &'static str {
        match self {
            Point::Checked => "checked",
            Point::Compiled => "compiled",
            Point::Kept => "kept",
            Point::Hooked => "hooked",
            Point::HandedOver => "handed-over",
            Point::Probed => "probed",
            Point::Committed => "committed",
            Point::Flipped => "flipped",
            Point::Retired => "retired",
        }
    }
}

/// The capsule and the point at which to die.
static ARMED: OnceLock<(String, Point)> = OnceLock::new();

/// Arms `capsule:point`. The error says what there is.
pub fn arm(text: &str) -> Result<(), String> {
    let names = || Point::ALL.map(Point::name).join(", ");
    let (capsule, name) = text.split_once(':').ok_or_else(|| format!("`{text}` must be CAPSULE:POINT"))?;
    let point = Point::ALL.into_iter().find(|point| point.name() == name);
    let point = point.ok_or_else(|| format!("there is no point `{name}`; there are {}", names()))?;
    ARMED.set((capsule.to_owned(), point)).map_err(|_| "a point is armed already".to_owned())
}

/// Ends the process here, as a `kill -9` would, if that is what was armed.
pub fn reach(capsule: &str, point: Point) {
    if cfg!(debug_assertions) && ARMED.get().is_some_and(|(who, armed)| who == capsule && *armed == point) {
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_armed_by_its_name_and_what_is_none_says_which_there_are() {
        assert!(arm("notes").unwrap_err().contains("CAPSULE:POINT"));
        assert!(arm("notes:nowhere").unwrap_err().contains("committed"));
        // What is not armed is passed.
        reach("notes", Point::Committed);
    }
}
