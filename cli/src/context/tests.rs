use super::*;

fn contexts(text: &str) -> (tempfile::TempDir, ContextArguments) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("contexts.yaml");
    fs::write(&path, text).unwrap();
    fs::write(directory.path().join("root.pem"), "roots").unwrap();
    fs::write(directory.path().join("token"), "secret\n").unwrap();
    let arguments = ContextArguments {
        contexts: Some(path),
        ..ContextArguments::default()
    };
    (directory, arguments)
}

const TWO: &str = "
current: tion
contexts:
- {name: koornacht, server: 'https://k.example:443', ca: root.pem, tokenFile: token}
- {name: tion, server: 'https://192.0.2.2', ca: root.pem, tokenFile: token}
";

#[test]
fn context_is_found_by_its_name_or_as_the_current_one() {
    let (_directory, mut arguments) = contexts(TWO);
    let target = arguments.target().unwrap();
    assert_eq!(
        (target.name.as_str(), target.address.as_str()),
        ("tion", "192.0.2.2:15013")
    );
    assert_eq!(target.ca, "roots");
    assert!(matches!(target.proof, Proof::Token(token) if token == "secret"));
    arguments.context = Some("koornacht".to_owned());
    assert_eq!(arguments.target().unwrap().address, "k.example:443");
    let error = arguments.other("dantooine").unwrap_err().to_string();
    assert!(
        error.starts_with("there is no context dantooine; there are koornacht, tion"),
        "{error}"
    );
}

#[test]
fn unusable_files_are_told_in_one_sentence() {
    let table = [
        ("contexts: [{name: a}]", "is not a file of contexts"),
        ("colour: red", "is not a file of contexts"),
        (
            "contexts: [{name: a, server: 'http://x', ca: root.pem, tokenFile: token}]\ncurrent: a",
            "\"http://x\" is not the address of a server",
        ),
        (
            "contexts: [{name: a, server: 'https://x', ca: root.pem}]\ncurrent: a",
            "context a needs a token or a certificate",
        ),
        (
            "contexts: [{name: a, server: 'https://x', ca: nope.pem, tokenFile: token}]\ncurrent: a",
            "nope.pem",
        ),
    ];
    for (text, expected) in table {
        let (_directory, arguments) = contexts(text);
        let error = arguments.target().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
