//! The one fetcher for what comes from outside the home: bounded in length, time and places.
//!
//! A name is resolved once, its addresses are judged, and the connection goes to these addresses.
//! Redirects are followed by hand, each to a host of the list; nothing is decompressed; nothing touches the disk.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use model::feed::NamedPart;
use proto::content_disposition::{self, NoName};
use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderMap, HeaderName,
    IF_NONE_MATCH, LOCATION, TRANSFER_ENCODING, USER_AGENT,
};
use reqwest::{Response, StatusCode};
use tokio::time::Instant;
use url::{Host, Url};

/// Bounds of one download.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long connecting may take.
    pub connect: Duration,
    /// How long the server may take to begin its answer.
    pub head: Duration,
    /// How long all of it may take.
    pub total: Duration,
    /// Over this time …
    pub window: Duration,
    /// … at least so many bytes must come.
    pub window_len_bytes: u64,
    /// How many redirects are followed.
    pub n_redirects: usize,
}

impl Default for Limits {
    /// RELIABILITY.md T15: 1 KiB/s over 60 s, 15 min in all. Guess: 10 s to connect and 30 s to answer, for a slow vendor.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            head: Duration::from_secs(30),
            total: Duration::from_mins(15),
            window: Duration::from_mins(1),
            window_len_bytes: 60 * 1024,
            n_redirects: 5,
        }
    }
}

/// Whether a name must come with the file, and which names are right.
#[derive(Clone, Copy)]
pub(crate) enum Naming {
    /// The server must name the file, and in a way that can be read by this.
    Needed(fn(&str) -> Option<Vec<NamedPart>>),
    /// The name is known already.
    Known,
}

/// What to fetch.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// Where.
    pub(crate) url: &'a Url,
    /// Whom its owner has named: only these hosts and their naked domains are ever asked.
    pub(crate) hosts: &'a Hosts,
    /// Lengths that it may have, bytes.
    pub(crate) len_bytes: &'a RangeInclusive<u64>,
    /// Its name.
    pub(crate) naming: Naming,
    /// What the server called the state that is known; it need not send that again.
    pub(crate) etag: Option<&'a str>,
}

/// What came.
#[derive(Debug)]
pub(crate) enum Fetched {
    /// It is as it was.
    Unchanged,
    /// All of it, and nothing else.
    File(Download),
}

/// A complete download.
#[derive(Debug)]
pub(crate) struct Download {
    /// Its bytes.
    pub(crate) bytes: Vec<u8>,
    /// The name that the server gave it, if one was needed.
    pub(crate) file_name: Option<String>,
    /// What the server calls this state of it.
    pub(crate) etag: Option<String>,
    /// Whether somebody on the way could have changed it.
    pub(crate) way: Way,
}

/// The way by which something came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// HTTPS all the way.
    Private,
    /// In part over plain HTTP, where anybody can change it.
    Open,
}

