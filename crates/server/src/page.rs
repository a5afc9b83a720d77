//! The page: static files that are part of the program, and a client of the API like any other.
//!
//! `/` is never kept by browsers; it names all other files below a folder that is called after the SHA-256 of them all, so
//! that these may be kept for ever and a new program brings a new page.

use std::sync::LazyLock;

use axum::Router;
use axum::extract::Path;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use sha2::Digest as _;

use crate::api::Api;

/// A file of the page.
struct File {
    /// Its path below the folder `page`.
    name: &'static str,
    /// Its bytes.
    plain: &'static [u8],
    /// The same, compressed when the program was built.
    gzip: &'static [u8],
}

/// All files of the folder `page`.
const FILES: &[File] = include!(concat!(env!("OUT_DIR"), "/page.rs"));
/// The one that names the others.
const INDEX: &str = "index.html";
/// What stands in the index for the folder of the others.
const ROOT: &str = "{{root}}";

/// The route of the page itself.
pub(crate) const PATH: &str = "/";
/// The route of its other files.
pub(crate) const FILE_PATH: &str = "/page/{version}/{*name}";

/// What this page is called: the beginning of the SHA-256 of all its files.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut hasher = sha2::Sha256::new();
    for file in FILES {
        hasher.update(file.name);
        hasher.update([0]);
        hasher.update(sha2::Sha256::digest(file.plain));
    }
    // 64 bits: it only has to differ from that of another program.
    hex::encode(&hasher.finalize()[..8])
});

/// The index, with the folder of this page's files in it.
static INDEX_TEXT: LazyLock<String> = LazyLock::new(|| {
    let index = find(INDEX).map_or(&b""[..], |file| file.plain);
    String::from_utf8_lossy(index).replace(ROOT, &format!("/page/{}", *VERSION))
});

/// The routes of the page, for whoever asks: it holds nothing that is not in the source code.
pub(crate) fn routes() -> Router<Api> {
    Router::new().route(PATH, get(index)).route(FILE_PATH, get(file))
}

fn find(name: &str) -> Option<&'static File> {
    FILES.iter().find(|file| file.name == name)
}

async fn index(headers: HeaderMap) -> Response {
    let etag = format!("\"{}\"", *VERSION);
    let mut response = if is_known(&headers, &etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        INDEX_TEXT.as_str().into_response()
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type(INDEX));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        headers.insert(ETAG, etag);
    }
    response
}

async fn file(Path((version, name)): Path<(String, String)>, headers: HeaderMap) -> Response {
    // Names are compared with a list, never opened.
    let Some(file) = find(&name).filter(|file| version == *VERSION && file.name != INDEX) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let etag = format!("\"{version}\"");
    let mut response = if is_known(&headers, &etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else if takes_gzip(&headers) {
        let mut response = file.gzip.into_response();
        response
            .headers_mut()
            .insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response
    } else {
        file.plain.into_response()
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type(file.name));
    headers.insert(
        CACHE_CONTROL,
        HeaderValue::from_static("public, max-age=31536000, immutable"),
    );
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        headers.insert(ETAG, etag);
    }
    response
}

fn is_known(headers: &HeaderMap, etag: &str) -> bool {
    let mut shown = headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok());
    shown.any(|value| {
        value
            .split(',')
            .any(|one| one.trim().trim_start_matches("W/") == etag)
    })
}

/// Whether gzip is named and not refused with `q=0`.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let mut codings = headers
        .get_all(ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    codings.any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let is_gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let weight = parts.find_map(|part| part.strip_prefix("q="));
        is_gzip && weight.is_none_or(|weight| weight.parse::<f32>().is_ok_and(|weight| weight > 0.0))
    })
}

fn content_type(name: &str) -> HeaderValue {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    HeaderValue::from_static(match extension {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        _ => "text/plain; charset=utf-8",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a browser needs before it shows the fleet: all but what is loaded when it is asked for.
    fn first_load_len() -> usize {
        let later = |name: &str| name.starts_with("later/") || name.starts_with("vendor/LICENSE");
        let files = FILES.iter().filter(|file| !later(file.name));
        files.map(|file| file.gzip.len()).sum()
    }

    #[test]
    fn the_first_load_is_below_100_kb() {
        let len = first_load_len();
        assert!(len < 100_000, "{len} bytes compressed");
        assert!(len > 10_000, "{len} bytes: is it all there?");
    }

    /// The policy of the API forbids them; the page would be broken, so this says it before a browser does.
    #[test]
    fn nothing_is_written_into_the_index() {
        let index = INDEX_TEXT.as_str();
        assert!(!index.contains(ROOT) && index.contains(&*VERSION));
        assert!(!index.contains("<style") && !index.contains("style=") && !index.contains(" on"));
        for script in index.split("<script").skip(1) {
            assert!(
                script.contains("src=") && script.contains("></script>"),
                "{script}"
            );
        }
    }

    #[test]
    fn nothing_is_loaded_from_elsewhere() {
        for file in FILES.iter().filter(|file| !file.name.starts_with("vendor/")) {
            let text = String::from_utf8_lossy(file.plain);
            let text = text.replace("http://www.w3.org/2000/svg", "");
            assert!(
                !text.contains("http://") && !text.contains("https://"),
                "{} names another host",
                file.name
            );
        }
    }

    #[track_caller]
    fn check_gzip(value: &'static str, expected: bool) {
        let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(value))]);
        assert_eq!(takes_gzip(&headers), expected, "{value}");
    }

    #[test]
    fn gzip_is_sent_to_whoever_takes_it() {
        check_gzip("gzip, deflate, br", true);
        check_gzip("br, GZIP;q=0.5", true);
        check_gzip("gzip;q=0", false);
        check_gzip("br", false);
        check_gzip("", false);
    }
}
