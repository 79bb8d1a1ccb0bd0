//! What lies in `deploy/` is at least true: it parses, its parts agree, and its flags are ones that the programs know.
//!
//! No cluster is needed and none is simulated: this cannot show that the manifests *work*.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize as _;
use serde_yaml_ng::Value;

/// The programs of ours that the manifests start.
const PROGRAMS: [&str; 2] = ["node-proxy", "xds-server"];

#[test]
fn every_object_has_a_kind_and_a_name() -> Result<()> {
    let objects = objects()?;
    assert!(
        objects.len() > 8,
        "only {} objects were found",
        objects.len()
    );
    for Object { file, value } in &objects {
        assert!(
            value["apiVersion"].is_string(),
            "{}: no apiVersion",
            file.display()
        );
        assert!(value["kind"].is_string(), "{}: no kind", file.display());
        let named = value["metadata"]["name"].is_string() || value["kind"] == "Kustomization";
        assert!(named, "{}: no metadata.name", file.display());
    }
    Ok(())
}

#[test]
fn every_flag_is_one_that_the_program_knows() -> Result<()> {
    for program in PROGRAMS {
        let help = help_of(program)?;
        let known: BTreeSet<&str> = help
            .split(|c: char| c.is_whitespace() || matches!(c, '=' | ',' | '[' | ']'))
            .filter(|word| word.starts_with("--"))
            .collect();
        let mut used = 0;
        for command in commands_of(program)? {
            for argument in command.iter().skip(1) {
                let flag = argument.split('=').next().unwrap_or(argument);
                assert!(
                    known.contains(flag),
                    "{program} has no flag {flag}; it knows {known:?}"
                );
                used += 1;
            }
        }
        assert!(used > 0, "no manifest starts {program} with flags");
    }
    Ok(())
}

#[test]
fn everything_that_is_mounted_is_a_volume_and_every_account_exists() -> Result<()> {
    let objects = objects()?;
    let accounts: BTreeSet<&str> = objects
        .iter()
        .filter(|object| object.value["kind"] == "ServiceAccount")
        .filter_map(|object| object.value["metadata"]["name"].as_str())
        .collect();
    let mut pods = 0;
    for Object { file, value } in objects.iter().filter(|object| has_pods(&object.value)) {
        pods += 1;
        let pod = &value["spec"]["template"]["spec"];
        let account = pod["serviceAccountName"]
            .as_str()
            .context("no serviceAccountName")?;
        assert!(
            accounts.contains(account),
            "{}: no account {account}",
            file.display()
        );
        let claimed = names(&value["spec"]["volumeClaimTemplates"], |claim| {
            &claim["metadata"]["name"]
        });
        let volumes: BTreeSet<&str> = names(&pod["volumes"], |volume| &volume["name"])
            .chain(claimed)
            .collect();
        for container in sequence(&pod["containers"]) {
            let mounts: BTreeSet<&str> =
                names(&container["volumeMounts"], |mount| &mount["name"]).collect();
            assert!(
                mounts.is_subset(&volumes),
                "{}: {mounts:?} but {volumes:?}",
                file.display()
            );
        }
        let selector = &value["spec"]["selector"]["matchLabels"];
        assert_eq!(
            selector,
            &value["spec"]["template"]["metadata"]["labels"],
            "{}",
            file.display()
        );
    }
    assert_eq!(
        pods, 3,
        "a DaemonSet, a Deployment and a StatefulSet are expected"
    );
    Ok(())
}

