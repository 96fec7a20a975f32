//! ci/images.yaml: where each image comes from.

use std::collections::BTreeMap;

use anyhow::Result;
use camino::{Utf8Path, Utf8PathBuf};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::existing;
use crate::exit::Exit;
use crate::{fail, text};

/// The file.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImagesFile {
    /// Name to image.
    pub images: IndexMap<String, ImageSpec>,
}

/// One image: built from a Dockerfile, or pulled, or made by a recipe where it cannot be pulled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSpec {
    /// The reference to pull.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull: Option<String>,
    /// The folder with the build.sh that makes the image from packages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub recipe: Option<Utf8PathBuf>,
    /// The folder that is the build context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub build: Option<Utf8PathBuf>,
    /// The Dockerfile, relative to the context; default `Dockerfile`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub dockerfile: Option<Utf8PathBuf>,
    /// Build arguments.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub args: BTreeMap<String, String>,
    /// Build arguments that are other images of this file: argument to name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub needs: BTreeMap<String, String>,
    /// A program in the context, run on the host before the build where images cannot be pulled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub offline: Option<Utf8PathBuf>,
}

impl ImagesFile {
    /// Reads ci/images.yaml and makes its paths absolute.
    ///
    /// # Errors
    /// It does not load, or names what does not exist; exit 2.
    pub fn load(path: &Utf8Path) -> Result<ImagesFile> {
        let mut file: ImagesFile = super::load(path)?;
        let folder = path.parent().unwrap_or(path);
        let names: Vec<String> = file.images.keys().cloned().collect();
        for (name, spec) in &mut file.images {
            crate::names::check_label(&format!("{path}: image"), name, 0)?;
            if spec.build.is_some() == (spec.pull.is_some() || spec.recipe.is_some()) {
                fail!(Exit::Usage, "{path}: image `{name}` needs either `build`, or `pull` and/or `recipe`");
            }
            for (argument, needed) in &spec.needs {
                if !names.contains(needed) {
                    fail!(
                        Exit::Usage,
                        "{path}: image `{name}`: argument {argument} needs the image `{needed}`, which is not defined{}",
                        text::suggestion(needed, names.iter().map(String::as_str))
                    );
                }
            }
            for (key, value) in [("recipe", &mut spec.recipe), ("build", &mut spec.build)] {
                if let Some(value) = value {
                    *value = existing(folder, value, &format!("image `{name}`: {key}"), path)?;
                }
            }
            if let Some(context) = &spec.build {
                let dockerfile = spec.dockerfile.get_or_insert_with(|| "Dockerfile".into());
                existing(context, dockerfile, &format!("image `{name}`: dockerfile"), path)?;
                if let Some(program) = &spec.offline {
                    existing(context, program, &format!("image `{name}`: offline"), path)?;
                }
            }
        }
        file.closure(names.iter())?;
        Ok(file)
    }

    /// `names` and all they need, what is needed before what needs it.
    ///
    /// # Errors
    /// A name is not defined, or an image needs itself; exit 2.
    pub fn closure<'a>(&self, names: impl IntoIterator<Item = &'a String>) -> Result<Vec<String>> {
        let mut order = Vec::new();
        for name in names {
            self.visit(name, &mut order, &mut Vec::new())?;
        }
        Ok(order)
    }

    fn visit(&self, name: &str, order: &mut Vec<String>, path: &mut Vec<String>) -> Result<()> {
        if order.iter().any(|done| done == name) {
            return Ok(());
        }
        if path.iter().any(|above| above == name) {
            fail!(Exit::Usage, "ci/images.yaml: image `{name}` needs itself: {} > {name}", path.join(" > "));
        }
        let Some(spec) = self.images.get(name) else {
            fail!(
                Exit::Usage,
                "image `{name}` is not defined in ci/images.yaml{}",
                text::suggestion(name, self.images.keys().map(String::as_str))
            );
        };
        path.push(name.to_owned());
        for needed in spec.needs.values() {
            self.visit(needed, order, path)?;
        }
        path.pop();
        order.push(name.to_owned());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> ImagesFile {
        super::super::parse("ci/images.yaml".into(), text).unwrap()
    }

    #[test]
    fn what_is_needed_comes_first() {
        let file =
            file("images:\n  app: {build: a, needs: {BASE: base}}\n  base: {pull: x}\n  other: {pull: y}\n");
        assert_eq!(file.closure([&"app".to_owned()]).unwrap(), ["base", "app"]);
    }

    #[test]
    fn a_cycle_is_shown() {
        let file = file("images:\n  a: {build: a, needs: {X: b}}\n  b: {build: b, needs: {X: a}}\n");
        let error = file.closure([&"a".to_owned()]).unwrap_err().to_string();
        assert!(error.ends_with("a > b > a"), "{error}");
    }

    #[test]
    fn an_undefined_image_gets_a_suggestion() {
        let file = file("images: {postgres: {pull: x}}");
        let error = file.closure([&"postgers".to_owned()]).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Usage);
        assert!(error.to_string().contains("did you mean `postgres`?"), "{error}");
    }
}
