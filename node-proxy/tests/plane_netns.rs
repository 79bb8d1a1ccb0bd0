//! The data plane between two real network namespaces, at its real ports, in both IP families. Needs root (or the capabilities to
//! make namespaces) and iproute2.

#[cfg(test)]
#[path = "plane/support.rs"]
#[expect(
    dead_code,
    reason = "shared with the other tests of the plane, which use the rest"
)]
mod support;

#[cfg(test)]
mod namespaces {
    use std::{
        net::{IpAddr, SocketAddr},
        os::unix::fs::MetadataExt as _,
        path::PathBuf,
        process::{Child, Command, Stdio},
    };

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };
    use tulle_node_proxy::netns::NamespaceHandle;

    use crate::support::{Mesh, Site, eventually, in_time};

    /// A namespace that lives as long as the process that holds it.
    struct Namespace(Child);

    impl Namespace {
        async fn new() -> Self {
            // The end of its standard input ends it, however this process ends.
            let child = Command::new("unshare")
                .args(["--net", "cat"])
                .stdin(Stdio::piped())
                .spawn();
            let namespace = Namespace(child.expect("util-linux's unshare"));
            let own = std::fs::metadata("/proc/self/ns/net").unwrap().ino();
            let entered = || std::fs::metadata(namespace.path()).is_ok_and(|m| m.ino() != own);
            eventually("a namespace of its own (needs root)", entered).await;
            namespace.ip("link set lo up");
            namespace
        }

        fn path(&self) -> PathBuf {
            PathBuf::from(format!("/proc/{}/ns/net", self.0.id()))
        }

        /// Runs `ip` inside.
        fn ip(&self, arguments: &str) {
            let pid = self.0.id().to_string();
            let status = Command::new("nsenter")
                .args(["--target", &pid, "--net", "ip"])
                .args(arguments.split(' '))
                .status();
            assert!(
                status.expect("iproute2 and nsenter").success(),
                "ip {arguments}"
            );
        }
    }

    impl Drop for Namespace {
        fn drop(&mut self) {
            // It may have ended by itself.
            let _killed = self.0.kill();
            let _status = self.0.wait();
        }
    }

    const A: [&str; 2] = ["10.77.0.1", "fd77::1"];
    const B: [&str; 2] = ["10.77.0.2", "fd77::2"];

    fn site(namespace: &Namespace, addresses: [&str; 2]) -> Site {
        Site {
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
            netns: namespace.path(),
        }
    }

    /// Two namespaces joined by a pair of virtual devices.
    async fn joined() -> (Namespace, Namespace) {
        let (a, b) = (Namespace::new().await, Namespace::new().await);
        a.ip(&format!(
            "link add eth0 type veth peer name eth0 netns {}",
            b.0.id()
        ));
        for (namespace, [v4, v6]) in [(&a, A), (&b, B)] {
            namespace.ip(&format!("addr add {v4}/24 dev eth0"));
            namespace.ip(&format!("addr add {v6}/64 dev eth0 nodad"));
            namespace.ip("link set eth0 up");
        }
        (a, b)
    }

    fn listen(namespace: &NamespaceHandle, ip: &str) -> TcpListener {
        let address = SocketAddr::new(ip.parse().unwrap(), 0);
        let listener = namespace
            .run_in(|| std::net::TcpListener::bind(address))
            .unwrap()
            .unwrap();
        listener.set_nonblocking(true).unwrap();
        TcpListener::from_std(listener).unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn both_families_pass_between_namespaces() {
        let (a, b) = joined().await;
        let mesh = Mesh::between(site(&a, A), site(&b, B), |_| {}).await;
        let ports = |addresses: &[SocketAddr]| -> Vec<u16> {
            addresses.iter().map(SocketAddr::port).collect()
        };
        assert_eq!(ports(&mesh.b.proxy.addresses().outbound), [15001, 15001]);
        assert_eq!(ports(&mesh.b.proxy.addresses().inbound), [15006, 15006]);
        assert_eq!(ports(&mesh.b.proxy.addresses().hbone), [15008, 15008]);
        for (from, to) in A.into_iter().zip(B) {
            let listener = listen(&mesh.b.namespace, to);
            let mut client = mesh.connect(listener.local_addr().unwrap()).await;
            let port = client.local_addr().unwrap().port();
            client.write_all(b"ping").await.unwrap();
            let (mut server, seen) = in_time("accept", listener.accept()).await.unwrap();
            assert!(seen.ip().is_loopback(), "{seen}");
            let mut bytes = [0; 4];
            server.read_exact(&mut bytes).await.unwrap();
            server.write_all(&vec![9; 3_000_000]).await.unwrap();
            server.shutdown().await.unwrap();
            let mut answer = Vec::new();
            in_time("the answer", client.read_to_end(&mut answer))
                .await
                .unwrap();
            assert_eq!(answer.len(), 3_000_000);
            let from: IpAddr = from.parse().unwrap();
            assert_eq!(
                mesh.b.kernel.announced().last(),
                Some(&SocketAddr::new(from, port))
            );
        }
    }

    /// The thread is where it was, whatever happened inside.
    #[tokio::test]
    async fn a_visit_to_a_namespace_ends_at_home() {
        let namespace = Namespace::new().await;
        let here = || std::fs::metadata("/proc/thread-self/ns/net").unwrap().ino();
        let home = here();
        let handle = NamespaceHandle::open(&namespace.path()).unwrap();
        let inside = handle.run_in(here).unwrap();
        assert_ne!(inside, home);
        assert_eq!(here(), home);
        let panicked = std::panic::catch_unwind(|| handle.run_in(|| panic!("inside")));
        assert!(panicked.is_err());
        assert_eq!(here(), home);
        assert_ne!(
            handle.cookie(),
            NamespaceHandle::open("/proc/self/ns/net".as_ref())
                .unwrap()
                .cookie()
        );
        // The handle keeps the namespace when nobody else does.
        drop(namespace);
        assert_eq!(handle.run_in(here).unwrap(), inside);
    }

    #[tokio::test]
    async fn a_pod_without_ipv6_is_captured_in_ipv4() {
        let namespace = Namespace::new().await;
        let other = Namespace::new().await;
        namespace.ip("addr add 10.77.0.1/24 dev lo");
        other.ip("addr add 10.77.0.2/24 dev lo");
        for n in [&namespace, &other] {
            let pid = n.0.id().to_string();
            let status = Command::new("nsenter")
                .args(["--target", &pid, "--net", "sh", "-c"])
                .arg("echo 1 > /proc/sys/net/ipv6/conf/lo/disable_ipv6")
                .status();
            assert!(status.unwrap().success());
        }
        let only_v4 = |n: &Namespace, ip: &str| Site {
            addresses: vec![ip.parse().unwrap()],
            netns: n.path(),
        };
        let mesh = Mesh::between(only_v4(&namespace, A[0]), only_v4(&other, B[0]), |_| {}).await;
        // ::1 does not exist there; the unspecified address does.
        assert_eq!(mesh.a.proxy.addresses().outbound.len(), 1);
    }
}
