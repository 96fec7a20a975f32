// Which of the two iptables back ends a program in a container has to use.
package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const iptablesLinks = "/run/iptables"

// selectIptables puts the back end that the node's kubelet uses first on PATH. The node's entrypoint chooses it by the host,
// so the image cannot know it, and rules in the other back end would be evaluated as well.
func selectIptables() error {
	multi := "xtables-nft-multi"
	if !hasKubeletHint("nft") && hasKubeletHint("legacy") {
		multi = "xtables-legacy-multi"
	}
	target, err := exec.LookPath(multi)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(iptablesLinks, 0o755); err != nil {
		return err
	}
	for _, family := range []string{"iptables", "ip6tables"} {
		for _, suffix := range []string{"", "-save", "-restore"} {
			link := filepath.Join(iptablesLinks, family+suffix)
			if err := os.Remove(link); err != nil && !os.IsNotExist(err) {
				return err
			}
			if err := os.Symlink(target, link); err != nil {
				return err
			}
		}
	}
	return os.Setenv("PATH", iptablesLinks+":"+os.Getenv("PATH"))
}

// hasKubeletHint reports whether the kubelet has left its marker chain, which it makes for exactly this question.
func hasKubeletHint(backend string) bool {
	for _, family := range []string{"iptables", "ip6tables"} {
		// A back end that the kernel lacks fails here, which answers the question.
		rules, err := exec.Command("xtables-"+backend+"-multi", family+"-save", "-t", "mangle").Output()
		if err == nil && strings.Contains(string(rules), "\n:KUBE-IPTABLES-HINT ") {
			return true
		}
	}
	return false
}
