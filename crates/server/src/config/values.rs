//! Single values: times, sizes, networks, hosts, windows, cron lines. Each says why a text is none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use jiff::civil::{Time, Weekday};
use url::Url;

use super::cron::Cron;
use super::error::is_unseen;
use super::read::Reason;

/// More addresses than these are scanned only with `allow_large_scan`: a /22 (RELIABILITY.md F6).
pub(super) const LARGE_SCAN: u64 = 1 << 10;
/// More addresses than these are never scanned: a /16 (RELIABILITY.md F6).
pub(super) const MAX_SCAN: u64 = 1 << 16;
/// The longest name of a device, printable characters (RELIABILITY.md T25).
const MAX_NAME: usize = 64;

/// `true` and `false`, and the other words that YAML has had for them.
pub(super) fn flag(text: &str) -> Result<bool, Reason> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" => Ok(true),
        "false" | "no" | "off" => Ok(false),
        _ => Err("this is neither `true` nor `false`".to_owned()),
    }
}

/// A whole number within bounds: decimal, or hexadecimal after `0x`.
pub(super) fn number(bounds: RangeInclusive<u64>) -> impl FnOnce(&str) -> Result<u64, Reason> {
    move |text| {
        let plain = text.replace('_', "");
        let digits = plain.strip_prefix("0x");
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = match digits {
            Some(digits) if is_number(digits) => u64::from_str_radix(digits, 16).ok(),
            None if is_number(&plain) => plain.parse().ok(),
            _ => None,
        };
        let number = number.ok_or("this is no whole number")?;
        if !bounds.contains(&number) {
            return Err(format!("it must be from {} to {}", bounds.start(), bounds.end()));
        }
        Ok(number)
    }
}

/// A time within bounds: `10m`, `3h`, `1h30m`, `500ms`, `30d`, or a bare number of seconds.
pub(super) fn duration(bounds: RangeInclusive<Duration>) -> impl FnOnce(&str) -> Result<Duration, Reason> {
    move |text| {
        let duration = any_duration(text).ok_or("this is no length of time")?;
        if !bounds.contains(&duration) {
            let (low, high) = (in_words(*bounds.start()), in_words(*bounds.end()));
            return Err(format!("it must be from {low} to {high}"));
        }
        Ok(duration)
    }
}

/// The same, or zero for never.
pub(super) fn duration_or_never(
    bounds: RangeInclusive<Duration>,
) -> impl FnOnce(&str) -> Result<Duration, Reason> {
    move |text| match any_duration(text) {
        Some(Duration::ZERO) => Ok(Duration::ZERO),
        _ => duration(bounds)(text),
    }
}

fn any_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    let mut n_parts = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let unit = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at(unit);
        let number: u64 = number.parse().ok()?;
        let each_ms: u64 = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 604_800_000,
            "" if n_parts == 0 && after.is_empty() => 1000,
            _ => return None,
        };
        total = total.checked_add(Duration::from_millis(number.checked_mul(each_ms)?))?;
        rest = after;
        n_parts += 1;
    }
    (n_parts > 0).then_some(total)
}

/// A time as one would write it: `10m`, `3h`, `1h30m`.
pub(super) fn in_words(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if rest == 0 {
        return "0s".to_owned();
    }
    let mut words = String::new();
    for (unit, each) in [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
        ("ms", 1),
    ] {
        if rest >= each {
            words += &(rest / each).to_string();
            words += unit;
            rest %= each;
        }
    }
    words
}

/// A text of one line for people.
pub(super) fn label(text: &str) -> Result<String, Reason> {
    let text = text.trim();
    if text.is_empty() {
        return Err("a name has at least one character".to_owned());
    }
    if text.chars().count() > MAX_NAME {
        return Err(format!("a name has at most {MAX_NAME} characters"));
    }
    if text.chars().any(is_unseen) {
        return Err("a name holds only what can be seen".to_owned());
    }
    Ok(text.to_owned())
}

/// A word to sort by: a tag, a group.
pub(super) fn word(text: &str) -> Result<String, Reason> {
    let text = label(text)?;
    let fits = |character: char| character.is_alphanumeric() || matches!(character, '-' | '_' | '.' | ' ');
    if !text.chars().all(fits) {
        return Err("this holds something else than letters, digits, `-`, `_` and `.`".to_owned());
    }
    Ok(text)
}

