//! Sets up who may read and write the own etcd: users by the common name of their certificate.

use etcd_client::{Client, Permission, UserAddOptions};
use tulle_model::ClusterName;

use super::{
    client::{EtcdSettings, within},
    dial::dial,
    error::EtcdError,
};
use crate::{cilium, layout};

/// Whom to let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdInit {
    /// The cluster whose keys they are.
    pub cluster: ClusterName,
    /// The etcd, with a certificate whose common name is `root`.
    pub etcd: EtcdSettings,
    /// The xds-server's own user: reads and writes the cluster's keys.
    pub user: String,
    /// The user of other clusters: reads the cluster's keys.
    pub remote_user: String,
    /// The keys of Cilium's layout as well.
    pub cilium: bool,
}

/// Makes the users and switches authentication on. What is there already stays; running it again changes nothing.
///
/// # Errors
///
/// When etcd refuses; what was done before stays done.
pub async fn init(settings: &EtcdInit) -> Result<(), EtcdError> {
    let prefix = layout::prefix(&settings.cluster);
    let mut client = dial(&settings.etcd, 0, &prefix).await?.client;
    let own_role = format!("tulle-{}", settings.cluster);
    let remote_role = format!("tulle-{}-read", settings.cluster);
    let mut own = vec![Permission::read_write(prefix.clone()).with_prefix()];
    let mut read = vec![Permission::read(prefix.clone()).with_prefix()];
    if settings.cilium {
        own.push(Permission::read_write(cilium::keys::BASE).with_prefix());
        let readable = cilium::keys::readable(&settings.cluster);
        read.extend(
            readable
                .prefixes
                .into_iter()
                .map(|p| Permission::read(p).with_prefix()),
        );
        read.extend(readable.keys.into_iter().map(Permission::read));
    }
    add_user(&mut client, "root").await?;
    add_user(&mut client, &settings.user).await?;
    add_user(&mut client, &settings.remote_user).await?;
    for (role, permissions) in [(&own_role, own), (&remote_role, read)] {
        tolerate(
            within("add a role", client.role_add(role.as_str())).await,
            "already exists",
        )?;
        for permission in permissions {
            let granted = client.role_grant_permission(role.as_str(), permission);
            within("grant a permission", granted).await?;
        }
    }
    tolerate(
        within("add a role", client.role_add("root")).await,
        "already exists",
    )?;
    grant(&mut client, "root", "root").await?;
    if settings.user != "root" {
        grant(&mut client, &settings.user, &own_role).await?;
    }
    grant(&mut client, &settings.remote_user, &remote_role).await?;
    tolerate(
        within("switch authentication on", client.auth_enable()).await,
        "already enabled",
    )?;
    Ok(())
}

pub(super) async fn add_user(client: &mut Client, user: &str) -> Result<(), EtcdError> {
    // Without a password nobody can come in but by certificate.
    let options = UserAddOptions::new().with_no_pwd();
    let added = within("add a user", client.user_add(user, "", Some(options))).await;
    tolerate(added, "already exists")
}

pub(super) async fn grant(client: &mut Client, user: &str, role: &str) -> Result<(), EtcdError> {
    within("grant a role", client.user_grant_role(user, role))
        .await
        .map(drop)
}

pub(super) fn tolerate<T>(result: Result<T, EtcdError>, text: &str) -> Result<(), EtcdError> {
    match result {
        Ok(_) => Ok(()),
        Err(EtcdError::Request { cause, .. }) if cause.to_string().contains(text) => Ok(()),
        Err(error) => Err(error),
    }
}
