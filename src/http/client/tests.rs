use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

async fn serve(listener: TcpListener, answers_per_connection: usize) -> usize {
    let mut connections = 0;
    loop {
        let Ok(Ok((mut s, _))) = tokio::time::timeout(Duration::from_millis(300), listener.accept()).await
        else {
            return connections;
        };
        connections += 1;
        let mut buffer = [0; 1024];
        for _ in 0..answers_per_connection {
            if s.read(&mut buffer).await.unwrap_or(0) == 0 {
                break;
            }
            s.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        }
    }
}

async fn client() -> (Client, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (Client::new(Target { host: address.clone(), address, tls: None }), listener)
}

#[tokio::test]
async fn the_connection_is_reused_and_replaced_when_the_peer_closed_it() {
    let (client, listener) = client().await;
    let server = tokio::spawn(serve(listener, 2));
    for _ in 0..4 {
        let answer = client.get("/", Duration::from_secs(2)).await.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, &b"ok"[..]));
    }
    drop(client);
    assert_eq!(server.await.unwrap(), 2);
}

#[tokio::test]
async fn a_peer_that_never_answers_costs_the_deadline_and_no_more() {
    let (client, listener) = client().await;
    let deadline = Duration::from_millis(50);
    assert!(matches!(client.get("/", deadline).await, Err(ClientError::Timeout(d)) if d == deadline));
    drop(listener);
    assert!(matches!(client.get("/", Duration::from_secs(2)).await, Err(ClientError::Connect(..))));
}
