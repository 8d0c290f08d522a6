use super::*;

fn write(dir: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn self_signed(dir: &Path, name: &str) -> TlsFiles {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let certificate = write(dir, &format!("{name}.pem"), &made.cert.pem());
    let key = write(dir, &format!("{name}.key"), &made.signing_key.serialize_pem());
    TlsFiles { ca: certificate.clone(), certificate, key }
}

#[test]
fn good_files_make_both_sides() {
    let dir = tempfile::tempdir().unwrap();
    let files = self_signed(dir.path(), "node1");
    client_config(&files, &[b"h2", b"http/1.1"]).unwrap();
    mutual_server_config(&files, &[]).unwrap();
    let site = site::SiteCertificate::load(files.certificate.clone(), files.key.clone()).unwrap();
    site.server_config(&[]).unwrap();
    identity(&files).unwrap();
    assert!(expiry(&files.certificate).unwrap() > OffsetDateTime::now_utc());
}

#[test]
fn a_key_of_another_certificate_is_refused_and_both_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = self_signed(dir.path(), "node1");
    files.key = self_signed(dir.path(), "node2").key;
    let e = mutual_server_config(&files, &[]).unwrap_err().to_string();
    assert!(e.contains("node1.pem") && e.contains("node2.key"), "{e}");
}

#[test]
fn missing_and_empty_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let empty = write(dir.path(), "empty.pem", "");
    let e = load_certificates(&empty).unwrap_err().to_string();
    assert!(e.contains("empty.pem: holds no certificate"), "{e}");
    let e = load_key(&dir.path().join("none.key")).unwrap_err().to_string();
    assert!(e.contains("none.key: private key cannot be read"), "{e}");
}

#[test]
fn the_hybrid_key_exchange_is_offered_first_and_classical_ones_stay() {
    let groups: Vec<_> = provider().kx_groups.iter().map(|g| g.name()).collect();
    assert_eq!(groups[0], rustls::NamedGroup::X25519MLKEM768, "{groups:?}");
    assert!(groups.contains(&rustls::NamedGroup::X25519), "{groups:?}");
}
