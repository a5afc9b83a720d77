//! One message to the web hook: signed, to the host that its owner has named and to no other, with bounds.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use aws_lc_rs::hmac;
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use super::message::{Message, clean};
use super::queue::Undelivered;
use crate::config::{Form, Webhook};
use crate::firmware::fetch;

/// How much of an answer is read, bytes.
const ANSWER_MAX_LEN: usize = 4096;
/// How much of it is shown, characters.
const SHOWN_MAX_LEN: usize = 200;
/// The shortest part of an address that may be a secret, characters: one of these is masked where it comes back.
const SECRET_MIN_LEN: usize = 6;

const ID: HeaderName = HeaderName::from_static("x-reflash-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("x-reflash-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("x-reflash-signature");
const TITLE: HeaderName = HeaderName::from_static("title");

/// What the receiver answered to a message that it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// The beginning of its answer, without what could be a secret.
    pub(super) said: String,
}

/// Where a web hook is, without what whoever knows it could call it by.
pub(super) fn place(webhook: &Webhook) -> String {
    Url::parse(webhook.url.expose_secret()).map_or_else(
        |_| "the web hook".to_owned(),
        |url| url.origin().ascii_serialization(),
    )
}

/// Sends a message, within this time; `at_s` is now, seconds since 1970.
pub(super) async fn send(
    webhook: &Webhook,
    message: &Message,
    at_s: i64,
    deadline: Duration,
) -> Result<Answer, Undelivered> {
    let sent = tokio::time::timeout(deadline, post(webhook, message, at_s)).await;
    sent.unwrap_or_else(|_| {
        Err(undelivered(format!(
            "it has not answered within {} s",
            deadline.as_secs_f32()
        )))
    })
}

fn undelivered(text: impl Into<String>) -> Undelivered {
    Undelivered {
        text: text.into(),
        because_of_message: false,
    }
}

async fn post(webhook: &Webhook, message: &Message, at_s: i64) -> Result<Answer, Undelivered> {
    // The configuration has read it already.
    let url = Url::parse(webhook.url.expose_secret()).map_err(|_| undelivered("its address is none"))?;
    let client = client(&url).await?;
    let (kind, body) = match webhook.form {
        Form::Json => ("application/json", message.json().to_string()),
        Form::Text => ("text/plain; charset=utf-8", message.text.clone()),
    };
    let mut request = client
        .post(url.clone())
        .header(USER_AGENT, concat!("reflash/", env!("CARGO_PKG_VERSION")))
        .header(CONTENT_TYPE, kind)
        .header(ID, &message.id)
        .header(TIMESTAMP, at_s);
    if webhook.form == Form::Text
        && let Some(title) = title(&message.title)
    {
        request = request.header(TITLE, title);
    }
    if let Some(secret) = &webhook.secret {
        request = request.header(SIGNATURE, signature(secret, at_s, body.as_bytes()));
    }
    let failed = |error: &reqwest::Error| undelivered(fetch::chain(error));
    let mut response = request.body(body).send().await.map_err(|error| failed(&error))?;
    let status = response.status();
    if status.is_redirection() {
        return Err(undelivered(format!(
            "it answers HTTP {}, which sends us somewhere else, and nobody has named that",
            status.as_u16()
        )));
    }
    if !status.is_success() {
        return Err(Undelivered {
            text: format!("it answers HTTP {}", status.as_u16()),
            // It cannot be read, is too large or of the wrong kind; everything else is about who asks, or about now.
            because_of_message: matches!(status.as_u16(), 400 | 413 | 415 | 422),
        });
    }
    let mut answer = Vec::new();
    // It was taken: that the rest of the answer does not come changes nothing.
    while answer.len() < ANSWER_MAX_LEN
        && let Ok(Some(chunk)) = response.chunk().await
    {
        let left = ANSWER_MAX_LEN - answer.len();
        answer.extend_from_slice(&chunk[..chunk.len().min(left)]);
    }
    let said = masked(&String::from_utf8_lossy(&answer), webhook, &url);
    Ok(Answer {
        status: status.as_u16(),
        said: clean(said.trim())
            .replace('\n', " ")
            .chars()
            .take(SHOWN_MAX_LEN)
            .collect(),
    })
}

