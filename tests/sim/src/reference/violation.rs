//! What a check says: it holds, or which rule is broken and how.

use core::fmt;

/// A broken rule.
#[derive(Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which one, in a few words that stay the same.
    pub rule: &'static str,
    /// What happened.
    pub detail: String,
}

impl Violation {
    /// A broken rule.
    pub fn new(rule: &'static str, detail: impl Into<String>) -> Violation {
        Violation {
            rule,
            detail: detail.into(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.detail)
    }
}

impl fmt::Debug for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl core::error::Error for Violation {}

/// Passes if the rule holds.
pub type Check = Result<(), Violation>;

pub(super) fn ensure(holds: bool, rule: &'static str, detail: impl FnOnce() -> String) -> Check {
    if holds {
        Ok(())
    } else {
        Err(Violation::new(rule, detail()))
    }
}