/// Why nothing was fetched. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Neither http nor https, or with a password in it.
    #[error("{url} is no address to download from")]
    Address {
        /// The address, without what could be secret.
        url: String,
    },
    /// A redirect leads to a host that nobody has named.
    #[error("the server sends us on to {host}, which is not among the hosts of this download")]
    Host {
        /// The host.
        host: String,
    },
    /// A host stands at an address where no vendor can be.
    #[error("{host} leads to {address}, which is not an address on the internet")]
    Private {
        /// The host.
        host: String,
        /// Its address.
        address: IpAddr,
    },
    /// A redirect leaves HTTPS.
    #[error("the server sends us on from https to plain http, where anybody could change the file")]
    Downgrade,
    /// Too many redirects.
    #[error("the server has sent us on {n} times without an end")]
    Redirects {
        /// How many were followed.
        n: usize,
    },
    /// A redirect without a target.
    #[error("the server sends us on and does not say where to")]
    NoTarget,
    /// The name has no address.
    #[error("looking up {host}")]
    Lookup {
        /// The host.
        host: String,
        /// Why.
        source: net::ResolveError,
    },
    /// Nobody answers there.
    #[error("connecting to {host}: {said}")]
    Connect {
        /// The host.
        host: String,
        /// What the system says.
        said: String,
    },
    /// The server is not who it says, or cannot speak TLS.
    #[error("{host} cannot prove who it is: {said}")]
    Tls {
        /// The host.
        host: String,
        /// What is wrong.
        said: String,
    },
    /// The server does not want us.
    #[error("the server denies the download ({said})")]
    Denied {
        /// Its words.
        said: String,
    },
    /// Another answer than a file.
    #[error("the server answers HTTP {status} instead of the file")]
    Status {
        /// The status.
        status: u16,
    },
    /// A web page: the login page of a guest network, or an error page.
    #[error(
        "the server answers with a web page instead of the file; is there a login page between here and the internet?"
    )]
    Page,
    /// The answer names no file.
    #[error("the server does not say which file it sends")]
    NoName {
        /// Why.
        source: NoName,
    },
    /// The answer names another file.
    #[error("the server sends a file called {name:?}, which is no name of the vendor's firmware")]
    OtherName {
        /// Its name.
        name: String,
    },
    /// Compressed: the size would mean nothing.
    #[error("the server sends the file compressed, which was not asked for")]
    Encoded,
    /// Neither a length nor an end.
    #[error("the server does not say how long the file is, so that nobody could tell if it was cut short")]
    NoLength,
    /// Too small or too large.
    #[error("the file has {len_bytes} bytes or more, and {min} to {max} are right")]
    Length {
        /// Its length, as announced or as far as it was read.
        len_bytes: u64,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// It comes too slowly.
    #[error("the file comes at less than {bytes_per_s} bytes a second")]
    Slow {
        /// The least that is right.
        bytes_per_s: u64,
    },
    /// It took too long.
    #[error("the download took longer than {} s", after.as_secs_f32())]
    TimedOut {
        /// How long it might take.
        after: Duration,
    },
    /// The connection ended before the file did.
    #[error("the download was cut short: {said}")]
    Cut {
        /// What the system says.
        said: String,
    },
    /// This machine could not do its part.
    #[error("setting up the download: {said}")]
    Local {
        /// What went wrong.
        said: String,
    },
}

impl FetchError {
    /// Whether the server could not be reached by TLS at all, so that plain HTTP may be tried where its owner allows that.
    pub(crate) fn is_before_tls(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. } | Self::Tls { .. } | Self::Lookup { .. }
        )
    }
}

/// The hosts that a download may be fetched from: those that its owner has named, and their naked domains.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hosts(Vec<(String, Option<u16>)>);

impl Hosts {
    /// The hosts of these addresses.
    pub(crate) fn of<'a>(urls: impl IntoIterator<Item = &'a Url>) -> Self {
        let named = urls.into_iter().filter_map(|url| {
            let host = url.host()?;
            Some((host_text(&host), url.port_or_known_default()))
        });
        Self(named.collect())
    }

    /// Whether this address may be asked.
    ///
    /// A host in the home only at the very port that its owner has named: a redirect must not reach other services there.
    fn contain(&self, url: &Url) -> bool {
        let Some(host) = url.host() else { return false };
        let (text, port) = (host_text(&host), url.port_or_known_default());
        self.0.iter().any(|(named, named_port)| {
            if is_at_home(&host) {
                *named == text && *named_port == port
            } else {
                *named == text || naked(named) == naked(&text)
            }
        })
    }
}

fn host_text(host: &Host<&str>) -> String {
    match host {
        Host::Domain(name) => name.trim_end_matches('.').to_ascii_lowercase(),
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) => IpAddr::V6(*address).to_canonical().to_string(),
    }
}

/// A host without its `www.`: vendors send from one to the other.
fn naked(host: &str) -> &str {
    host.strip_prefix("www.").unwrap_or(host)
}

/// Whether a host can only stand in its owner's network: an address there, or a name that the internet does not know.
fn is_at_home(host: &Host<&str>) -> bool {
    match host {
        Host::Ipv4(address) => !is_on_internet(IpAddr::V4(*address)),
        Host::Ipv6(address) => !is_on_internet(IpAddr::V6(*address)),
        Host::Domain(name) => {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            // RFC 6761, 6762, 8375, and the name that ICANN has set aside for homes in 2024; and names without a dot.
            !name.contains('.')
                || [".local", ".localhost", ".home.arpa", ".internal"]
                    .iter()
                    .any(|suffix| name.ends_with(suffix))
        }
    }
}

/// Whether an address can be a vendor's: neither here, nor in a home, nor set aside (IANA's special-purpose registries).
fn is_on_internet(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => is_v4_on_internet(v4),
        IpAddr::V6(v6) => is_v6_on_internet(v6),
    }
}

