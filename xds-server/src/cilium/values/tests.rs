//! The bytes of a clustermesh-apiserver, there and back.

use super::*;

/// What Go wrote is read, and written again as the same bytes.
fn check<T>(fixture: &str) -> T
where
    T: Serialize + DeserializeOwned,
{
    let value: T = serde_json::from_str(fixture).unwrap();
    assert_eq!(serde_json::to_string(&value).unwrap(), fixture);
    value
}

pub(in crate::cilium) const SERVICE: &str = r#"{"cluster":"cluster3","namespace":"test","name":"echo","frontends":{"10.96.50.104":{"http":{"Protocol":"TCP","Port":80}}},"backends":{"10.244.1.1":{"http":{"Protocol":"TCP","Port":8080}}},"hostnames":{"10.244.1.1":"pod-0"},"zones":{"10.244.1.1":{"zone":"zone1","forZones":[{"name":"zone1"}]}},"labels":{},"selector":{"name":"echo"},"includeExternal":true,"shared":true,"clusterID":3}"#;
pub(in crate::cilium) const NODE: &str = r#"{"Name":"test-node-1","Cluster":"cluster3","IPAddresses":[{"Type":"InternalIP","IP":"172.18.0.2"},{"Type":"InternalIP","IP":"fc00:c111::2"},{"Type":"CiliumInternalIP","IP":"10.244.0.10"},{"Type":"CiliumInternalIP","IP":"fd00:10:244::e2d6"}],"IPv4AllocCIDR":{"IP":"10.244.0.0","Mask":"////AA=="},"IPv4SecondaryAllocCIDRs":null,"IPv6AllocCIDR":{"IP":"fd00:10:244::","Mask":"//////////8AAAAAAAAAAA=="},"IPv6SecondaryAllocCIDRs":null,"IPv4HealthIP":"10.244.0.134","IPv6HealthIP":"fd00:10:244::d812","IPv4IngressIP":"","IPv6IngressIP":"","ClusterID":3,"Source":"custom-resource","EncryptionKey":0,"Labels":{"kubernetes.io/hostname":"test-node-1"},"Annotations":{"network.cilium.io/wg-pub-key":"VRks"},"WireguardPubKey":"VRksOB6ZNds4oXWIGfSVpvc0gBhcOWFmzvTDcyvULlI=","BootID":"570d3fd1"}"#;
pub(in crate::cilium) const ADDRESS: &str = r#"{"IP":"10.244.2.74","Mask":null,"HostIP":"172.18.0.2","ID":199475,"Key":5,"Metadata":"","K8sNamespace":"bar","K8sPodName":"cep-002","K8sServiceAccount":"default","NamedPorts":[{"Name":"http","Port":8080,"Protocol":"TCP"}]}"#;
pub(in crate::cilium) const CONFIG: &str = r#"{"id":3,"capabilities":{"syncedCanaries":true,"maxConnectedClusters":255,"serviceExportsEnabled":false,"endpointSlicesExportMode":"services-and-endpointslices"}}"#;

#[test]
fn fixtures_are_written_byte_by_byte() {
    let service: ClusterService = check(SERVICE);
    assert_eq!(service.backends["10.244.1.1"]["http"].port, 8080);
    let node: Node = check(NODE);
    assert_eq!(node.ipv4_range, IpNet::from_text("10.244.0.0/24"));
    assert_eq!(node.ipv6_range, IpNet::from_text("fd00:10:244::/64"));
    let address: AddressIdentity = check(ADDRESS);
    assert_eq!(address.id, (3 << 16) + 2867);
    let config: ClusterConfig = check(CONFIG);
    assert_eq!(config.capabilities.service_exports_enabled, Some(false));
    check::<ClusterConfig>(r#"{"capabilities":{}}"#);
}

#[test]
fn null_is_an_empty_map_or_list() {
    let service: ClusterService = serde_json::from_str(
        r#"{"cluster":"c","namespace":"n","name":"s","frontends":null,"backends":null,"labels":null,"selector":null,"later":1}"#,
    )
    .unwrap();
    assert!(service.frontends.is_empty() && !service.shared);
    // Without what may be left out, as Go leaves it out.
    let text = serde_json::to_string(&service).unwrap();
    assert!(
        !text.contains("hostnames") && !text.contains("zones"),
        "{text}"
    );
}

#[test]
fn masks_are_bytes_in_base64() {
    let check = |text: &str, mask: Option<&str>| {
        let net = IpNet::from_text(text);
        assert_eq!(net.as_ref().map(|n| n.mask.as_str()), mask, "{text}");
    };
    check("10.0.0.0/8", Some("/wAAAA=="));
    check("0.0.0.0/0", Some("AAAAAA=="));
    check("10.1.1.1/32", Some("/////w=="));
    check("::/0", Some("AAAAAAAAAAAAAAAAAAAAAA=="));
    check("10.0.0.0/33", None);
    check("10.0.0.0", None);
    check("x/8", None);
}
