//! What handlers take out of requests, with errors that people can read.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt;
use potluck_model::NodeId;
use potluck_model::api::ErrorKind;
use serde::de::DeserializeOwned;

use crate::app::App;
use crate::caller::{Caller, Role};
use crate::refusal::Refusal;

/// Without a byte for this long, the sender of a body is given up.
const BODY_SILENCE_MAX: Duration = Duration::from_secs(30);

/// The most bytes of the body of a request, as the table of routes says.
#[derive(Clone, Copy)]
pub(crate) struct BodyMax(pub(crate) usize);

/// The node that calls.
pub(crate) struct CallingNode(pub(crate) NodeId);

/// The operator that calls.
pub(crate) struct CallingOperator(pub(crate) String);

/// A body that is JSON.
pub(crate) struct Input<T>(pub(crate) T);

/// The query.
pub(crate) struct Arguments<T>(pub(crate) T);

/// The one variable part of the path.
pub(crate) struct Segment<T>(pub(crate) T);

/// A body that is read piece by piece.
pub(crate) struct Incoming {
    body: Body,
    left: usize,
    max: usize,
    length: u64,
}

impl Incoming {
    /// Bytes that it is said to have; the most that it may have if nobody says.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// The next piece; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        loop {
            let frame = match tokio::time::timeout(BODY_SILENCE_MAX, self.body.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(fault))) => return Err(Refusal::bad(format!("the request's body broke off: {fault}"))),
                Err(_) => {
                    let seconds = BODY_SILENCE_MAX.as_secs();
                    return Err(Refusal::bad(format!(
                        "nothing of the request's body came for {seconds} s"
                    )));
                }
            };
            if let Ok(bytes) = frame.into_data() {
                self.left = self.left.checked_sub(bytes.len()).ok_or_else(|| too_large(self.max))?;
                return Ok(Some(bytes));
            }
        }
    }

    /// All of it.
    pub(crate) async fn whole(mut self) -> Result<Vec<u8>, Refusal> {
        let mut whole = Vec::new();
        while let Some(bytes) = self.next().await? {
            whole.extend_from_slice(&bytes);
        }
        Ok(whole)
    }
}

/// What a request says of the length of its body.
pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// More than the limit.
pub(crate) fn too_large(max: usize) -> Refusal {
    Refusal::new(
        ErrorKind::TooLarge,
        format!("the request's body has more than {max} bytes"),
    )
}

impl FromRequest<Arc<App>> for Incoming {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &Arc<App>) -> Result<Self, Refusal> {
        let max = request.extensions().get::<BodyMax>().map_or(0, |max| max.0);
        let length = content_length(request.headers()).unwrap_or(max as u64);
        Ok(Self {
            body: request.into_body(),
            left: max,
            max,
            length,
        })
    }
}

impl<T: DeserializeOwned> FromRequest<Arc<App>> for Input<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Refusal> {
        let bytes = Incoming::from_request(request, app).await?.whole().await?;
        serde_json::from_slice(&bytes)
            .map(Self)
            .map_err(|fault| Refusal::bad(format!("the request's body is not what this route takes: {fault}")))
    }
}

impl<T: DeserializeOwned> FromRequestParts<Arc<App>> for Arguments<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self, Refusal> {
        Query::try_from_uri(&parts.uri)
            .map(|Query(arguments)| Self(arguments))
            .map_err(|fault| Refusal::bad(fault.body_text()))
    }
}

impl<T: FromStr<Err: std::fmt::Display>> FromRequestParts<Arc<App>> for Segment<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refusal> {
        let Path(text) = Path::<String>::from_request_parts(parts, app)
            .await
            .map_err(|fault| Refusal::bad(fault.body_text()))?;
        text.parse()
            .map(Self)
            .map_err(|fault| Refusal::bad(format!("{}: {fault}", parts.uri.path())))
    }
}

impl FromRequestParts<Arc<App>> for CallingNode {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self, Refusal> {
        match role(parts) {
            Some(Role::Node(node)) => Ok(Self(*node)),
            _ => Err(Refusal::new(ErrorKind::Forbidden, "this is for nodes")),
        }
    }
}

impl FromRequestParts<Arc<App>> for CallingOperator {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self, Refusal> {
        match role(parts) {
            Some(Role::Operator(name)) => Ok(Self(name.clone())),
            _ => Err(Refusal::new(ErrorKind::Forbidden, "this is for operators")),
        }
    }
}

fn role(parts: &Parts) -> Option<&Role> {
    parts.extensions.get::<Caller>().map(|caller| &caller.role)
}
