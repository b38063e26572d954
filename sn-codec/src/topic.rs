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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_no_wildcard_and_no_nul() {
        for name in ["a", "/", "a/b", "/a", "a/", "a//b", " ", "$SYS/x", "küche/°C"] {
            assert!(is_valid_name(name), "{name:?}");
        }
        for name in ["", "+", "#", "a/+/b", "a+", "a/#", "a\0b", "\0"] {
            assert!(!is_valid_name(name), "{name:?}");
        }
    }

    #[test]
    fn wildcards_stand_alone_in_their_level_and_a_hash_ends_the_filter() {
        for filter in [
            "a", "/", "#", "+", "+/+", "/+", "+/", "a/#", "/#", "+/#", "a/+/b/#", "$SYS/#", "//",
        ] {
            assert!(is_valid_filter(filter), "{filter:?}");
        }
        for filter in [
            "", "a#", "a/#/b", "#/", "##", "#/#", "a+", "+a/b", "a/b+", "++", "a/+#", "a\0", "+\0",
        ] {
            assert!(!is_valid_filter(filter), "{filter:?}");
        }
    }

    #[test]
    fn a_topic_has_at_most_65535_octets() {
        let longest = "x".repeat(65_535);
        assert!(is_valid_name(&longest) && is_valid_filter(&longest));

        let too_long = "x".repeat(65_536);
        assert!(!is_valid_name(&too_long) && !is_valid_filter(&too_long));
    }

    #[test]
    fn filters_match_what_mqtt_says() {
        // The examples of MQTT 3.1.1 §4.7.1 and §4.7.2 and their neighbours.
        for (filter, name) in [
            ("sport/tennis/player1/#", "sport/tennis/player1"),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking"),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon"),
            ("sport/#", "sport"),
            ("#", "sport/tennis"),
            ("#", "/"),
            ("sport/tennis/+", "sport/tennis/player1"),
            ("sport/+", "sport/"),
            ("+/+", "/finance"),
            ("/+", "/finance"),
            ("+/tennis/#", "sport/tennis"),
            ("$SYS/#", "$SYS/broker/load"),
            ("$SYS/monitor/+", "$SYS/monitor/Clients"),
            ("+/$x", "a/$x"),
            ("a//b", "a//b"),
            ("a/+/b", "a//b"),
        ] {
            assert!(matches(filter, name), "{filter} {name}");
        }
        for (filter, name) in [
            ("sport/tennis/player1/#", "sport/tennis"),
            ("sport/tennis/+", "sport/tennis/player1/ranking"),
            ("sport/+", "sport"),
            ("+", "/finance"),
            ("#", "$SYS/broker"),
            ("+/monitor/Clients", "$SYS/monitor/Clients"),
            ("+", "$SYS"),
            ("a/b", "a"),
            ("a", "a/b"),
            ("a/b", "a/B"),
            ("a/b/", "a/b"),
            ("ab/#", "a"),
        ] {
            assert!(!matches(filter, name), "{filter} {name}");
        }
    }
}
