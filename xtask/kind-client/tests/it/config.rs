//! The cluster config in YAML.

use crate::fake::report;
use expect_test::{Expect, expect};
use kind_client::config::{
    Cluster, IpFamily, Mount, MountPropagation, Networking, Node, Port, PortMapping, Protocol, ProxyMode,
    Role,
};

/// All fields that kind knows.
const ALL: &str = r#"
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
name: one
nodes:
- role: control-plane
  image: example.test/node:v1.34.4
  labels:
    tier: front
  extraMounts:
  - containerPath: /data
    hostPath: ./data
    readOnly: true
    selinuxRelabel: true
    propagation: HostToContainer
  extraPortMappings:
  - containerPort: 80
    hostPort: 8080
    listenAddress: 127.0.0.1
    protocol: UDP
  - containerPort: 81
    hostPort: -1
  kubeadmConfigPatches:
  - |
    kind: InitConfiguration
    nodeRegistration:
      kubeletExtraArgs:
        v: "4"
  kubeadmConfigPatchesJSON6902:
  - group: kubeadm.k8s.io
    version: v1beta3
    kind: ClusterConfiguration
    patch: |
      - op: add
        path: /apiServer/certSANs/-
        value: example.test
- role: worker
networking:
  ipFamily: dual
  apiServerPort: 6443
  apiServerAddress: 127.0.0.1
  podSubnet: 10.244.0.0/16,fd00:10:244::/56
  serviceSubnet: 10.96.0.0/16,fd00:10:96::/112
  disableDefaultCNI: true
  kubeProxyMode: nftables
  dnsSearch: []
featureGates:
  Some: true
runtimeConfig:
  api/alpha: 'false'
kubeadmConfigPatches:
- 'kind: ClusterConfiguration'
kubeadmConfigPatchesJSON6902:
- group: ''
  version: v1
  kind: ClusterConfiguration
  patch: '[]'
containerdConfigPatches:
- |-
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "/etc/containerd/certs.d"
containerdConfigPatchesJSON6902:
- '[]'
"#;

#[test]
fn gives_back_every_field() {
    let cluster = Cluster::from_yaml(ALL).unwrap();
    let node = &cluster.nodes[0];
    assert_eq!(node.role, Role::ControlPlane);
    assert_eq!(
        node.extra_mounts,
        [Mount {
            container_path: "/data".into(),
            host_path: "./data".into(),
            read_only: true,
            selinux_relabel: true,
            propagation: MountPropagation::HostToContainer,
        }]
    );
    assert_eq!(
        node.extra_port_mappings,
        [
            PortMapping {
                container_port: 80,
                host_port: Port::Fixed(8080),
                listen_address: Some("127.0.0.1".into()),
                protocol: Protocol::Udp,
            },
            PortMapping { container_port: 81, host_port: Port::Engine, ..PortMapping::default() },
        ]
    );
    assert_eq!(cluster.networking.ip_family, IpFamily::Dual);
    assert_eq!(cluster.networking.kube_proxy_mode, ProxyMode::Nftables);
    assert_eq!(cluster.networking.dns_search, Some(vec![]));
    assert_eq!(cluster.to_yaml(), ALL.trim_start());
    assert_eq!(Cluster::from_yaml(&cluster.to_yaml()).unwrap(), cluster);
}

