//! What a connection costs in memory. Alone in its process, so that nothing else moves the figures.

#[cfg(test)]
#[path = "plane/support.rs"]
#[expect(
    dead_code,
    reason = "shared with the other tests of the plane, which use the rest"
)]
mod support;

#[cfg(test)]
mod memory {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use crate::support::{Mesh, in_time, listen_b, pair};

    /// One test, in this order: memory that was once used is not given back to the system at once.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn idle_connections_are_cheap_before_and_after_bulk() {
        let mesh = Mesh::start().await;
        let (listener, _) = listen_b().await;
        let mut connections = Vec::new();
        // What is paid once: code paths, the allocator's pools.
        for _ in 0..200 {
            connections.push(pair(&mesh, &listener).await);
        }
        let before = resident_len();
        for _ in 0..IDLE_COUNT {
            connections.push(pair(&mesh, &listener).await);
        }
        let each = resident_len().saturating_sub(before) / IDLE_COUNT;
        println!("an idle connection costs {each} bytes in two proxies and both applications");
        assert!(each <= IDLE_LEN_MAX, "{each} bytes for an idle connection");

        let before = resident_len();
        for (client, server) in connections.iter_mut().take(BULK_COUNT) {
            let sending = async {
                let piece = vec![1; 256 * 1024];
                for _ in 0..BULK_LEN / piece.len() {
                    server.write_all(&piece).await.unwrap();
                }
            };
            let receiving = async {
                let mut piece = vec![0; 256 * 1024];
                let mut rest = BULK_LEN;
                while rest > 0 {
                    rest -= client.read(&mut piece).await.unwrap();
                }
            };
            in_time("the bulk", async { tokio::join!(sending, receiving) }).await;
        }
        let each = resident_len().saturating_sub(before) / BULK_COUNT;
        println!("having moved {BULK_LEN} bytes each, {each} bytes more");
        assert!(
            each <= AFTER_BULK_LEN_MAX,
            "{each} bytes kept per connection after bulk"
        );
    }

    fn resident_len() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
        pages * 4096
    }

    const IDLE_COUNT: usize = 1000;
    /// Two proxies; the two ends of the test itself are within it.
    const IDLE_LEN_MAX: usize = 2 * 5632;
    const BULK_COUNT: usize = 100;
    const BULK_LEN: usize = 8 * 1024 * 1024;
    const AFTER_BULK_LEN_MAX: usize = 128 * 1024;
}
