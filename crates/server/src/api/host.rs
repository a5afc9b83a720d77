//! Which names this server answers to: without this, a web page anywhere could point its own name at this machine and
//! read the answers (DNS rebinding, RELIABILITY.md T24).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::header::{HOST, ORIGIN};
use http::{HeaderMap, Request, StatusCode};

use super::listen::Peer;
use super::problem::Failure;

/// Longest host name (RFC 1035, 2.3.4) with a port.
const HOST_MAX_LEN: usize = 253 + 6;

/// Refuses a request that was meant for another host.
pub(crate) fn check<B>(request: &Request<B>, peer: &Peer, hosts: &[String]) -> Result<(), Failure> {
    let mut named = request.headers().get_all(HOST).iter();
    let header = named.next().and_then(|host| host.to_str().ok());
    let only_one = named.next().is_none();
    let uri = request.uri().authority().map(http::uri::Authority::as_str);
    let ours = |host: &str| is_ours(host, peer, hosts);
    // A request in absolute form names its host twice; both must be ours.
    if only_one && header.is_some_and(ours) && uri.is_none_or(ours) {
        return Ok(());
    }
    Err(Failure::new(
        StatusCode::MISDIRECTED_REQUEST,
        "misdirected",
        "this server does not answer to the host that the request names",
    )
    .next("use the server's address, or add the name to `server.hosts` in the configuration"))
}

fn is_ours(host: &str, peer: &Peer, hosts: &[String]) -> bool {
    let Some(name) = name_of(host) else {
        return false;
    };
    let dialled = peer.dialled.map(|address| match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    });
    ["localhost", "127.0.0.1", "[::1]"].contains(&name.as_str())
        || dialled.is_some_and(|dialled| dialled == name)
        || hosts
            .iter()
            .any(|ours| name_of(ours).is_some_and(|ours| ours == name))
}

/// The name in `NAME[:PORT]`, lower case, without the dot at the end; addresses in their usual form, IPv6 in brackets.
fn name_of(host: &str) -> Option<String> {
    if host.len() > HOST_MAX_LEN {
        return None;
    }
    let port_is_good = |port: &str| {
        !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) && { port.parse::<u16>().is_ok() }
    };
    if let Some(rest) = host.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        if !port.is_empty() && !port.strip_prefix(':').is_some_and(port_is_good) {
            return None;
        }
        let address: Ipv6Addr = address.parse().ok()?;
        return Some(format!("[{address}]"));
    }
    let name = match host.split_once(':') {
        None => host,
        Some((name, port)) if port_is_good(port) => name,
        Some(_) => return None,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if name.is_empty() || !name.bytes().all(is_name) {
        return None;
    }
    if let Ok(address) = name.parse::<Ipv4Addr>() {
        return Some(address.to_string());
    }
    Some(name.to_ascii_lowercase())
}

/// What a browser says of where a request comes from.
const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// Refuses a request that a page of another site sent (RELIABILITY.md T23).
pub(crate) fn check_site(headers: &HeaderMap) -> Result<(), Failure> {
    let foreign = || {
        Failure::new(
            StatusCode::FORBIDDEN,
            "cross-site",
            "the request was sent by a page of another site",
        )
        .next("open the server's own page")
    };
    for site in headers.get_all(SEC_FETCH_SITE) {
        // `none`: the user typed the address.
        if site != "same-origin" && site != "none" {
            return Err(foreign());
        }
    }
    let host = headers
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .map(str::to_ascii_lowercase);
    for origin in headers.get_all(ORIGIN) {
        let origin = origin.to_str().ok().map(str::to_ascii_lowercase);
        let authority = origin.as_deref().and_then(|origin| {
            origin
                .strip_prefix("http://")
                .or_else(|| origin.strip_prefix("https://"))
        });
        if authority.is_none() || authority != host.as_deref() {
            return Err(foreign());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_name(host: &str, expected: Option<&str>) {
        assert_eq!(name_of(host).as_deref(), expected, "{host:?}");
    }

    #[test]
    fn a_host_is_reduced_to_its_name() {
        check_name("localhost:8927", Some("localhost"));
        check_name("LocalHost.", Some("localhost"));
        check_name("[::1]:80", Some("[::1]"));
        check_name("[0:0:0:0:0:0:0:1]", Some("[::1]"));
        check_name("::1", None);
        check_name("[::1]evil.example", None);
        check_name("[::1]:", None);
        check_name("localhost:", None);
        check_name("localhost:99999", None);
        check_name("localhost:80:80", None);
        check_name("localhost@evil.example", None);
        check_name("localhost#", None);
        check_name("localhost/", None);
        check_name("local host", None);
        check_name("", None);
        check_name(".", None);
        check_name("127.1", Some("127.1"));
        check_name(&"a".repeat(300), None);
    }
}
