//! The only module that runs `docker`.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use camino::Utf8Path;
use serde::Deserialize;
use tokio::process::Command;
use xshell::{Shell, cmd};

use crate::cmd::{Group, Run};

/// Questions that Docker answers from its memory.
const QUICK: Duration = Duration::from_secs(30);
/// Docker's template for everything it knows.
const JSON: &str = "{{json .}}";
/// A pull or a build.
const LONG: Duration = Duration::from_secs(60 * 60);

/// The local Docker Engine, by its CLI.
#[derive(Clone, Copy, Debug, Default)]
pub struct Docker;

/// What the engine says of itself.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Info {
    /// Its version.
    #[serde(default)]
    pub server_version: String,
    /// The machine's architecture as the kernel names it, such as `x86_64`.
    #[serde(default)]
    pub architecture: String,
    /// Its memory in bytes.
    #[serde(default)]
    pub mem_total: u64,
    /// Where it stores images, on its own machine.
    #[serde(default)]
    pub docker_root_dir: String,
    /// `1` or `2`.
    #[serde(default)]
    pub cgroup_version: String,
    /// How it stores layers, such as `overlay2`.
    #[serde(default)]
    pub driver: String,
    /// The runtime that containers get.
    #[serde(default)]
    pub default_runtime: String,
    /// What the storage driver says of itself, as pairs.
    #[serde(default)]
    pub driver_status: Option<Vec<(String, String)>>,
}

/// Why the engine cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreachable {
    /// There is no `docker` on PATH.
    NoClient,
    /// The socket exists, but not for this user.
    NotPermitted(String),
    /// Nobody answers.
    NotRunning(String),
}

/// An image in the local Docker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Image {
    /// Its id, `sha256:…`; the digest of its configuration in the classic store.
    pub id: String,
    /// Its size in bytes.
    #[serde(default)]
    pub size: u64,
    /// Such as `amd64`.
    #[serde(default)]
    pub architecture: String,
    /// The digests of its layers before any compression, the lowest first.
    #[serde(default, rename = "RootFS", deserialize_with = "layers")]
    pub layers: Vec<String>,
    /// Its names with tags.
    #[serde(default)]
    pub repo_tags: Vec<String>,
    /// Its names with digests.
    #[serde(default)]
    pub repo_digests: Vec<String>,
}

fn layers<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct RootFs {
        #[serde(default)]
        layers: Vec<String>,
    }
    Ok(RootFs::deserialize(deserializer)?.layers)
}

impl Image {
    /// Whether `reference` is a name of this image, or its id.
    fn answers_to(&self, reference: &str) -> bool {
        if self.id == reference {
            return true;
        }
        let full = normalized(reference).ok();
        let names = || self.repo_tags.iter().chain(&self.repo_digests);
        full.is_some() && names().any(|name| normalized(name).ok() == full)
    }
}

