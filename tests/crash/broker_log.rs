//! What mosquitto does against MQTT, as its log tells.

use std::collections::HashSet;

/// Whether [`sent_again_after_pubrec`] wants to see a line.
pub(crate) fn matters(line: &str) -> bool {
    let about_the_gateway = line.contains(" snipe (");
    about_the_gateway
        && (line.contains(" PUBREC ") || line.contains(" PUBCOMP ") || line.contains("(d1, q2,"))
}

/// Whose commands with QoS 2 it sent to the gateway as PUBLISH although it had PUBREC for them, against MQTT 5 §4.3.3: once
/// for each time.
///
/// mosquitto 2.0.11 does that when a connection breaks before it has repeated all its PUBREL. If the gateway had the PUBREL
/// already, and its PUBCOMP was lost, it cannot tell the message from a new one under the same packet id.
pub(crate) fn sent_again_after_pubrec<'a>(lines: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut received: HashSet<&str> = HashSet::new();
    let mut again = Vec::new();
    for line in lines.into_iter().filter(|line| matters(line)) {
        if let Some(packet_id) = between(line, "PUBREC from snipe (Mid: ", ")") {
            received.insert(packet_id);
        } else if let Some(packet_id) = between(line, "PUBCOMP from snipe (Mid: ", ",") {
            received.remove(packet_id);
        } else if let Some(packet_id) = between(line, ", m", ",")
            && received.remove(packet_id)
            && let Some(sleeper) = between(line, "'cmd/", "'")
        {
            again.push(sleeper.to_owned());
        }
    }
    again
}

fn between<'a>(line: &'a str, before: &str, after: &str) -> Option<&'a str> {
    Some(line.split_once(before)?.1.split_once(after)?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publish_counts_that_comes_after_its_pubrec_and_before_its_pubcomp() {
        let publish = "1: Sending PUBLISH to snipe (d1, q2, r0, m7, 'cmd/sleeper3', ... (20 bytes))";
        let pubrec = "1: Received PUBREC from snipe (Mid: 7)";
        let pubcomp = "1: Received PUBCOMP from snipe (Mid: 7, RC:0)";
        let other = "1: Received PUBREC from outer (Mid: 7)";
        assert_eq!(sent_again_after_pubrec([pubrec, publish]), ["sleeper3"]);
        assert_eq!(sent_again_after_pubrec([pubrec, publish, publish]).len(), 1);
        assert_eq!(sent_again_after_pubrec([pubrec, pubcomp, publish]).len(), 0);
        assert_eq!(sent_again_after_pubrec([publish, pubrec]).len(), 0);
        assert_eq!(sent_again_after_pubrec([other, publish]).len(), 0);
    }
}