fn is_v4_on_internet(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_special = matches!(
        (a, b, c),
        (0 | 10 | 127 | 224..=255, _, _)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 0, 0 | 2)
            | (192, 88, 99)
            | (192, 168, _)
            | (198, 18 | 19, _)
            | (198, 51, 100)
            | (203, 0, 113)
    );
    !is_special
}

/// Global unicast, without what carries an IPv4 address inside (6to4, Teredo) and the documentation's.
fn is_v6_on_internet(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.segments();
    let is_global = first & 0xe000 == 0x2000;
    let is_special =
        first == 0x2002 || first == 0x2001 && (second < 0x0200 || second == 0x0db8) || first == 0x3fff;
    is_global && !is_special
}

/// The addresses to connect to; one that is not right spoils all: nobody has a good reason to mix them.
fn judge(host: &Host<&str>, addresses: Vec<IpAddr>) -> Result<Vec<IpAddr>, FetchError> {
    let text = host_text(host);
    let at_home = is_at_home(host);
    let is_loopback_name =
        matches!(host, Host::Domain(name) if *name == "localhost" || name.ends_with(".localhost"));
    let is_literal = !matches!(host, Host::Domain(_));
    let is_right = |address: IpAddr| {
        let home = net::Networks::private().contains(address);
        is_on_internet(address)
            || is_literal && at_home
            || at_home && home
            || is_loopback_name && address.is_loopback()
    };
    match addresses.iter().find(|address| !is_right(**address)) {
        Some(&address) => Err(FetchError::Private { host: text, address }),
        None => Ok(addresses),
    }
}

/// Fetches files.
#[derive(Clone, Debug)]
pub(crate) struct Fetcher {
    limits: Limits,
    /// Instead of the system's, in tests.
    roots: Option<Vec<reqwest::Certificate>>,
}

impl Fetcher {
    pub(crate) fn new(limits: Limits) -> Self {
        // Whoever came first has installed the same one.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Self { limits, roots: None }
    }

    #[cfg(test)]
    pub(crate) fn trusting(mut self, root: reqwest::Certificate) -> Self {
        self.roots.get_or_insert_default().push(root);
        self
    }

    /// Fetches a file; whatever fails, nothing has changed.
    pub(crate) async fn fetch(&self, wanted: Wanted<'_>) -> Result<Fetched, FetchError> {
        let after = self.limits.total;
        tokio::time::timeout(after, self.follow(wanted))
            .await
            .map_err(|_| FetchError::TimedOut { after })?
    }

    /// Fetches a file by HTTPS first; by plain HTTP only where that is what is written, and nobody answers by HTTPS. Also
    /// tells by which address.
    pub(crate) async fn fetch_by_https_first(
        &self,
        wanted: Wanted<'_>,
    ) -> Result<(Fetched, Url), FetchError> {
        let mut attempts = attempts(wanted.url).into_iter().peekable();
        loop {
            // There is always one: the address itself.
            let Some(url) = attempts.next() else {
                return Err(FetchError::NoTarget);
            };
            match self.fetch(Wanted { url: &url, ..wanted }).await {
                Err(error) if error.is_before_tls() && attempts.peek().is_some() => {
                    tracing::warn!(
                        error = model::chain::chain(&error),
                        "no answer by https, so plain http is tried"
                    );
                }
                Err(error) => return Err(error),
                Ok(fetched) => return Ok((fetched, url)),
            }
        }
    }

    async fn follow(&self, wanted: Wanted<'_>) -> Result<Fetched, FetchError> {
        let mut url = wanted.url.clone();
        let mut way = Way::Private;
        for n_followed in 0..=self.limits.n_redirects {
            if url.scheme() != "https" {
                way = Way::Open;
            }
            let response = self.ask(&url, wanted.hosts, wanted.etag).await?;
            if !is_redirect(response.status()) {
                return self.take(response, wanted, way).await;
            }
            if n_followed < self.limits.n_redirects {
                let next = target(&url, response.headers())?;
                if url.scheme() == "https" && next.scheme() != "https" {
                    return Err(FetchError::Downgrade);
                }
                url = next;
            }
        }
        Err(FetchError::Redirects {
            n: self.limits.n_redirects,
        })
    }

