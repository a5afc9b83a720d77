//! The client of the server's API: where the server is, how it is asked, and how its problems are told.

use std::hash::{BuildHasher as _, Hasher as _};
use std::io::Read as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use model::chain::{chain, sentence};
use model::id::Sha256;
use reqwest::header::{self, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;
use serde_json::Value;
use server::views::Problem;

use super::{say, say_json, show};
use crate::error::{Exit, Trouble};

/// How long a server may take to accept a connection. Guess: a loaded small computer in the same house.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long an answer may take that needs no device. Guess: a disk that has to wake up first.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// The largest answer that is read, bytes: 1,000 devices take 2 MB, and an image is at most 16 MiB.
const MAX_ANSWER_LEN: usize = 32 * 1024 * 1024;
/// The largest token file that is read, bytes.
const MAX_TOKEN_LEN: u64 = 4096;
/// The server's socket in its state folder (DESIGN.md section 5).
const SOCKET: &str = "reflash.sock";
/// The variable that holds a token.
const TOKEN_ENV: &str = "REFLASH_TOKEN";

/// The problem of a rollout that would do nothing.
const NOTHING_TO_DO: &str = "urn:reflash:problem:nothing-to-do";
/// Problems with the status 422 that are no wrong usage.
const REFUSALS: [&str; 1] = ["urn:reflash:problem:not-running"];

/// Which server to ask, and as whom.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub(crate) struct ServerArguments {
    /// Server to ask, by its http or https URL; otherwise the one that runs on this machine.
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "REFLASH_SERVER",
        hide_env_values = true,
        help_heading = "Server"
    )]
    server: Option<String>,
    /// File that holds the token; otherwise the environment variable `REFLASH_TOKEN` does.
    #[arg(long, global = true, value_name = "F", help_heading = "Server")]
    token_file: Option<PathBuf>,
    /// Certificates (PEM) to trust for this server, in place of the system's.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        conflicts_with = "fingerprint",
        help_heading = "Server"
    )]
    ca: Option<PathBuf>,
    /// SHA-256 of the one certificate to trust for this server; colons do not count.
    #[arg(long, global = true, value_name = "SHA256", value_parser = fingerprint, help_heading = "Server")]
    fingerprint: Option<Sha256>,
    /// Send the token to another machine even though the way there is not encrypted.
    #[arg(long, global = true, help_heading = "Server")]
    plain_http: bool,
    /// Folder of the server on this machine, in which its socket is.
    // `device list` has another `--state`, and only `--data` for this one.
    #[arg(
        id = "folder",
        long = "state",
        visible_alias = "data",
        global = true,
        value_name = "DIR",
        help_heading = "Server"
    )]
    folder: Option<PathBuf>,
    /// Print what the server answers, as JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

impl ServerArguments {
    /// The server over this folder on this machine.
    pub(crate) fn in_folder(folder: &Path) -> Self {
        Self {
            server: None,
            token_file: None,
            ca: None,
            fingerprint: None,
            plain_http: false,
            folder: Some(folder.to_owned()),
            json: false,
        }
    }
}

/// Reads a fingerprint as `openssl x509 -fingerprint -sha256` prints it.
fn fingerprint(text: &str) -> Result<Sha256, String> {
    let (_, digits) = text.rsplit_once('=').unwrap_or(("", text));
    digits
        .replace(':', "")
        .parse()
        .map_err(|error: model::id::NotADigest| error.to_string())
}

/// What is asked of the server.
#[derive(Clone)]
pub(crate) struct Ask {
    method: Method,
    path: Vec<String>,
    query: Vec<(&'static str, String)>,
    headers: Vec<(&'static str, String)>,
    body: Option<(&'static str, Vec<u8>)>,
    within: Duration,
}

impl Ask {
    fn new<'a>(method: Method, path: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            method,
            path: path.into_iter().map(str::to_owned).collect(),
            query: Vec::new(),
            headers: Vec::new(),
            body: None,
            within: ANSWER_WITHIN,
        }
    }

    /// `GET` of a path below `/api/v1`, given by its segments.
    pub(crate) fn get<'a>(path: impl IntoIterator<Item = &'a str>) -> Self {
        Self::new(Method::GET, path)
    }

