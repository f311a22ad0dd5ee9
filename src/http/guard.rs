//! Which addresses a webhook may go to: public ones, and what `security.allow` names.
//!
//! It is the resolver itself, so the addresses that were judged are the ones connected to, and one pooled client
//! serves all endpoints. Literal addresses in a URL never reach a resolver and are judged before each attempt.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    vec,
};

use hyper_util::client::legacy::connect::dns::Name;
use ipnet::IpNet;
use tower_service::Service;
use url::{Host, Url};

/// Judges addresses.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    allow: Arc<[IpNet]>,
}

/// An address no webhook may go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("address {address} is not allowed ({class}), see security.allow")]
pub struct Blocked {
    /// The address.
    pub address: IpAddr,
    /// What it is.
    pub class: &'static str,
}

/// Why a name leads nowhere.
#[derive(Debug, thiserror::Error)]
pub enum Unresolved {
    /// It cannot be resolved.
    #[error("the name cannot be resolved")]
    Failed(#[source] io::Error),
    /// It has no address.
    #[error("the name has no address")]
    NoAddress,
    /// It has one that is not allowed.
    #[error(transparent)]
    Blocked(#[from] Blocked),
}

/// <https://www.iana.org/assignments/iana-ipv4-special-registry>, 192.88.99.0/24 of RFC 7526, multicast, and the one
/// metadata address that clouds keep outside those: Azure's
/// <https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16>.
const FORBIDDEN_V4: [(Ipv4Addr, u32, &str); 17] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8, "this network"),
    (Ipv4Addr::new(10, 0, 0, 0), 8, "private"),
    (Ipv4Addr::new(100, 64, 0, 0), 10, "carrier-grade nat"),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "loopback"),
    (Ipv4Addr::new(168, 63, 129, 16), 32, "metadata"),
    (Ipv4Addr::new(169, 254, 0, 0), 16, "link-local"),
    (Ipv4Addr::new(172, 16, 0, 0), 12, "private"),
    (Ipv4Addr::new(192, 0, 0, 0), 24, "protocol assignments"),
    (Ipv4Addr::new(192, 0, 2, 0), 24, "documentation"),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "6to4 relay"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, "private"),
    (Ipv4Addr::new(198, 18, 0, 0), 15, "benchmarking"),
    (Ipv4Addr::new(198, 51, 100, 0), 24, "documentation"),
    (Ipv4Addr::new(203, 0, 113, 0), 24, "documentation"),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "multicast"),
    (Ipv4Addr::BROADCAST, 32, "broadcast"),
    (Ipv4Addr::new(240, 0, 0, 0), 4, "reserved"),
];

/// <https://www.iana.org/assignments/iana-ipv6-special-registry>. The first that fits names the class; whatever is
/// not global unicast (`2000::/3`) is refused besides.
const FORBIDDEN_V6: [(Ipv6Addr, u32, &str); 15] = [
    (Ipv6Addr::UNSPECIFIED, 128, "unspecified"),
    (Ipv6Addr::LOCALHOST, 128, "loopback"),
    (Ipv6Addr::UNSPECIFIED, 96, "ipv4-compatible"),
    (Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, 0, 0), 96, "ipv4-translated"),
    (Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48, "local-use nat64"),
    (Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 64, "discard-only"),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, "unique local"),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10, "link-local"),
    (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10, "site-local"),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8, "multicast"),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32, "teredo"),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, "protocol assignments"),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, "documentation"),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, "6to4"),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, "documentation"),
];

impl Guard {
    /// Lets these networks through although they are not public.
    pub fn new(allow: &[IpNet]) -> Self {
        Self { allow: allow.into() }
    }

    /// Judges one address.
    pub fn check(&self, address: IpAddr) -> Result<(), Blocked> {
        let meant = embedded(address);
        let allowed = |address| self.allow.iter().any(|net| net.contains(&address));
        match class(meant) {
            Some(class) if !allowed(address) && !allowed(meant) => Err(Blocked { address, class }),
            Some(_) | None => Ok(()),
        }
    }

    /// Judges a URL whose host is an address, in any spelling the URL standard knows; a name passes, since only
    /// resolving tells.
    pub fn literal(&self, url: &Url) -> Result<(), Blocked> {
        match url.host() {
            Some(Host::Ipv4(address)) => self.check(address.into()),
            Some(Host::Ipv6(address)) => self.check(address.into()),
            Some(Host::Domain(_)) | None => Ok(()),
        }
    }
}

impl Service<Name> for Guard {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = Unresolved;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Unresolved>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Unresolved>> {
        Poll::Ready(Ok(()))
    }

    /// One forbidden address among many refuses the name: which one is connected to would be chance.
    fn call(&mut self, name: Name) -> Self::Future {
        let guard = self.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await.map_err(Unresolved::Failed)?;
            let addresses: Vec<SocketAddr> = found.collect();
            if addresses.is_empty() {
                return Err(Unresolved::NoAddress);
            }
            for address in &addresses {
                guard.check(address.ip())?;
            }
            Ok(addresses.into_iter())
        })
    }
}

/// The IPv4 address that an IPv6 address stands for: mapped (RFC 4291) or behind the well-known NAT64 prefix
/// (RFC 6052), which is how an IPv6-only network reaches every IPv4 receiver.
fn embedded(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => {
            let [.., a, b, c, d] = v6.octets();
            Ipv4Addr::new(a, b, c, d).into()
        }
        _ => address,
    }
}

