//! Turns a container's image, command and mounts into a program and a file system.

use std::{collections::BTreeMap, fs, path::PathBuf};

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource};
use rustix::process::Signal;

use super::super::{pod::PodRun, volumes};
use crate::{
    api,
    config::Program,
    kind::Kind,
    object::ObjectKey,
    rootfs::{Bind, PodRoot},
};

/// A container, ready to be started.
pub(super) struct Image {
    pub(super) command: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) root: PodRoot,
    pub(super) user: Option<u32>,
}

/// Writes the files that the container's program needs and says how to start it. The error is a
/// sentence.
pub(super) fn prepare(pod: &PodRun, container: &Container) -> Result<Image, String> {
    let program = program(pod, container)?;
    let environment = environment(pod, container)?;
    let variables: BTreeMap<&str, &str> = environment
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    let own = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter()
            .flatten()
            .map(|text| expand(text, &variables))
            .collect()
    };
    let (command, arguments) = (own(&container.command), own(&container.args));
    let command = match (command.is_empty(), arguments.is_empty()) {
        (true, true) => built_in_command(program),
        (true, false) => arguments,
        (false, _) => [command, arguments].concat(),
    };
    if command.is_empty() {
        return Err("no command specified".to_owned());
    }
    let user = user(pod, container);
    let root = root(pod, container, program)?;
    Ok(Image {
        command,
        environment,
        root,
        user,
    })
}

/// The user that the container's programs run as.
pub(super) fn user(pod: &PodRun, container: &Container) -> Option<u32> {
    let own = container
        .security_context
        .as_ref()
        .and_then(|context| context.run_as_user);
    let pods = pod
        .spec
        .security_context
        .as_ref()
        .and_then(|context| context.run_as_user);
    own.or(pods).and_then(|user| u32::try_from(user).ok())
}

/// The signal that asks the container's program to end.
pub(super) fn stop_signal(pod: &PodRun, container: &Container) -> Signal {
    match program(pod, container) {
        // As newer nginx images have it: requests that have begun are answered.
        Ok(Program::Nginx | Program::JsonMock) if container.command.is_none() => Signal::QUIT,
        _ => super::DEFAULT_STOP_SIGNAL,
    }
}

/// The environment of the container's programs.
pub(super) fn environment(
    pod: &PodRun,
    container: &Container,
) -> Result<Vec<(String, String)>, String> {
    let path = match program(pod, container)? {
        Program::Host => std::env::var("PATH").unwrap_or_else(|_| DEFAULT_PATH.to_owned()),
        Program::Nginx | Program::JsonMock => DEFAULT_PATH.to_owned(),
    };
    let mut environment = BTreeMap::from([
        ("PATH".to_owned(), path),
        ("HOME".to_owned(), "/root".to_owned()),
        ("HOSTNAME".to_owned(), pod.key.name.clone()),
    ]);
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) => {
                let known = environment
                    .iter()
                    .map(|(key, value)| (key.as_str(), value.as_str()))
                    .collect();
                expand(value, &known)
            }
            (None, Some(source)) => match from_source(pod, source)? {
                Some(value) => value,
                None => continue,
            },
            (None, None) => String::new(),
        };
        environment.insert(variable.name.clone(), value);
    }
    Ok(environment.into_iter().collect())
}

fn from_source(pod: &PodRun, source: &EnvVarSource) -> Result<Option<String>, String> {
    if let Some(field) = &source.field_ref {
        let [v4, v6] = pod.addresses();
        let node = pod.cluster.node_address(&pod.node);
        let account = pod.spec.service_account_name.as_deref();
        return match field.field_path.as_str() {
            "metadata.name" => Ok(Some(pod.key.name.clone())),
            "metadata.namespace" => Ok(Some(pod.key.namespace.clone())),
            "metadata.uid" => Ok(Some(pod.uid.clone())),
            "spec.nodeName" => Ok(Some(pod.node.name.clone())),
            "spec.serviceAccountName" => {
                let default = super::super::pod::DEFAULT_SERVICE_ACCOUNT;
                Ok(Some(account.unwrap_or(default).to_owned()))
            }
            "status.podIP" => Ok(Some(v4.to_string())),
            "status.podIPs" => Ok(Some(format!("{v4},{v6}"))),
            "status.hostIP" => Ok(Some(node.to_string())),
            other => Err(format!("the lab does not know the field `{other}`")),
        };
    }
    let Some(reference) = &source.config_map_key_ref else {
        return Err("the lab fills variables only from fields and ConfigMaps".to_owned());
    };
    let key = ObjectKey::new(Kind::ConfigMap, &pod.key.namespace, &reference.name);
    let map = pod
        .api
        .get_as::<ConfigMap>(&key)
        .map_err(|error| crate::describe(&error))?;
    let value = map.and_then(|map| map.data?.remove(&reference.key));
    if value.is_none() && !reference.optional.unwrap_or(false) {
        return Err(format!(
            "configmap \"{}\" has no key `{}`",
            reference.name, reference.key
        ));
    }
    Ok(value)
}

