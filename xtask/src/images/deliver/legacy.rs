//! The folders of Docker's older archives, so that a layer is known before its bytes come.
//!
//! Up to Docker 24 `docker save` writes each layer as `<id>/layer.tar`, where the id is not the layer's digest but that of a
//! document made of the layer's chain and of its parent's id (github.com/moby/moby at v20.10, image/tarexport/save.go and
//! image/v1/imagev1.go). All but the last of an image follow from the digests of its layers. What cannot be told is sent.

use std::collections::BTreeMap;

use super::layout::digest;

/// What Docker takes for the configuration of a layer that is not the last one: the JSON of Go's zero values.
const EMPTY: &str = r#"{"Hostname":"","Domainname":"","User":"","AttachStdin":false,"AttachStdout":false,"AttachStderr":false,"Tty":false,"OpenStdin":false,"StdinOnce":false,"Env":null,"Cmd":null,"Image":"","Volumes":null,"WorkingDir":"","Entrypoint":null,"OnBuild":null,"Labels":null}"#;

/// The folders' names of an image's layers without its last one, by uncompressed digest in the image's order; name to digest.
pub(super) fn folders(layers: &[String]) -> BTreeMap<String, String> {
    let mut folders = BTreeMap::new();
    let mut parent: Option<String> = None;
    let mut chain = String::new();
    for layer in &layers[..layers.len().saturating_sub(1)] {
        chain = if chain.is_empty() { layer.clone() } else { digest(format!("{chain} {layer}").as_bytes()) };
        let id = digest(document(&chain, parent.as_deref()).as_bytes());
        folders.insert(id.trim_start_matches("sha256:").to_owned(), layer.clone());
        parent = Some(id);
    }
    folders
}

/// Go writes a map's keys in their order, without spaces.
fn document(chain: &str, parent: Option<&str>) -> String {
    let parent = parent.map(|parent| format!(r#","parent":"{parent}""#)).unwrap_or_default();
    format!(r#"{{"container_config":{EMPTY},"created":"1970-01-01T00:00:00Z","layer_id":"{chain}"{parent}}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folders_are_those_of_a_real_archive() {
        // From `docker save` of Docker 20.10.24, with `docker image inspect --format '{{.RootFS.Layers}}'`.
        let layers = [
            "sha256:3f3386745dd7acd652ace60c07548f06fd2bd7fbb98032c4418b22073d977a90",
            "sha256:fb4000e414d811254f49c5987f83e04a0bb215164935244c837bbf4f0742a028",
            "sha256:d66343bc0fb3ff06365c43155f70b1fc924c2e9c85d552fe52badada0aa6b38e",
        ];
        let folders = folders(&layers.map(str::to_owned));
        assert_eq!(folders["23b03d1df0cab0a8bf344523f335861535263ac478b9d97475e5b971c00eb992"], layers[0]);
        assert_eq!(folders["7440668d3722cda041251cd3a1edf8456e8f26f11b664eb382332e38d47d0e52"], layers[1]);
        assert_eq!(folders.len(), 2, "of the last one nothing is known");
    }
}
