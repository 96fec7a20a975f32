//! Changed layers that are too big to be kept in memory, by pushes over HTTP to the endpoint.

use camino::Utf8Path;

use super::super::{Delivered, Method};
use super::node::Fault;
use super::*;
use crate::images::endpoint::Limits;

const KIB: usize = 1 << 10;

/// Brings an image to two nodes that have its first layer, of 360 KiB, and lack one of 170 KiB and one of 3 KiB; gives what came of it.
fn deliver(fault: PushFault) -> (FakeDocker, Vec<Delivered>) {
    let layer = |byte: u8, length: usize| Bytes::from(vec![byte; length]);
    let layers = vec![layer(0x81, 360 * KIB), layer(0x82, 170 * KIB), layer(0x83, 3 * KIB)];
    // The node has it as Docker has it: with something around it.
    let old = Truth::new(vec![docker::compressed(&layers[0])], 0);
    let new = Truth::new(layers, 1);
    let docker = FakeDocker {
        layout: Layout::Oci,
        images: vec![new.clone()],
        faults: [docker::Fault::None; 2],
        saves: Cell::new(0),
        pushes: Cell::new(0),
        push_fault: fault,
        seed: 7,
    };
    let nodes: Vec<FakeNode> = ["node-0", "node-1"]
        .into_iter()
        .map(|name| {
            let mut state = State::default();
            give(&mut state, "k8s-test.local/app:1", &old);
            let state = Rc::new(RefCell::new(state));
            FakeNode { name: name.to_owned(), state, faults: [Fault::None; 2], imports: Cell::new(0) }
        })
        .collect();
    let wanted = [Wanted { name: "k8s-test.local/app:2".to_owned(), image: docker.inspect(0) }];
    let folder = tempfile::tempdir().unwrap();
    let memory = Utf8Path::from_path(folder.path()).unwrap().join("pushed.json");
    let limits = Limits { blob: 16 * KIB, total: 32 * KIB };
    let push = Push { memory: Some(memory), compressed: true, limits, ..Push::default() };
    let events = Events::new(Vec::new());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let delivery =
        LocalSet::new().block_on(&runtime, run(&docker, &nodes, None, &wanted, &push, &events)).unwrap();
    for node in &nodes {
        assert!(node.state.borrow().has(&wanted[0].name, &new.config, &new.plain()), "{}", node.name);
    }
    (docker, delivery.nodes)
}

#[test]
fn a_layer_that_is_too_big_for_memory_is_passed_on() {
    let (docker, nodes) = deliver(PushFault::None);
    assert_eq!((docker.pushes.get(), docker.saves.get()), (2, 0));
    for node in nodes {
        assert_eq!(node.method, Some(Method::Push));
        let sent = usize::try_from(node.bytes).unwrap();
        assert!((170 * KIB..200 * KIB).contains(&sent), "{sent}");
    }
}

#[test]
fn where_the_second_push_is_not_what_the_first_one_was_the_archive_does_it() {
    for fault in
        [PushFault::Longer, PushFault::Another, PushFault::Shorter, PushFault::Fails, PushFault::Nothing]
    {
        let (docker, nodes) = deliver(fault);
        assert_eq!((docker.pushes.get(), docker.saves.get()), (2, 1), "{fault:?}");
        assert!(nodes.iter().all(|node| node.method == Some(Method::Save)), "{fault:?}");
    }
}
