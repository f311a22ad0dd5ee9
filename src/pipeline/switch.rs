//! What is known of an endpoint besides its configuration: disabled, paused by an operator, failing since when.
//!
//! Pure. The knowledge lives in the state topic, so that it survives restarts and reaches every instance.

/// One endpoint's switch. Times are unix milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Switch {
    /// The last time it was disabled, if it was since it was last enabled.
    pub disabled: Option<Disabled>,
    /// Has an operator paused it?
    pub paused: bool,
    /// When an operator enabled it last; 0: never.
    pub enabled_at: i64,
    /// Since when every attempt failed, once that has lasted long enough to be noted down.
    pub failing_since: Option<i64>,
}

/// Why and for which URL an endpoint was disabled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disabled {
    /// Why.
    pub why: Why,
    /// When the attempt began whose answer said so.
    pub begun: i64,
    /// Which URL.
    pub url: String,
}

/// Why an endpoint was disabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It answered 410.
    Gone,
    /// It failed for `disable_after` without one success.
    Failing,
}

impl Switch {
    /// x
    pub fn disabled_for(&self, url: &str) -> Option<&Disabled> {
        self.disabled.as_ref().filter(|disabled| disabled.url == url && disabled.begun > self.enabled_at)
    }
}
/// x
pub fn url_hash(url: &url::Url) -> String {
    url.to_string()
}

impl Why {
    /// x
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Failing => "failing",
        }
    }
}
