use std::io;
use std::net::IpAddr;

use ipnet::IpNet;

/// An address of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The address itself.
    pub address: IpAddr,
    /// The network on that link.
    pub network: IpNet,
    /// The address that reaches all of it.
    pub broadcast: Option<IpAddr>,
}

/// The addresses of this machine, at this moment.
pub fn interfaces() -> io::Result<Vec<Interface>> {
    let found = if_addrs::get_if_addrs()?;
    Ok(found
        .into_iter()
        .filter_map(|interface| {
            let (prefix_len, broadcast) = match &interface.addr {
                if_addrs::IfAddr::V4(v4) => (v4.prefixlen, v4.broadcast.map(IpAddr::V4)),
                if_addrs::IfAddr::V6(v6) => (v6.prefixlen, None),
            };
            let network = IpNet::new(interface.ip(), prefix_len).ok()?;
            Some(Interface {
                address: interface.ip(),
                network: network.trunc(),
                broadcast,
            })
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_loopback() {
        let loopback = interfaces()
            .unwrap()
            .into_iter()
            .find(|interface| interface.address == IpAddr::from([127, 0, 0, 1]))
            .unwrap();
        assert_eq!(loopback.network, "127.0.0.0/8".parse().unwrap());
    }
}
