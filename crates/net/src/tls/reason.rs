//! What TLS found wrong, for people.

use std::error::Error;
use std::io;

/// Says what TLS found wrong, if that is why `error` came about.
pub(crate) fn tls_reason(error: &(dyn Error + 'static)) -> Option<String> {
    let mut current = Some(error);
    while let Some(error) = current {
        if let Some(reason) = error.downcast_ref::<rustls::Error>() {
            return Some(reason_for_people(reason));
        }
        // An `io::Error` does not give what it wraps as its source, but that one's source.
        if let Some(inner) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            current = Some(inner);
        } else {
            current = error.source();
        }
    }
    None
}

fn reason_for_people(reason: &rustls::Error) -> String {
    match reason {
        rustls::Error::AlertReceived(alert) => {
            format!(
                "it refused this machine's certificate or TLS version ({alert:?}); was it revoked, or has it expired?"
            )
        }
        rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer) => {
            "its certificate is not from this fleet's CA; is this the right server?".to_owned()
        }
        rustls::Error::InvalidCertificate(
            rustls::CertificateError::Expired
            | rustls::CertificateError::ExpiredContext { .. }
            | rustls::CertificateError::NotValidYet
            | rustls::CertificateError::NotValidYetContext { .. },
        ) => format!("{reason}; is the clock right?"),
        _ => reason.to_string(),
    }
}
