//! Topic names and filters, as MQTT defines them (MQTT 3.1.1 §4.7).

/// True if `name` can be published to: not empty, no wildcard, no U+0000, at most 65,535 octets.
pub fn is_valid_name(_name: &str) -> bool {
    unimplemented!()
}

/// True if `filter` can be subscribed to: `#` alone in the last level, `+` alone in a level.
pub fn is_valid_filter(_filter: &str) -> bool {
    unimplemented!()
}

/// True if `filter` contains `+` or `#`.
pub fn has_wildcard(filter: &str) -> bool {
    filter.bytes().any(|b| matches!(b, b'+' | b'#'))
}

/// True if `name` matches `filter`; wildcards in the first level do not match a leading `$`.
pub fn matches(_filter: &str, _name: &str) -> bool {
    unimplemented!()
}