    pub(crate) fn post<'a>(path: impl IntoIterator<Item = &'a str>) -> Self {
        Self::new(Method::POST, path)
    }

    pub(crate) fn put<'a>(path: impl IntoIterator<Item = &'a str>) -> Self {
        Self::new(Method::PUT, path)
    }

    pub(crate) fn patch<'a>(path: impl IntoIterator<Item = &'a str>) -> Self {
        Self::new(Method::PATCH, path)
    }

    pub(crate) fn delete<'a>(path: impl IntoIterator<Item = &'a str>) -> Self {
        Self::new(Method::DELETE, path)
    }

    /// With a query parameter.
    pub(crate) fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    /// With a query parameter, where there is a value.
    pub(crate) fn maybe(self, name: &'static str, value: Option<impl Into<String>>) -> Self {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }

    /// With a line in its head.
    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// To be done once, however often it is sent: the server answers a second one as it answered the first.
    pub(crate) fn once(self) -> Self {
        // Nobody has to be kept from guessing it; it only has to differ.
        let random = std::hash::RandomState::new().build_hasher().finish();
        let key = format!(
            "{random:016x}-{:x}-{}",
            engine::Clock.now().wall_ms,
            std::process::id()
        );
        self.header("idempotency-key", key)
    }

    /// With a body of JSON.
    pub(crate) fn json(mut self, value: &Value) -> Self {
        self.body = Some(("application/json", value.to_string().into_bytes()));
        self
    }

    /// With a body of bytes.
    pub(crate) fn bytes(mut self, kind: &'static str, bytes: Vec<u8>) -> Self {
        self.body = Some((kind, bytes));
        self
    }

    /// With longer for the answer, because the server has to ask others first.
    pub(crate) fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }
}

/// Why there is no good answer.
pub(crate) enum NoAnswer {
    /// Nobody is there, or not ready; that may pass.
    Gone(Trouble),
    /// It was refused, or cannot be asked so.
    Refused(Trouble),
}

impl From<NoAnswer> for Trouble {
    fn from(no_answer: NoAnswer) -> Self {
        match no_answer {
            NoAnswer::Gone(trouble) | NoAnswer::Refused(trouble) => trouble,
        }
    }
}

impl From<Trouble> for NoAnswer {
    fn from(trouble: Trouble) -> Self {
        Self::Refused(trouble)
    }
}

/// A server that can be asked.
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<SecretString>,
    /// Where it is, in words.
    place: String,
    local: bool,
}

