//! What others wrote, as text that moves no cursor and begins no line of its own.
//!
//! Client ids, topics and a broker's reasons come from the network. Printed as they are, a line feed in one forges a line
//! of a log, and an escape sequence reaches the terminal of whoever reads it.

use std::borrow::Cow;
use std::fmt::{self, Write};

/// A text with what must not be printed written as `\n`, `\t`, `\r` or `\u{1b}`. Backslashes stay as they are: it is for
/// people, and `--json` for programs.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(must_be_escaped) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if must_be_escaped(c) {
            escaped.extend(c.escape_debug());
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

/// Whether a character does something other than stand where it is: the control characters of ASCII and of Latin-1, the
/// separators of lines and paragraphs, and those that turn the direction of writing around, with which a text can be
/// made to read as another.
pub(crate) fn must_be_escaped(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}'
        )
}

/// Octets that a terminal is to show: text as [`printable`] has it, but with its line feeds and tabs, which harm no
/// terminal; what is no text as `\x9b`.
pub(crate) fn for_terminal(octets: &[u8]) -> String {
    let mut shown = String::with_capacity(octets.len());
    for chunk in octets.utf8_chunks() {
        for part in chunk.valid().split_inclusive(['\n', '\t']) {
            let kept = part.trim_end_matches(['\n', '\t']);
            shown.push_str(&printable(kept));
            shown.push_str(&part[kept.len()..]);
        }
        for octet in chunk.invalid() {
            shown.extend(['\\', 'x']);
            shown.extend(
                [octet >> 4, octet & 0xF].map(|half| char::from_digit(half.into(), 16).unwrap_or('?')),
            );
        }
    }
    shown
}

/// Writes what it is given through [`printable`]: for values that are only known by how they are formatted.
pub(crate) struct PrintableWriter<'a, W>(pub(crate) &'a mut W);

impl<W: Write> Write for PrintableWriter<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write_str(&printable(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_nothing_stays_as_it_is() {
        for text in [
            "pump-7",
            "büro/温度",
            "a b\\n \"c\"",
            "e\u{301}",
            "👩\u{200D}🔧",
            "",
        ] {
            assert!(
                matches!(printable(text), Cow::Borrowed(same) if same == text),
                "{text}"
            );
        }
    }

    #[test]
    fn what_moves_the_cursor_or_turns_text_around_is_escaped() {
        for (text, escaped) in [
            ("a\nb\r\tc", "a\\nb\\r\\tc"),
            ("\u{1b}[31m", "\\u{1b}[31m"),
            ("\0\u{7f}", "\\0\\u{7f}"),
            ("\u{85}\u{9b}2J", "\\u{85}\\u{9b}2J"),
            ("\u{2028}\u{2029}", "\\u{2028}\\u{2029}"),
            (
                "\u{202e}cba\u{2066}\u{200f}\u{61c}",
                "\\u{202e}cba\\u{2066}\\u{200f}\\u{61c}",
            ),
        ] {
            assert_eq!(printable(text), escaped);
        }
    }

    #[test]
    fn a_terminal_gets_lines_and_tabs_and_no_sequences() {
        assert_eq!(for_terminal(b"a\n\n\tb\r\x1b[2J\n"), "a\n\n\tb\\r\\u{1b}[2J\n");
        assert_eq!(
            for_terminal(b"\x9b2J\xc2\x9b\xffx\xc3"),
            "\\x9b2J\\u{9b}\\xffx\\xc3"
        );
    }
}
