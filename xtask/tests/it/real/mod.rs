//! The program with real Docker, kind and helm, on clusters of its own.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

mod charts;
mod kills;

/// A folder with a suite and its chart, outside of the workspace.
struct Folder(TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file, with the folders above it.
    fn write(&self, path: &str, text: &str) {
        let path = self.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// What is said in a file, nothing where there is none.
    fn text(&self, path: &str) -> String {
        std::fs::read_to_string(self.path().join(path)).unwrap_or_default()
    }

    /// The suite, as one names it on the command line.
    fn suite(&self) -> String {
        self.path().join("suite").to_str().unwrap().to_owned()
    }

    /// Writes a chart of this one template.
    fn chart(&self, template: &str) {
        self.write("chart/Chart.yaml", "apiVersion: v2\nname: chart\nversion: 1.0.0\n");
        self.write("chart/templates/all.yaml", template);
    }
}

/// The program, about to be run in a folder with standard input closed.
fn xtask(folder: &Folder, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(arguments).current_dir(folder.path()).stdin(std::process::Stdio::null()).env_remove("CI");
    command
}

/// What a program prints that must succeed.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What `kubectl get` on a cluster's node says, as JSON.
fn get(cluster: &str, arguments: &[&str]) -> serde_json::Value {
    let node = format!("{cluster}-control-plane");
    let kubectl = ["exec", &node, "kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf", "get"];
    serde_json::from_str(&said("docker", &[&kubectl, arguments, &["--output", "json"]].concat())).unwrap()
}

/// Deletes a cluster.
fn delete(cluster: &str) {
    let down = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["cluster", "down", "--kind-cluster", cluster])
        .status();
    assert!(down.unwrap().success());
}

/// The processes with this variable in their environment.
fn processes(mark: &str) -> Vec<String> {
    let ids = std::fs::read_dir("/proc").unwrap().flatten();
    let ids = ids.filter_map(|entry| entry.file_name().into_string().ok());
    let is_marked = |id: &String| {
        let environment = std::fs::read(Path::new("/proc").join(id).join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    };
    ids.filter(is_marked).collect()
}
