//! Tokens: made, listed without themselves, revoked.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use http::StatusCode;
use model::access::Role;
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::TokenRow;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::auth::{NewToken, broken};
use super::body::Given;
use super::guard::{Audited, ShownOnce};
use super::problem::Failure;
use crate::views::{Problem, TokenView};

/// Longest name of a token, characters (RELIABILITY.md T25).
const NAME_MAX_LEN: usize = 64;

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list_tokens, create_token))
        .routes(routes!(revoke_token))
}

/// A token to be made.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTokenRequest {
    /// What it is for, 1 to 64 printable characters.
    pub name: String,
    /// What it may do: `viewer`, `operator`, `admin`.
    #[schema(value_type = String)]
    pub role: Role,
}

/// A token, shown this once.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct NewTokenView {
    /// Its number.
    pub id: i64,
    /// What it is for.
    pub name: String,
    /// What it may do.
    #[schema(value_type = String)]
    pub role: Role,
    /// The token itself; it is kept nowhere, and never shown again.
    pub token: String,
}

impl std::fmt::Debug for NewTokenView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewTokenView")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// The tokens that are good.
#[utoipa::path(get, path = "/api/v1/tokens", tag = "tokens", responses(
    (status = 200, body = Vec<TokenView>),
    (status = 403, body = Problem, content_type = "application/problem+json"),
))]
async fn list_tokens(State(api): State<Api>) -> Result<Json<Vec<TokenView>>, Failure> {
    let rows = api.store.tokens().await.map_err(|err| broken(&err))?;
    Ok(Json(rows.into_iter().map(view).collect()))
}

/// Makes a token; the answer is the only place where it ever appears.
#[utoipa::path(post, path = "/api/v1/tokens", tag = "tokens", request_body = NewTokenRequest, responses(
    (status = 201, body = NewTokenView),
    (status = 422, body = Problem, content_type = "application/problem+json"),
))]
async fn create_token(
    State(api): State<Api>,
    Given(request): Given<NewTokenRequest>,
) -> Result<Response, Failure> {
    let NewTokenRequest { name, role } = request;
    let n_chars = name.chars().count();
    if !(1..=NAME_MAX_LEN).contains(&n_chars) || name.chars().any(char::is_control) || name.trim() != name {
        return Err(Failure::unprocessable(
            "name",
            format!("a token's name is 1 to {NAME_MAX_LEN} printable characters without spaces around them"),
        ));
    }
    let made = NewToken::make().map_err(|err| {
        tracing::error!(error = %err, "no token");
        Failure::internal()
    })?;
    let now_ms = api.clock.now().wall_ms;
    let id = api.store.create_token(&name, role, made.hash, now_ms).await;
    let id = id.map_err(|err| broken(&err))?;
    let audited = Audited {
        target: Some(format!("token {id}")),
        detail: json!({ "name": name, "role": role.name() }),
    };
    let view = NewTokenView {
        id,
        name,
        role,
        token: made.token.expose_secret().to_owned(),
    };
    let mut response = audited.with((StatusCode::CREATED, Json(view)));
    response.extensions_mut().insert(ShownOnce);
    Ok(response)
}

/// Revokes a token; it and its sessions are useless from now on.
#[utoipa::path(delete, path = "/api/v1/tokens/{id}", tag = "tokens", params(("id" = i64, Path, description = "The token's number")), responses(
    (status = 204, description = "revoked"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
))]
async fn revoke_token(State(api): State<Api>, Path(id): Path<String>) -> Result<StatusCode, Failure> {
    let unknown =
        || Failure::not_found(format!("there is no token {id:?}")).next("list them: reflash token list");
    let number: i64 = id.parse().map_err(|_| unknown())?;
    match api.store.revoke_token(number).await {
        Ok(true) => Ok(StatusCode::NO_CONTENT),
        Ok(false) => Err(unknown()),
        Err(err) => Err(broken(&err)),
    }
}

fn view(row: TokenRow) -> TokenView {
    TokenView {
        id: row.id,
        name: row.name,
        role: row.role,
        created_ms: row.created_ms,
        used_ms: row.used_ms,
    }
}