    /// One question to one server, and the head of its answer.
    async fn ask(&self, url: &Url, hosts: &Hosts, etag: Option<&str>) -> Result<Response, FetchError> {
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
            return Err(not_an_address(url));
        };
        let is_plain_url = url.username().is_empty() && url.password().is_none();
        if !matches!(url.scheme(), "http" | "https") || !is_plain_url {
            return Err(not_an_address(url));
        }
        let name = host_text(&host);
        if !hosts.contain(url) {
            return Err(FetchError::Host { host: name });
        }
        let addresses = net::resolve(&name).await.map_err(|source| FetchError::Lookup {
            host: name.clone(),
            source,
        })?;
        let addresses = judge(&host, addresses)?;
        let peers: Vec<SocketAddr> = addresses
            .into_iter()
            .map(|address| SocketAddr::new(address, port))
            .collect();
        let client = self.client(url, &peers)?;
        let mut request = client
            .get(url.clone())
            .header(USER_AGENT, concat!("reflash/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT_ENCODING, "identity");
        if let Some(etag) = etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        let after = self.limits.head;
        tokio::time::timeout(after, request.send())
            .await
            .map_err(|_| FetchError::TimedOut { after })?
            .map_err(|error| failed(&name, &error))
    }

    /// A client of its own for each question: it knows the judged addresses and no others.
    fn client(&self, url: &Url, peers: &[SocketAddr]) -> Result<reqwest::Client, FetchError> {
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            // A proxy would look the name up a second time, and reach what it likes.
            .no_proxy()
            .retry(reqwest::retry::never())
            .referer(false)
            .connect_timeout(self.limits.connect)
            .resolve_to_addrs(url.host_str().unwrap_or_default(), peers);
        if let Some(roots) = &self.roots {
            builder = builder.tls_certs_only(roots.iter().cloned());
        }
        builder
            .build()
            .map_err(|error| FetchError::Local { said: chain(&error) })
    }

    /// Judges the head of an answer and reads its body.
    async fn take(&self, response: Response, wanted: Wanted<'_>, way: Way) -> Result<Fetched, FetchError> {
        let headers = response.headers();
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_MODIFIED if wanted.etag.is_some() => return Ok(Fetched::Unchanged),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS => {
                let said = header(headers, &HeaderName::from_static("x-deny-reason"))
                    .unwrap_or_else(|| format!("HTTP {}", response.status().as_u16()));
                return Err(FetchError::Denied { said });
            }
            status => {
                return Err(FetchError::Status {
                    status: status.as_u16(),
                });
            }
        }
        if header(headers, &CONTENT_TYPE)
            .is_some_and(|kind| kind.to_ascii_lowercase().starts_with("text/html"))
        {
            return Err(FetchError::Page);
        }
        if header(headers, &CONTENT_ENCODING).is_some_and(|coding| !coding.eq_ignore_ascii_case("identity")) {
            return Err(FetchError::Encoded);
        }
        let file_name = match wanted.naming {
            Naming::Known => None,
            Naming::Needed(read) => Some(name(headers, read)?),
        };
        let etag = header(headers, &ETAG);
        let bytes = self.read(response, wanted.len_bytes, way).await?;
        if is_page(&bytes) {
            return Err(FetchError::Page);
        }
        Ok(Fetched::File(Download {
            bytes,
            file_name,
            etag,
            way,
        }))
    }

    async fn read(
        &self,
        mut response: Response,
        len_bytes: &RangeInclusive<u64>,
        way: Way,
    ) -> Result<Vec<u8>, FetchError> {
        let wrong_length = |len_bytes_found: u64| FetchError::Length {
            len_bytes: len_bytes_found,
            min: *len_bytes.start(),
            max: *len_bytes.end(),
        };
        let announced = response.content_length();
        match announced {
            Some(announced) if !len_bytes.contains(&announced) => return Err(wrong_length(announced)),
            // With TLS the end is signed; over plain HTTP it looks like any cut.
            None if way == Way::Open && !response.headers().contains_key(TRANSFER_ENCODING) => {
                return Err(FetchError::NoLength);
            }
            _ => {}
        }
        let mut bytes = Vec::with_capacity(usize::try_from(announced.unwrap_or(0)).unwrap_or(0));
        let mut window_ends = Instant::now() + self.limits.window;
        let mut window_began_at = 0;
        loop {
            let Ok(chunk) = tokio::time::timeout_at(window_ends, response.chunk()).await else {
                let in_window = bytes.len() as u64 - window_began_at;
                if in_window < self.limits.window_len_bytes {
                    return Err(self.too_slow());
                }
                window_began_at = bytes.len() as u64;
                window_ends = Instant::now() + self.limits.window;
                continue;
            };
            let chunk = chunk.map_err(|error| FetchError::Cut { said: chain(&error) })?;
            let Some(chunk) = chunk else { break };
            let len = bytes.len() as u64 + chunk.len() as u64;
            if len > *len_bytes.end() {
                return Err(wrong_length(len));
            }
            bytes.extend_from_slice(&chunk);
        }
        let len = bytes.len() as u64;
        if !len_bytes.contains(&len) || announced.is_some_and(|announced| announced != len) {
            return Err(wrong_length(len));
        }
        Ok(bytes)
    }