fn class(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) => FORBIDDEN_V4
            .iter()
            .find(|(net, bits, _)| (v4.to_bits() ^ net.to_bits()).leading_zeros() >= *bits)
            .map(|(_, _, class)| *class),
        IpAddr::V6(v6) => FORBIDDEN_V6
            .iter()
            .find(|(net, bits, _)| (v6.to_bits() ^ net.to_bits()).leading_zeros() >= *bits)
            .map(|(_, _, class)| *class)
            // Global unicast, RFC 4291: the only part of the space IANA hands out addresses from.
            .or((v6.segments()[0] >> 13 != 1).then_some("not global unicast")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(allow: &[&str]) -> Guard {
        Guard::new(&allow.iter().map(|net| net.parse().unwrap()).collect::<Vec<_>>())
    }

    fn check(guard: &Guard, host: &str, expected: Option<&str>) {
        let url: Url = format!("http://{host}/hook").parse().unwrap();
        let class = guard.literal(&url).err().map(|blocked| blocked.class);
        assert_eq!(class, expected, "{host}");
    }

    #[test]
    fn ipv4() {
        let rows = [
            ("0.0.0.0", "this network"),
            ("0.255.255.255", "this network"),
            ("10.0.0.0", "private"),
            ("10.255.255.255", "private"),
            ("100.64.0.0", "carrier-grade nat"),
            ("100.100.100.200", "carrier-grade nat"),
            ("100.127.255.255", "carrier-grade nat"),
            ("127.0.0.1", "loopback"),
            ("127.255.255.255", "loopback"),
            ("168.63.129.16", "metadata"),
            ("169.254.0.0", "link-local"),
            ("169.254.169.254", "link-local"),
            ("172.16.0.0", "private"),
            ("172.31.255.255", "private"),
            ("192.0.0.192", "protocol assignments"),
            ("192.0.2.1", "documentation"),
            ("192.88.99.1", "6to4 relay"),
            ("192.168.255.255", "private"),
            ("198.18.0.0", "benchmarking"),
            ("198.19.255.255", "benchmarking"),
            ("198.51.100.7", "documentation"),
            ("203.0.113.7", "documentation"),
            ("224.0.0.1", "multicast"),
            ("239.255.255.255", "multicast"),
            ("240.0.0.1", "reserved"),
            ("255.255.255.254", "reserved"),
            ("255.255.255.255", "broadcast"),
        ];
        for (host, class) in rows {
            check(&guard(&[]), host, Some(class));
            check(&guard(&[]), &format!("[::ffff:{host}]"), Some(class));
            check(&guard(&[]), &format!("[64:ff9b::{host}]"), Some(class));
        }
    }

    #[test]
    fn the_neighbours_are_public() {
        let rows = [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "168.63.129.15",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "8.8.8.8",
        ];
        for host in rows {
            check(&guard(&[]), host, None);
            check(&guard(&[]), &format!("[::ffff:{host}]"), None);
            check(&guard(&[]), &format!("[64:ff9b::{host}]"), None);
        }
        for host in ["[2606:4700::1111]", "[2001:4860:4860::8888]", "[2001:200::1]", "[2003::1]", "[3ffe::1]"]
        {
            check(&guard(&[]), host, None);
        }
    }

    #[test]
    fn ipv6() {
        let rows = [
            ("[::]", "unspecified"),
            ("[::1]", "loopback"),
            ("[::7f00:1]", "ipv4-compatible"),
            ("[::8.8.8.8]", "ipv4-compatible"),
            ("[::ffff:0:8.8.8.8]", "ipv4-translated"),
            ("[64:ff9b:1::1]", "local-use nat64"),
            ("[100::1]", "discard-only"),
            ("[fc00::1]", "unique local"),
            ("[fd00:ec2::254]", "unique local"),
            ("[fe80::1]", "link-local"),
            ("[febf::1]", "link-local"),
            ("[fec0::1]", "site-local"),
            ("[ff02::1]", "multicast"),
            ("[2001::1]", "teredo"),
            ("[2001:2::1]", "protocol assignments"),
            ("[2001:1ff::1]", "protocol assignments"),
            ("[2001:db8::1]", "documentation"),
            ("[2002:7f00:1::]", "6to4"),
            ("[3fff::1]", "documentation"),
            ("[5f00::1]", "not global unicast"),
            ("[4000::1]", "not global unicast"),
            ("[1fff::1]", "not global unicast"),
            ("[64:ff9b:0:1::1]", "not global unicast"),
        ];
        for (host, class) in rows {
            check(&guard(&[]), host, Some(class));
        }
    }

    #[test]
    fn odd_spellings_are_the_same_address() {
        let spellings = [
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "0177.0.0.1",
            "127.1",
            "127.0.0.1.",
            "%31%32%37.0.0.1",
            "１２７.0.0.1",
            "127。0。0。1",
        ];
        for host in spellings {
            check(&guard(&[]), host, Some("loopback"));
        }
        check(&guard(&[]), "0xa9fea9fe", Some("link-local"));
        check(&guard(&[]), "[0:0:0:0:0:0:0:1]", Some("loopback"));
        check(&guard(&[]), "[::ffff:7f00:1]", Some("loopback"));
        // Names are judged when they are resolved.
        check(&guard(&[]), "localhost.", None);
    }

    #[test]
    fn allowed_networks_pass_in_every_form() {
        let guard = guard(&["10.20.0.0/16", "fd00:1::/32", "::1/128"]);
        let rows = [
            ("10.20.1.1", None),
            ("[::ffff:10.20.1.1]", None),
            ("[64:ff9b::10.20.1.1]", None),
            ("10.21.1.1", Some("private")),
            ("[::ffff:10.21.1.1]", Some("private")),
            ("[fd00:1::5]", None),
            ("[fd00:2::5]", Some("unique local")),
            ("[::1]", None),
            ("127.0.0.1", Some("loopback")),
            ("[::10.20.1.1]", Some("ipv4-compatible")),
            ("8.8.8.8", None),
        ];
        for (host, expected) in rows {
            check(&guard, host, expected);
        }
    }
}