impl Client {
    /// Gets ready; nothing is sent yet.
    pub(crate) fn new(arguments: &ServerArguments) -> Result<Self, Trouble> {
        // Somebody else has installed one already: that is as good.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let builder = reqwest::Client::builder()
            .user_agent(concat!("reflash/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_WITHIN)
            // A token goes to the server that was named, and nowhere else.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .http1_only();
        // An empty variable of the environment names nobody.
        let named = arguments.server.as_ref().filter(|server| !server.is_empty());
        let (builder, base, place, local) = if let Some(server) = named {
            let base = base(server)?;
            let place = base.origin().ascii_serialization();
            let builder = match tls(arguments, &base)? {
                Some(config) => builder.tls_backend_preconfigured(config),
                None => builder,
            };
            (builder, base, place, false)
        } else {
            let folder = arguments.folder.clone().unwrap_or_else(store::default_folder);
            let socket = folder.join(SOCKET);
            let place = socket.display().to_string();
            // Nothing is encrypted on a socket, so no certificates are read for it.
            let nobody = ClientConfig::builder().with_root_certificates(RootCertStore::empty());
            let builder = builder
                .tls_backend_preconfigured(nobody.with_no_client_auth())
                .unix_socket(socket.as_path());
            let base = Url::parse("http://localhost/").expect("it is a URL");
            (builder, base, place, true)
        };
        let token = token(arguments)?;
        if token.is_some() && !local && base.scheme() == "http" && !arguments.plain_http && !is_here(&base) {
            return Err(Trouble::new(
                Exit::Usage,
                format!("Everybody on the way to {place} could read the token: http:// is not encrypted."),
                "Use https://, or accept that with --plain-http.",
            ));
        }
        let http = builder.build().map_err(|error| {
            Trouble::new(
                Exit::Failed,
                format!("Getting ready to ask the server: {}.", chain(&error)),
                "Check the certificates of this machine, or name one with --ca FILE.",
            )
        })?;
        Ok(Self {
            http,
            base,
            token,
            place,
            local,
        })
    }

    /// Asks, and reads the answer; null where it has no body.
    pub(crate) async fn ask(&self, ask: Ask) -> Result<Value, Trouble> {
        Ok(self.try_ask(ask).await?)
    }

    /// The same for somebody to whom it matters why there is no answer.
    pub(crate) async fn try_ask(&self, ask: Ask) -> Result<Value, NoAnswer> {
        let bytes = self.try_fetch(ask).await?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|error| NoAnswer::Refused(self.not_understood(&error)))
    }

    /// Asks, and reads the answer's bytes.
    pub(crate) async fn fetch(&self, ask: Ask) -> Result<Vec<u8>, Trouble> {
        Ok(self.try_fetch(ask).await?)
    }

    async fn try_fetch(&self, ask: Ask) -> Result<Vec<u8>, NoAnswer> {
        let within = ask.within;
        let request = self.request(ask)?.timeout(within);
        let response = request
            .send()
            .await
            .map_err(|error| NoAnswer::Gone(self.not_reached(&error)))?;
        let response = self.good(response).await?;
        self.body(response).await
    }

    /// Asks for what has no end, and hands it on as it comes.
    pub(crate) async fn stream(&self, ask: Ask) -> Result<Response, NoAnswer> {
        let within = ask.within;
        let response = tokio::time::timeout(within, self.request(ask)?.send()).await;
        let response = match response {
            Ok(response) => response.map_err(|error| NoAnswer::Gone(self.not_reached(&error)))?,
            Err(_) => return Err(NoAnswer::Gone(self.silent())),
        };
        // What is no stream is an answer, and comes in time.
        match tokio::time::timeout(within, self.good(response)).await {
            Ok(response) => response,
            Err(_) => Err(NoAnswer::Gone(self.silent())),
        }
    }

    fn request(&self, ask: Ask) -> Result<RequestBuilder, Trouble> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(["api", "v1"]).extend(&ask.path);
        }
        if !ask.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&ask.query);
        }
        let mut request = self.http.request(ask.method, url);
        for (name, value) in ask.headers {
            request = request.header(name, value);
        }
        if let Some(token) = &self.token {
            let mut value =
                HeaderValue::try_from(format!("Bearer {}", token.expose_secret())).map_err(|_| {
                    Trouble::new(
                        Exit::Usage,
                        "What was given as the token is none: it holds characters that no token has.",
                        "Give the token just as `reflash token create` printed it.",
                    )
                })?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        if let Some((kind, bytes)) = ask.body {
            request = request.header(header::CONTENT_TYPE, kind).body(bytes);
        }
        Ok(request)
    }

    /// The answer, if it is a good one.
    async fn good(&self, response: Response) -> Result<Response, NoAnswer> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let retry_after = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let bytes = self.body(response).await?;
        let trouble = self.problem(status, retry_after, &bytes);
        Err(match status {
            // A server that starts or ends, or a proxy before one that is not there.
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                NoAnswer::Gone(trouble)
            }
            _ => NoAnswer::Refused(trouble),
        })
    }

    async fn body(&self, mut response: Response) -> Result<Vec<u8>, NoAnswer> {
        let mut bytes = Vec::new();
        loop {
            let chunk = response.chunk().await;
            let chunk = chunk.map_err(|error| NoAnswer::Gone(self.not_reached(&error)))?;
            let Some(chunk) = chunk else { return Ok(bytes) };
            if bytes.len() + chunk.len() > MAX_ANSWER_LEN {
                return Err(NoAnswer::Refused(Trouble::new(
                    Exit::Failed,
                    format!("The answer of {} is larger than 32 MiB.", self.place),
                    "Check that a Reflash server is there.",
                )));
            }
            bytes.extend_from_slice(&chunk);
        }
    }

    fn silent(&self) -> Trouble {
        Trouble::new(
            Exit::Failed,
            format!("{} did not answer in time.", self.place),
            "Look at the server's log; what was asked may still be going on there.",
        )
    }

    fn not_understood(&self, error: &serde_json::Error) -> Trouble {
        Trouble::new(
            Exit::Failed,
            format!("The answer of {} was not understood: {error}.", self.place),
            "Check that a Reflash server is there, and that it has the same version as this program.",
        )
    }

    fn not_reached(&self, error: &reqwest::Error) -> Trouble {
        let place = &self.place;
        if let Some(cause) = source::<rustls::Error>(error) {
            return Trouble::new(
                Exit::Failed,
                format!("No secure connection to {place}: {cause}."),
                "Trust the server's own certificate: copy tls-certificate.pem from its data folder and name it with --ca FILE, \
                or give --fingerprint SHA256, which `openssl x509 -fingerprint -sha256 -in tls-certificate.pem` tells there.",
            );
        }
        if error.is_timeout() {
            return self.silent();
        }
        let kind = source::<std::io::Error>(error).map(std::io::Error::kind);
        if error.is_connect() && kind == Some(std::io::ErrorKind::PermissionDenied) {
            return Trouble::new(
                Exit::Failed,
                format!("{place} belongs to another user."),
                "Run this as the user that the server runs as, or ask it by --server URL with a token.",
            );
        }
        if error.is_connect() {
            let cause =
                source::<std::io::Error>(error).map_or_else(String::new, |cause| format!(" ({cause})"));
            return Trouble::new(
                Exit::Failed,
                format!("No server answers at {place}{cause}."),
                if self.local {
                    "Start one with `reflash serve`, or name another: --server URL, or --state DIR for one on this \
                    machine with a folder of its own."
                } else {
                    "Start it there with `reflash serve`, and check the address and what it listens on."
                },
            );
        }
        Trouble::new(
            Exit::Failed,
            format!("Asking {place}: {}.", chain(error)),
            "Try again; look at the server's log if it stays so.",
        )
    }

    /// Tells a problem document, or an answer that is none, in our form.
    fn problem(&self, status: StatusCode, retry_after: Option<u64>, body: &[u8]) -> Trouble {
        let problem = serde_json::from_slice::<Problem>(body).ok();
        let exit = match status {
            StatusCode::NOT_FOUND => Exit::NotFound,
            // Understood and refused: what was written is not wrong.
            StatusCode::UNPROCESSABLE_ENTITY
                if problem
                    .as_ref()
                    .is_some_and(|problem| REFUSALS.contains(&problem.kind.as_str())) =>
            {
                Exit::Failed
            }
            StatusCode::UNPROCESSABLE_ENTITY
                if problem
                    .as_ref()
                    .is_some_and(|problem| problem.kind == NOTHING_TO_DO) =>
            {
                Exit::Nothing
            }
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Exit::Usage,
            _ => Exit::Failed,
        };
        let what = match &problem {
            Some(problem) if !problem.detail.is_empty() => problem.detail.clone(),
            Some(problem) => problem.title.clone(),
            None => format!(
                "{} answered {status}, and not as a Reflash server does.",
                self.place
            ),
        };
        let wait;
        let usual = match status {
            StatusCode::UNAUTHORIZED => {
                "Give a valid token with --token-file F or in REFLASH_TOKEN; the first one is in the file `token` of \
                the server's state folder."
            }
            StatusCode::FORBIDDEN => {
                "Use a token that may do this: an administrator makes one with \
                `reflash token create NAME --role operator`."
            }
            StatusCode::NOT_FOUND => "Look what there is: reflash device list, reflash firmware list.",
            StatusCode::MISDIRECTED_REQUEST => {
                "Ask the server by a name that its configuration lists, or by its address."
            }
            StatusCode::CONFLICT => "Look at its state first: reflash device show DEVICE.",
            StatusCode::PAYLOAD_TOO_LARGE => "Send less at once.",
            StatusCode::TOO_MANY_REQUESTS => match retry_after {
                Some(seconds) => {
                    wait = format!("Wait {seconds} s, then try again.");
                    wait.as_str()
                }
                None => "Wait a minute, then try again.",
            },
            status if status.is_server_error() => "Look at the server's log, and ask `reflash doctor`.",
            _ => "Check that a Reflash server of the same version is there.",
        };
        let told = problem.and_then(|problem| problem.next_step);
        let told = told.filter(|next_step| !next_step.is_empty() && status != StatusCode::UNAUTHORIZED);
        let next_step = told.unwrap_or_else(|| usual.to_owned());
        Trouble::new(exit, sentence(&what), sentence(&next_step))
    }
}

