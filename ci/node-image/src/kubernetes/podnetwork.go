// The pod network: the CNI configuration of this node, a route to the pods of every other node, and the masquerading of what
// leaves the pod network. The nodes of a kind cluster share one link, so plain routes are enough.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/util/iptables"
)

const (
	cniConfig = "/etc/cni/net.d/10-pod-network.conflist"
	// routeProtocol marks our routes, so that those of nodes that are gone are found even after a restart.
	routeProtocol = 107
	// resync repeats the work although no node has changed: somebody may have flushed routes or rules.
	resync = time.Minute
)

type podNetwork struct {
	node    string
	subnets []*net.IPNet
	tables  map[iptables.Protocol]iptables.Interface
}

func runPodNetwork() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()

	network := podNetwork{node: os.Getenv("NODE_NAME"), tables: map[iptables.Protocol]iptables.Interface{}}
	for _, subnet := range strings.Split(os.Getenv("POD_SUBNET"), ",") {
		_, parsed, err := net.ParseCIDR(strings.TrimSpace(subnet))
		if err != nil {
			return fmt.Errorf("read POD_SUBNET: %w", err)
		}
		network.subnets = append(network.subnets, parsed)
		protocol := protocolOf(parsed.IP)
		network.tables[protocol] = iptables.New(protocol)
	}

	config, err := rest.InClusterConfig()
	if err != nil {
		return err
	}
	// kind sets this, so that the network need not wait for kube-proxy to make the API's service address work.
	if endpoint := os.Getenv("CONTROL_PLANE_ENDPOINT"); endpoint != "" {
		config.Host = "https://" + endpoint
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	nodes := factory.Core().V1().Nodes()
	changed := make(chan struct{}, 1)
	notify := func() {
		select {
		case changed <- struct{}{}:
		default: // a round that has not begun yet will see this change as well
		}
	}
	if _, err := nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { notify() },
		UpdateFunc: func(before, after any) {
			if affectsNetwork(before.(*corev1.Node), after.(*corev1.Node)) {
				notify()
			}
		},
		DeleteFunc: func(any) { notify() },
	}); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	cache.WaitForCacheSync(ctx.Done(), nodes.Informer().HasSynced)

	tick := time.NewTicker(resync)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-tick.C:
		}
		all, err := nodes.Lister().List(labels.Everything())
		if err == nil {
			err = network.apply(all)
		}
		if err != nil {
			klog.ErrorS(err, "Pod network is incomplete, trying again", "in", time.Second)
			time.AfterFunc(time.Second, notify)
		}
	}
}

// apply makes the node's state what the list of nodes asks for. One failure does not keep the rest from being done.
func (n *podNetwork) apply(nodes []*corev1.Node) error {
	var failures []error
	routes := map[string]net.IP{}
	for _, node := range nodes {
		if node.Name == n.node {
			failures = append(failures, writeCNIConfig(node.Spec.PodCIDRs))
			continue
		}
		for _, cidr := range node.Spec.PodCIDRs {
			_, subnet, err := net.ParseCIDR(cidr)
			if err != nil {
				failures = append(failures, err)
				continue
			}
			if gateway := internalIP(node, protocolOf(subnet.IP)); gateway != nil {
				routes[subnet.String()] = gateway
			}
		}
	}
	failures = append(failures, applyRoutes(routes), n.masquerade())
	return errors.Join(failures...)
}

func applyRoutes(wanted map[string]net.IP) error {
	ours := &netlink.Route{Protocol: routeProtocol}
	present, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, ours, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	var failures []error
	for _, route := range present {
		if route.Dst == nil {
			continue
		}
		gateway, keep := wanted[route.Dst.String()]
		if keep && gateway.Equal(route.Gw) {
			delete(wanted, route.Dst.String())
		} else if !keep {
			if err := netlink.RouteDel(&route); err != nil {
				failures = append(failures, fmt.Errorf("remove route to %s: %w", route.Dst, err))
			}
		}
	}
	for cidr, gateway := range wanted {
		_, subnet, err := net.ParseCIDR(cidr)
		if err == nil {
			err = netlink.RouteReplace(&netlink.Route{Dst: subnet, Gw: gateway, Protocol: routeProtocol})
		}
		if err != nil {
			failures = append(failures, fmt.Errorf("add route to %s through %s: %w", cidr, gateway, err))
		}
	}
	return errors.Join(failures...)
}