/// Replaces `$(NAME)` by the variable's value; `$$(NAME)` stays as `$(NAME)`, and so does what is
/// not known.
fn expand(text: &str, variables: &BTreeMap<&str, &str>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, found) = rest.split_at(at);
        expanded += before;
        if let Some(after) = found.strip_prefix("$$") {
            expanded.push('$');
            rest = after;
            continue;
        }
        let name = found
            .strip_prefix("$(")
            .and_then(|inner| inner.split_once(')'));
        match name.and_then(|(name, after)| Some((variables.get(name)?, after))) {
            Some((value, after)) => {
                expanded += value;
                rest = after;
            }
            None => {
                expanded.push('$');
                rest = &found[1..];
            }
        }
    }
    expanded + rest
}

fn program(pod: &PodRun, container: &Container) -> Result<Program, String> {
    let image = container.image.as_deref().unwrap_or_default();
    pod.config
        .program_for(image)
        .ok_or_else(|| format!("unknown image `{image}`"))
}

fn built_in_command(program: Program) -> Vec<String> {
    match program {
        Program::Host => Vec::new(),
        Program::Nginx | Program::JsonMock => {
            ["nginx", "-g", "daemon off;"].map(str::to_owned).to_vec()
        }
    }
}

fn root(pod: &PodRun, container: &Container, program: Program) -> Result<PodRoot, String> {
    let directory = pod.directory();
    let mut binds = vec![
        bind(directory.join("resolv.conf"), "/etc/resolv.conf", false),
        bind(directory.join("hosts"), "/etc/hosts", false),
    ];
    let server = match program {
        Program::Host => None,
        Program::Nginx => Some(FILE_SERVER),
        Program::JsonMock => Some(JSON_SERVER),
    };
    let mut private_at = None;
    if let Some(server) = server {
        let path = directory.join(format!("{}.nginx.conf", container.name));
        write(&path, NGINX_CONF.replace("@server@", server).as_bytes())?;
        binds.push(bind(path, "/etc/nginx/nginx.conf", true));
        let staging = directory.join(format!("{}.root", container.name));
        fs::create_dir_all(&staging)
            .map_err(|error| format!("cannot create {}: {error}", staging.display()))?;
        private_at = Some(staging);
    }
    for mount in container.volume_mounts.iter().flatten() {
        let volume = volumes::directory(&directory, &mount.name);
        let is_config_map = pod
            .spec
            .volumes
            .iter()
            .flatten()
            .any(|volume| volume.name == mount.name && volume.config_map.is_some());
        let from = match mount.sub_path.as_deref().filter(|path| !path.is_empty()) {
            Some(path) => volume.join(path),
            None => volume,
        };
        let read_only = is_config_map || mount.read_only.unwrap_or(false);
        binds.push(bind(from, &mount.mount_path, read_only));
    }
    Ok(PodRoot {
        private_at,
        host_name: pod.key.name.clone(),
        binds,
    })
}

fn bind(from: PathBuf, to: &str, read_only: bool) -> Bind {
    Bind {
        from,
        to: PathBuf::from(to),
        read_only,
    }
}

fn write(path: &std::path::Path, text: &[u8]) -> Result<(), String> {
    api::write_whole(path, text, 0o644)
        .map_err(|(path, error)| format!("cannot write {}: {error}", path.display()))
}

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const NGINX_CONF: &str = "\
user www-data;
worker_processes 1;
pid /run/nginx.pid;
error_log stderr warn;
events {
    worker_connections 8192;
}
http {
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    access_log /var/log/nginx/access.log;
    sendfile on;
    tcp_nopush on;
    keepalive_timeout 65;
    keepalive_requests 1000000;
    server {
        listen 80 default_server backlog=4096;
        listen [::]:80 default_server ipv6only=on backlog=4096;
        @server@
    }
}
";
const FILE_SERVER: &str = "root /usr/share/nginx/html; index index.html;";
const JSON_SERVER: &str = r#"location / { default_type application/json; return 200 '{"server": "json-mock", "status": "ok"}\n'; }"#;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    #[test]
    fn variables_are_replaced_as_kubernetes_does() {
        let variables = BTreeMap::from([("A", "1"), ("B_2", "two")]);
        let check = |text, expected| assert_eq!(super::expand(text, &variables), expected);
        check("x $(A) $(B_2)$(A)", "x 1 two1");
        check("$(C) $A $", "$(C) $A $");
        check("$$(A)", "$(A)");
        check("$(A", "$(A");
        check("", "");
    }
}