/// A user name.
pub(super) fn username(text: &str) -> Result<String, Reason> {
    label(text)
}

/// A path; a relative one starts at the configuration's folder.
pub(super) fn path(folder: &Path) -> impl FnOnce(&str) -> Result<PathBuf, Reason> {
    move |text| {
        if text.is_empty() {
            return Err("a path has at least one character".to_owned());
        }
        if text.chars().any(char::is_control) {
            return Err("a path holds no control characters".to_owned());
        }
        Ok(folder.join(text))
    }
}

/// An address and a port to listen on.
pub(super) fn listen(text: &str) -> Result<SocketAddr, Reason> {
    if let Some(port) = text.strip_prefix("localhost:") {
        let port = port.parse().map_err(|_| "this has no port from 0 to 65535")?;
        return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    text.parse()
        .map_err(|_| "this is not an address and a port".to_owned())
}

/// A host: an address or a name.
pub(super) fn host(text: &str) -> Result<String, Reason> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_canonical().to_string());
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let label_fits = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (1..=63).contains(&label.len())
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() > 253 || !name.split('.').all(label_fits) {
        return Err("this is neither an address nor a host name".to_owned());
    }
    // The system would read `2130706433`, `127.1` and `0x7f.1` as addresses (RELIABILITY.md T22).
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_number =
        last.bytes().all(|byte| byte.is_ascii_digit()) || last.to_ascii_lowercase().starts_with("0x");
    if is_number {
        return Err("this is no complete address, and a host name does not end with a number".to_owned());
    }
    Ok(name.to_ascii_lowercase())
}

/// The origin of a web page: scheme, host and perhaps a port, nothing else. It becomes part of a header, so nothing that could
/// mean more there gets through: no path, no `*`, no quotes.
pub(super) fn origin(text: &str) -> Result<String, Reason> {
    let wrong =
        || "this is no origin of a page: `http://` or `https://`, a host, and perhaps a port".to_owned();
    let uri: http::Uri = text.parse().map_err(|_| wrong())?;
    let (Some(scheme @ ("http" | "https")), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(wrong());
    };
    if authority.as_str().contains('@') || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(wrong());
    }
    let name = host(authority.host().trim_matches(['[', ']']))?;
    let name = if name.contains(':') {
        format!("[{name}]")
    } else {
        name
    };
    let port = authority
        .port_u16()
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    Ok(format!("{scheme}://{name}{port}"))
}

/// An address or a network, host bits cleared.
pub(super) fn network(text: &str) -> Result<IpNet, Reason> {
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text
            .parse::<IpNet>()
            .map_err(|_| "this is neither an address nor a network".to_owned())?,
    };
    // `::ffff:10.0.0.0/104` is a way to write an IPv4 network; nobody means it.
    if let IpNet::V6(network) = network
        && network.addr().to_ipv4_mapped().is_some()
    {
        return Err("an IPv4 network is written as one".to_owned());
    }
    Ok(network.trunc())
}

/// Networks by name, or a network.
pub(super) fn allowed(text: &str) -> Result<Vec<IpNet>, Reason> {
    let v4 = |a, b, len| IpNet::from(Ipv4Net::new_assert(Ipv4Addr::new(a, b, 0, 0), len));
    let v6 = |a, len| IpNet::from(Ipv6Net::new_assert(Ipv6Addr::new(a, 0, 0, 0, 0, 0, 0, 0), len));
    Ok(match text {
        // RFC 1918 and RFC 4193, as `net::Networks::private` has them.
        "private" => private().to_vec(),
        "loopback" => vec![
            v4(127, 0, 8),
            Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128).into(),
        ],
        "link-local" => vec![v4(169, 254, 16), v6(0xfe80, 10)],
        other => {
            let network = network(other)
                .map_err(|reason| format!("{reason}, nor `private`, `loopback` or `link-local`"))?;
            if !names_hosts(network) {
                return Err("no single device has such an address".to_owned());
            }
            vec![network]
        }
    })
}

/// The private networks.
pub(super) fn private() -> [IpNet; 4] {
    [
        Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8).into(),
        Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12).into(),
        Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16).into(),
        Ipv6Net::new_assert(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7).into(),
    ]
}

