//! What comes with a request: read within bounds, and taken apart in one place.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use super::ApiSettings;
use super::access::{IMAGE_MAX_LEN, TOKEN_MAX_LEN, Takes};
use super::problem::Failure;

/// Deepest JSON that is read (RELIABILITY.md T19).
const DEPTH_MAX: usize = 32;
/// How long an upload may take in all. Guess: 16 MiB at the pace of a bad mobile connection.
const UPLOAD_TIMEOUT: Duration = Duration::from_mins(10);

/// Refuses a body of another kind (RELIABILITY.md T23: no form can send what is left).
pub(crate) fn check_type(headers: &HeaderMap, takes: Takes) -> Result<(), Failure> {
    let wanted = match takes {
        Takes::Json | Takes::Token => "application/json",
        Takes::Image => "application/octet-stream",
    };
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let good = match (types.next(), types.next()) {
        // Nothing is said where nothing is sent.
        (None, _) => takes != Takes::Image && is_empty(headers),
        (Some(content_type), None) => content_type.to_str().is_ok_and(|content_type| {
            let kind = content_type.split(';').next().unwrap_or_default().trim();
            kind.eq_ignore_ascii_case(wanted)
        }),
        (Some(_), Some(_)) => false,
    };
    if good {
        return Ok(());
    }
    Err(Failure::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "media-type",
        format!("this route takes {wanted}"),
    )
    .next(format!("send the header `Content-Type: {wanted}`")))
}

fn is_empty(headers: &HeaderMap) -> bool {
    !headers.contains_key(http::header::TRANSFER_ENCODING)
        && headers.get(CONTENT_LENGTH).is_none_or(|length| length == "0")
}

/// How long a body that is too large is read on. Guess: a local network brings 30 MB in that time.
const THROW_AWAY_FOR: Duration = Duration::from_secs(3);

/// The whole body, within its bounds in length and time.
pub(crate) async fn collect(
    body: Body,
    headers: &HeaderMap,
    takes: Takes,
    settings: &ApiSettings,
) -> Result<Bytes, Failure> {
    let (max_len, patience) = match takes {
        Takes::Json => (settings.json_max_len, settings.request_timeout),
        Takes::Token => (TOKEN_MAX_LEN, settings.request_timeout),
        Takes::Image => (settings.image_max_len, UPLOAD_TIMEOUT),
    };
    let too_large = || {
        Failure::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            format!("this route takes at most {max_len} bytes"),
        )
    };
    let said: Option<usize> = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse().ok());
    let mut body = body;
    if said.is_some_and(|said| said > max_len) {
        throw_away(&mut body, takes).await;
        return Err(too_large());
    }
    let read = async {
        // What was said is allocated at once, so that an image is in memory once and not twice while it grows.
        let mut bytes = Vec::with_capacity(said.unwrap_or(0));
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Failure::bad_request("body", "the body was cut off"))?;
            let Ok(more) = frame.into_data() else {
                continue;
            };
            if bytes.len() + more.len() > max_len {
                throw_away(&mut body, takes).await;
                return Err(too_large());
            }
            bytes.extend_from_slice(&more);
        }
        Ok(Bytes::from(bytes))
    };
    let slow = |_| {
        Failure::new(
            StatusCode::REQUEST_TIMEOUT,
            "slow",
            "the body did not arrive in time",
        )
    };
    tokio::time::timeout(patience, read).await.map_err(slow)?
}

/// Reads on and forgets, within bounds: whoever is still sending reads no answer, and one who is cut off never sees it.
async fn throw_away(body: &mut Body, takes: Takes) {
    let most = match takes {
        // Somebody we do not know.
        Takes::Token => 16 * TOKEN_MAX_LEN,
        Takes::Json | Takes::Image => 2 * IMAGE_MAX_LEN,
    };
    let read = async {
        let mut len = 0;
        while let Some(Ok(frame)) = body.frame().await {
            len += frame.data_ref().map_or(0, Bytes::len);
            if len > most {
                return;
            }
        }
    };
    // What takes longer than that is cut off as before.
    let _ = tokio::time::timeout(THROW_AWAY_FOR, read).await;
}

