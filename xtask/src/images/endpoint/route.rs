//! What a request's path names, by the OCI distribution specification.

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    /// The API itself.
    Base,
    /// A blob by its digest.
    Blob { repository: &'a str, digest: &'a str },
    /// Where uploads begin.
    Uploads { repository: &'a str },
    /// An upload under way.
    Upload { repository: &'a str, id: &'a str },
    /// A manifest by tag or digest.
    Manifest { repository: &'a str, reference: &'a str },
}

impl<'a> Route<'a> {
    /// Understands a path; nothing where it is none of ours.
    pub(super) fn of(path: &'a str) -> Option<Route<'a>> {
        let rest = path.strip_prefix("/v2")?;
        if matches!(rest, "" | "/") {
            return Some(Route::Base);
        }
        let rest = rest.strip_prefix('/')?;
        // A repository's name has slashes itself, so read from the end.
        if let Some(repository) = rest.trim_end_matches('/').strip_suffix("/blobs/uploads") {
            return Some(Route::Uploads { repository });
        }
        let (head, last) = rest.rsplit_once('/')?;
        if let Some(repository) = head.strip_suffix("/blobs/uploads") {
            return Some(Route::Upload { repository, id: last });
        }
        match head.rsplit_once('/')? {
            (repository, "blobs") => Some(Route::Blob { repository, digest: last }),
            (repository, "manifests") => Some(Route::Manifest { repository, reference: last }),
            _ => None,
        }
    }

    /// The repository it belongs to.
    pub(super) fn repository(&self) -> Option<&'a str> {
        match self {
            Route::Base => None,
            Route::Blob { repository, .. }
            | Route::Uploads { repository }
            | Route::Upload { repository, .. }
            | Route::Manifest { repository, .. } => Some(repository),
        }
    }
}

/// Whether `text` is a digest that we can verify.
pub(super) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// Whether `text` is a tag.
pub(super) fn is_tag(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    (1..=128).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with(['.', '-'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_may_have_slashes() {
        let check = |path: &str, expected: Option<Route<'_>>| assert_eq!(Route::of(path), expected, "{path}");
        check("/v2/", Some(Route::Base));
        check("/v2", Some(Route::Base));
        check("/v2/a/b/blobs/uploads/", Some(Route::Uploads { repository: "a/b" }));
        check("/v2/a/b/blobs/uploads", Some(Route::Uploads { repository: "a/b" }));
        check("/v2/a/blobs/uploads/7", Some(Route::Upload { repository: "a", id: "7" }));
        check("/v2/a/b/blobs/sha256:0", Some(Route::Blob { repository: "a/b", digest: "sha256:0" }));
        check("/v2/a/manifests/1.0", Some(Route::Manifest { repository: "a", reference: "1.0" }));
        check("/v2/a/tags/list", None);
        check("/v2x", None);
        check("/v2/blobs/uploads/", None);
        check("/", None);
    }

    #[test]
    fn only_digests_that_can_be_verified_are_digests() {
        assert!(is_digest(&format!("sha256:{}", "0a".repeat(32))));
        assert!(!is_digest(&format!("sha256:{}", "0A".repeat(32))));
        assert!(!is_digest(&format!("sha512:{}", "0a".repeat(64))));
        assert!(!is_digest("sha256:0a"));
    }

    #[test]
    fn tags_begin_with_a_letter_a_digit_or_an_underscore() {
        assert!(is_tag("1.0-rc_1") && is_tag("_"));
        assert!(!is_tag("") && !is_tag("-a") && !is_tag("a/b") && !is_tag(&"a".repeat(129)));
    }
}