fn names_hosts(network: IpNet) -> bool {
    let first = network.network();
    !(first.is_multicast() || network.prefix_len() == network.max_prefix_len() && first.is_unspecified())
}

/// How many addresses a network has.
pub(super) fn n_addresses(network: IpNet) -> u64 {
    let bits = network.max_prefix_len() - network.prefix_len();
    1_u64.checked_shl(u32::from(bits)).unwrap_or(u64::MAX)
}

/// Whether all of a network lies in one of these.
pub(super) fn lies_in(network: IpNet, allowed: &[IpNet]) -> bool {
    allowed.iter().any(|allowed| allowed.contains(&network))
}

/// An address in the web, without a login in it.
pub(super) fn web(schemes: &'static [&'static str]) -> impl FnOnce(&str) -> Result<Url, Reason> {
    move |text| {
        let url =
            Url::parse(text).map_err(|_| "this is no address that begins with `https://`".to_owned())?;
        if !schemes.contains(&url.scheme()) {
            return Err(format!("it must begin with {}", schemes.map_join()));
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err("it names no host".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("user name and password have keys of their own".to_owned());
        }
        Ok(url)
    }
}

trait MapJoin {
    fn map_join(&self) -> String;
}

impl MapJoin for [&str] {
    fn map_join(&self) -> String {
        let quoted: Vec<String> = self.iter().map(|scheme| format!("`{scheme}://`")).collect();
        quoted.join(" or ")
    }
}

/// An MQTT broker.
pub(super) fn broker(text: &str) -> Result<Url, Reason> {
    let mut url = web(&["mqtt", "mqtts"])(text)?;
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err("it ends after host and port".to_owned());
    }
    if url.port() == Some(0) {
        return Err("0 is no port".to_owned());
    }
    if url.port().is_none() {
        let port = if url.scheme() == "mqtts" { 8883 } else { 1883 };
        url.set_port(Some(port)).map_err(|()| "it names no host")?;
    }
    Ok(url)
}

/// The beginning of MQTT topics, without wildcards.
pub(super) fn topic(text: &str) -> Result<String, Reason> {
    let text = text.strip_suffix('/').unwrap_or(text);
    if text.is_empty() || text.len() > 128 {
        return Err("it has from 1 to 128 characters".to_owned());
    }
    if text.starts_with('$') || text.starts_with('/') || text.contains("//") {
        return Err("it begins with a word, and has one between two slashes".to_owned());
    }
    if text.contains(['+', '#']) || text.chars().any(is_unseen) {
        return Err("it holds no `+`, no `#` and nothing that cannot be seen".to_owned());
    }
    Ok(text.to_owned())
}

/// A chip, by the name that tools give it.
pub(super) fn chip(text: &str) -> Result<String, Reason> {
    let chip = proto::esp_image::Chip::parse(text).and_then(proto::esp_image::Chip::name);
    chip.map(ToOwned::to_owned).ok_or_else(|| {
        let names: Vec<_> = proto::esp_image::Chip::names().collect();
        format!("this is no chip that is known; those are {}", names.join(", "))
    })
}

/// A public key of minisign: the one line of base64 of its file.
pub(super) fn public_key(text: &str) -> Result<String, Reason> {
    // 42 bytes: `Ed`, the key's number, and the key (minisign's documentation, "public key format").
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    if text.len() != 56 || !text.starts_with("RW") || !text.bytes().all(fits) {
        return Err("a public key of minisign is 56 characters long and begins with `RW`".to_owned());
    }
    Ok(text.to_owned())
}

/// A time of day.
pub(super) fn time_of_day(text: &str) -> Result<Time, Reason> {
    let wrong = || "this is no time of day".to_owned();
    let parts: Vec<&str> = text.split(':').collect();
    let (hour, minute, second) = match parts.as_slice() {
        [hour, minute] => (*hour, *minute, "0"),
        [hour, minute, second] => (*hour, *minute, *second),
        _ => return Err(wrong()),
    };
    let part = |text: &str| -> Result<i8, Reason> {
        let fits = (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| fits).ok_or_else(wrong)
    };
    Time::new(part(hour)?, part(minute)?, part(second)?, 0).map_err(|_| wrong())
}

