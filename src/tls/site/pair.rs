//! One certificate with its key, and the files they are read from.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;

use super::CertificateStatus;
use crate::followed::{Followed, Outcome};
use crate::options::CertificateFiles;
use crate::{load_certificates, load_key, provider};
use trivet_base::config::ConfigError;

/// A certificate that can be used.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) certified: Arc<CertifiedKey>,
    pub(super) names: Vec<String>,
    pub(super) expires: OffsetDateTime,
}

/// A certificate in use and the files it came from.
pub(super) struct Pair {
    files: CertificateFiles,
    loaded: Loaded,
    followed: Followed<2>,
}

impl Pair {
    pub(super) fn load(files: CertificateFiles) -> Result<Self, ConfigError> {
        let followed = Followed::new(paths(&files));
        let loaded = read(&files)?;
        Ok(Self { files, loaded, followed })
    }

    pub(super) fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    pub(super) fn file(&self) -> &Path {
        &self.files.certificate
    }

    pub(super) fn reload(&mut self, all: bool) -> Outcome<()> {
        let Self { files, followed, loaded, .. } = self;
        followed.look(paths(files), all, || read_new(files)).keep(|new| *loaded = new)
    }

    pub(super) fn status(&self) -> CertificateStatus {
        CertificateStatus {
            file: self.files.certificate.clone(),
            names: self.loaded.names.clone(),
            expires: self.loaded.expires,
            refused: self.followed.refused().map(ToString::to_string),
        }
    }
}

fn paths(files: &CertificateFiles) -> [&Path; 2] {
    [&files.certificate, &files.key]
}

fn read(files: &CertificateFiles) -> Result<Loaded, ConfigError> {
    let certified =
        CertifiedKey::from_der(load_certificates(&files.certificate)?, load_key(&files.key)?, &provider())
            .map_err(|e| {
                let key = files.key.display();
                ConfigError::at(
                    &files.certificate,
                    "",
                    format_args!("cannot be used with the key {key}: {e}"),
                )
            })?;
    let (names, _, expires) =
        describe(&certified.cert[0]).map_err(|reason| ConfigError::at(&files.certificate, "", reason))?;
    Ok(Loaded { certified: Arc::new(certified), names, expires })
}

/// As [`read`], for one that is to replace another, and so must be as good: no client would accept an expired one.
fn read_new(files: &CertificateFiles) -> Result<Loaded, ConfigError> {
    let loaded = read(files)?;
    let bad = |reason: String| Err(ConfigError::at(&files.certificate, "", reason));
    let now = OffsetDateTime::now_utc();
    let (_, begins, ends) = describe(&loaded.certified.cert[0])
        .map_err(|reason| ConfigError::at(&files.certificate, "", reason))?;
    if ends < now {
        return bad(format!("expired at {ends}"));
    }
    if begins > now {
        return bad(format!("is not valid before {begins}"));
    }
    Ok(loaded)
}

/// Whether a reload would take these.
pub(super) fn check_new(files: &CertificateFiles) -> Result<(), ConfigError> {
    read_new(files).map(drop)
}

/// The DNS names of a certificate, in lower case (RFC 5280 section 4.2.1.6), and from when to when it is valid.
fn describe(
    certificate: &CertificateDer<'_>,
) -> Result<(Vec<String>, OffsetDateTime, OffsetDateTime), String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|e| format!("is not an X.509 certificate: {e}"))?;
    let alternative =
        parsed.subject_alternative_name().map_err(|e| format!("its subjectAltName cannot be read: {e}"))?;
    let names = alternative.iter().flat_map(|a| &a.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.trim_end_matches('.').to_ascii_lowercase()),
        _ => None,
    });
    let validity = parsed.validity();
    Ok((names.collect(), validity.not_before.to_datetime(), validity.not_after.to_datetime()))
}
