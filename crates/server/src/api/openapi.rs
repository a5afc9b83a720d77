//! The contract of the API as `OpenAPI` 3.1, made of the routes themselves.

use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, OpenApi, OpenApiBuilder, SecurityRequirement};

use super::auth::SESSION_COOKIE;

/// The contract as it is served and kept in `api/openapi.json`; a test holds it to the routes.
pub const OPENAPI: &str = include_str!("../../../../api/openapi.json");

/// The contract as the routes say it, pretty JSON with a line end.
pub fn document() -> String {
    let (_, document) = super::routes().split_for_parts();
    document.to_pretty_json().unwrap_or_default() + "\n"
}

/// What is not said by the routes.
pub(crate) fn frame() -> OpenApi {
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("A token of `POST /api/v1/tokens` or of the file `token`."))
        .build();
    let cookie = ApiKey::Cookie(ApiKeyValue::with_description(
        SESSION_COOKIE,
        "A session of `POST /api/v1/session`; changes also need its word in the header X-CSRF-Token.",
    ));
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Reflash")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(
                    "Firmware updates for a home. Times are milliseconds since 1970 (UTC), sizes bytes; \
                     every error is a problem document (RFC 9457).",
                ))
                .build(),
        )
        .components(Some(
            ComponentsBuilder::new()
                .security_scheme("token", SecurityScheme::Http(bearer))
                .security_scheme("session", SecurityScheme::ApiKey(cookie))
                .build(),
        ))
        .security(Some([
            SecurityRequirement::new("token", Vec::<String>::new()),
            SecurityRequirement::new("session", Vec::<String>::new()),
        ]))
        .build()
}
