//! From the name of a stream to a NATS subject: `vehicle/V-1` is `PREFIX.vehicle.V-1`.
//!
//! No two names share a subject, or one would be another's "last record".

use std::fmt::Write;

/// Levels are parted by `/` in a name and by `.` in a subject; whatever means something to NATS is written as `%XX`.
pub fn subject(prefix: &str, stream: &str) -> String {
    let mut subject = String::with_capacity(prefix.len() + 1 + stream.len());
    subject.push_str(prefix);
    for level in stream.split('/') {
        subject.push('.');
        if level.is_empty() {
            // No level may be empty, and no written byte ends in `%`.
            subject.push('%');
        }
        for byte in level.bytes() {
            if byte.is_ascii_alphanumeric() || b"-_:@=+,".contains(&byte) {
                subject.push(char::from(byte));
            } else {
                // Writing to a String cannot fail.
                let _ = write!(subject, "%{byte:02X}");
            }
        }
    }
    subject
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_stay_readable() {
        assert_eq!(subject("cardea.r", "vehicle/WVW-1"), "cardea.r.vehicle.WVW-1");
        assert_eq!(subject("cardea.r", "card/a.b *>"), "cardea.r.card.a%2Eb%20%2A%3E");
        assert_eq!(subject("cardea.r", "a//b"), "cardea.r.a.%.b");
    }

    proptest! {
        #[test]
        fn no_two_names_share_a_subject(one in "[a/.%*> é2E]{1,8}", other in "[a/.%*> é2E]{1,8}") {
            prop_assert_eq!(one == other, subject("p", &one) == subject("p", &other));
        }

        #[test]
        fn every_name_is_a_subject_that_nats_takes(name in any::<String>()) {
            let subject = subject("p", &name);
            let is_fit = |level: &str| !level.is_empty() && level.bytes().all(|byte| byte.is_ascii_graphic());
            prop_assert!(subject.split('.').all(is_fit) && !subject.contains(['*', '>']));
        }
    }
}