#[test]
fn only_the_node_proxy_has_privileges_and_it_names_each() -> Result<()> {
    for Object { file, value } in objects()?.iter().filter(|object| has_pods(&object.value)) {
        let pod = &value["spec"]["template"]["spec"];
        let is_node_proxy = value["metadata"]["name"] == "node-proxy";
        for container in sequence(&pod["containers"]) {
            let security = &container["securityContext"];
            assert_eq!(
                security["allowPrivilegeEscalation"],
                false,
                "{}",
                file.display()
            );
            assert_eq!(
                security["readOnlyRootFilesystem"],
                true,
                "{}",
                file.display()
            );
            assert_eq!(
                security["capabilities"]["drop"][0],
                "ALL",
                "{}",
                file.display()
            );
            assert_eq!(
                security["capabilities"]["add"].is_sequence(),
                is_node_proxy,
                "{}",
                file.display()
            );
        }
        assert_eq!(
            pod["hostNetwork"] == true,
            is_node_proxy,
            "{}",
            file.display()
        );
        assert_eq!(
            pod["securityContext"]["runAsNonRoot"] == true,
            !is_node_proxy,
            "{}",
            file.display()
        );
    }
    Ok(())
}

#[test]
fn every_kustomization_lists_what_exists_and_all_of_it() -> Result<()> {
    let mut seen = 0;
    for Object { file, value } in objects()?
        .iter()
        .filter(|object| object.value["kind"] == "Kustomization")
    {
        seen += 1;
        let folder = file.parent().context("a file has a folder")?;
        let listed: BTreeSet<PathBuf> = sequence(&value["resources"])
            .iter()
            .filter_map(Value::as_str)
            .map(|resource| folder.join(resource))
            .collect();
        for resource in &listed {
            assert!(
                resource.exists(),
                "{}: no {}",
                file.display(),
                resource.display()
            );
        }
        for path in yaml_files(folder)? {
            let own = path == *file || path.parent() != Some(folder);
            assert!(
                own || listed.contains(&path),
                "{} does not list {}",
                file.display(),
                path.display()
            );
        }
    }
    assert_eq!(seen, 3);
    Ok(())
}

/// One YAML document and where it stands.
struct Object {
    file: PathBuf,
    value: Value,
}

fn objects() -> Result<Vec<Object>> {
    let mut objects = Vec::new();
    for file in yaml_files(
        &Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../deploy")
            .canonicalize()?,
    )? {
        let text = fs::read_to_string(&file)?;
        for document in serde_yaml_ng::Deserializer::from_str(&text) {
            let value =
                Value::deserialize(document).with_context(|| format!("in {}", file.display()))?;
            objects.push(Object {
                file: file.clone(),
                value,
            });
        }
    }
    Ok(objects)
}

fn yaml_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut folders = vec![folder.to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|extension| extension == "yaml")
            {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn has_pods(value: &Value) -> bool {
    value["spec"]["template"]["spec"].is_mapping()
}

fn sequence(value: &Value) -> &[Value] {
    value.as_sequence().map_or(&[], Vec::as_slice)
}

fn names(value: &Value, name: impl Fn(&Value) -> &Value) -> impl Iterator<Item = &str> {
    sequence(value)
        .iter()
        .filter_map(move |item| name(item).as_str())
}

/// The command lines of the containers that start `program`.
fn commands_of(program: &str) -> Result<Vec<Vec<String>>> {
    let mut commands = Vec::new();
    for object in objects()? {
        for container in sequence(&object.value["spec"]["template"]["spec"]["containers"]) {
            let command: Vec<String> = sequence(&container["command"])
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect();
            if command.first().is_some_and(|first| first == program) {
                commands.push(command);
            }
        }
    }
    Ok(commands)
}

fn help_of(program: &str) -> Result<String> {
    let folder = env::var_os("TULLE_BIN_DIR").context(
        "TULLE_BIN_DIR names the folder of the built programs; `cargo xtask test` builds them and sets it",
    )?;
    let path = Path::new(&folder).join(program);
    let output = Command::new(&path)
        .arg("--help")
        .output()
        .with_context(|| {
            format!(
                "cannot start {}; build it with `cargo build --release`",
                path.display()
            )
        })?;
    ensure!(
        output.status.success(),
        "{} --help: {}",
        path.display(),
        output.status
    );
    Ok(String::from_utf8(output.stdout)?)
}
