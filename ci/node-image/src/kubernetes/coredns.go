// CoreDNS with the plugins that kubeadm's Corefile and its usual extensions name. Its own main package is not used: that one
// registers its flags globally, and a global -p breaks kubectl in the same binary.
package main

import (
	"flag"
	"log"
	"os"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/loop"
	_ "github.com/coredns/coredns/plugin/metrics"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
	_ "github.com/coredns/coredns/plugin/rewrite"
	_ "github.com/coredns/coredns/plugin/template"
)

func runCoreDNS(args []string) error {
	flags := flag.NewFlagSet("coredns", flag.ExitOnError)
	conf := flags.String("conf", "Corefile", "Corefile to load")
	flags.StringVar(&dnsserver.Port, "dns.port", dnsserver.DefaultPort, "default port")
	if err := flags.Parse(args); err != nil {
		return err
	}

	caddy.AppName = "CoreDNS"
	caddy.Quiet = true
	log.SetOutput(os.Stdout)
	log.SetFlags(0)
	caddy.TrapSignals()
	// Registered as a loader, not read once: the reload plugin asks the loader again whether the file has changed.
	caddy.RegisterCaddyfileLoader("file", caddy.LoaderFunc(func(serverType string) (caddy.Input, error) {
		contents, err := os.ReadFile(*conf)
		if err != nil {
			return nil, err
		}
		return caddy.CaddyfileInput{Contents: contents, Filepath: *conf, ServerTypeName: serverType}, nil
	}))

	corefile, err := caddy.LoadCaddyfile("dns")
	if err != nil {
		return err
	}
	server, err := caddy.Start(corefile)
	if err != nil {
		return err
	}
	server.Wait()
	return nil
}
