//! Whether a server shows all that a client needs to reach a root that it knows (RFC 8446 section 4.4.2).

use rustls::pki_types::CertificateDer;
use webpki_roots::TLS_SERVER_ROOTS;
use x509_parser::prelude::{FromDer as _, X509Certificate, X509Name};

/// What is missing in `chain`, in words; `None` when it leads to a certificate that is its own issuer, to a public root, or
/// to one of the authorities in `known`. Only names are compared: it is a hint for people, and decides about nobody.
pub fn gap(chain: &[CertificateDer<'_>], known: &[CertificateDer<'_>]) -> Option<String> {
    let parsed = |all: &[CertificateDer<'_>]| -> Vec<(Vec<u8>, Vec<u8>, String, String)> {
        all.iter()
            .filter_map(|der| {
                let (_, c) = X509Certificate::from_der(der).ok()?;
                let raw = |name: &X509Name<'_>| name.as_raw().to_vec();
                Some((raw(c.subject()), raw(c.issuer()), c.subject().to_string(), c.issuer().to_string()))
            })
            .collect()
    };
    let (mut rest, known) = (parsed(chain), parsed(known));
    if rest.is_empty() {
        return None;
    }
    let mut current = rest.remove(0);
    loop {
        let (subject, issuer, name, issuer_name) = &current;
        let is_root = subject == issuer
            || known.iter().any(|(subject, ..)| subject == issuer)
            || TLS_SERVER_ROOTS.iter().any(|root| Some(&*root.subject) == contents(issuer));
        if is_root {
            return None;
        }
        match rest.iter().position(|(subject, ..)| subject == issuer) {
            Some(next) => current = rest.remove(next),
            None => {
                return Some(format!(
                    "the certificate of \"{issuer_name}\", which issued \"{name}\", is missing, and it is no public root: browsers will refuse \
                     the site. Append the intermediate certificates to the file; should every client know that authority as a root, \
                     append the root"
                ));
            }
        }
    }
}

/// What is in an ASN.1 SEQUENCE; names of roots are kept without its header (X.690 section 8.1).
fn contents(der: &[u8]) -> Option<&[u8]> {
    match der {
        [0x30, 0x81, _, rest @ ..] | [0x30, 0x82, _, _, rest @ ..] => Some(rest),
        [0x30, _, rest @ ..] => Some(rest),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, DnValue, IsCa, Issuer, KeyPair};

    use super::*;

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    }

    fn signed(name: &str, issuer: CertificateParams) -> CertificateDer<'static> {
        let issuer = Issuer::new(issuer, KeyPair::generate().unwrap());
        params(name).signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der().clone()
    }

    #[test]
    fn an_intermediate_that_is_missing_is_told() {
        let root = params("Root").self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone();
        let (leaf, middle) = (signed("leaf", params("Middle")), signed("Middle", params("Root")));
        let told = |chain: &[&CertificateDer<'static>], known: &[CertificateDer<'static>]| {
            gap(&chain.iter().map(|c| (*c).clone()).collect::<Vec<_>>(), known)
        };
        let alone = told(&[&leaf], &[]).unwrap();
        assert!(
            alone.starts_with("the certificate of \"CN=Middle\", which issued \"CN=leaf\", is missing"),
            "{alone}"
        );
        let middle_only = told(&[&leaf, &middle], &[]).unwrap();
        assert!(middle_only.contains("\"CN=Root\", which issued \"CN=Middle\""), "{middle_only}");
        assert_eq!(told(&[&leaf, &middle, &root], &[]), None);
        assert_eq!(told(&[&leaf, &root, &middle], &[]), None, "the order is not what this is about");
        assert_eq!(told(&[&leaf, &middle], std::slice::from_ref(&root)), None, "the cluster's own authority");
        assert_eq!(told(&[&root], &[]), None, "signed by itself");
        assert!(told(&[&leaf, &root], &[]).is_some());
    }

    #[test]
    fn what_a_public_root_has_issued_is_complete() {
        let mut root = params("ISRG Root X1");
        root.distinguished_name = rcgen::DistinguishedName::new();
        let printable = |text: &str| DnValue::PrintableString(text.try_into().unwrap());
        root.distinguished_name.push(DnType::CountryName, printable("US"));
        root.distinguished_name.push(DnType::OrganizationName, printable("Internet Security Research Group"));
        root.distinguished_name.push(DnType::CommonName, printable("ISRG Root X1"));
        let middle = signed("R10", root);
        let leaf = signed("www.foobar.com", params("R10"));
        assert_eq!(gap(&[leaf.clone(), middle], &[]), None);
        assert!(gap(&[leaf], &[]).is_some());
    }
}
