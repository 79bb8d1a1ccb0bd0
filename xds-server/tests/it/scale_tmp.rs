//! Temporary.
use std::time::Instant;
use crate::support::{Cluster, pod};
use tulle_xds_server::config::StoreConfig;

fn rss() -> u64 {
    let s = std::fs::read_to_string("/proc/self/status").unwrap();
    s.lines().find(|l| l.starts_with("VmRSS")).unwrap().split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn scale() {
    let services: usize = std::env::var("SVC").ok().and_then(|s| s.parse().ok()).unwrap_or(1000);
    let mut cluster = Cluster::new("koornacht", 1, StoreConfig::Memory);
    for s in 0..services {
        let mut text = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: web-{s}, namespace: shop, annotations: {{service.cilium.io/global: \"true\"}}}}\nspec: {{clusterIPs: [172.20.{}.{}], ports: [{{port: 80, targetPort: 8080}}]}}\n", s >> 8, s & 255);
        let mut eps = String::new();
        for p in 0..10 {
            let ip = std::net::Ipv4Addr::from(0x0a00_0000 + (s * 10 + p) as u32);
            text += &format!("---\n{}", pod(&format!("p-{s}-{p}"), "n1", &ip.to_string(), "web"));
            eps += &format!("- {{addresses: [{ip}], conditions: {{ready: true}}, targetRef: {{kind: Pod, name: p-{s}-{p}, namespace: shop}}}}\n");
        }
        text += &format!("---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: web-{s}, namespace: shop, labels: {{kubernetes.io/service-name: web-{s}}}}}\naddressType: IPv4\nports: [{{port: 8080}}]\nendpoints:\n{eps}");
        cluster.apply(&format!("s{s}"), &text);
    }
    eprintln!("rss before {} MiB", rss());
    let t = Instant::now();
    cluster.start().await;
    let n = services * 11;
    eprintln!("ready after {:?} rss {} MiB", t.elapsed(), rss());
    cluster.wait_status("all", |s| s["view"]["addresses"] == n).await;
    eprintln!("started in {:?} rss {} MiB", t.elapsed(), rss());
    let mut client = cluster.ads().await;
    let t = Instant::now();
    client.subscribe_all().await;
    client.wait("all", |d| d.workloads_len() == services * 10).await;
    eprintln!("first answer in {:?} rss {} MiB (client's directory included)", t.elapsed(), rss());
    let mut took = Vec::new();
    for round in 0..200 {
        let ready = round % 2 == 0;
        let text = format!("apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: extra, namespace: shop, labels: {{kubernetes.io/service-name: web-1}}}}\naddressType: IPv4\nports: [{{port: 8080}}]\nendpoints:\n- {{addresses: [10.0.0.10], conditions: {{ready: {}}}, targetRef: {{kind: Pod, name: p-1-0, namespace: shop}}}}\n", !ready);
        let t = Instant::now();
        cluster.apply("extra", &text);
        let r = client.next().await.unwrap();
        assert!(r.resources.len() <= 1, "{}", r.resources.len());
        took.push(t.elapsed());
    }
    took.sort();
    eprintln!("change p50 {:?} p99 {:?} max {:?}", took[100], took[197], took[199]);
    eprintln!("rss end {} MiB", rss());
}
