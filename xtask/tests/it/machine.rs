//! What the machine lacks: exit 3 and what to do, with a report that says so too.

use crate::world::{DOCKER, HELM, KIND, World, an_image, docker};

const SUITE: &str = "images: [postgres]\nnamespaces: {user: example}\nrun: {command: ['true']}\n";

fn run(world: &World) -> crate::world::End {
    world.k8s_test(&[&world.suite(SUITE)])
}

#[test]
fn docker_that_is_missing_stopped_or_forbidden_is_told_apart() {
    let world = World::new();
    world.without("docker");
    run(&world).says(3, &["docker is not installed or not on PATH"]);
    world.tool("docker", "echo 'Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?' >&2; exit 1");
    run(&world).says(3, &["Docker Engine does not answer", "systemctl start docker"]);
    world.tool(
        "docker",
        "echo 'permission denied while trying to connect to the Docker daemon socket' >&2; exit 1",
    );
    run(&world).says(3, &["this user may not use Docker", "usermod -aG docker"]);
    let report = std::fs::read_to_string(world.path().join("output/report.json")).unwrap();
    assert!(report.contains("this user may not use Docker"), "{report}");
    let junit = std::fs::read_to_string(world.path().join("output/junit.xml")).unwrap();
    assert!(junit.contains("<error message=\"this user may not use Docker"), "{junit}");
}

#[test]
fn tools_that_are_missing_or_too_old_are_named() {
    let world = World::new();
    world.without("kind");
    run(&world).says(3, &["there is no kind on PATH", "at least v0.27.0"]);
    world.tool("kind", &KIND.replace("v0.33.0", "v0.11.0"));
    run(&world).says(3, &["kind v0.11.0 at", "not supported", "at least v0.27.0"]);
    world.tool("kind", KIND);
    world.tool("helm", &HELM.replace("v4.3.0", "v2.17.0"));
    run(&world).says(3, &["helm v2.17.0 at", "at least v3.14.0"]);
}

#[test]
fn a_cluster_that_cannot_be_created_shows_what_kind_said() {
    let world = World::new();
    world.tool(
        "kind",
        &KIND.replace(
            "  *)",
            "  create) echo 'ERROR: failed to create cluster: no space left on device' >&2; exit 1 ;;\n  *)",
        ),
    );
    run(&world).says(3, &["kind create cluster", "no space left on device"]);
}

#[test]
fn an_image_that_does_not_build_shows_the_end_of_its_build() {
    let world = World::new();
    let build = r#"  "pull docker.io/library/hello-world:latest") exit 0 ;;
  "build --tag") echo "Step 3/9 : RUN pip install"; echo "ERROR: No matching distribution found for web" >&2; exit 1 ;;
  *)"#;
    world.tool("docker", &docker(&DOCKER.replacen("  *)", build, 1)));
    let end = world.run(&["images", "build", &an_image("build")]);
    end.says(3, &["make the image ", "docker build", "No matching distribution found for web"]);
}

#[test]
fn looking_at_the_machine_names_every_problem() {
    let world = World::new();
    world.without("kind");
    world.without("helm");
    let end = world.run(&["doctor"]);
    end.says(3, &["PROBLEM kind", "PROBLEM helm", "2 problems", "doctor --fix"]);
}

#[test]
fn an_image_that_is_nowhere_gets_the_nearest_name() {
    let world = World::new();
    world.tool("kind", &KIND.replace("get) echo \"No kind clusters found.\" >&2", "get) echo k8s-test"));
    let none = "\"image inspect\") case \"$5\" in local/*) echo 'No such image' >&2; exit 1 ;; esac; echo";
    let listed = "\"image ls\") case \"$3\" in --format) echo local/app:1 ;; *) echo sha256:0123456789abcdef ;; esac #";
    let script = DOCKER
        .replace("\"image inspect\") echo", none)
        .replace("\"image ls\") echo sha256:0123456789abcdef ;;", &format!("{listed}\n;;"))
        .replace("  *)", "  \"container ls\") echo k8s-test-control-plane ;;\n  *)");
    world.tool("docker", &docker(&script));
    world.run(&["images", "load", "local/ap:1"]).says(2, &["did you mean `local/app:1`?"]);
}

/// A kind that has the cluster `held` as long as there is a file of that name.
const HELD: &str = r#"
case "$1 $2" in
  "version "*) echo "kind v0.33.0 go1.26.8 linux/amd64" ;;
  "get clusters") [ -e $HOME/held ] && echo held; true ;;
  "get nodes") [ -e $HOME/held ] && echo held-control-plane; true ;;
  "delete cluster") /bin/rm $HOME/held ;;
  *) echo "fake kind: $*" >&2; exit 1 ;;
esac"#;

/// What a docker does for a node that does not run and cannot be started.
const STOPPED: &str = r#"  "container inspect") echo false ;;
  "exec --privileged") echo "container is not running" >&2; exit 1 ;;
  "cp held-control-plane:/kind") /bin/mkdir $3/kind && echo "image: node:1" > $3/kind/@FILE@ ;;
  *)"#;

#[test]
fn a_stopped_cluster_is_removed_without_being_started() {
    let world = World::new();
    world.tool("kind", HELD);
    let run = |file: &str, arguments: &[&str]| {
        let node = STOPPED.replace("@FILE@", file);
        world.tool("docker", &docker(&DOCKER.replacen("  *)", &node, 1)));
        world.file("held", "");
        let end = world.run(arguments);
        (end, world.path().join("held").exists())
    };
    for arguments in [&["cluster", "down", "--kind-cluster", "held"][..], &["clean", "--all"]] {
        let (end, there) = run("k8s-test.yaml", arguments);
        end.says(0, &["cluster held"]);
        assert!(!there, "{arguments:?}: {}", end.text);
        let (end, there) = run("version", arguments);
        assert!(there, "{arguments:?}: {}", end.text);
    }
    let (end, _) = run("version", &["cluster", "down", "--kind-cluster", "held"]);
    end.says(3, &["was not made by k8s-test", "kind delete cluster --name held"]);
}

#[test]
fn taking_down_what_was_never_up_is_no_failure() {
    let world = World::new();
    world.run(&["down", "--no-setup"]).says(0, &["nothing to remove: there is no Kind cluster k8s-test"]);
    // Whatever CI would name a cluster: what a person works with has the name that stays.
    world.without("kind");
    world.run(&["down", "--no-setup"]).says(3, &["there is no kind on PATH"]);
}
