//! Errors as people and programs get them: RFC 9457 problem documents.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, StatusCode};

use crate::views::Problem;

/// The media type of a problem document (RFC 9457, section 6.1).
pub(crate) const CONTENT_TYPE_PROBLEM: &str = "application/problem+json";

/// An answer that says no: what happened, and what to do about it.
#[derive(Clone, Debug)]
pub struct Failure {
    status: StatusCode,
    name: &'static str,
    detail: String,
    next_step: Option<String>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Failure {
    /// A failure with a name for programs and a sentence for people.
    pub fn new(status: StatusCode, name: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            name,
            detail: detail.into(),
            next_step: None,
            headers: Vec::new(),
        }
    }

    /// With what to do about it.
    #[must_use]
    pub fn next(mut self, next_step: impl Into<String>) -> Self {
        self.next_step = Some(next_step.into());
        self
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Its document.
    pub fn document(&self) -> Problem {
        Problem {
            kind: format!("urn:reflash:problem:{}", self.name),
            title: self.status.canonical_reason().unwrap_or("Error").to_owned(),
            status: self.status.as_u16(),
            detail: self.detail.clone(),
            next_step: Some(
                self.next_step
                    .clone()
                    .unwrap_or_else(|| self.usual_step().to_owned()),
            ),
        }
    }

    /// What to do where nobody has said more: there is always something.
    fn usual_step(&self) -> &'static str {
        if self.status.is_server_error() {
            "try again later; look into the server's log if it stays so"
        } else {
            "mend the request; /api/v1/openapi.json says what this route takes"
        }
    }

    fn header(mut self, name: HeaderName, text: impl AsRef<str>) -> Self {
        if let Ok(header_value) = HeaderValue::from_str(text.as_ref()) {
            self.headers.push((name, header_value));
        }
        self
    }

    /// 400: what was sent cannot be understood.
    pub fn bad_request(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, name, detail)
    }

    /// 401: nobody, or nobody we know.
    pub(crate) fn unauthorized(detail: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
            .next(
                "send `Authorization: Bearer TOKEN`; the first token is in the file `token` in the server's data folder, \
                 and `reflash token create` on the server's machine makes another",
            )
            .header(WWW_AUTHENTICATE, "Bearer realm=\"reflash\"")
    }

    /// 404: it is not there.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", detail)
    }

    /// 405: the route has other methods.
    pub(crate) fn method_not_allowed(allowed: &[&str]) -> Self {
        let allowed = allowed.join(", ");
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method-not-allowed",
            format!("this route only has {allowed}"),
        )
        .next("see /api/v1/openapi.json for all routes and methods")
        .header(ALLOW, allowed)
    }

    /// 409: not now, or not beside what is there.
    pub fn conflict(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, name, detail)
    }

    /// 422: understood, and not possible.
    pub fn unprocessable(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, name, detail)
    }

    /// 429: too often.
    pub(crate) fn too_many(name: &'static str, detail: impl Into<String>, wait_s: u64) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, name, detail)
            .next(format!("wait {wait_s} s and try again"))
            .header(RETRY_AFTER, wait_s.to_string())
    }

    /// 503: the server has no room for it now.
    pub(crate) fn unavailable(name: &'static str, detail: impl Into<String>, wait_s: u64) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, name, detail)
            .next(format!("wait {wait_s} s and try again"))
            .header(RETRY_AFTER, wait_s.to_string())
    }

    /// 500: our fault; what it was is in the log, not in the answer.
    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the server failed at this request",
        )
        .next("look into the server's log; if it happens again, report it")
    }

    /// The failure that stands for an answer of the framework with this status.
    pub(crate) fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => {
                Self::not_found("there is no such route").next("see /api/v1/openapi.json for all routes")
            }
            StatusCode::INTERNAL_SERVER_ERROR => Self::internal(),
            status if status.is_client_error() => {
                Self::new(status, "request", "the request cannot be understood as it is")
                    .next("see /api/v1/openapi.json for what this route takes")
            }
            status => Self::new(status, "server", "the server cannot answer this request now")
                .next("try again later"),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.document()).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE_PROBLEM));
        headers.extend(self.headers);
        response
    }
}

/// An answer of the framework that says no, as a problem document; others as they are.
pub(crate) fn as_problem(response: Response) -> Response {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    let content_type = response.headers().get(CONTENT_TYPE);
    if content_type.is_some_and(|content_type| content_type == CONTENT_TYPE_PROBLEM) {
        return response;
    }
    Failure::of_status(status).into_response()
}
