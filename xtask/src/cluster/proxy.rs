//! Which proxy a cluster's API is asked through: its kubeconfig's, else the environment's.
//!
//! kube takes the environment's for any server, also for one on this machine, and compares `NO_PROXY` with the proxy's own
//! address.

use std::net::IpAddr;

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use kube::config::Kubeconfig;

use crate::env::Proxies;

/// Writes the environment's proxy to those clusters that are reached through it and name none of their own: whoever goes by
/// the kubeconfig alone, as the tests do, then asks as we do.
pub(super) fn settle(kubeconfig: &mut Kubeconfig, proxies: &Proxies) {
    for cluster in kubeconfig.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        if cluster.proxy_url.as_ref().is_none_or(String::is_empty) {
            cluster.proxy_url = cluster.server.as_ref().and_then(|server| before(server, proxies));
        }
    }
}

/// The proxy that the kubeconfig names for the cluster of its current context.
pub(super) fn of(kubeconfig: &Kubeconfig) -> Option<String> {
    let name = kubeconfig.current_context.as_deref()?;
    let context = kubeconfig.contexts.iter().find(|named| named.name == name)?.context.as_ref()?;
    let cluster = kubeconfig.clusters.iter().find(|named| named.name == context.cluster)?.cluster.as_ref()?;
    cluster.proxy_url.clone()
}

/// The environment's proxy, where a server is to be reached through it.
fn before(server: &str, proxies: &Proxies) -> Option<String> {
    let Proxies { https: Some(proxy), except } = proxies else { return None };
    let server: Uri = server.parse().ok()?;
    // To the matcher a `*` stands for names alone.
    if is_here(server.host()?) || except.split(',').any(|entry| entry.trim() == "*") {
        return None;
    }
    Matcher::builder().https(proxy).no(except).build().intercept(&server)?;
    Some(if proxy.contains("://") { proxy.clone() } else { format!("http://{proxy}") })
}

/// Whether a host is this machine; kind writes down the address that it listens on, which may stand for all of them.
fn is_here(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost")
        || address.is_ok_and(|address| address.is_loopback() || address.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(https: &str, except: &str) -> Proxies {
        Proxies { https: Some(https.to_owned()), except: except.to_owned() }
    }

    #[test]
    fn this_machine_is_reached_without_a_proxy() {
        let proxies = proxies("http://proxy:3128", "");
        for server in ["https://127.0.0.1:6443", "https://localhost:6443", "https://[::1]:6443"] {
            assert_eq!(before(server, &proxies), None, "{server}");
        }
        assert_eq!(before("https://10.0.0.1:6443", &proxies).as_deref(), Some("http://proxy:3128"));
        assert_eq!(before("https://10.0.0.1:6443", &Proxies::default()), None);
    }

    #[test]
    fn what_no_proxy_names_is_reached_without_one() {
        let is_direct = |except: &str, host: &str| {
            before(&format!("https://{host}:6443"), &proxies("http://proxy:3128", except)).is_none()
        };
        for (except, host) in [
            ("*", "10.0.0.1"),
            ("10.0.0.1", "10.0.0.1"),
            ("other, 10.0.0.0/8,", "10.0.0.1"),
            ("fd00::/8", "[fd00::1]"),
            ("k8s.example.com", "k8s.example.com"),
            ("example.com", "k8s.example.com"),
            (".example.com", "k8s.example.com"),
        ] {
            assert!(is_direct(except, host), "{except} {host}");
        }
        for (except, host) in
            [("10.0.0.1", "10.0.0.10"), ("example.com", "k8s-example.com"), ("proxy", "k8s")]
        {
            assert!(!is_direct(except, host), "{except} {host}");
        }
    }

    #[test]
    fn a_kubeconfigs_own_proxy_comes_first() {
        let text = "
current-context: one
contexts:
- {name: one, context: {cluster: c1}}
- {name: two, context: {cluster: c2}}
- {name: three, context: {cluster: c3}}
clusters:
- {name: c1, cluster: {server: 'https://10.0.0.1', proxy-url: 'socks5://own:1080'}}
- {name: c2, cluster: {server: 'https://10.0.0.2', proxy-url: ''}}
- {name: c3, cluster: {server: 'https://10.0.0.3', proxy-url: ''}}
";
        let mut kubeconfig = Kubeconfig::from_yaml(text).unwrap();
        settle(&mut kubeconfig, &proxies("proxy:3128", "10.0.0.1,10.0.0.3"));
        for (context, expected) in
            [("one", Some("socks5://own:1080")), ("two", Some("http://proxy:3128")), ("three", None)]
        {
            kubeconfig.current_context = Some(context.to_owned());
            assert_eq!(of(&kubeconfig).as_deref(), expected, "{context}");
        }
    }
}