func (n *podNetwork) masquerade() error {
	var failures []error
	for _, subnet := range n.subnets {
		_, err := n.tables[protocolOf(subnet.IP)].EnsureRule(iptables.Append, iptables.TableNAT, iptables.ChainPostrouting,
			"-m", "comment", "--comment", "traffic that leaves the pod network",
			"-s", subnet.String(), "!", "-d", subnet.String(),
			"-m", "addrtype", "!", "--dst-type", "LOCAL", "-j", "MASQUERADE")
		if err != nil {
			failures = append(failures, fmt.Errorf("masquerade %s: %w", subnet, err))
		}
	}
	return errors.Join(failures...)
}

func writeCNIConfig(cidrs []string) error {
	if len(cidrs) == 0 {
		return nil // the controller manager has not given this node its range yet: the change will come as an event
	}
	var ranges, routes []any
	for _, cidr := range cidrs {
		_, subnet, err := net.ParseCIDR(cidr)
		if err != nil {
			return err
		}
		everything := "0.0.0.0/0"
		if protocolOf(subnet.IP) == iptables.ProtocolIPv6 {
			everything = "::/0"
		}
		ranges = append(ranges, []any{map[string]any{"subnet": cidr}})
		routes = append(routes, map[string]any{"dst": everything})
	}
	mtu, err := uplinkMTU()
	if err != nil {
		return err
	}
	config, err := json.MarshalIndent(map[string]any{
		"cniVersion": "1.0.0",
		"name":       "pod-network",
		"plugins": []any{
			map[string]any{"type": "ptp", "mtu": mtu, "ipMasq": false, "ipam": map[string]any{
				// Below /run, because the addresses must be free again after a restart of the node.
				"type": "host-local", "dataDir": "/run/cni-ipam-state", "ranges": ranges, "routes": routes,
			}},
			map[string]any{"type": "portmap", "capabilities": map[string]any{"portMappings": true}},
		},
	}, "", "  ")
	if err != nil {
		return err
	}
	if present, err := os.ReadFile(cniConfig); err == nil && string(present) == string(config) {
		return nil
	}
	// Renamed into place: containerd watches the folder and would read half a file.
	partial := filepath.Join(filepath.Dir(cniConfig), ".pod-network.partial")
	if err := os.WriteFile(partial, config, 0o644); err != nil {
		return err
	}
	return os.Rename(partial, cniConfig)
}

// uplinkMTU is the MTU of the link that carries the default route, which pods must not exceed.
func uplinkMTU() (int, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return 0, fmt.Errorf("list routes: %w", err)
	}
	for _, route := range routes {
		isDefault := route.Dst == nil || route.Dst.IP.IsUnspecified()
		if isDefault && route.LinkIndex > 0 {
			link, err := netlink.LinkByIndex(route.LinkIndex)
			if err != nil {
				return 0, fmt.Errorf("read the link of the default route: %w", err)
			}
			return link.Attrs().MTU, nil
		}
	}
	return 1500, nil // a node without a way out, as on a Docker network made with --internal
}

func affectsNetwork(before, after *corev1.Node) bool {
	for _, protocol := range []iptables.Protocol{iptables.ProtocolIPv4, iptables.ProtocolIPv6} {
		if !internalIP(before, protocol).Equal(internalIP(after, protocol)) {
			return true
		}
	}
	return strings.Join(before.Spec.PodCIDRs, ",") != strings.Join(after.Spec.PodCIDRs, ",")
}

func internalIP(node *corev1.Node, protocol iptables.Protocol) net.IP {
	for _, address := range node.Status.Addresses {
		ip := net.ParseIP(address.Address)
		if address.Type == corev1.NodeInternalIP && ip != nil && protocolOf(ip) == protocol {
			return ip
		}
	}
	return nil
}

func protocolOf(ip net.IP) iptables.Protocol {
	if ip.To4() == nil {
		return iptables.ProtocolIPv6
	}
	return iptables.ProtocolIPv4
}
