//! Answers that are errors: an `ApiError`, with the status that goes with its kind.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use potluck_model::api::{ApiError, ErrorKind};
use potluck_model::join::fingerprint;
use potluck_model::{Digest, NodeId};

use crate::blobs::{BlobsError, IntakeError};
use crate::catalogue::CatalogueError;

/// Seconds after which somebody who was turned away for lack of room may come again.
const RETRY_SECONDS: u64 = 5;

/// Why a request was not carried out. Nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Refusal {
    kind: ErrorKind,
    message: String,
}

impl Refusal {
    /// With a message for people: what was asked, why it failed, what to do.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// The node with this key waits for an operator.
    pub(crate) fn pending(node: NodeId, key: &Digest) -> Self {
        let fingerprint = fingerprint(key);
        Self::new(
            ErrorKind::Pending,
            format!(
                "node {node} waits until an operator approves it with `potluck approve {node}`; the fingerprint of its key is {fingerprint}"
            ),
        )
    }

    /// The node does not belong to the fleet any more.
    pub(crate) fn revoked(node: NodeId) -> Self {
        Self::new(
            ErrorKind::Revoked,
            format!(
                "node {node} was revoked: to let this machine in again, remove its data directory and join it with a new join string"
            ),
        )
    }

    /// 400.
    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::BadRequest, message)
    }

    /// 404.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// 500, with the reason in the log only.
    pub(crate) fn internal(fault: &dyn std::fmt::Display) -> Self {
        tracing::error!("a request failed: {fault}");
        Self::new(
            ErrorKind::Internal,
            "the server failed to carry this out; its log says why",
        )
    }

    fn no_space() -> Self {
        tracing::error!("the disk of the data directory is full");
        Self::new(
            ErrorKind::NoSpace,
            "the server's disk is full: make room on it, then try again",
        )
    }

    fn status(&self) -> StatusCode {
        match self.kind {
            ErrorKind::BadRequest => StatusCode::BAD_REQUEST,
            ErrorKind::Forbidden | ErrorKind::Expired | ErrorKind::Pending | ErrorKind::Revoked | ErrorKind::Token => {
                StatusCode::FORBIDDEN
            }
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ErrorKind::ContentMissing => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorKind::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
            ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            ErrorKind::Busy => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = self.status();
        let body = Json(ApiError {
            error: self.kind,
            message: self.message,
        });
        let mut response = (status, body).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(RETRY_SECONDS));
        }
        response
    }
}

impl From<CatalogueError> for Refusal {
    fn from(fault: CatalogueError) -> Self {
        match fault {
            CatalogueError::Full => Self::no_space(),
            fault => Self::internal(&fault),
        }
    }
}

impl From<BlobsError> for Refusal {
    fn from(fault: BlobsError) -> Self {
        match fault {
            BlobsError::Full => Self::no_space(),
            fault @ BlobsError::Disk { .. } => Self::internal(&fault),
        }
    }
}

impl From<IntakeError> for Refusal {
    fn from(fault: IntakeError) -> Self {
        match fault {
            IntakeError::Malformed(_) | IntakeError::Damaged(_) => Self::bad(fault.to_string()),
            IntakeError::Catalogue(fault) => fault.into(),
            IntakeError::Blobs(fault) => fault.into(),
        }
    }
}
