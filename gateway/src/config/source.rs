//! Texts that configuration comes from, and places in them.

use std::{ops::Range, path::PathBuf, sync::Arc};

/// One text with a name: a file, the environment, the `--set` options, the built-in defaults.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// What a person calls it: the file as it was named, `environment`, `--set`.
    pub(super) name: String,
    /// All of it, line ends as they are.
    pub(super) text: String,
    /// Where the text comes from.
    pub(super) origin: Origin,
    /// Rank: later layers override earlier ones, and messages come in this order.
    pub(super) rank: usize,
}

/// Where a [`Source`] comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// The schema's own values.
    Default,
    /// A file in this directory: its relative paths start there.
    File(PathBuf),
    /// `SNIPE__SECTION__KEY` variables, one a line.
    Environment,
    /// `--set` or `--broker`, one a line.
    CommandLine,
}

impl Source {
    /// True where keys are paths (`radio.udp0.mtu`) and bare words are strings.
    pub(super) fn is_override(&self) -> bool {
        matches!(self.origin, Origin::Environment | Origin::CommandLine)
    }

    /// The 1-based line that octet `at` is in.
    pub(super) fn line(&self, at: usize) -> usize {
        let before = self.text.as_bytes().iter().take(at);
        1 + before.filter(|&&octet| octet == b'\n').count()
    }
}

/// A span of a [`Source`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The text.
    pub(super) source: Arc<Source>,
    /// Octets of it, always on character boundaries.
    pub(super) span: Range<usize>,
}

impl Place {
    /// `span` of `source`, moved outwards to character boundaries and into the text where it is not.
    pub(super) fn new(source: &Arc<Source>, span: Range<usize>) -> Self {
        let text = &source.text;
        let mut start = span.start.min(text.len());
        let mut end = span.end.clamp(start, text.len());
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        while !text.is_char_boundary(end) {
            end += 1;
        }
        Place {
            source: Arc::clone(source),
            span: start..end,
        }
    }

    /// The text of the span.
    pub(super) fn text(&self) -> &str {
        &self.source.text[self.span.clone()]
    }

    /// Whether the built-in defaults hold this value, not the user.
    pub(super) fn is_default(&self) -> bool {
        self.source.origin == Origin::Default
    }

    /// Source and line in a few words: `snipe.toml:12`, `env SNIPE__GATEWAY__ID`, `--set`, `default`.
    pub(super) fn origin(&self) -> String {
        match self.source.origin {
            Origin::Default => "default".into(),
            Origin::File(_) => format!("{}:{}", self.source.name, self.source.line(self.span.start)),
            Origin::Environment => {
                let line = self.source.line(self.span.start);
                let text = self.source.text.lines().nth(line - 1).unwrap_or_default();
                format!("env {}", text.split('=').next().unwrap_or_default())
            }
            Origin::CommandLine => self.source.name.clone(),
        }
    }
}
