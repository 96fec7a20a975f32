//! What is still to be done to bring a deployment up to date.

use std::collections::BTreeSet;

/// The stages of a change's way, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// suite.yaml and images.yaml are read anew.
    Definitions,
    /// Images are made.
    Images,
    /// They are brought to the nodes.
    Deliver,
    /// Fixtures are applied.
    Fixtures,
    /// Releases are rendered and installed.
    Releases,
    /// Their workloads become ready.
    Ready,
    /// Forwards are proven.
    Forwards,
    /// Tests are built.
    Compile,
    /// Tests run.
    Tests,
}

impl Stage {
    /// What deploys the images as they are.
    pub const DEPLOY: [Stage; 5] =
        [Stage::Deliver, Stage::Fixtures, Stage::Releases, Stage::Ready, Stage::Forwards];
}

/// The stages to go through, each taken away when it is finished.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Todo {
    /// The stages.
    pub stages: BTreeSet<Stage>,
    /// The images to make.
    pub images: BTreeSet<String>,
}

impl Todo {
    /// These stages.
    #[must_use]
    pub fn of(stages: impl IntoIterator<Item = Stage>) -> Todo {
        Todo { stages: stages.into_iter().collect(), images: BTreeSet::new() }
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    /// Whether `stage` is to be gone through.
    #[must_use]
    pub fn has(&self, stage: Stage) -> bool {
        self.stages.contains(&stage)
    }

    /// Adds what `other` asks for.
    pub fn join(&mut self, other: Todo) {
        self.stages.extend(other.stages);
        self.images.extend(other.images);
    }

    /// Notes that `stage` is finished.
    pub fn done(&mut self, stage: Stage) {
        self.stages.remove(&stage);
        if stage == Stage::Images {
            self.images.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_finished_stays_beside_the_new() {
        let mut todo = Todo::of([Stage::Images, Stage::Releases, Stage::Tests]);
        todo.images.insert("app".to_owned());
        todo.done(Stage::Images);
        todo.join(Todo::of([Stage::Fixtures, Stage::Tests]));
        assert_eq!(todo, Todo::of([Stage::Fixtures, Stage::Releases, Stage::Tests]));
        assert!(todo.has(Stage::Releases) && !todo.has(Stage::Images));
    }
}
