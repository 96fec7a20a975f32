//! A machine of fake tools: each is a shell script on a PATH that has nothing else.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A docker that runs, has every image that can be pulled, and builds nothing.
pub(crate) const DOCKER: &str = r#"
case "$1 $2" in
  "info --format") echo '{"ServerVersion":"99.0","Architecture":"x86_64","MemTotal":34359738368,"DockerRootDir":"/nowhere/docker","CgroupVersion":"2","DefaultRuntime":"crun"}' ;;
  "image ls") echo sha256:0123456789abcdef ;;
  "image inspect") echo '{"Id":"sha256:0123456789abcdef","Size":1000,"Architecture":"amd64","RepoTags":[@PULLED@]}' ;;
  "tag "*) ;;
  *) echo "fake docker: $*" >&2; exit 1 ;;
esac"#;

/// [`DOCKER`], or one like it, with what ci/ says can be pulled.
pub(crate) fn docker(script: &str) -> String {
    let ci = concat!(env!("CARGO_MANIFEST_DIR"), "/../ci");
    let mut names = Vec::new();
    for file in ["images.yaml", "tools.yaml"] {
        let text = std::fs::read_to_string(format!("{ci}/{file}")).unwrap();
        let pulled = text.lines().filter_map(|line| line.trim().strip_prefix("pull: "));
        names.extend(pulled.map(|name| format!("\"{name}\"")));
    }
    assert!(!names.is_empty(), "ci/tools.yaml names the node image");
    script.replace("@PULLED@", &names.join(","))
}
/// A suite of test-suites/.
pub(crate) fn a_suite() -> String {
    let suites = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../test-suites")).unwrap();
    let mut folders = suites.map(|entry| entry.unwrap().path());
    let folder = folders.find(|folder| folder.join("suite.yaml").exists()).unwrap();
    folder.file_name().unwrap().to_str().unwrap().to_owned()
}
/// An image of ci/images.yaml, one that has this key.
pub(crate) fn an_image(with: &str) -> String {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../ci/images.yaml")).unwrap();
    let file: serde_yaml::Value = serde_yaml::from_str(&text).unwrap();
    let mut images = file["images"].as_mapping().unwrap().iter();
    let (name, _) = images.find(|(_, image)| image.get(with).is_some()).unwrap();
    name.as_str().unwrap().to_owned()
}
/// Without its last letter.
pub(crate) fn misspelt(name: &str) -> &str {
    &name[..name.len() - 1]
}
/// A kind without clusters.
pub(crate) const KIND: &str = r#"
case "$1" in
  version) echo "kind v0.33.0 go1.26.8 linux/amd64" ;;
  get) echo "No kind clusters found." >&2 ;;
  *) echo "fake kind: $*" >&2; exit 1 ;;
esac"#;
/// A helm that knows its version.
pub(crate) const HELM: &str = "echo v4.3.0+g0000000";
/// A cargo that has nothing to build.
pub(crate) const CARGO: &str = "exit 0";

/// The machine.
pub(crate) struct World {
    folder: TempDir,
}

/// How the program ended.
#[derive(Debug)]
pub(crate) struct End {
    /// Its exit code.
    pub(crate) code: i32,
    /// All that it printed.
    pub(crate) text: String,
}

impl World {
    /// A machine with all tools.
    pub(crate) fn new() -> World {
        let world = World { folder: tempfile::tempdir().unwrap() };
        std::fs::create_dir_all(world.bin()).unwrap();
        world.tool("docker", &docker(DOCKER));
        for (name, script) in [("kind", KIND), ("helm", HELM), ("cargo", CARGO)] {
            world.tool(name, script);
        }
        world
    }

    /// Puts a tool in place.
    pub(crate) fn tool(&self, name: &str, script: &str) {
        let path = self.bin().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Takes a tool away.
    pub(crate) fn without(&self, name: &str) {
        std::fs::remove_file(self.bin().join(name)).unwrap();
    }

    /// Makes a suite of this suite.yaml; gives the path to name it by.
    pub(crate) fn suite(&self, yaml: &str) -> String {
        let folder = self.path().join("example");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("suite.yaml"), yaml).unwrap();
        folder.to_str().unwrap().to_owned()
    }

    /// Writes a file; gives its path.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The machine's folder.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    fn bin(&self) -> PathBuf {
        self.path().join("bin")
    }

    /// The program, about to run on this machine.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command
            .args(arguments)
            .env_clear()
            .env("PATH", self.bin())
            .env("HOME", self.path())
            .env("CARGO", self.bin().join("cargo"))
            .current_dir(self.path());
        command
    }

    /// Runs the program on this machine.
    pub(crate) fn run(&self, arguments: &[&str]) -> End {
        let output = self.command(arguments).output().unwrap();
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        End { code: output.status.code().unwrap_or(-1), text }
    }

    /// `k8s-test` with its report inside this machine, changing nothing.
    pub(crate) fn k8s_test(&self, arguments: &[&str]) -> End {
        let output = self.path().join("output");
        let mut all = vec!["k8s-test", "--no-setup", "--output", output.to_str().unwrap()];
        all.extend(arguments);
        self.run(&all)
    }
}

impl End {
    /// Checks the exit code and that each part is said.
    #[track_caller]
    pub(crate) fn says(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, code, "{}", self.text);
        for part in parts {
            assert!(self.text.contains(part), "`{part}` is not in:\n{}", self.text);
        }
    }
}
