//! Who may come in.

use super::*;

fn own() -> Admissions {
    let info = ClusterInfo {
        name: "koornacht".parse().unwrap(),
        id: ClusterId::try_from(1).unwrap(),
        trust_domain: "koornacht.tulle".parse().unwrap(),
        version: 2,
    };
    Admissions::new(&info, &bundle("koornacht.tulle", "K"))
}

fn bundle(domain: &str, roots: &str) -> TrustBundle {
    TrustBundle {
        trust_domain: domain.parse().unwrap(),
        roots_pem: roots.to_owned(),
    }
}

fn cluster(name: &str, id: u16, domain: &str, roots: &str) -> RemoteIdentity {
    RemoteIdentity {
        name: name.parse().unwrap(),
        id: ClusterId::try_from(id).unwrap(),
        trust_domain: domain.parse().unwrap(),
        bundle: (!roots.is_empty()).then(|| bundle(domain, roots)),
    }
}

#[test]
fn names_ids_and_domains_belong_to_one() {
    let mut mesh = own();
    mesh.admit(&cluster("tion", 2, "tion.tulle", "T")).unwrap();
    let check = |mesh: &mut Admissions, new: RemoteIdentity, part: &str| {
        let refusal = mesh.admit(&new).unwrap_err();
        assert!(refusal.contains(part), "{refusal}");
    };
    check(
        &mut mesh,
        cluster("koornacht", 3, "x", "X"),
        "the same name",
    );
    check(
        &mut mesh,
        cluster("yavin", 1, "x", "X"),
        "cluster koornacht (id 1) has the same id 1",
    );
    check(
        &mut mesh,
        cluster("yavin", 2, "x", "X"),
        "cluster tion (id 2) has the same id 2",
    );
    check(
        &mut mesh,
        cluster("yavin", 3, "tion.tulle", "Y"),
        "with other roots",
    );
    check(
        &mut mesh,
        cluster("yavin", 3, "koornacht.tulle", ""),
        "with other roots",
    );
    // One authority for several clusters is fine.
    mesh.admit(&cluster("yavin", 3, "koornacht.tulle", "K"))
        .unwrap();
    // Roots of a domain that is shared are changed by all or by none.
    check(
        &mut mesh,
        cluster("yavin", 3, "koornacht.tulle", "evil"),
        "with other roots",
    );
    let mut strange = cluster("endor", 4, "endor.tulle", "E");
    strange.bundle = Some(bundle("tion.tulle", "E"));
    check(&mut mesh, strange, "another trust domain");
}

#[test]
fn a_member_may_change_and_leave() {
    let mut mesh = own();
    mesh.admit(&cluster("tion", 2, "tion.tulle", "T")).unwrap();
    mesh.admit(&cluster("tion", 7, "tion.tulle", "T2")).unwrap();
    mesh.admit(&cluster("yavin", 2, "yavin.tulle", "Y"))
        .unwrap();
    mesh.remove(&"tion".parse().unwrap());
    mesh.admit(&cluster("endor", 7, "tion.tulle", "E")).unwrap();
    // The own cluster never leaves.
    mesh.remove(&"koornacht".parse().unwrap());
    assert!(mesh.admit(&cluster("x", 1, "x", "X")).is_err());
}