    fn too_slow(&self) -> FetchError {
        let millis = u64::try_from(self.limits.window.as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        FetchError::Slow {
            bytes_per_s: self.limits.window_len_bytes.saturating_mul(1000) / millis,
        }
    }
}

/// The addresses to try in turn: HTTPS first, and plain HTTP only where its owner has written that.
///
/// An address with a port of its own is taken as it is: nothing tells on which port the other would be.
fn attempts(url: &Url) -> Vec<Url> {
    let mut attempts = Vec::new();
    if url.scheme() == "http" && url.port().is_none() {
        let mut private = url.clone();
        if private.set_scheme("https").is_ok() {
            attempts.push(private);
        }
    }
    attempts.push(url.clone());
    attempts
}

/// An address without what could be secret in it: user, password, query.
pub(crate) fn without_secrets(url: &Url) -> String {
    let mut url = url.clone();
    // They fail only for addresses that cannot have them.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

fn not_an_address(url: &Url) -> FetchError {
    FetchError::Address {
        url: without_secrets(url),
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn target(from: &Url, headers: &HeaderMap) -> Result<Url, FetchError> {
    let location = headers.get(LOCATION).and_then(|location| location.to_str().ok());
    location
        .and_then(|location| from.join(location).ok())
        .ok_or(FetchError::NoTarget)
}

fn name(headers: &HeaderMap, read: fn(&str) -> Option<Vec<NamedPart>>) -> Result<String, FetchError> {
    let mut values = headers.get_all(CONTENT_DISPOSITION).iter();
    let (first, second) = (values.next(), values.next());
    let header = match (first, second) {
        (Some(header), None) => header,
        (None, _) => {
            return Err(FetchError::NoName {
                source: NoName::Missing,
            });
        }
        (Some(_), Some(_)) => {
            return Err(FetchError::NoName {
                source: NoName::Malformed,
            });
        }
    };
    let name =
        content_disposition::file_name(header.as_bytes()).map_err(|source| FetchError::NoName { source })?;
    if read(&name).is_some() {
        Ok(name)
    } else {
        Err(FetchError::OtherName { name })
    }
}

/// A header's value as far as it is plain text, at most 200 characters of it.
fn header(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(value.chars().filter(|c| !c.is_control()).take(200).collect())
}

/// Whether these bytes begin as a web page does.
fn is_page(bytes: &[u8]) -> bool {
    let head = bytes.trim_ascii_start();
    let begins = |mark: &[u8]| {
        head.get(..mark.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(mark))
    };
    begins(b"<!doctype html") || begins(b"<html")
}

fn failed(host: &str, error: &reqwest::Error) -> FetchError {
    let (host, said) = (host.to_owned(), chain(error));
    if is_about_tls(error) {
        FetchError::Tls { host, said }
    } else if error.is_connect() {
        FetchError::Connect { host, said }
    } else {
        FetchError::Cut { said }
    }
}

fn is_about_tls(error: &(dyn Error + 'static)) -> bool {
    // An I/O error does not name what it was made of as its source.
    let made_of = error
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref);
    error.is::<rustls::Error>()
        || made_of.is_some_and(|inner| is_about_tls(inner))
        || error.source().is_some_and(is_about_tls)
}

/// What lies below an error: the outermost only repeats the address, which may hold what is secret.
pub(crate) fn chain(error: &reqwest::Error) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next = error.source();
    while let Some(error) = next {
        let text = error.to_string();
        if texts.last() != Some(&text) {
            texts.push(text);
        }
        next = error.source();
    }
    if texts.is_empty() {
        "no answer that could be read".to_owned()
    } else {
        texts
            .join(": ")
            .chars()
            .filter(|c| !c.is_control())
            .take(300)
            .collect()
    }
}

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;
