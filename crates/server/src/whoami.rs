//! Which server this is, and where it says so.

use std::net::SocketAddr;

use model::chain::chain;
use serde_json::{Value, json};
use store::Store;

use crate::api;
use crate::config::Config;
use crate::run::ServeError;
use crate::secrets::random;

/// Which server this is.
pub(crate) async fn about(
    store: &Store,
    listeners: &[api::Listener],
    config: &Config,
    managed: bool,
) -> Result<api::About, ServeError> {
    Ok(api::About {
        id: server_id(store).await?,
        name: host_name(),
        managed,
        page: page_of(listeners, config),
    })
}

/// What is announced of the server itself; none where it is for this machine only.
pub(crate) fn service_of(
    listeners: &[api::Listener],
    config: &Config,
    about: &api::About,
) -> Option<net::Service> {
    service_at(listeners.iter().find_map(api::Listener::address)?, config, about)
}

fn service_at(address: SocketAddr, config: &Config, about: &api::About) -> Option<net::Service> {
    if !config.server.announce || address.ip().is_loopback() {
        return None;
    }
    let tls = if config.server.tls.is_some() { "1" } else { "0" };
    let property = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    Some(net::Service {
        kind: "_reflash._tcp".to_owned(),
        name: format!("Reflash on {}", about.name),
        // Its own name: that of the machine is announced by whoever else speaks for it.
        host: format!("reflash-{}", about.id.get(..8).unwrap_or("server")),
        port: address.port(),
        address: (!address.ip().is_unspecified()).then_some(address.ip()),
        properties: vec![
            property("id", &about.id),
            property("version", env!("CARGO_PKG_VERSION")),
            property("api", &api::API.to_string()),
            property("tls", tls),
            property("name", &about.name),
        ],
    })
}

/// Announces the server; where that cannot be done, it is reached by its address all the same.
pub(crate) fn announce(service: &net::Service) -> Option<net::Announced> {
    match net::announce(service, &net::Multicast::default()) {
        Ok(announced) => Some(announced),
        Err(error) => {
            tracing::warn!(
                error = chain(&error),
                "the server is not announced on the network"
            );
            None
        }
    }
}

/// The setting that holds the server's id.
const SERVER_ID: &str = "server_id";

/// The id of this server: made once, and kept with all that is its own.
async fn server_id(store: &Store) -> Result<String, ServeError> {
    let kept = store.setting(SERVER_ID).await;
    let kept = kept.map_err(|error| ServeError::unreadable(&error))?;
    if let Some(id) = kept.as_ref().and_then(Value::as_str) {
        return Ok(id.to_owned());
    }
    let bytes = random::<16>().map_err(|error| ServeError::unreadable(&error))?;
    let id = hex::encode(bytes);
    let stored = store.set_setting(SERVER_ID, Some(&json!(id))).await;
    stored.map_err(|error| ServeError::unreadable(&error))?;
    Ok(id)
}

/// What this machine is called.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "reflash".to_owned(),
        name => name.to_owned(),
    }
}

/// Where the page is reached over the network, if it is.
fn page_of(listeners: &[api::Listener], config: &Config) -> Option<String> {
    let address = listeners.iter().find_map(api::Listener::address)?;
    if !address.ip().is_unspecified() {
        return url_of(listeners, config);
    }
    let host = config.server.hosts.first().cloned().unwrap_or_else(host_name);
    let host = match host.parse::<std::net::Ipv6Addr>() {
        Ok(address) => format!("[{address}]"),
        Err(_) => host,
    };
    Some(format!("{}://{host}:{}", scheme(config), address.port()))
}

fn scheme(config: &Config) -> &'static str {
    if config.server.tls.is_some() {
        "https"
    } else {
        "http"
    }
}

/// Where the API is reached over the network, if it is.
pub(crate) fn url_of(listeners: &[api::Listener], config: &Config) -> Option<String> {
    let address = listeners.iter().find_map(api::Listener::address)?;
    Some(format!("{}://{address}", scheme(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_announced_where_it_listens_beyond_this_machine_and_may_be() {
        let about = api::About {
            id: "00112233445566778899aabbccddeeff".to_owned(),
            name: "shed".to_owned(),
            managed: false,
            page: None,
        };
        let mut config = Config::default();
        let service = |address: &str, config: &Config| service_at(address.parse().unwrap(), config, &about);
        assert_eq!(service("127.0.0.1:8927", &config), None);
        assert_eq!(service("[::1]:8927", &config), None);
        let found = service("192.168.1.5:8927", &config).unwrap();
        assert_eq!(found.address, Some("192.168.1.5".parse().unwrap()));
        assert_eq!((found.name.as_str(), found.port), ("Reflash on shed", 8927));
        assert_eq!(found.host, "reflash-00112233");
        let said: Vec<_> = found
            .properties
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            said,
            [
                ("id", "00112233445566778899aabbccddeeff"),
                ("version", env!("CARGO_PKG_VERSION")),
                ("api", "1"),
                ("tls", "0"),
                ("name", "shed")
            ]
        );
        assert_eq!(service("0.0.0.0:8927", &config).unwrap().address, None);
        config.server.announce = false;
        assert_eq!(service("192.168.1.5:8927", &config), None);
    }
}
