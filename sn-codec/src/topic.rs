//! Topic names and filters, as MQTT defines them (MQTT 3.1.1 §4.7).

/// MQTT counts the octets of a string in 16 bits (MQTT 3.1.1 §1.5.3).
const MAX_LEN: usize = 65_535;

/// Levels of a name or filter. Brokers close the connection over more, Mosquitto from 200 on.
pub const MAX_LEVELS: usize = 128;

/// True if `name` is a topic name that every broker takes: not empty, no wildcard, at most 65,535 octets and
/// [`MAX_LEVELS`], and only characters of [`is_carried`].
pub fn is_valid_name(name: &str) -> bool {
    is_valid_text(name) && !has_wildcard(name)
}

/// True if `filter` can be subscribed to: `#` alone in the last level, `+` alone in a level, and in a shared
/// subscription a group and a filter behind `$share` (MQTT 5 §4.8.2).
///
/// Its length and characters are bounded like those of a name.
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
    is_whole_if_shared(filter)
}

/// True if clients may publish to `name`, which is valid: not to the names of the broker itself, over which brokers
/// close the connection. They all begin with `$SYS` or `$share`.
pub fn is_open_to_clients(name: &str) -> bool {
    !name.starts_with("$SYS") && !name.starts_with("$share")
}

/// True for the characters that no broker refuses. Over control characters and what Unicode keeps from being a character
/// a broker may close the connection (MQTT 5 §1.5.4, MQTT 3.1.1 §1.5.3).
pub fn is_carried(c: char) -> bool {
    let non_character = matches!(c, '\u{FDD0}'..='\u{FDEF}') || u32::from(c) & 0xFFFE == 0xFFFE;
    !c.is_control() && !non_character
}

/// The place of the first character that is not [`is_carried`].
pub(crate) fn find_uncarried(text: &str) -> Option<usize> {
    // Nearly every text is printable ASCII; without a branch inside, the loop becomes vector instructions.
    let plain = |plain, octet: u8| plain & matches!(octet, b' '..=b'~');
    if text.bytes().fold(true, plain) {
        return None;
    }
    text.find(|c| !is_carried(c))
}

pub(crate) fn has_too_many_levels(text: &str) -> bool {
    text.bytes().filter(|octet| *octet == b'/').count() >= MAX_LEVELS
}

/// `$share/group/filter`, or no shared subscription at all.
fn is_whole_if_shared(filter: &str) -> bool {
    let Some(rest) = filter.strip_prefix("$share") else {
        return true;
    };
    if !rest.is_empty() && !rest.starts_with('/') {
        return true;
    }
    let mut parts = rest.splitn(3, '/').skip(1);
    let group = parts.next().unwrap_or_default();
    let inner = parts.next().unwrap_or_default();
    !group.is_empty() && !has_wildcard(group) && !inner.is_empty()
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
    (1..=MAX_LEN).contains(&text.len()) && find_uncarried(text).is_none() && !has_too_many_levels(text)
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
    fn what_a_broker_may_close_the_connection_over_is_not_valid() {
        for c in [
            '\0', '\u{1}', '\n', '\u{1F}', '\u{7F}', '\u{80}', '\u{9F}', '\u{FDD0}', '\u{FDEF}',
        ]
        .into_iter()
        .chain(['\u{FFFE}', '\u{FFFF}', '\u{1FFFE}', '\u{10FFFF}'])
        {
            let name = format!("a/ä{c}/b");
            assert!(!is_valid_name(&name) && !is_valid_filter(&name), "{name:?}");
            assert_eq!(find_uncarried(&name), Some(4));
        }
        for c in [
            ' ',
            '~',
            '\u{00A0}',
            '\u{FDCF}',
            '\u{FDF0}',
            '\u{FFFD}',
            '\u{1FFFD}',
            '\u{10FFFD}',
        ] {
            let name = format!("a/{c}");
            assert!(is_valid_name(&name) && is_valid_filter(&name), "{name:?}");
        }
    }

    #[test]
    fn a_topic_has_at_most_128_levels() {
        let deepest = "/".repeat(127);
        assert!(is_valid_name(&deepest) && is_valid_filter(&deepest));

        let too_deep = "/".repeat(128);
        assert!(!is_valid_name(&too_deep) && !is_valid_filter(&too_deep));
    }

    #[test]
    fn a_shared_subscription_names_group_and_filter() {
        for filter in ["$share/g/a", "$share/g/#", "$share/g//", "$shared", "$shares/x"] {
            assert!(is_valid_filter(filter), "{filter:?}");
        }
        for filter in [
            "$share",
            "$share/",
            "$share/g",
            "$share/g/",
            "$share//a",
            "$share/+/a",
            "$share/#",
        ] {
            assert!(!is_valid_filter(filter), "{filter:?}");
        }
    }

    #[test]
    fn the_names_of_the_broker_are_not_open_to_clients() {
        for name in ["$SYS", "$SYS/x", "$share", "$share/g/a"] {
            assert!(!is_open_to_clients(name), "{name:?}");
        }
        for name in ["a", "a/$SYS/x", "$x", "$", "SYS"] {
            assert!(is_open_to_clients(name), "{name:?}");
        }
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
