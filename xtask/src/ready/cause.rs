//! Why something is not ready, in words for a person.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What kind of cause it is; its name in kebab-case is the label of a recorded case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The image's name cannot be read.
    ImageName,
    /// No registry and no node has the image.
    ImageMissing,
    /// The registry refuses the image.
    ImageDenied,
    /// The registry cannot be reached or does not answer as it should.
    ImagePull,
    /// A ConfigMap that a pod needs does not exist.
    ConfigMapMissing,
    /// A Secret that a pod needs does not exist.
    SecretMissing,
    /// A ConfigMap or Secret lacks a key that a pod needs.
    KeyMissing,
    /// The pod's security settings contradict its image.
    RunAsRoot,
    /// The container cannot be made as its specification says.
    ContainerConfig,
    /// The container's program cannot be started.
    Start,
    /// The container's program ends again and again.
    Crash,
    /// The container is out of memory again and again.
    OutOfMemory,
    /// The API server refuses what the container's program asks of it.
    Rbac,
    /// The kubelet ends the container because it does not answer its liveness or startup probe.
    Liveness,
    /// The container runs and does not answer its readiness probe.
    Readiness,
    /// No node has enough processor time or memory left.
    Resources,
    /// No node has the labels that the pod asks for.
    NodeSelector,
    /// The nodes have taints that the pod does not tolerate.
    Taint,
    /// The scheduler finds no node for another reason.
    Unschedulable,
    /// The pod names a PersistentVolumeClaim that does not exist.
    ClaimMissing,
    /// A PersistentVolumeClaim has no StorageClass that exists.
    StorageClass,
    /// A PersistentVolumeClaim is not bound.
    Claim,
    /// A volume cannot be mounted.
    Mount,
    /// A resource quota or limit range refuses the pods.
    Quota,
    /// An admission policy or webhook refuses the pods.
    Admission,
    /// The pods' ServiceAccount does not exist.
    ServiceAccount,
    /// A Job ran into its deadline.
    JobDeadline,
    /// A Job's pods failed too often.
    JobFailed,
    /// The node ended the pod to save itself.
    Evicted,
    /// The Deployment is paused.
    Paused,
    /// A pod of an older revision keeps a StatefulSet from rolling out.
    Rollout,
    /// A custom resource says of itself that it has failed.
    Custom,
    /// The pod's network or sandbox cannot be made.
    Sandbox,
    /// Nothing is wrong that can be seen; it is not finished.
    Unfinished,
}

impl Kind {
    /// What a person may try; empty where the cause itself says it.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Kind::ImageName => "correct the image's name and tag in the values",
            Kind::ImageMissing => {
                "build the image and list it under `images` of suite.yaml, or correct its name and tag in the values"
            }
            Kind::ImageDenied => {
                "correct the image's name, or give the pod an imagePullSecret that may read it"
            }
            Kind::ImagePull => {
                "see whether the node reaches the registry; or build the image here and list it under `images` of suite.yaml"
            }
            Kind::ConfigMapMissing | Kind::SecretMissing => {
                "add it to the suite's fixtures or to the chart, or correct its name in the values"
            }
            Kind::KeyMissing => "add the key to the object, or correct its name where the pod refers to it",
            Kind::RunAsRoot => "set `runAsUser` in the values, or a numeric USER in the image",
            Kind::ContainerConfig | Kind::Mount => {
                "correct what the message names in the chart or the values"
            }
            Kind::Start => "correct the container's command, or add the program to the image",
            Kind::Crash => "the last lines above are the program's own; correct what they name",
            Kind::OutOfMemory => "raise the container's memory limit in the values",
            Kind::Rbac => {
                "add the verb and the resource to the Role that the pod's ServiceAccount is bound to"
            }
            Kind::Liveness => {
                "correct the probe's path and port, or give it a startupProbe or a longer initialDelaySeconds"
            }
            Kind::Readiness => {
                "correct the probe's path and port, or see in the log what the program waits for"
            }
            Kind::Resources => "lower the requests in the values, or free the node: `cargo xtask clean`",
            Kind::NodeSelector => {
                "correct nodeSelector and affinity in the values, or label the nodes in ci/kind.yaml"
            }
            Kind::Taint => "add a toleration in the values, or a node without the taint in ci/kind.yaml",
            Kind::Unschedulable => "correct what the scheduler names",
            Kind::ClaimMissing => "add the claim to the chart, or correct its name in the values",
            Kind::StorageClass | Kind::Claim => {
                "correct storageClassName in the values; without it the cluster's default is taken, if it has one"
            }
            Kind::Quota => "raise the ResourceQuota or LimitRange of the namespace, or lower the requests",
            Kind::Admission => "correct what the policy names, or the policy",
            Kind::ServiceAccount => "add the ServiceAccount to the suite's fixtures or to the chart",
            Kind::JobDeadline | Kind::JobFailed => "see in the log above what the Job's pods failed at",
            Kind::Evicted => "free the node's disk or memory",
            Kind::Paused => "resume the Deployment: set `paused: false`",
            Kind::Rollout => {
                "delete that pod, and it is made anew; `podManagementPolicy: Parallel` would not wait for it"
            }
            Kind::Custom => "see what its controller's log says",
            Kind::Sandbox => "see the node's log in the bundle",
            Kind::Unfinished => "",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// Why something is not ready, with the evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cause {
    /// What kind of cause it is.
    pub kind: Kind,
    /// In words for a person, one line.
    pub text: String,
    /// The pod, where there is one.
    pub pod: Option<String>,
    /// The container, where it is one of the pod's.
    pub container: Option<String>,
    /// What the cluster said, word for word.
    pub said: Option<String>,
    /// The program's last lines.
    pub log: Option<String>,
}

impl Cause {
    /// A cause with no evidence yet.
    pub(super) fn new(kind: Kind, text: impl Into<String>) -> Cause {
        Cause { kind, text: text.into(), pod: None, container: None, said: None, log: None }
    }

    /// Adds what the cluster said.
    pub(super) fn said(mut self, said: impl Into<String>) -> Cause {
        let said = said.into();
        self.said = Some(said).filter(|said| !said.trim().is_empty());
        self
    }

    /// Adds where it was seen.
    pub(super) fn at(mut self, pod: &str, container: Option<&str>) -> Cause {
        self.pod = Some(pod.to_owned());
        self.container = container.map(str::to_owned);
        self
    }

    /// Whether it may be a consequence of another workload's failure.
    pub(super) fn may_follow(&self) -> bool {
        matches!(
            self.kind,
            Kind::Crash | Kind::Liveness | Kind::Readiness | Kind::Unfinished | Kind::JobFailed
        )
    }
}
