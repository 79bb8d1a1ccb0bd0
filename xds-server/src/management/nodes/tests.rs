use super::*;

fn names(nodes: &[NodeStatus]) -> Vec<(&str, bool, bool)> {
    nodes
        .iter()
        .map(|n| (n.name.as_str(), n.connected, n.current))
        .collect()
}

#[tokio::test]
async fn board_shows_expected_and_connected_nodes() {
    let board = Arc::new(NodeBoard::default());
    let expected = || ["n1".to_owned(), "n2".to_owned()];
    let line = board.open("n1", None);
    assert_eq!(
        names(&board.read(expected())),
        [("n1", true, false), ("n2", false, false)]
    );
    line.note_sent();
    line.note_sent();
    line.note_acknowledged(Some(7));
    assert!(!board.read(expected())[0].current);
    line.note_refused("no");
    let node = board.read(expected()).remove(0);
    assert_eq!((node.current, node.acknowledged_revision), (true, 7));
    assert_eq!(
        (node.refusals, node.last_refusal.as_deref()),
        (1, Some("no"))
    );
    // A proxy that came back counts, not the stream of the one that is gone and was not missed yet.
    let newer = board.open("n1", None);
    assert_eq!(board.read(expected())[0].refusals, 0);
    drop((line, newer));
    assert_eq!(
        names(&board.read(["n2".to_owned()])),
        [("n2", false, false)]
    );
}
