//! `[invites]`: who may let others in, and how many there can be.

use serde::{Deserialize, Deserializer};

use super::{MAX_LISTED, word};
use crate::{PrincipalId, shown};

/// The longest that invites can be good for: 30 days, in seconds.
const MAX_EXPIRES_SECS: u64 = 30 * 86_400;

/// Who may become a principal.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Invites {
    /// The principals who may issue invites, if they hold `invite:issue`. Empty: nobody may, and the host has one tenant.
    #[serde(default)]
    pub issuers: Vec<String>,
    /// The group of invites that name none. Needed where there are issuers.
    #[serde(default)]
    pub default_group: Option<String>,
    /// How long invites are good for that do not say it: 1 second to 30 days.
    #[serde(default)]
    pub default_expires: Option<Span>,
    /// How many principals there can be, those that were there before included.
    #[serde(default)]
    pub max_principals: Option<Limit>,
}

impl Invites {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.issuers.len() > MAX_LISTED {
            return Err(format!("issuers has more than {MAX_LISTED} entries"));
        }
        for issuer in &self.issuers {
            match PrincipalId::parse(issuer) {
                Ok(id) if !id.is_anonymous() => {}
                Ok(_) => return Err("issuers: `anonymous` is nobody".into()),
                Err(error) => return Err(format!("issuers: {error}")),
            }
        }
        match &self.default_group {
            Some(group) => word(group).map_err(|why| format!("default-group {why}"))?,
            None if !self.issuers.is_empty() => return Err("default-group is needed where there are issuers".into()),
            None => {}
        }
        Ok(())
    }
}

/// A time in whole seconds, written `30s`, `5m`, `2h` or `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub u64);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        let unit = |unit: char| {
            Some(match unit {
                's' => 1,
                'm' => 60,
                'h' => 3_600,
                'd' => 86_400,
                _ => return None,
            })
        };
        let read = || {
            let scale = unit(text.chars().last()?)?;
            let number = &text[..text.len() - 1];
            let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
            number.parse::<u64>().ok().filter(|_| digits)?.checked_mul(scale)
        };
        match read().filter(|secs| (1..=MAX_EXPIRES_SECS).contains(secs)) {
            Some(secs) => Ok(Self(secs)),
            None => {
                let why = format!("`{}` must be Ns, Nm, Nh or Nd, 1 second to 30 days", shown(&text));
                Err(serde::de::Error::custom(why))
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// At least 1.
    AtMost(u32),
    /// Written `unlimited`.
    Unlimited,
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Number(i64),
            Word(String),
        }
        let wrong = || serde::de::Error::custom("max-principals must be a whole number from 1, or \"unlimited\"");
        match Raw::deserialize(d).map_err(|_| wrong())? {
            Raw::Number(number) => match u32::try_from(number) {
                Ok(most) if most > 0 => Ok(Self::AtMost(most)),
                _ => Err(wrong()),
            },
            Raw::Word(word) if word == "unlimited" => Ok(Self::Unlimited),
            Raw::Word(_) => Err(wrong()),
        }
    }
}
