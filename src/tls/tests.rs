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
    let pair = options::CertificateFiles { certificate: files.certificate.clone(), key: files.key.clone() };
    site::SiteCertificates::load(&[pair]).unwrap().server_config(&options::PublicTls::default()).unwrap();
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

/// A handshake in memory, and a byte each way, so that tickets arrive.
fn handshake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>, name: &str) -> rustls::HandshakeKind {
    use std::io::{Read, Write};
    let mut client = rustls::ClientConnection::new(client.clone(), server_name(name).unwrap()).unwrap();
    let mut server = rustls::ServerConnection::new(server.clone()).unwrap();
    client.writer().write_all(b"x").unwrap();
    server.writer().write_all(b"y").unwrap();
    while client.wants_write() || server.wants_write() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets().unwrap();
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().unwrap();
        }
    }
    let mut byte = [0];
    server.reader().read_exact(&mut byte).unwrap();
    client.reader().read_exact(&mut byte).unwrap();
    assert_eq!(client.negotiated_key_exchange_group().unwrap().name(), rustls::NamedGroup::X25519MLKEM768);
    client.handshake_kind().unwrap()
}

#[test]
fn between_nodes_a_kept_client_configuration_resumes_its_sessions() {
    use rustls::HandshakeKind::{Full, Resumed};
    let dir = tempfile::tempdir().unwrap();
    let files = self_signed(dir.path(), "node1");
    let (client, server) = (client_config(&files, &[]).unwrap(), mutual_server_config(&files, &[]).unwrap());
    assert_eq!(handshake(&client, &server, "node1"), Full);
    for _ in 0..5 {
        assert_eq!(handshake(&client, &server, "node1"), Resumed);
    }
    let restarted = mutual_server_config(&files, &[]).unwrap();
    assert_eq!(handshake(&client, &restarted, "node1"), Full, "another process has other keys");
}
