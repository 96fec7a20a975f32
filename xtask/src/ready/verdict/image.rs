//! Images that cannot be had.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ContainerStatus;

use super::{CauseKind, Finding, Look, after};
use crate::ready::cause::Cause;

/// The host of images that only delivery brings: no registry has it.
const LOCAL: &str = "k8s-test.local/";

/// What a registry's or the runtime's words mean.
fn meaning(said: &str) -> (CauseKind, bool) {
    let said = said.to_lowercase();
    let has = |parts: &[&str]| parts.iter().any(|part| said.contains(part));
    // A registry that is only slow or busy may say anything else in the same breath.
    if has(&[
        "429",
        "too many requests",
        "toomanyrequests",
        "i/o timeout",
        "timeout",
        "connection refused",
        "connection reset",
        "unexpected eof",
        " 500 ",
        " 502 ",
        " 503 ",
        " 504 ",
        "temporary failure",
        "no such host",
        "server misbehaving",
        "network is unreachable",
        "no route to host",
    ]) {
        return (CauseKind::ImagePull, false);
    }
    if has(&[
        "access denied",
        "unauthorized",
        "401",
        "403",
        "forbidden",
        "authorization failed",
        "no basic auth credentials",
    ]) {
        return (CauseKind::ImageDenied, true);
    }
    if has(&["not found", "manifest unknown", "no match for platform", "name unknown"]) {
        return (CauseKind::ImageMissing, true);
    }
    if has(&["invalid reference format", "couldn't parse image", "failed to parse image"]) {
        return (CauseKind::ImageName, true);
    }
    if has(&["x509:", "server gave http response to https client"]) {
        return (CauseKind::ImagePull, true);
    }
    (CauseKind::ImagePull, false)
}

pub(super) fn judge(
    look: &Look<'_>,
    status: &ContainerStatus,
    reason: &str,
    said: &str,
    since: Option<Timestamp>,
) -> Option<Finding> {
    let image = &status.image;
    match reason {
        "InvalidImageName" => {
            let text = format!("`{image}` is not a name that an image can have");
            Some(Finding::fatal(Cause::new(CauseKind::ImageName, text).said(said)))
        }
        "ErrImageNeverPull" => {
            let text = format!("the image {image} is not on the node, and its pull policy is Never");
            Some(Finding::fatal(Cause::new(CauseKind::ImageMissing, text).said(said)))
        }
        "ErrImagePull" | "ImagePullBackOff" | "RegistryUnavailable" | "ImageInspectError" => {
            // Numbers in its name are not a registry's.
            let (kind, fatal) = match image.starts_with(LOCAL) {
                true => (CauseKind::ImageMissing, true),
                false => meaning(&said.replace(image.as_str(), "")),
            };
            let text = match kind {
                CauseKind::ImageMissing => {
                    format!("the image {image} is neither on the node nor in its registry")
                }
                CauseKind::ImageDenied => {
                    format!("the registry does not give the image {image} to this cluster")
                }
                CauseKind::ImageName => format!("`{image}` is not a name that an image can have"),
                _ => format!("the image {image} cannot be pulled: its registry gives no good answer"),
            };
            let cause = Cause::new(kind, text).said(said);
            Some(if fatal {
                Finding::fatal(cause)
            } else {
                Finding::until(cause, after(since, look.patience.registry))
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registrys_words_are_understood() {
        let kinds = [
            ("failed to resolve reference \"r/x:1\": r/x:1: not found", CauseKind::ImageMissing, true),
            (
                "pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed",
                CauseKind::ImageDenied,
                true,
            ),
            ("429 Too Many Requests", CauseKind::ImagePull, false),
            ("dial tcp: lookup registry.invalid: no such host", CauseKind::ImagePull, false),
            ("no match for platform in manifest: not found", CauseKind::ImageMissing, true),
            (
                "tls: failed to verify certificate: x509: certificate signed by unknown authority",
                CauseKind::ImagePull,
                true,
            ),
        ];
        for (said, kind, fatal) in kinds {
            assert_eq!(meaning(said), (kind, fatal), "{said}");
        }
    }
}
