//! `[distro]` and `[branding]`: how a distribution presents itself, and which hosts it is made for.

use std::path::{Path, PathBuf};

use semver::{Version, VersionReq};
use serde::Deserialize;

use super::{MAX_ICON_BYTES, MAX_LISTED, below, short, word};
use crate::shown;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct About {
    /// `^[a-z][a-z0-9-]*$`, at most 64 bytes.
    pub id: String,
    pub name: String,
    pub version: Version,
    #[serde(default)]
    pub description: Option<String>,
    /// `http://` or `https://`.
    #[serde(default)]
    pub homepage: Option<String>,
    #[serde(default)]
    pub authors: Vec<String>,
    /// The versions of the host that it is made for.
    #[serde(default)]
    pub astrid_version: Option<VersionReq>,
}

impl About {
    pub(super) fn check(&self) -> Result<(), String> {
        word(&self.id).map_err(|why| format!("distro.id {why}"))?;
        if self.name.is_empty() {
            return Err("distro.name is empty".into());
        }
        let texts = [("name", Some(&self.name)), ("description", self.description.as_ref())];
        for (key, text) in texts.into_iter().chain([("homepage", self.homepage.as_ref())]) {
            short(text).map_err(|why| format!("distro.{key} {why}"))?;
        }
        let is_address = |text: &String| text.starts_with("https://") || text.starts_with("http://");
        if let Some(homepage) = self.homepage.as_ref().filter(|text| !is_address(text)) {
            return Err(format!("distro.homepage `{}` must begin with https:// or http://", shown(homepage)));
        }
        if self.authors.len() > MAX_LISTED {
            return Err(format!("distro.authors has more than {MAX_LISTED} entries"));
        }
        self.authors.iter().try_for_each(|author| short(Some(author))).map_err(|why| format!("distro.authors {why}"))
    }

    /// Whether it is made for this version of the host.
    pub fn check_host(&self, host: &Version) -> Result<(), String> {
        match self.astrid_version.as_ref().filter(|wanted| !wanted.matches(host)) {
            Some(wanted) => Err(format!("distro.astrid-version = \"{wanted}\", and this is Astrid {host}")),
            None => Ok(()),
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Branding {
    /// A `.png`, `.svg` or `.ico` below the distribution's folder, of at most [`MAX_ICON_BYTES`].
    #[serde(default)]
    pub icon: Option<PathBuf>,
    /// `#RGB` or `#RRGGBB`.
    #[serde(default)]
    pub primary_color: Option<String>,
    #[serde(default)]
    pub accent_color: Option<String>,
}

impl Branding {
    pub(super) fn check(&self) -> Result<(), String> {
        if let Some(icon) = &self.icon {
            below(icon).map_err(|why| format!("icon {why}"))?;
            if icon_kind(icon).is_none() {
                return Err(format!("icon `{}` must be a .png, .svg or .ico", icon.display()));
            }
        }
        for (key, color) in [("primary-color", &self.primary_color), ("accent-color", &self.accent_color)] {
            let is_color = |text: &str| {
                let digits = text.strip_prefix('#').unwrap_or_default();
                matches!(digits.len(), 3 | 6) && digits.bytes().all(|b| b.is_ascii_hexdigit())
            };
            if let Some(color) = color.as_ref().filter(|color| !is_color(color)) {
                return Err(format!("{key} `{}` must be #RGB or #RRGGBB", shown(color)));
            }
        }
        Ok(())
    }
}

/// The media type of an icon, if the file's bytes are what its name says: its size, and how such a file begins.
pub fn check_icon(path: &Path, bytes: &[u8]) -> Result<&'static str, String> {
    let at = |why: String| format!("branding.icon `{}` {why}", path.display());
    if bytes.len() > MAX_ICON_BYTES {
        return Err(at(format!("has more than {MAX_ICON_BYTES} bytes")));
    }
    let kind = icon_kind(path).ok_or_else(|| at("must be a .png, .svg or .ico".into()))?;
    let (media_type, fits) = match kind {
        "png" => ("image/png", bytes.starts_with(b"\x89PNG\r\n\x1a\n")),
        "ico" => ("image/x-icon", bytes.starts_with(&[0, 0, 1, 0])),
        _ => (
            "image/svg+xml",
            std::str::from_utf8(bytes).is_ok_and(|text| {
                let text = text.trim_start();
                text.starts_with("<svg") || (text.starts_with("<?xml") && text.contains("<svg"))
            }),
        ),
    };
    if fits { Ok(media_type) } else { Err(at(format!("does not begin as a .{kind} does"))) }
}

fn icon_kind(path: &Path) -> Option<&'static str> {
    let extension = path.extension()?.to_str()?;
    ["png", "svg", "ico"].into_iter().find(|kind| *kind == extension)
}