/// Refuses JSON that is nested deeper than anything we have to say.
pub(crate) fn check_depth(json: &[u8]) -> Result<(), Failure> {
    let mut depth = 0_usize;
    let mut in_text = false;
    let mut escaped = false;
    for byte in json {
        if in_text {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_text = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_text = true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return Err(Failure::bad_request(
                "json-depth",
                format!("the body is nested deeper than {DEPTH_MAX} levels"),
            ));
        }
    }
    Ok(())
}

/// The body of a request as JSON; an empty one is `{}`.
pub(crate) struct Given<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Given<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|_| Failure::bad_request("body", "the body was cut off"))?;
        let bytes: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        match serde_json::from_slice(bytes) {
            Ok(given) => Ok(Self(given)),
            Err(err) if err.is_data() => Err(Failure::unprocessable("body", cleaned(&err))
                .next("see /api/v1/openapi.json for what this route takes")),
            Err(err) => Err(Failure::bad_request(
                "json",
                format!("the body is not JSON: {}", cleaned(&err)),
            )),
        }
    }
}

/// What a change says of one field: nothing, `null`, or something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Edit<T> {
    /// The field is missing: it stays as it is.
    #[default]
    Keep,
    /// It is `null`: what was there goes.
    Clear,
    /// It is this from now on.
    Set(T),
}

impl<T> Edit<T> {
    pub(crate) fn map<U>(self, with: impl FnOnce(T) -> U) -> Edit<U> {
        match self {
            Self::Keep => Edit::Keep,
            Self::Clear => Edit::Clear,
            Self::Set(value) => Edit::Set(with(value)),
        }
    }
}

impl<T> Edit<T> {
    /// As the fleet has it: what is none stays, and an inner none takes away.
    #[expect(clippy::option_option, reason = "it is how the fleet says it")]
    pub(crate) fn nested(self) -> Option<Option<T>> {
        match self {
            Self::Keep => None,
            Self::Clear => Some(None),
            Self::Set(value) => Some(Some(value)),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Edit<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        // A missing field never comes here: it is the default.
        let value = Option::deserialize(from)?;
        Ok(value.map_or(Self::Clear, Self::Set))
    }
}

/// What serde says, without the values: they may be secrets.
fn cleaned(err: &serde_json::Error) -> String {
    let text = err.to_string();
    // `invalid type: string "hunter2", expected …` and `unknown variant `x`` quote what was sent; names of fields are ours
    // or the sender's own.
    if !text.starts_with("invalid") {
        return text.chars().take(200).collect();
    }
    let kind = text.split(':').next().unwrap_or_default();
    let expected = text.rfind("expected ").map_or("", |at| &text[at..]);
    format!("{kind}, {expected}").chars().take(200).collect()
}

/// The query of a request.
pub(crate) struct Asked<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(asked)) => Ok(Self(asked)),
            Err(rejection) => Err(Failure::bad_request("query", rejection.body_text())
                .next("see /api/v1/openapi.json for what this route takes")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_counted_outside_of_texts() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        check_depth(nested(32).as_bytes()).unwrap();
        assert!(check_depth(nested(33).as_bytes()).is_err());
        assert!(check_depth("[".repeat(100_000).as_bytes()).is_err());
        check_depth(format!("\"{}\"", "[".repeat(100)).as_bytes()).unwrap();
        check_depth(format!("\"\\\"{}\"", "[".repeat(100)).as_bytes()).unwrap();
        assert!(check_depth(format!("[\"\\\\\",{}]", nested(40)).as_bytes()).is_err());
    }

    #[test]
    fn an_error_of_the_body_never_quotes_a_value() {
        #[derive(Debug, serde::Deserialize)]
        struct Wanted {
            #[expect(dead_code, reason = "only read")]
            on: bool,
        }
        let err = serde_json::from_str::<Wanted>("{\"on\": \"canary\"}").unwrap_err();
        let text = cleaned(&err);
        assert!(
            !text.contains("canary") && text.contains("expected a boolean"),
            "{text}"
        );
    }
}
