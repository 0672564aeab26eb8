//! Why a request had no good answer.

use std::error::Error;
use std::io;
use std::time::Duration;

use potluck_model::api::{ApiError, ErrorKind};

/// Why a request had no good answer.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum ApiFault {
    /// No connection: try later, or fetch from peers.
    #[error("cannot reach the management server at {address}: {source}; is it running, and is the port open?")]
    Unreachable {
        /// `HOST:PORT`.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// One of the two ends was not believed. Trying again does not help.
    #[error("the management server at {address} and this machine do not trust each other: {why}")]
    Tls {
        /// `HOST:PORT`.
        address: String,
        /// Who refused whom, and why.
        why: String,
    },
    /// The connection broke while the request was under way: whether it was carried out is unknown.
    #[error("the connection to the management server at {address} broke during {path}: {why}")]
    Broken {
        /// `HOST:PORT`.
        address: String,
        /// The request.
        path: String,
        /// Why.
        why: String,
    },
    /// Nothing moved on the connection.
    #[error("the management server at {address} was silent for {} s during {path}", silence.as_secs())]
    Silent {
        /// `HOST:PORT`.
        address: String,
        /// The request.
        path: String,
        /// For how long.
        silence: Duration,
    },
    /// The server understood and refused.
    #[error("{}", error.message)]
    Refused {
        /// HTTP status.
        status: u16,
        /// What the server says.
        error: ApiError,
    },
    /// The server has too much to do.
    #[error("the management server has too much to do; try again later")]
    Busy {
        /// When to come back, if the server said so.
        retry_after: Option<Duration>,
    },
    /// What came is not what the protocol says: another version, or no Potluck server at all.
    #[error("the management server's part in {path} is not as agreed: {what}; do both run the same version?")]
    Protocol {
        /// The request.
        path: String,
        /// What is wrong.
        what: String,
    },
}

impl ApiFault {
    pub(super) fn protocol(path: &str, what: String) -> Self {
        Self::Protocol {
            path: path.to_owned(),
            what,
        }
    }

    /// The kind, if the server refused.
    pub fn kind(&self) -> Option<ErrorKind> {
        match self {
            Self::Refused { error, .. } => Some(error.error),
            Self::Busy { .. } => Some(ErrorKind::Busy),
            _ => None,
        }
    }

    /// Whether the server has understood and refused, so that the same request will be refused again. (What TLS or the
    /// protocol found wrong is neither this nor passing: it takes somebody to set a clock, or to update one end.)
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if *status < 500)
    }

    /// Whether the same request may well succeed later, with nothing changed at this end.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Broken { .. } | Self::Silent { .. } | Self::Busy { .. } => true,
            Self::Refused { status, .. } => *status >= 500,
            Self::Tls { .. } | Self::Protocol { .. } => false,
        }
    }
}

/// An error and its causes, in one line.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut current = error.source();
    while let Some(cause) = current {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        current = cause.source();
    }
    text
}
