use std::future::poll_fn;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

async fn pair() -> (TunnelIo, TcpStream, Arc<BufferPool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (server, _) = listener.accept().await.unwrap();
    let buffers = Arc::new(BufferPool::default());
    (TunnelIo::new(client, Arc::clone(&buffers)), server, buffers)
}

#[tokio::test]
async fn without_a_driver_a_flush_writes() {
    let (mut io, mut peer, buffers) = pair().await;
    io.write_all(b"one ").await.unwrap();
    io.write_all(b"two").await.unwrap();
    assert_eq!(buffers.kept(), 0);
    io.flush().await.unwrap();
    let mut got = [0; 7];
    peer.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"one two");
    assert_eq!(buffers.kept(), 1, "the buffer is back");
}

#[tokio::test]
async fn with_a_driver_bytes_leave_together() {
    let (mut io, mut peer, _buffers) = pair().await;
    let writer = io.writer();
    writer.take_over();
    for _ in 0..100 {
        io.write_all(b"piece").await.unwrap();
        io.flush().await.unwrap();
    }
    assert!(
        peer.try_read(&mut [0; 1]).is_err(),
        "nothing was written yet"
    );
    poll_fn(|cx| writer.poll_write_out(cx)).await.unwrap();
    let mut got = [0; 500];
    peer.read_exact(&mut got).await.unwrap();
    assert_eq!(got.as_slice(), b"piece".repeat(100));
}

#[tokio::test]
async fn order_holds_between_small_and_large_writes() {
    let (mut io, mut peer, _buffers) = pair().await;
    let writer = io.writer();
    writer.take_over();
    let sending = async {
        for round in 0..200u8 {
            let len = if round % 3 == 0 {
                40_000
            } else {
                usize::from(round) * 7
            };
            io.write_all(&vec![round; len]).await.unwrap();
        }
        poll_fn(|cx| writer.poll_write_out(cx)).await.unwrap();
        io.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let ((), read) = tokio::join!(sending, peer.read_to_end(&mut got));
    read.unwrap();
    let expected: Vec<u8> = (0..200u8)
        .flat_map(|round| {
            let len = if round % 3 == 0 {
                40_000
            } else {
                usize::from(round) * 7
            };
            vec![round; len]
        })
        .collect();
    assert!(got == expected);
}

#[tokio::test]
async fn reads_are_served_from_one_buffer_that_is_given_back() {
    let (mut io, mut peer, buffers) = pair().await;
    peer.write_all(&[5; 10_000]).await.unwrap();
    peer.shutdown().await.unwrap();
    let mut got = Vec::new();
    let mut piece = [0; 333];
    loop {
        let n = io.read(&mut piece).await.unwrap();
        if n == 0 {
            break;
        }
        got.extend_from_slice(&piece[..n]);
    }
    assert_eq!(got, [5; 10_000]);
    assert!(buffers.kept() >= 1);
    assert!(io.held.is_none());
}
