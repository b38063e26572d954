//! Which filters have a topic in common.

/// True if some topic name matches both filters; for `+` and `/#` that is the empty one, which there is not.
pub(crate) fn overlap(one: &str, other: &str) -> bool {
    // MQTT 3.1.1 §4.7.2: a wildcard in the first level does not match `$…`.
    let apart = |wild: &str, system: &str| wild.starts_with(['#', '+']) && system.starts_with('$');
    if apart(one, other) || apart(other, one) {
        return false;
    }
    let (mut one, mut other) = (one.split('/'), other.split('/'));
    loop {
        match (one.next(), other.next()) {
            // It stands for the level above as well, where the other may end.
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some(a), Some(b)) if a == b || a == "+" || b == "+" => {}
            (Some(_), Some(_)) | (Some(_), None) | (None, Some(_)) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use sn_codec::topic;

    use super::*;

    /// Every sequence of up to so many of these levels.
    fn sequences(levels: &[&str], up_to: usize) -> Vec<String> {
        let mut all: Vec<String> = levels.iter().map(ToString::to_string).collect();
        let mut longest = all.clone();
        for _ in 1..up_to {
            let longer = |start: &String| {
                let start = start.clone();
                levels.iter().map(move |level| format!("{start}/{level}"))
            };
            longest = longest.iter().flat_map(longer).collect();
            all.extend_from_slice(&longest);
        }
        all
    }

    #[test]
    fn filters_overlap_if_and_only_if_a_name_matches_both() {
        // A level that no filter names stands for all the others.
        let names = sequences(&["a", "", "$s", "other"], 4);
        let filters = sequences(&["a", "", "$s", "+", "#"], 3);
        let filters: Vec<&String> = filters
            .iter()
            .filter(|name| topic::is_valid_filter(name))
            .collect();
        assert!(filters.len() > 100 && names.len() > 300);
        let matched: Vec<Vec<bool>> = filters
            .iter()
            .map(|filter| names.iter().map(|name| topic::matches(filter, name)).collect())
            .collect();
        for (one, matched_by_one) in filters.iter().zip(&matched) {
            for (other, matched_by_other) in filters.iter().zip(&matched) {
                let both = matched_by_one.iter().zip(matched_by_other);
                let expected = both.into_iter().any(|(one, other)| *one && *other);
                assert_eq!(overlap(one, other), expected, "{one} and {other}");
            }
        }
    }
}
