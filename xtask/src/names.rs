//! Names of what we make: run ids and unique suffixes, within Kubernetes' limits.

use std::hash::{BuildHasher, Hasher, RandomState};

use anyhow::Result;
use jiff::Timestamp;

use crate::exit::Exit;
use crate::fail;

/// Longest name of a namespace, a label value or a Service (RFC 1123 label).
pub const LABEL_MAX: usize = 63;
/// Characters of a unique suffix with its dash.
pub const SUFFIX_LEN: usize = 7;

/// Six hexadecimal digits that another process will hardly choose.
#[must_use]
pub fn suffix() -> String {
    // Each RandomState has fresh keys, seeded by the operating system.
    format!("{:06x}", RandomState::new().build_hasher().finish() & 0xff_ffff)
}

/// Whether `name` is `prefix` with a unique suffix.
#[must_use]
pub fn is_made_from(name: &str, prefix: &str) -> bool {
    let suffix = name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('-'));
    suffix.is_some_and(|suffix| {
        suffix.len() + 1 == SUFFIX_LEN && suffix.bytes().all(|digit| digit.is_ascii_hexdigit())
    })
}

/// An id for a run that sorts by its start, such as `20261122-141530-3fcd70`.
#[must_use]
pub fn run_id(now: Timestamp) -> String {
    format!("{}-{}", now.strftime("%Y%m%d-%H%M%S"), suffix())
}

/// Checks that `name` can name a namespace or a cluster with `reserve` more characters behind it.
///
/// # Errors
/// It is no RFC 1123 label, or too long; `what` names the thing in the message.
pub fn check_label(what: &str, name: &str, reserve: usize) -> Result<()> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let edge = |c: char| inner(c) && c != '-';
    if name.is_empty() || !name.chars().all(inner) || !name.starts_with(edge) || !name.ends_with(edge) {
        fail!(
            Exit::Usage,
            "{what} `{name}` is not a valid name: use lower-case letters, digits and dashes, with a letter or digit at both ends"
        );
    }
    if name.len() + reserve > LABEL_MAX {
        fail!(
            Exit::Usage,
            "{what} `{name}` is too long: {} characters{}, and Kubernetes allows {LABEL_MAX}; shorten it by {}",
            name.len(),
            if reserve > 0 { format!(" and {reserve} for the unique suffix") } else { String::new() },
            name.len() + reserve - LABEL_MAX
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_differ_and_have_six_digits() {
        let (a, b) = (suffix(), suffix());
        assert_ne!(a, b);
        assert!(a.len() == 6 && a.chars().all(|c| c.is_ascii_hexdigit()), "{a}");
    }

    #[test]
    fn a_longer_prefix_is_another_prefix() {
        assert!(is_made_from("dagster-test-3fcd70", "dagster-test"));
        assert!(!is_made_from("dagster-test-3fcd70", "dagster"));
        assert!(!is_made_from("dagster-test", "dagster"));
        assert!(is_made_from(&format!("a-{}", suffix()), "a"));
    }

    #[test]
    fn a_run_id_is_a_label_value() {
        let id = run_id("2026-11-22T14:15:30Z".parse().unwrap());
        assert!(id.starts_with("20261122-141530-"), "{id}");
        check_label("run id", &id, 0).unwrap();
    }

    #[test]
    fn rejects_names_that_kubernetes_would_refuse() {
        for bad in ["", "Upper", "-a", "a-", "a_b", "ä"] {
            assert!(check_label("namespace", bad, 0).is_err(), "{bad}");
        }
        let error = check_label("namespace prefix", &"a".repeat(60), SUFFIX_LEN).unwrap_err().to_string();
        assert!(error.contains("shorten it by 4"), "{error}");
        check_label("namespace prefix", &"a".repeat(56), SUFFIX_LEN).unwrap();
    }
}