/// A day of the week, in English, at least three letters of it.
pub(super) fn weekday(text: &str) -> Result<Weekday, Reason> {
    let text = text.to_ascii_lowercase();
    let days = [
        ("monday", Weekday::Monday),
        ("tuesday", Weekday::Tuesday),
        ("wednesday", Weekday::Wednesday),
        ("thursday", Weekday::Thursday),
        ("friday", Weekday::Friday),
        ("saturday", Weekday::Saturday),
        ("sunday", Weekday::Sunday),
    ];
    let day = days
        .iter()
        .find(|(name, _)| text.len() >= 3 && name.starts_with(&text));
    day.map(|(_, day)| *day)
        .ok_or_else(|| "this is no day of the week".to_owned())
}

/// A time zone by its name in the IANA database.
pub(super) fn timezone(text: &str) -> Result<String, Reason> {
    let zone = jiff::tz::TimeZone::get(text).map_err(|_| "no time zone has this name".to_owned())?;
    Ok(zone.iana_name().unwrap_or(text).to_owned())
}

/// A cron line: minute, hour, day of the month, month, day of the week.
pub(super) fn cron(text: &str) -> Result<String, Reason> {
    Cron::parse(text)?;
    Ok(text.split_ascii_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_units() {
        let read = |text: &str| any_duration(text).map(|duration| duration.as_millis());
        assert_eq!(read("300"), Some(300_000));
        assert_eq!(read("10m"), Some(600_000));
        assert_eq!(read("3h"), Some(10_800_000));
        assert_eq!(read("1h30m"), Some(5_400_000));
        assert_eq!(read("500ms"), Some(500));
        assert_eq!(read("7d"), Some(604_800_000));
        for bad in [
            "",
            "m",
            "10 m",
            "-1s",
            "1.5h",
            "10x",
            "30m10",
            "1e9",
            "99999999999999999999",
            "99999999999999999w",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_time_in_words_is_read_as_the_same_time() {
        for ms in [
            0, 1, 999, 1000, 90_000, 600_000, 5_400_000, 86_400_000, 90_061_001,
        ] {
            let duration = Duration::from_millis(ms);
            assert_eq!(
                any_duration(&in_words(duration)),
                Some(duration),
                "{}",
                in_words(duration)
            );
        }
    }

    #[test]
    fn a_host_is_an_address_or_a_name_and_no_number_in_disguise() {
        for good in [
            "192.168.1.20",
            "::1",
            "ir-remote-mini.local",
            "IR-Remote-Mini-2.local.",
            "ventilation",
            "my_host",
        ] {
            assert!(host(good).is_ok(), "{good}");
        }
        assert_eq!(host("::ffff:10.0.0.7").unwrap(), "10.0.0.7");
        for bad in [
            "2130706433",
            "127.1",
            "0x7f.1",
            "0x7f000001",
            "1.2.3.4.5",
            "",
            ".",
            "a b",
            "a/b",
            "-a",
            "host:80",
            "http://x",
            "é.local",
            "256.1.1.1",
        ] {
            assert!(host(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn cron_lines_have_five_parts_within_their_bounds() {
        for good in [
            "15 2 * * *",
            "*/5 * * * *",
            "0 0 1,15 jan-mar MON-FRI",
            "0 4 * * 7",
            "0-30/10 2 * * sun",
        ] {
            assert!(cron(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 8",
            "5-2 * * * *",
            "*/0 * * * *",
            "a * * * *",
            "1- * * * *",
            ", * * * *",
            "@daily",
        ] {
            assert!(cron(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_time_of_day_has_hours_and_minutes() {
        assert_eq!(time_of_day("02:00").unwrap(), Time::constant(2, 0, 0, 0));
        assert_eq!(time_of_day("2:05:09").unwrap(), Time::constant(2, 5, 9, 0));
        for bad in [
            "24:00", "2", "02:60", "02:00:60", "120", "-1:00", "02:00 pm", "002:00",
        ] {
            assert!(time_of_day(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn how_many_addresses_a_network_has() {
        let count = |text: &str| n_addresses(network(text).unwrap());
        assert_eq!(count("192.168.1.7"), 1);
        assert_eq!(count("192.168.1.0/24"), 256);
        assert_eq!(count("10.0.0.0/16"), MAX_SCAN);
        assert_eq!(count("0.0.0.0/0"), 1 << 32);
        assert_eq!(count("fd00::/64"), u64::MAX);
        assert_eq!(count("::/0"), u64::MAX);
    }
}
