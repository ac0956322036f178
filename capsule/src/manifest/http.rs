//! `[http]`: the paths below which a capsule answers requests, how many, how large, and for how long.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::shown;

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Http {
    /// Path prefixes, each `/` or `/` and segments without a trailing `/`.
    pub mounts: Vec<String>,
    /// Bodies above this are answered with 413 before they are read whole. 1 to 16 MiB.
    #[serde(default = "Http::default_body")]
    pub max_body_bytes: u64,
    /// Requests below one mount at once, from their head to their answer's; the next one is answered with 503 before its
    /// body is read. 1 to 100,000; none for as many as come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrent: Option<u32>,
    /// Time for a body, in seconds; never more than the operator allows (`http.body-timeout-secs`). 1 to 3600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_timeout_secs: Option<u64>,
    /// Time for an answer from when the body is there, in milliseconds; never more than `limits.timeout-ms`. 1 to 86,400,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// What is otherwise below single mounts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, MountLimits>,
}

/// What is otherwise below one mount than below the capsule's others; in the bounds of [`Http`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct MountLimits {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_body_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_timeout_secs: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

impl Http {
    fn default_body() -> u64 {
        64 * 1024
    }

    /// The largest body that is taken below one of its mounts, in bytes.
    pub fn body_bytes(&self, mount: &str) -> u64 {
        self.limits.get(mount).and_then(|limits| limits.max_body_bytes).unwrap_or(self.max_body_bytes)
    }

    /// How many requests may be below one of its mounts at once; none for as many as come.
    pub fn concurrent(&self, mount: &str) -> Option<u32> {
        self.limits.get(mount).and_then(|limits| limits.max_concurrent).or(self.max_concurrent)
    }

    /// Time for a body below one of its mounts; none for what the operator allows.
    pub fn body_time(&self, mount: &str) -> Option<Duration> {
        let own = self.limits.get(mount).and_then(|limits| limits.body_timeout_secs);
        own.or(self.body_timeout_secs).map(Duration::from_secs)
    }

    /// Time for an answer below one of its mounts; none for that of any call.
    pub fn answer_time(&self, mount: &str) -> Option<Duration> {
        let own = self.limits.get(mount).and_then(|limits| limits.timeout_ms);
        own.or(self.timeout_ms).map(Duration::from_millis)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.mounts.is_empty() {
            return Err("http.mounts is empty; leave [http] out instead".into());
        }
        for (n, mount) in self.mounts.iter().enumerate() {
            check_mount(mount)?;
            if self.mounts[..n].contains(mount) {
                return Err(format!("http.mounts has `{mount}` twice"));
            }
        }
        let all = MountLimits {
            max_body_bytes: Some(self.max_body_bytes),
            max_concurrent: self.max_concurrent,
            body_timeout_secs: self.body_timeout_secs,
            timeout_ms: self.timeout_ms,
        };
        all.check("http")?;
        for (mount, limits) in &self.limits {
            if !self.mounts.contains(mount) {
                return Err(format!("http.limits `{}` is none of http.mounts", shown(mount)));
            }
            limits.check(&format!("http.limits.\"{}\"", shown(mount)))?;
        }
        Ok(())
    }
}

impl MountLimits {
    /// `section`: the key that they stand below.
    fn check(&self, section: &str) -> Result<(), String> {
        if let Some(bytes) = self.max_body_bytes.filter(|bytes| !(1..=16 << 20).contains(bytes)) {
            return Err(format!("{section}.max-body-bytes = {bytes} must be 1 to 16777216"));
        }
        if let Some(most) = self.max_concurrent.filter(|most| !(1..=100_000).contains(most)) {
            return Err(format!("{section}.max-concurrent = {most} must be 1 to 100000"));
        }
        if let Some(secs) = self.body_timeout_secs.filter(|secs| !(1..=3600).contains(secs)) {
            return Err(format!("{section}.body-timeout-secs = {secs} must be 1 to 3600"));
        }
        if let Some(ms) = self.timeout_ms.filter(|ms| !(1..=86_400_000).contains(ms)) {
            return Err(format!("{section}.timeout-ms = {ms} must be 1 to 86400000"));
        }
        Ok(())
    }
}

fn check_mount(mount: &str) -> Result<(), String> {
    let plain = |segment: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
        !["", ".", ".."].contains(&segment) && segment.bytes().all(allowed)
    };
    let path = mount.strip_prefix('/').filter(|_| mount.len() <= 256);
    let Some(path) = path.filter(|path| path.is_empty() || path.split('/').all(plain)) else {
        return Err(format!(
            "http.mounts `{}` must be `/` or `/` and plain segments, without a trailing `/`, at most 256 bytes",
            shown(mount)
        ));
    };
    if ["healthz", "metrics"].contains(&path.split('/').next().unwrap_or_default()) {
        return Err(format!("http.mounts `{mount}` is the host's own"));
    }
    Ok(())
}
