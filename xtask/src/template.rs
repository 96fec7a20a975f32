//! References to the run in manifests and values: `{{ namespaces.user }}`, `{{ images["x"].tag }}`.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use camino::Utf8Path;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior};
use serde::Serialize;

use crate::exit::{Exit, coded};

/// What a template may refer to.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    /// Role to namespace.
    pub namespaces: BTreeMap<String, String>,
    /// Name to image.
    pub images: BTreeMap<String, ImageFacts>,
    /// The run.
    pub run: RunFacts,
    /// The suite's name.
    pub suite: String,
    /// The variant's name.
    pub variant: String,
}

/// An image, as a template sees it.
#[derive(Clone, Debug, Serialize)]
pub struct ImageFacts {
    /// The whole reference.
    pub reference: String,
    /// What stands before the tag.
    pub repository: String,
    /// The tag.
    pub tag: String,
}

/// The run, as a template sees it.
#[derive(Clone, Debug, Serialize)]
pub struct RunFacts {
    /// Its id.
    pub id: String,
}

impl ImageFacts {
    /// Splits `reference`, which has a tag.
    #[must_use]
    pub fn new(reference: &str) -> ImageFacts {
        let (repository, tag) = match reference.rsplit_once(':') {
            // A colon before a slash belongs to a port.
            Some((repository, tag)) if !tag.contains('/') => (repository, tag),
            _ => (reference, "latest"),
        };
        ImageFacts { reference: reference.to_owned(), repository: repository.to_owned(), tag: tag.to_owned() }
    }
}

/// Renders the text of `path`; an unknown name is an error, not an empty string.
///
/// # Errors
/// The text is no valid template, or refers to what does not exist: file, line and what is known.
pub fn render(path: &Utf8Path, text: &str, facts: &Facts) -> Result<String> {
    let mut engine = Environment::new();
    engine.set_undefined_behavior(UndefinedBehavior::Strict);
    // What is at the end of a file may be a block scalar's.
    engine.set_syntax(SyntaxConfig::builder().keep_trailing_newline(true).build()?);
    // YAML is not HTML, whatever the file is called.
    engine.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    engine.render_named_str(path.as_str(), text, Serde(facts)).map_err(|error| {
        let line = error.line().map_or(String::new(), |line| format!(":{line}"));
        let known = format!(
            "namespaces: {}; images: {}; also run.id, suite, variant",
            names(facts.namespaces.keys()),
            names(facts.images.keys())
        );
        let cause = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
        coded(Exit::Usage, anyhow!("{path}{line}: cannot fill in the template: {cause}; known are {known}"))
    })
}

/// Whether a template refers to one of `names`; one that is not valid does not.
#[must_use]
pub fn refers_to(text: &str, names: &[&str]) -> bool {
    let engine = Environment::new();
    let found = engine.template_from_str(text).map(|template| template.undeclared_variables(false));
    found.is_ok_and(|found| names.iter().any(|name| found.contains(*name)))
}

fn names<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let names: Vec<&str> = names.map(String::as_str).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            namespaces: [("user".to_owned(), "dagster-test-3fcd70".to_owned())].into(),
            images: [("dagster-test".to_owned(), ImageFacts::new("k8s-test.local/dagster-test:abc"))].into(),
            run: RunFacts { id: "r1".to_owned() },
            suite: "s".to_owned(),
            variant: "default".to_owned(),
        }
    }

    #[test]
    fn fills_in_namespaces_and_images() {
        let text = "ns: {{ namespaces.user }}\nimage: {{ images['dagster-test'].repository }}\n";
        assert_eq!(
            render("values.yaml".into(), text, &facts()).unwrap(),
            "ns: dagster-test-3fcd70\nimage: k8s-test.local/dagster-test\n"
        );
    }

    #[test]
    fn an_unknown_role_is_an_error_with_its_line() {
        let error = render("v.yaml".into(), "a: 1\nns: {{ namespaces.sytem }}\n", &facts()).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Usage);
        let text = error.to_string();
        assert!(text.starts_with("v.yaml:2: "), "{text}");
        assert!(text.contains("namespaces: user"), "{text}");
    }

    #[test]
    fn a_port_is_not_a_tag() {
        assert_eq!(ImageFacts::new("localhost:5000/a").tag, "latest");
        assert_eq!(ImageFacts::new("localhost:5000/a:1").repository, "localhost:5000/a");
    }
}