/// The first cause of this kind, also inside an error of the system.
fn source<'a, T: std::error::Error + 'static>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        let inside = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        next = match inside {
            Some(inside) => Some(inside),
            None => error.source(),
        };
    }
    None
}

/// Reads where a server is.
fn base(server: &str) -> Result<Url, Trouble> {
    let wrong = |what: &str| {
        Trouble::new(
            Exit::Usage,
            format!("The server {server:?} {what}."),
            "Write it as http://127.0.0.1:8927 or https://reflash.lan:8927.",
        )
    };
    let url = Url::parse(server).map_err(|error| wrong(&format!("is no URL: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(wrong("is not reached by http or https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Trouble::new(
            Exit::Usage,
            "A server's URL holds no user name and no password.",
            "Give a token instead: --token-file F, or REFLASH_TOKEN.",
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("has a query or a fragment"));
    }
    Ok(url)
}

/// Whether a server is on this machine, so that nobody can listen on the way.
fn is_here(base: &Url) -> bool {
    let host = base.host_str().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn token(arguments: &ServerArguments) -> Result<Option<SecretString>, Trouble> {
    let text = if let Some(path) = &arguments.token_file {
        let mut text = String::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_TOKEN_LEN).read_to_string(&mut text))
            .map_err(|error| {
                Trouble::new(
                    Exit::NotFound,
                    format!("Reading the token from {}: {error}.", path.display()),
                    "Name a text file that holds only the token.",
                )
            })?;
        text
    } else {
        match std::env::var(TOKEN_ENV) {
            Ok(text) => text,
            Err(_) => return Ok(None),
        }
    };
    let token = text.trim();
    Ok((!token.is_empty()).then(|| SecretString::from(token.to_owned())))
}

/// What is trusted; none for what the system trusts.
fn tls(arguments: &ServerArguments, base: &Url) -> Result<Option<ClientConfig>, Trouble> {
    let named = arguments.ca.is_some() || arguments.fingerprint.is_some();
    if base.scheme() == "http" {
        if named {
            return Err(Trouble::new(
                Exit::Usage,
                "A certificate was named, but the server's URL begins with http://.",
                "Write https://.",
            ));
        }
        let nobody = ClientConfig::builder().with_root_certificates(RootCertStore::empty());
        return Ok(Some(nobody.with_no_client_auth()));
    }
    if let Some(fingerprint) = arguments.fingerprint {
        let provider = CryptoProvider::get_default().cloned();
        let provider = provider.unwrap_or_else(|| rustls::crypto::aws_lc_rs::default_provider().into());
        let verifier = Arc::new(OnlyThis {
            fingerprint,
            provider,
        });
        let config = ClientConfig::builder()
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        return Ok(Some(config.with_no_client_auth()));
    }
    let Some(path) = &arguments.ca else {
        return Ok(None);
    };
    let verifier = trusted(path).map_err(|why| {
        Trouble::new(
            if path.exists() {
                Exit::Failed
            } else {
                Exit::NotFound
            },
            format!("Reading the certificates in {}: {why}.", path.display()),
            "Name a PEM file with the server's certificate, or that of its authority.",
        )
    })?;
    let config = ClientConfig::builder().with_webpki_verifier(verifier);
    Ok(Some(config.with_no_client_auth()))
}

fn trusted(path: &Path) -> Result<Arc<WebPkiServerVerifier>, String> {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    let builder = WebPkiServerVerifier::builder(roots.into());
    builder.build().map_err(|error| error.to_string())
}

/// Trusts one certificate, whatever name is in it and whoever signed it.
#[derive(Debug)]
struct OnlyThis {
    fingerprint: Sha256,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for OnlyThis {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if Sha256::of(end_entity) == self.fingerprint {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::InvalidCertificate(
                rustls::CertificateError::ApplicationVerificationFailure,
            ))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Reads an answer as what it should be.
pub(crate) fn read<T: DeserializeOwned>(answer: &Value) -> Result<T, Trouble> {
    T::deserialize(answer).map_err(|error| {
        Trouble::new(
            Exit::Failed,
            format!("The server's answer was not understood: {error}."),
            "Let this program and the server have the same version.",
        )
    })
}

/// Says an answer as JSON, or in words.
pub(crate) fn answer(
    arguments: &ServerArguments,
    answer: &Value,
    words: impl FnOnce() -> Result<String, Trouble>,
) -> Result<Exit, Trouble> {
    if arguments.json {
        say_json(answer);
    } else {
        // A reader that is gone does not change what was done.
        let _ = say(&words()?);
    }
    Ok(Exit::Done)
}

/// Says that everything is as it was asked to be already.
pub(crate) fn nothing_to_do(arguments: &ServerArguments, answer: &Value, words: &str) -> Exit {
    if arguments.json {
        say_json(answer);
    } else {
        let _ = say(&show::sentence(words));
    }
    Exit::Nothing
}

/// Shows on a terminal that something is going on, until it is over.
pub(crate) async fn waiting<T>(
    arguments: &ServerArguments,
    what: &'static str,
    work: impl Future<Output = T>,
) -> T {
    if arguments.json {
        return work.await;
    }
    // It hides itself where standard error is no terminal.
    let bar = ProgressBar::new_spinner().with_message(what);
    bar.set_style(ProgressStyle::with_template("{spinner} {msg} {elapsed}").expect("the template is right"));
    bar.enable_steady_tick(Duration::from_millis(120));
    let done = work.await;
    bar.finish_and_clear();
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_as_openssl_prints_it() {
        let digits = "AB".repeat(32);
        let with_colons = ["AB"; 32].join(":");
        let plain = fingerprint(&digits).unwrap();
        assert_eq!(fingerprint(&with_colons).unwrap(), plain);
        assert_eq!(
            fingerprint(&format!("sha256 Fingerprint={with_colons}")).unwrap(),
            plain
        );
        assert!(fingerprint("AB:CD").is_err());
    }

    #[test]
    fn only_loopback_is_here() {
        for (server, here) in [
            ("http://127.0.0.1:8927", true),
            ("http://[::1]:8927", true),
            ("http://localhost", true),
            ("http://192.168.1.2", false),
            ("http://localhost.example", false),
            ("http://127.0.0.1.example", false),
        ] {
            assert_eq!(is_here(&base(server).unwrap()), here, "{server}");
        }
    }

    #[test]
    fn a_server_is_a_plain_url() {
        for bad in [
            "",
            "reflash.lan",
            "reflash.lan:8927",
            "ftp://reflash.lan",
            "http://u:p@reflash.lan",
            "http://reflash.lan/?a=b",
        ] {
            let trouble = base(bad).unwrap_err();
            assert_eq!(trouble.exit, Exit::Usage, "{bad}");
            assert!(!trouble.what.contains(":p"), "{trouble:?}");
        }
    }
}
