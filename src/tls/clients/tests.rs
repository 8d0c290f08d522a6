use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

use super::*;

fn subject(parts: &[(DnType, &str)]) -> String {
    let mut params = CertificateParams::new(vec!["client".to_owned()]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    for (kind, text) in parts {
        params.distinguished_name.push(kind.clone(), *text);
    }
    let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    ClientCertificate::of(certificate.der()).unwrap().subject
}

#[test]
fn rfc4514_2_1_the_most_particular_part_stands_first() {
    let name = subject(&[
        (DnType::CountryName, "DE"),
        (DnType::OrganizationName, "Foo"),
        (DnType::CommonName, "ann"),
    ]);
    assert_eq!(name, "CN=ann,O=Foo,C=DE");
}

#[test]
fn rfc4514_2_4_separators_and_what_is_not_ascii_are_escaped() {
    let name =
        subject(&[(DnType::CommonName, "ann,O=Admin"), (DnType::OrganizationName, " Fo\u{f6}\r\nX: y ")]);
    assert_eq!(name, "O=\\ Fo\\C3\\B6\\0D\\0AX: y\\ ,CN=ann\\,O\\=Admin");
}

#[test]
fn serial_and_fingerprint_are_hexadecimal() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["client".to_owned()]).unwrap();
    params.serial_number = Some(vec![0x0a, 0xbc].into());
    let certificate = params.self_signed(&key).unwrap();
    let told = ClientCertificate::of(certificate.der()).unwrap();
    assert_eq!(told.serial, "0abc");
    assert_eq!(told.fingerprint.len(), 64);
    assert_eq!(ClientCertificate::of(b"nonsense"), None);
}
