//! Ten thousand deliveries with faults, each from a seed that is printed when it goes wrong.
//!
//! The rules: a success means that every node has exactly what Docker has; a failure names each node that lacks something,
//! and keeps nothing from the others; in no state does a node seem to hold what it does not.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use tokio::task::LocalSet;

use super::{Push, Wanted, run};
use crate::events::Events;

mod docker;
mod node;
mod pushes;

use docker::{FakeDocker, Layout, PushFault, Truth};
use node::{FakeNode, State};

/// Deliveries of both tests together, and of the quick one.
const RUNS: u64 = 10_000;
const QUICK: u64 = 500;

/// SplitMix64: small, and the same everywhere.
pub(super) struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n.max(1) as u64).unwrap()
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn bytes(&mut self) -> Bytes {
        match self.below(8) {
            // Docker's empty layer: an empty tar archive.
            0 => vec![0; 1024].into(),
            // Looks like a document.
            1 => format!("{{{}}}", self.next()).into(),
            _ => {
                let length = self.below(500) + 1;
                let word = |_| (self.next() | 0x80).to_le_bytes();
                (0..length).flat_map(word).collect::<Vec<u8>>().into()
            }
        }
    }
}

struct World {
    docker: FakeDocker,
    nodes: Vec<FakeNode>,
    wanted: Vec<Wanted>,
    /// By place in `wanted` the image.
    truths: Vec<usize>,
    twice: bool,
    interrupted: Option<u64>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut rng = Rng(seed);
        let shared: Vec<Bytes> = (0..rng.below(4)).map(|_| rng.bytes()).collect();
        let images: Vec<Truth> = (0..=rng.below(3))
            .map(|mark| {
                let mut layers = shared[..rng.below(shared.len() + 1)].to_vec();
                layers.extend((0..=rng.below(2)).map(|_| rng.bytes()));
                Truth::new(layers, mark as u64)
            })
            .collect();
        let layout = [Layout::Folders, Layout::Tars, Layout::Oci, Layout::Containerd][rng.below(4)];
        let docker_faults = [docker_fault(&mut rng), docker_fault(&mut rng)];
        let docker = FakeDocker {
            layout,
            images,
            faults: docker_faults,
            saves: Cell::new(0),
            pushes: Cell::new(0),
            push_fault: PushFault::None,
            seed,
        };
        let mut truths: Vec<usize> = (0..docker.images.len()).collect();
        if rng.one_in(3) {
            // An image with two names.
            truths.push(0);
        }
        let name = |(at, truth): (usize, &usize)| Wanted {
            name: format!("k8s-test.local/i{truth}:{at}"),
            image: docker.inspect(*truth),
        };
        let wanted: Vec<Wanted> = truths.iter().enumerate().map(name).collect();
        let nodes = (0..=rng.below(3)).map(|at| FakeNode {
            name: format!("node-{at}"),
            state: Rc::new(RefCell::new(before(&mut rng, &docker, &wanted, &truths))),
            faults: [node_fault(&mut rng), node_fault(&mut rng)],
            imports: Cell::new(0),
        });
        let nodes = nodes.collect();
        let twice = rng.one_in(10);
        let interrupted = rng.one_in(10).then(|| rng.next() % 200);
        World { docker, nodes, wanted, truths, twice, interrupted }
    }

    fn holds(&self, node: &FakeNode, at: usize) -> bool {
        let truth = &self.docker.images[self.truths[at]];
        node.state.borrow().has(&self.wanted[at].name, &truth.config, &truth.plain())
    }

    async fn check(&self) -> Result<(), String> {
        let events = Events::new(Vec::new());
        let push = Push::default();
        let once = || run(&self.docker, &self.nodes, None, &self.wanted, &push, &events);
        let ends = if let Some(polls) = self.interrupted {
            // Dropped in the middle, as at Ctrl-C.
            let mut running = Box::pin(once());
            let mut left = polls;
            let end = std::future::poll_fn(|context| {
                left = left.saturating_sub(1);
                match running.poll_unpin(context) {
                    std::task::Poll::Ready(end) => std::task::Poll::Ready(Some(end)),
                    std::task::Poll::Pending if left == 0 => std::task::Poll::Ready(None),
                    std::task::Poll::Pending => std::task::Poll::Pending,
                }
            });
            let end = end.await;
            drop(running);
            // What it left running in the nodes comes to its end.
            tokio::time::sleep(Duration::from_secs(1)).await;
            Vec::from_iter(end)
        } else if self.twice {
            let (a, b) = tokio::join!(once(), once());
            vec![a, b]
        } else {
            vec![once().await]
        };
        for node in &self.nodes {
            let held = node.state.borrow().held();
            for (at, wanted) in self.wanted.iter().enumerate() {
                if held.differs(&wanted.name, &wanted.image.id).is_none() && !self.holds(node, at) {
                    return Err(format!("{} seems to hold {}", node.name, wanted.name));
                }
            }
        }
        for end in ends {
            let lacks = |node: &&FakeNode| (0..self.wanted.len()).any(|at| !self.holds(node, at));
            match end {
                // What another load breaks after the first one's end is not the first one's.
                Ok(_) if self.twice && self.nodes.iter().any(FakeNode::loses) => {}
                Ok(_) if self.nodes.iter().any(|node| lacks(&node)) => {
                    return Err("a success, and a node lacks something".to_owned());
                }
                Ok(_) => {}
                Err(error) => {
                    let text = format!("{error:#}");
                    let is_docker = self.docker.faults.iter().any(|fault| *fault != docker::Fault::None);
                    for node in self.nodes.iter().filter(lacks) {
                        let faulty = node.faults.iter().any(|fault| *fault != node::Fault::None);
                        if !faulty && !is_docker && !self.twice {
                            return Err(format!("the healthy {} was left without: {text}", node.name));
                        }
                        let by_the_other = self.twice && node.loses();
                        if faulty && !is_docker && !by_the_other && !text.contains(&node.name) {
                            return Err(format!("{} is not named: {text}", node.name));
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

fn docker_fault(rng: &mut Rng) -> docker::Fault {
    use docker::Fault;
    match rng.below(16) {
        0 | 1 => Fault::Cut { at: rng.below(1000), honest: rng.one_in(2) },
        2 => Fault::Flipped,
        3 => Fault::Deleted,
        4 if rng.one_in(4) => Fault::Silent,
        _ => Fault::None,
    }
}

fn node_fault(rng: &mut Rng) -> node::Fault {
    use node::Fault;
    let at = rng.below(12_000);
    match rng.below(20) {
        0 => Fault::Dead,
        1 => Fault::Dies(at),
        2 => Fault::Paused(at),
        3 => Fault::Full,
        4 => Fault::Reset(at),
        5 => Fault::Lost,
        6 => Fault::Lies,
        7 => Fault::Collected,
        _ => Fault::None,
    }
}

/// What a node has from earlier: some layers, an image, an old content under a name.
fn before(rng: &mut Rng, docker: &FakeDocker, wanted: &[Wanted], truths: &[usize]) -> State {
    let mut state = State::default();
    for (at, wanted) in wanted.iter().enumerate() {
        let truth = &docker.images[truths[at]];
        match rng.below(4) {
            0 => give(&mut state, &wanted.name, truth),
            1 => {
                // The same name with other content that shares its layers.
                let mut old = truth.clone();
                old.layers.pop();
                let old = Truth::new(old.layers, 99);
                give(&mut state, &wanted.name, &old);
            }
            _ => {}
        }
    }
    state
}

fn give(state: &mut State, name: &str, truth: &Truth) {
    use super::held::Blob;
    use super::layout;
    let blobs: Vec<Blob> = truth
        .layers
        .iter()
        .map(|layer| Blob { digest: layout::digest(layer), bytes: layer.len() as u64 })
        .collect();
    let manifest = layout::manifest(&truth.config, &blobs);
    state.images.insert(name.to_owned(), layout::digest(&manifest));
    for blob in truth.layers.iter().chain([&truth.config, &manifest]) {
        state.blobs.insert(layout::digest(blob), blob.to_vec());
    }
}

#[test]
fn no_fault_ends_in_a_success_that_is_none() {
    simulate_all(0..QUICK);
}

#[test]
#[ignore = "takes up to a minute; `cargo xtask ci` runs it"]
fn ten_thousand_deliveries_with_faults() {
    simulate_all(QUICK..RUNS);
}

/// All seeds, on all processors.
fn simulate_all(seeds: std::ops::Range<u64>) {
    let threads = std::thread::available_parallelism().map_or(2, usize::from) as u64;
    let failures = std::thread::scope(|scope| {
        let work = (0..threads).map(|thread| {
            let seeds = seeds.clone().filter(move |seed| seed % threads == thread);
            scope.spawn(move || seeds.filter_map(|seed| simulate(seed).err()).collect::<Vec<_>>())
        });
        let work: Vec<_> = work.collect();
        work.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    println!("{} deliveries, {} wrong", seeds.end - seeds.start, failures.len());
    assert!(failures.is_empty(), "{}", failures[..failures.len().min(10)].join("\n"));
}

/// One delivery; its seed is in the message where it goes wrong.
fn simulate(seed: u64) -> Result<(), String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let local = LocalSet::new();
    let world = World::new(seed);
    // Longer than all deadlines together: nothing waits for ever.
    let limited = async { tokio::time::timeout(Duration::from_secs(4 * 3600), world.check()).await };
    let end = local.block_on(&runtime, limited);
    let faults: Vec<_> = world.nodes.iter().map(|node| node.faults).collect();
    let what = format!(
        "seed {seed}, {:?}, docker {:?}, nodes {faults:?}, twice {}",
        world.docker.layout, world.docker.faults, world.twice
    );
    end.unwrap_or_else(|_| Err("it never ended".to_owned())).map_err(|error| format!("{error} ({what})"))
}
