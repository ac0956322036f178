//! What a session lets whoever speaks through it do: the ceiling that the authenticator has set for it, and its name.
//!
//! It goes with every message that is sent through the session, and with everything that comes of that: who calls may do
//! what the principal holds *and* the ceiling covers. Bounded by [`MAX_CEILING`]. Refuses to know: why there is a ceiling,
//! what a name means.

use std::sync::Arc;

use astrid_capsule::Capability;

/// The most capabilities of a ceiling.
pub const MAX_CEILING: usize = 64;
/// The longest name of a session, in bytes.
pub const MAX_NAME: usize = 128;

/// Cheap to clone. The default is that of what goes through no session: no ceiling, no name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mandate(Option<Arc<Terms>>);

#[derive(Debug, PartialEq, Eq)]
struct Terms {
    name: Option<Arc<str>>,
    ceiling: Option<Arc<[Capability]>>,
}

impl Mandate {
    /// As an authenticator says it. The error says what is out of bounds.
    pub fn new(name: Option<&str>, ceiling: Option<&[String]>) -> Result<Self, String> {
        if name.is_some_and(|name| !(1..=MAX_NAME).contains(&name.len()) || name.chars().any(char::is_control)) {
            return Err(format!("a session's name must be 1 to {MAX_NAME} bytes without control characters"));
        }
        if let Some(count) = ceiling.map(<[String]>::len).filter(|count| *count > MAX_CEILING) {
            return Err(format!("a ceiling has at most {MAX_CEILING} capabilities, not {count}"));
        }
        let parsed = ceiling.map(|texts| texts.iter().map(|text| Capability::parse(text)).collect()).transpose();
        let ceiling: Option<Arc<[Capability]>> = parsed.map_err(|error| error.to_string())?;
        let bounds = name.is_some() || ceiling.is_some();
        Ok(Self(bounds.then(|| Arc::new(Terms { name: name.map(Into::into), ceiling }))))
    }

    /// How the authenticator calls the session.
    pub fn name(&self) -> Option<&str> {
        self.0.as_ref()?.name.as_deref()
    }

    /// None: everything that the principal holds.
    pub fn ceiling(&self) -> Option<&Arc<[Capability]>> {
        self.0.as_ref()?.ceiling.as_ref()
    }

    /// Whether the session may use this form of a capability, if its principal holds it.
    pub fn covers(&self, required: &Capability) -> bool {
        self.ceiling().is_none_or(|ceiling| ceiling.iter().any(|within| within.covers(required)))
    }

    /// What is left of a capability that the principal holds.
    pub fn within<'m>(&'m self, held: &'m Capability) -> impl Iterator<Item = Capability> + 'm {
        let whole = self.ceiling().is_none().then(|| held.clone());
        let ceiling = self.ceiling().map(|ceiling| &ceiling[..]).unwrap_or_default();
        whole.into_iter().chain(ceiling.iter().filter_map(|within| within.meet(held)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn a_ceiling_covers_what_it_says_an_empty_one_nothing_and_none_everything() {
        let agent_list = Capability::parse("agent:list").unwrap();
        let covers = |ceiling: Option<&[&str]>| {
            let ceiling = ceiling.map(texts);
            Mandate::new(Some("s"), ceiling.as_deref()).unwrap().covers(&agent_list)
        };
        assert!(covers(None) && covers(Some(&["x", "agent:*"])) && covers(Some(&["*"])));
        assert!(!covers(Some(&[])) && !covers(Some(&["self:*", "agent"])));
        assert!(Mandate::default().covers(&agent_list));
    }

    #[test]
    fn what_an_authenticator_says_out_of_bounds_is_refused() {
        let long = "n".repeat(MAX_NAME + 1);
        for name in ["", "a\nb", &long] {
            assert!(Mandate::new(Some(name), None).is_err(), "{name:?}");
        }
        assert!(Mandate::new(None, Some(&texts(&["a:**"]))).is_err());
        assert!(Mandate::new(None, Some(&vec!["a".to_owned(); MAX_CEILING + 1])).is_err());
        assert_eq!(Mandate::new(None, None).unwrap(), Mandate::default());
    }
}
