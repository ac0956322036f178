//! The JSON of the distribution, as whoever has no session yet sees it: what the host is called and looks like, whether others
//! are let in, and what whoever sets it up is asked. The value of a variable is never shown.

use astrid_sdk::host;
use base64ct::{Base64, Encoding};
use serde::Serialize;

#[derive(Debug, Serialize)]
pub struct Shown {
    pub id: String,
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub homepage: Option<String>,
    pub invites_enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branding: Option<Branding>,
}

#[derive(Debug, Serialize)]
pub struct Branding {
    /// A `data:` URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icon: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary_color: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accent_color: Option<String>,
}

/// Sorted by key.
#[derive(Debug, Serialize)]
pub struct Onboarding {
    pub fields: Vec<Field>,
}

#[derive(Debug, Serialize)]
pub struct Field {
    pub key: String,
    pub secret: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
}

impl From<host::Distribution> for Shown {
    fn from(of: host::Distribution) -> Self {
        Self {
            id: of.id,
            name: of.name,
            description: of.description,
            homepage: of.homepage,
            invites_enabled: of.open,
            branding: of.branding.map(Branding::from),
        }
    }
}

impl From<host::Branding> for Branding {
    fn from(of: host::Branding) -> Self {
        let url = |icon: host::Icon| format!("data:{};base64,{}", icon.media_type, Base64::encode_string(&icon.bytes));
        Self { icon: of.icon.map(url), primary_color: of.primary_color, accent_color: of.accent_color }
    }
}

impl From<host::Distribution> for Onboarding {
    fn from(of: host::Distribution) -> Self {
        let field = |variable: host::Variable| Field {
            key: variable.name,
            secret: variable.secret,
            description: variable.description,
            default: variable.default,
        };
        Self { fields: of.variables.into_iter().map(field).collect() }
    }
}