/// A client that knows the addresses of this host and no others, and follows nothing.
async fn client(url: &Url) -> Result<reqwest::Client, Undelivered> {
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
        return Err(undelivered("its address names no host"));
    };
    let literal = host.trim_matches(['[', ']']);
    let addresses = net::resolve(literal)
        .await
        .map_err(|error| undelivered(model::chain::chain(&error)))?;
    if let Some(address) = addresses.iter().find(|address| !may_receive(**address)) {
        return Err(undelivered(format!(
            "its name leads to {address}, where no receiver can be"
        )));
    }
    let peers: Vec<SocketAddr> = addresses
        .into_iter()
        .map(|address| SocketAddr::new(address, port))
        .collect();
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .retry(reqwest::retry::never())
        .referer(false)
        .http1_only()
        .resolve_to_addrs(host, &peers)
        .build();
    client.map_err(|error| undelivered(format!("getting ready: {}", fetch::chain(&error))))
}

/// Whether somebody may stand there. A receiver may be at home and on this very machine; what a cloud tells its machines about
/// themselves is link-local (RELIABILITY.md T22).
fn may_receive(address: IpAddr) -> bool {
    let is_link_local = match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let address = address.to_canonical();
    !(is_link_local || address.is_unspecified() || address.is_multicast())
}

/// `sha256=` and the HMAC-SHA-256 of the timestamp, a dot and the body, in hexadecimal digits.
fn signature(secret: &SecretString, at_s: i64, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes());
    let mut context = hmac::Context::with_key(&key);
    context.update(at_s.to_string().as_bytes());
    context.update(b".");
    context.update(body);
    format!("sha256={}", hex::encode(context.sign().as_ref()))
}

/// The title as a header can hold it: not all receivers read anything but ASCII there.
fn title(title: &str) -> Option<HeaderValue> {
    let is_plain = title.chars().all(|c| c.is_ascii_graphic() || c == ' ');
    is_plain.then(|| HeaderValue::from_str(title).ok()).flatten()
}

/// What the receiver said, without what it was called by.
fn masked(said: &str, webhook: &Webhook, url: &Url) -> String {
    let secret = webhook.secret.as_ref().map(SecretString::expose_secret);
    let query: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    let mut secrets: Vec<&str> = vec![webhook.url.expose_secret(), url.as_str()];
    secrets.extend(secret);
    secrets.extend(url.query());
    secrets.extend(query.iter().map(|(_, value)| value.as_str()));
    secrets.extend(url.path_segments().into_iter().flatten());
    secrets.retain(|part| part.len() >= SECRET_MIN_LEN || Some(*part) == secret);
    // The longest first: a part of it may be another.
    secrets.sort_by_key(|part| std::cmp::Reverse(part.len()));
    let mut said = said.to_owned();
    for part in secrets.into_iter().filter(|part| !part.is_empty()) {
        said = said.replace(part, "…");
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_the_one_that_others_compute() {
        // python3 -c 'import hmac; print(hmac.new(b"key", b"1795305600.{}", "sha256").hexdigest())'
        let expected = "31184cefdc1131b59c342b90b809d07d881cf56f6dd6794b3fe8946443bf9ed5";
        assert_eq!(
            signature(&"key".into(), 1_795_305_600, b"{}"),
            format!("sha256={expected}")
        );
    }

    #[test]
    fn nobody_receives_where_machines_tell_of_themselves() {
        for address in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "fe80::1",
            "0.0.0.0",
            "::",
            "224.0.0.251",
            "255.255.255.255",
            "ff02::1",
        ] {
            assert!(!may_receive(address.parse().unwrap()), "{address}");
        }
        for address in ["127.0.0.1", "192.168.1.2", "::1", "fd00::1", "93.184.216.34"] {
            assert!(may_receive(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn what_comes_back_holds_nothing_by_which_it_was_called() {
        let webhook = Webhook {
            url: "https://example.org/hook/T0ken-Canary?key=Query-Canary".into(),
            secret: Some("abc".into()),
            form: Form::Json,
        };
        let url = Url::parse(webhook.url.expose_secret()).unwrap();
        let said = "got /hook/T0ken-Canary with Query-Canary signed abc at https://example.org/hook/T0ken-Canary?key=Query-Canary";
        assert_eq!(masked(said, &webhook, &url), "got /hook/… with … signed … at …");
        assert_eq!(place(&webhook), "https://example.org");
    }
}