/// An architecture as Go and image platforms name it, from the kernel's name of the machine.
#[must_use]
pub fn architecture(machine: &str) -> &str {
    match machine {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl Info {
    /// The architecture as Go and image platforms name it.
    #[must_use]
    pub fn arch(&self) -> &str {
        architecture(&self.architecture)
    }

    /// Whether images are in containerd's store, with their layers as they are pushed
    /// (docs.docker.com/engine/storage/containerd).
    #[must_use]
    pub fn containerd_store(&self) -> bool {
        let mut status = self.driver_status.iter().flatten();
        status.any(|(key, value)| key == "driver-type" && value.starts_with("io.containerd."))
    }
}

impl Docker {
    /// Asks the engine who it is.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub async fn info(self) -> Result<Info, Unreachable> {
        let ask = async {
            let sh = Shell::new()?;
            Run::new(cmd!(sh, "docker info --format {JSON}"), QUICK).output().await
        };
        let output = ask.await.map_err(|error| {
            let text = format!("{error:#}");
            if text.contains("is not installed") {
                Unreachable::NoClient
            } else {
                Unreachable::NotRunning(text)
            }
        })?;
        // The CLI exits 0 on some errors and puts them into the answer.
        let info: Option<Info> = serde_json::from_str(output.stdout.trim()).ok();
        match info {
            Some(info) if output.status.success() && !info.server_version.is_empty() => Ok(info),
            _ => Err(Unreachable::from_text(&output.tail)),
        }
    }

    /// The image that `reference` names, if the local Docker has it.
    ///
    /// # Errors
    /// Docker cannot be asked.
    pub async fn image(self, reference: &str) -> Result<Option<Image>> {
        Ok(self.images(&[reference.to_owned()]).await?.pop().flatten())
    }

    /// The images that `references` or ids name, in their order, where the local Docker has them: one question for all.
    ///
    /// # Errors
    /// Docker cannot be asked.
    pub async fn images(self, references: &[String]) -> Result<Vec<Option<Image>>> {
        if references.is_empty() {
            return Ok(Vec::new());
        }
        let sh = Shell::new()?;
        let command = cmd!(sh, "docker image inspect --format {JSON} {references...}");
        let output = Run::new(command, QUICK).output().await?;
        // The status is 1 where one is missing; the others are there all the same.
        if !output.status.success() && !output.tail.to_lowercase().contains("no such image") {
            return Err(output.into_error());
        }
        let read = |line: &str| serde_json::from_str(line).context("understand what docker says of an image");
        let found: Vec<Image> =
            output.stdout.lines().filter(|line| line.starts_with('{')).map(read).collect::<Result<_>>()?;
        if found.len() == references.len() {
            return Ok(found.into_iter().map(Some).collect());
        }
        let find = |reference: &String| found.iter().find(|image| image.answers_to(reference)).cloned();
        Ok(references.iter().map(find).collect())
    }

    /// All images that the local Docker has.
    ///
    /// # Errors
    /// Docker cannot be asked.
    pub async fn all_images(self) -> Result<Vec<Image>> {
        let sh = Shell::new()?;
        let output = Run::new(cmd!(sh, "docker image ls --quiet --no-trunc"), QUICK).success().await?;
        let mut ids: Vec<String> = output.stdout.lines().map(|line| line.trim().to_owned()).collect();
        ids.sort_unstable();
        ids.dedup();
        Ok(self.images(&ids).await?.into_iter().flatten().collect())
    }

    /// The names of the containers with this label, also of those that do not run.
    ///
    /// # Errors
    /// Docker cannot be asked.
    pub async fn containers(self, label: &str) -> Result<Vec<String>> {
        let sh = Shell::new()?;
        let format = "{{.Names}}";
        let command = cmd!(sh, "docker container ls --all --filter label={label} --format {format}");
        let output = Run::new(command, QUICK).success().await?;
        Ok(output.stdout.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }

    /// The references of all images that have one.
    ///
    /// # Errors
    /// Docker cannot be asked.
    pub async fn references(self) -> Result<Vec<String>> {
        let sh = Shell::new()?;
        let format = "{{.Repository}}:{{.Tag}}";
        let output = Run::new(cmd!(sh, "docker image ls --format {format}"), QUICK).success().await?;
        Ok(output.stdout.lines().filter(|line| !line.contains("<none>")).map(str::to_owned).collect())
    }

    /// Pulls an image.
    ///
    /// # Errors
    /// It cannot be pulled.
    pub async fn pull(self, reference: &str, on_line: impl FnMut(&str) + Send) -> Result<()> {
        let sh = Shell::new()?;
        Run::new(cmd!(sh, "docker pull {reference}"), LONG).on_line(on_line).success().await?;
        Ok(())
    }

    /// Gives an image one more reference.
    ///
    /// # Errors
    /// The image does not exist, or the reference is malformed.
    pub async fn tag(self, from: &str, to: &str) -> Result<()> {
        let sh = Shell::new()?;
        Run::new(cmd!(sh, "docker tag {from} {to}"), QUICK).success().await?;
        Ok(())
    }

    /// Takes a reference away from an image, and the image itself where it was the last one.
    ///
    /// # Errors
    /// There is no such reference, or a container uses the image.
    pub async fn remove(self, reference: &str) -> Result<()> {
        let sh = Shell::new()?;
        Run::new(cmd!(sh, "docker image rm {reference}"), QUICK).success().await?;
        Ok(())
    }

    /// Takes references away without waiting for it, where nothing can be awaited any more.
    pub fn remove_later(self, references: &[String]) {
        let mut command = std::process::Command::new("docker");
        command.args(["image", "rm"]).args(references);
        command.stdin(std::process::Stdio::null());
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        // One more name of an image that stays does no harm.
        let _ = command.spawn();
    }

    /// Sends an image to the registry that its reference names.
    ///
    /// # Errors
    /// It cannot be sent.
    pub async fn push(self, reference: &str) -> Result<()> {
        let sh = Shell::new()?;
        Run::new(cmd!(sh, "docker push {reference}"), LONG).success().await?;
        Ok(())
    }

    /// Builds `context` into `reference`.
    ///
    /// # Errors
    /// The build fails; the error shows its last lines.
    pub async fn build(
        self,
        context: &Utf8Path,
        dockerfile: &Utf8Path,
        args: &[(String, String)],
        reference: &str,
        on_line: impl FnMut(&str) + Send,
    ) -> Result<()> {
        let sh = Shell::new()?;
        let dockerfile = context.join(dockerfile);
        let args: Vec<String> = args
            .iter()
            .flat_map(|(key, value)| ["--build-arg".to_owned(), format!("{key}={value}")])
            .collect();
        let command = cmd!(sh, "docker build --tag {reference} --file {dockerfile} {args...} {context}");
        Run::new(command, LONG).on_line(on_line).success().await?;
        Ok(())
    }

    /// Starts a stream of `references` as one archive; read its standard output, then its status.
    ///
    /// # Errors
    /// docker cannot be started.
    pub fn save(self, references: &[String]) -> Result<Group> {
        Group::spawn(Command::new("docker").arg("save").args(references), false)
            .with_context(|| format!("start `docker save {}`", references.join(" ")))
    }
}

impl Unreachable {
    fn from_text(text: &str) -> Unreachable {
        let lower = text.to_lowercase();
        let line =
            text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned();
        if lower.contains("permission denied") {
            Unreachable::NotPermitted(line)
        } else {
            Unreachable::NotRunning(line)
        }
    }

    /// What to tell the user.
    #[must_use]
    pub fn error(&self) -> anyhow::Error {
        match self {
            Unreachable::NoClient => anyhow!(
                "docker is not installed or not on PATH; install Docker Engine (https://docs.docker.com/engine/install), or on Debian as root run `cargo xtask doctor --fix`"
            ),
            Unreachable::NotPermitted(text) => anyhow!(
                "this user may not use Docker ({text}); add it to the group docker with `sudo usermod -aG docker $USER` and log in again"
            ),
            Unreachable::NotRunning(text) => anyhow!(
                "Docker Engine does not answer ({text}); start it with `sudo systemctl start docker` or start Docker Desktop"
            ),
        }
    }
}

/// A reference as containerd writes it: with registry, repository and tag.
///
/// # Errors
/// It is empty or has a space.
pub fn normalized(reference: &str) -> Result<String> {
    if reference.is_empty() || reference.contains(char::is_whitespace) {
        bail!("`{reference}` is no image reference");
    }
    let (name, digest) =
        reference.split_once('@').map_or((reference, None), |(name, digest)| (name, Some(digest)));
    let (head, rest) = name.split_once('/').unwrap_or(("", name));
    let is_host = head.contains('.') || head.contains(':') || head == "localhost";
    let mut full = match (is_host, head) {
        (true, _) => name.to_owned(),
        (false, "") => format!("docker.io/library/{rest}"),
        (false, _) => format!("docker.io/{name}"),
    };
    let has_tag = full.rsplit_once(':').is_some_and(|(_, tag)| !tag.contains('/'));
    match digest {
        // The digest decides; containerd keeps no tag beside it.
        Some(digest) if has_tag => {
            let at = full.rfind(':').unwrap_or(full.len());
            full.truncate(at);
            full = format!("{full}@{digest}");
        }
        Some(digest) => full = format!("{full}@{digest}"),
        None if has_tag => {}
        None => full.push_str(":latest"),
    }
    Ok(full)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_normalized_as_containerd_does() {
        let check = |given: &str, expected: &str| assert_eq!(normalized(given).unwrap(), expected);
        check("postgres", "docker.io/library/postgres:latest");
        check("bitnami/minideb:x", "docker.io/bitnami/minideb:x");
        check("k8s-test.local/a:1", "k8s-test.local/a:1");
        check("localhost:5000/a", "localhost:5000/a:latest");
        check("a@sha256:00", "docker.io/library/a@sha256:00");
        check("a:1@sha256:00", "docker.io/library/a@sha256:00");
        assert!(normalized("").is_err());
    }

    #[test]
    fn tells_a_missing_permission_from_a_missing_engine() {
        let denied = "permission denied while trying to connect to the Docker daemon socket";
        assert!(matches!(Unreachable::from_text(denied), Unreachable::NotPermitted(_)));
        let down = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is it running?";
        assert!(matches!(Unreachable::from_text(down), Unreachable::NotRunning(_)));
    }

    #[test]
    fn an_image_is_known_by_its_names_and_its_id() {
        let text = r#"{"Id": "sha256:1", "RepoTags": ["postgres:15"], "RepoDigests": ["postgres@sha256:2"],
            "RootFS": {"Type": "layers", "Layers": ["sha256:3"]}}"#;
        let image: Image = serde_json::from_str(text).unwrap();
        assert_eq!(image.layers, ["sha256:3"]);
        for name in ["sha256:1", "docker.io/library/postgres:15", "postgres:15@sha256:2"] {
            assert!(image.answers_to(name), "{name}");
        }
        assert!(!image.answers_to("postgres"));
    }

    #[test]
    fn architectures_are_named_as_platforms_are() {
        let info: Info = serde_json::from_str(r#"{"Architecture": "aarch64"}"#).unwrap();
        assert_eq!(info.arch(), "arm64");
        assert!(!info.containerd_store());
    }

    #[test]
    fn the_containerd_store_is_known_by_its_driver() {
        let text = r#"{"DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]}"#;
        let info: Info = serde_json::from_str(text).unwrap();
        assert!(info.containerd_store());
    }
}
