//! Groups of suites that share one deployment, and how several of them run on one cluster: at once where they can, in turn
//! where they must.

use anyhow::Result;

use crate::config::Suite;
use crate::exit::{Exit, ExitWith};
use crate::suites::Test;
use crate::template;

mod claims;
mod history;
mod places;
mod turns;
mod widen;

pub use claims::{Claims, in_turn};
pub use history::History;
pub use places::{Place, Places, Row};
pub use turns::{Refused, Turn, Turns};
pub use widen::widen;

/// Suites that deploy the same and are tested against one deployment, each with its tests.
#[derive(Debug)]
pub struct Group<'a>(pub Vec<(&'a Suite, Vec<&'a Test>)>);

impl<'a> Group<'a> {
    /// The suite in whose name it is deployed.
    #[must_use]
    pub fn first(&self) -> &'a Suite {
        self.0[0].0
    }

    /// Its suites, for a message.
    #[must_use]
    pub fn id(&self) -> String {
        self.0.iter().map(|(suite, _)| suite.id()).collect::<Vec<_>>().join(" and ")
    }

    /// Whether all of its tests wait more than they work, as their suites say.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.0.iter().all(|(suite, _)| suite.jobs.is_some())
    }
}

/// Puts suites that deploy the same together; those without tests are left out.
///
/// # Errors
/// A fixture or a values file cannot be read; exit 2.
pub fn form<'a>(suites: &'a [Suite], tests: &'a [Vec<Test>]) -> Result<Vec<Group<'a>>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    for (suite, tests) in suites.iter().zip(tests).filter(|(_, tests)| !tests.is_empty()) {
        let shared = match is_told_its_name(suite)? {
            true => None,
            false => groups.iter_mut().find(|group| deploy_the_same(group.first(), suite)),
        };
        match shared {
            Some(group) => group.0.push((suite, tests.iter().collect())),
            None => groups.push(Group(vec![(suite, tests.iter().collect())])),
        }
    }
    Ok(groups)
}

/// Draws the order of the groups, of their suites and of their tests.
pub fn shuffle(groups: &mut [Group<'_>], seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    for group in &mut *groups {
        for (_, tests) in &mut group.0 {
            random.shuffle(tests);
        }
        random.shuffle(&mut group.0);
    }
    random.shuffle(groups);
}

/// Whether one deployment serves both; files that cannot be read are told of when they are deployed.
#[must_use]
pub fn are_together(one: &Suite, other: &Suite) -> bool {
    deploy_the_same(one, other) && matches!(is_told_its_name(one), Ok(false))
}

/// Whether one deployment can serve both, unless it is told a suite's name.
#[must_use]
pub fn deploy_the_same(one: &Suite, other: &Suite) -> bool {
    let parts = |suite: &Suite| {
        let mut images = suite.images.clone();
        images.sort();
        images
    };
    parts(one) == parts(other)
        && one.namespaces == other.namespaces
        && one.fixtures == other.fixtures
        && one.releases == other.releases
        && one.forwards == other.forwards
}

/// Whether what a suite deploys names the suite or its variant, so that no other can stand for it.
fn is_told_its_name(suite: &Suite) -> Result<bool> {
    let values = suite.releases.iter().flat_map(|release| &release.values);
    for path in suite.fixtures.iter().chain(values) {
        let text = std::fs::read_to_string(path).or_exit(Exit::Usage)?;
        if template::refers_to(&text, &["suite", "variant"]) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use camino::Utf8Path;

    use super::*;
    use crate::config::SuiteFile;

    pub(super) fn suite(name: &str, folder: &Utf8Path, more: &str) -> Suite {
        let text = format!("namespaces: {{user: u}}\nfixtures: [../f.yaml]\nrun: {{tests: {name}}}\n{more}");
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        crate::config::parse::<SuiteFile>("suite.yaml".into(), &text)
            .unwrap()
            .resolve(&folder, "default")
            .unwrap()
    }

    fn ids(fixture: &str, second: &str) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(root.path()).unwrap();
        std::fs::write(root.join("f.yaml"), fixture).unwrap();
        let suites = [suite("one", root, ""), suite("two", root, second), suite("three", root, "")];
        let tests = [vec![Test::named("a")], vec![Test::named("b")], vec![Test::named("c")]];
        form(&suites, &tests).unwrap().iter().map(Group::id).collect()
    }

    #[test]
    fn suites_that_deploy_the_same_are_together() {
        assert_eq!(ids("", ""), ["one/default and two/default and three/default"]);
        assert_eq!(ids("", "timeout: 1m\n"), ["one/default and two/default and three/default"]);
        assert_eq!(ids("", "images: [a]\n"), ["one/default and three/default", "two/default"]);
    }

    #[test]
    fn one_that_is_told_its_name_is_alone() {
        assert_eq!(ids("a: {{ suite }}", ""), ["one/default", "two/default", "three/default"]);
        assert_eq!(ids("a: {{ namespaces.suite }}", ""), ["one/default and two/default and three/default"]);
    }
}
