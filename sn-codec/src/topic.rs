//! Topic names and filters, as MQTT defines them (MQTT 3.1.1 §4.7).

/// MQTT counts the octets of a string in 16 bits (MQTT 3.1.1 §1.5.3).
const MAX_LEN: usize = 65_535;

/// True if `name` can be published to: not empty, no wildcard, no U+0000, at most 65,535 octets.
pub fn is_valid_name(name: &str) -> bool {
    is_valid_text(name) && !has_wildcard(name)
}

/// True if `filter` can be subscribed to: `#` alone in the last level, `+` alone in a level.
///
/// Not empty, no U+0000 and at most 65,535 octets like a name.
pub fn is_valid_filter(filter: &str) -> bool {
    if !is_valid_text(filter) {
        return false;
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let valid = match level {
            "+" => true,
            "#" => levels.peek().is_none(),
            _ => !has_wildcard(level),
        };
        if !valid {
            return false;
        }
    }
    true
}

/// True if `filter` contains `+` or `#`.
pub fn has_wildcard(filter: &str) -> bool {
    filter.bytes().any(is_wildcard)
}

/// True if `name` matches `filter`; wildcards in the first level do not match a leading `$`.
///
/// Both must be valid, or the answer means nothing.
pub fn matches(filter: &str, name: &str) -> bool {
    if name.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut name_levels = name.split('/');
    for filter_level in filter.split('/') {
        // `#` also stands for no level at all: `a/#` matches `a`.
        if filter_level == "#" {
            return true;
        }
        match name_levels.next() {
            Some(level) if filter_level == "+" || filter_level == level => {}
            _ => return false,
        }
    }
    name_levels.next().is_none()
}

/// What names and filters have in common.
fn is_valid_text(text: &str) -> bool {
    (1..=MAX_LEN).contains(&text.len()) && !text.contains('\0')
}

/// True for the octets that stand for levels in a filter.
pub(crate) fn is_wildcard(octet: u8) -> bool {
    matches!(octet, b'+' | b'#')
}
