use std::io::ErrorKind;

use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
};

use super::{socket::FillEnd, *};
use crate::netns::{SocketPurpose, new_stream_socket};

/// An application and the proxy's socket to it.
async fn application() -> (TcpStream, AppSocket) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = new_stream_socket(socket2::Domain::IPV4, SocketPurpose::Application).unwrap();
    let socket = TcpSocket::from_std_stream(socket.into());
    let proxy = socket
        .connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (application, _) = listener.accept().await.unwrap();
    (application, AppSocket::new(proxy))
}

fn context() -> PumpContext {
    PumpContext {
        buffers: Arc::new(BufferPool::default()),
        sent: Counter::default(),
        received: Counter::default(),
        reset_flush_timeout: Duration::from_secs(5),
        joiner: None,
    }
}

#[tokio::test]
async fn a_dropped_connection_is_reset() {
    let (mut application, proxy) = application().await;
    drop(proxy);
    let error = application.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_finished_connection_ends_cleanly() {
    let (mut application, proxy) = application().await;
    proxy.finish();
    assert_eq!(application.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_reset_comes_after_what_was_written() {
    let (mut application, proxy) = application().await;
    let bytes = vec![3; 50_000];
    let slices = [std::io::IoSlice::new(&bytes)];
    std::future::poll_fn(|cx| proxy.poll_write_ready(cx))
        .await
        .unwrap();
    assert_eq!(proxy.try_write(&slices).unwrap(), bytes.len());
    proxy.reset(Duration::from_secs(5)).await;
    let mut got = Vec::new();
    let error = application.read_to_end(&mut got).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(got.len(), bytes.len());
}

/// Waits until the kernel has given the proxy everything that the application sent.
async fn delivered(application: &TcpStream) {
    while crate::netns::sys::unacknowledged_len(application).unwrap() > 0 {
        tokio::task::yield_now().await;
    }
}

/// Waits for readiness and fills a buffer.
async fn filled(proxy: &AppSocket) -> (Vec<u8>, FillEnd) {
    poll_fn(|cx| proxy.poll_read_ready(cx)).await.unwrap();
    let mut buffer = vec![0; 4096];
    let (len, end) = proxy.fill(&mut buffer);
    buffer.truncate(len);
    (buffer, end)
}

#[tokio::test]
async fn an_emptied_socket_is_not_ready_until_more_comes() {
    let (mut application, proxy) = application().await;
    for round in 0..3 {
        application.write_all(&[round; 100]).await.unwrap();
        let (bytes, end) = filled(&proxy).await;
        assert_eq!(bytes, vec![round; 100]);
        assert!(matches!(end, FillEnd::Empty));
        // Nobody has looked in vain, and it is known all the same.
        let ready = poll_fn(|cx| Poll::Ready(proxy.poll_read_ready(cx))).await;
        assert!(ready.is_pending());
    }
}

#[tokio::test]
async fn the_end_is_seen_with_the_last_bytes() {
    let (mut application, proxy) = application().await;
    application.write_all(&[7; 100]).await.unwrap();
    application.shutdown().await.unwrap();
    delivered(&application).await;
    let (bytes, end) = filled(&proxy).await;
    assert_eq!(bytes, vec![7; 100]);
    assert!(matches!(end, FillEnd::Finished));
}

#[tokio::test]
async fn urgent_data_hold_nothing_back() {
    let (mut application, proxy) = application().await;
    application.write_all(b"before").await.unwrap();
    let urgent = SockRef::from(&application).send_out_of_band(b"!").unwrap();
    assert_eq!(urgent, 1);
    application.write_all(b"after").await.unwrap();
    delivered(&application).await;
    let (bytes, end) = filled(&proxy).await;
    // A reader that does not ask for urgent data never sees the byte itself.
    assert_eq!(bytes, b"beforeafter");
    assert!(matches!(end, FillEnd::Empty));
}

#[tokio::test]
async fn a_relay_carries_both_ways_and_half_closes() {
    let (mut a, proxy_a) = application().await;
    let (mut b, proxy_b) = application().await;
    let context = context();
    let sizes = (3_000_000, 777);
    let talk = async {
        let up = async {
            a.write_all(&vec![1; sizes.0]).await.unwrap();
            a.shutdown().await.unwrap();
            let mut got = Vec::new();
            a.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, vec![2; sizes.1]);
        };
        let down = async {
            let mut got = Vec::new();
            b.read_to_end(&mut got).await.unwrap();
            assert!(got == vec![1; sizes.0]);
            b.write_all(&vec![2; sizes.1]).await.unwrap();
            b.shutdown().await.unwrap();
        };
        tokio::join!(up, down);
    };
    let (end, ()) = tokio::join!(relay(proxy_a, proxy_b, &context), talk);
    assert_eq!(end, PumpEnd::Clean);
    assert_eq!(
        (context.sent.get(), context.received.get()),
        (3_000_000, 777)
    );
}

#[tokio::test]
async fn a_relay_passes_resets_after_the_bytes_before_them() {
    for swapped in [false, true] {
        let (breaker, proxy_a) = application().await;
        let (mut seer, proxy_b) = application().await;
        let context = context();
        let breaking = async {
            let mut breaker = breaker;
            breaker.write_all(&vec![1; 100_000]).await.unwrap();
            // All of it is in the proxy's kernel buffer: acknowledged, so the reset takes nothing away.
            delivered(&breaker).await;
            SockRef::from(&breaker)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
        };
        let seeing = async {
            let mut got = Vec::new();
            let error = seer.read_to_end(&mut got).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            assert_eq!(got.len(), 100_000);
        };
        let relaying = async {
            if swapped {
                relay(proxy_b, proxy_a, &context).await
            } else {
                relay(proxy_a, proxy_b, &context).await
            }
        };
        let (end, (), ()) = tokio::join!(relaying, breaking, seeing);
        let expected = if swapped {
            PumpEnd::PeerReset
        } else {
            PumpEnd::ApplicationReset
        };
        assert_eq!(end, expected);
    }
}

#[tokio::test]
async fn a_stuck_reader_bounds_what_a_relay_takes() {
    let (a, proxy_a) = application().await;
    let (_b, proxy_b) = application().await;
    let context = context();
    let filling = async {
        let piece = vec![0; 64 * 1024];
        let mut taken = 0;
        while let Ok(written) = tokio::time::timeout(Duration::from_millis(200), a.writable()).await
        {
            written.unwrap();
            taken += a.try_write(&piece).unwrap_or(0);
        }
        taken
    };
    let taken = tokio::select! {
        _ = relay(proxy_a, proxy_b, &context) => panic!("nobody ended it"),
        taken = filling => taken,
    };
    assert!(taken < 16 * 1024 * 1024, "{taken}");
}

#[test]
fn buffers_are_reused_bounded_and_trimmed() {
    let pool = Arc::new(BufferPool::default());
    let many: Vec<_> = (0..200).map(|_| pool.take(BufferClass::Small)).collect();
    drop(many);
    let kept = pool.kept();
    assert!((1..200).contains(&kept), "{kept}");
    pool.trim();
    let in_use = pool.take(BufferClass::Small);
    drop(in_use);
    // All but the one that was used since lay there all the time.
    pool.trim();
    assert_eq!(pool.kept(), 1);
    pool.trim();
    assert_eq!(pool.kept(), 0);
}
