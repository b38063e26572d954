//! Ebyte modems.

use crate::Vector;

pub(crate) fn check(vector: &Vector) {
    let wire = vector.wire();
    match vector.id.as_str() {
        _ => assert!(!wire.is_empty()),
    }
}