#[test]
fn leaves_out_what_is_not_set() {
    let cluster = Cluster::new(vec![Node::worker()]);
    expect![[r#"
        kind: Cluster
        apiVersion: kind.x-k8s.io/v1alpha4
        nodes:
        - role: worker
    "#]]
    .assert_eq(&cluster.to_yaml());
}

#[test]
fn takes_nothing_for_the_default() {
    let text = "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnodes:\nnetworking:\nfeatureGates:\n";
    assert_eq!(Cluster::from_yaml(text).unwrap(), Cluster::default());
}

#[test]
fn takes_protocols_in_lower_case_as_kind_does() {
    let text = "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnodes:\n- extraPortMappings: [{containerPort: 53, protocol: udp}]\n";
    let cluster = Cluster::from_yaml(text).unwrap();
    assert_eq!(cluster.nodes[0].extra_port_mappings[0].protocol, Protocol::Udp);
}

#[test]
fn takes_numbers_for_strings_as_kind_does() {
    let text = "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnodes:\n- labels: {a: 1.10, b: true}\n";
    let labels = &Cluster::from_yaml(text).unwrap().nodes[0].labels;
    assert_eq!((labels["a"].as_str(), labels["b"].as_str()), ("1.10", "true"));
}

#[test]
fn shows_the_defaults_of_kind() {
    let cluster = Cluster::default().with_defaults();
    expect![[r#"
        kind: Cluster
        apiVersion: kind.x-k8s.io/v1alpha4
        name: kind
        nodes:
        - role: control-plane
        networking:
          apiServerAddress: 127.0.0.1
          podSubnet: 10.244.0.0/16
          serviceSubnet: 10.96.0.0/16
    "#]]
    .assert_eq(&cluster.to_yaml());
    let networking = Networking { ip_family: IpFamily::Ipv6, ..Networking::default() };
    let cluster = Cluster { networking, ..Cluster::default() }.with_defaults();
    assert_eq!(cluster.networking.pod_subnet.as_deref(), Some("fd00:10:244::/56"));
}

#[test]
fn refuses_what_kind_does_not_know() {
    let head = "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\n";
    check(
        &format!("{head}nodes:\n- role: control-plane\n  imag: x\n"),
        expect![
            "5:3: nodes[0]: unknown field `imag`, expected one of `role`, `image`, `labels`, `extraMounts`, `extraPortMappings`, `kubeadmConfigPatches`, `kubeadmConfigPatchesJSON6902` at line 5 column 3"
        ],
    );
    check(
        &format!("{head}node: []\n"),
        expect![
            "3:1: unknown field `node`, expected one of `kind`, `apiVersion`, `name`, `nodes`, `networking`, `featureGates`, `runtimeConfig`, `kubeadmConfigPatches`, `kubeadmConfigPatchesJSON6902`, `containerdConfigPatches`, `containerdConfigPatchesJSON6902` at line 3 column 1"
        ],
    );
    check(
        &format!("{head}nodes:\n- role: master\n"),
        expect![
            "4:9: nodes[0].role: unknown variant `master`, expected `control-plane` or `worker` at line 4 column 9"
        ],
    );
    check(
        &format!("{head}networking:\n  ipFamily: ipv5\n"),
        expect![
            "4:13: networking.ipFamily: unknown variant `ipv5`, expected one of `ipv4`, `ipv6`, `dual` at line 4 column 13"
        ],
    );
    check(
        &format!("{head}networking:\n  apiServerPort: 70000\n"),
        expect![
            "4:3: networking: 70000 is not a port: use 1 to 65535, 0 for a free one, -1 to leave it to the engine at line 4 column 3"
        ],
    );
    check(
        &format!("{head}nodes:\n- labels: [a]\n"),
        expect!["4:11: nodes[0].labels: invalid type: sequence, expected a map at line 4 column 11"],
    );
    check(
        &format!("{head}nodes:\n- extraPortMappings:\n  - hostPort: 80\n"),
        expect!["5:5: nodes[0].extraPortMappings[0]: missing field `containerPort` at line 5 column 5"],
    );
    check(
        "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha3\n",
        expect![
            "2:13: apiVersion: unknown variant `kind.x-k8s.io/v1alpha3`, expected `kind.x-k8s.io/v1alpha4` at line 2 column 13"
        ],
    );
    check("kind: Cluster\n", expect!["1:1: missing field `apiVersion`"]);
    check(
        "kind: Cluster\nnodes: [\n",
        expect!["3:1: did not find expected node content at line 3 column 1, while parsing a flow node"],
    );
}

#[track_caller]
fn check(text: &str, expected: Expect) {
    let err = Cluster::from_yaml(text).unwrap_err();
    let place = |number: Option<usize>| number.map_or("?".to_owned(), |number| number.to_string());
    let report = report(&err);
    let (_, why) = report.split_once('\n').unwrap();
    expected.assert_eq(&format!("{}:{}: {why}", place(err.line()), place(err.column())));
}
