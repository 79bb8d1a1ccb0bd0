//! Sets up who may read and write the own etcd: users by the common name of their certificate.

use etcd_client::{Client, Permission, UserAddOptions};
use tulle_model::ClusterName;

use super::client::{EtcdError, EtcdSettings, connect, within};
use crate::layout;

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
}

/// Makes the users and switches authentication on. What is there already stays; running it again changes nothing.
///
/// # Errors
///
/// When etcd refuses; what was done before stays done.
pub async fn init(settings: &EtcdInit) -> Result<(), EtcdError> {
    let prefix = layout::prefix(&settings.cluster);
    let mut client = connect(&settings.etcd, 0, &prefix).await?;
    let own_role = format!("tulle-{}", settings.cluster);
    let remote_role = format!("tulle-{}-read", settings.cluster);
    let own = Permission::read_write(prefix.clone()).with_prefix();
    let read = Permission::read(prefix.clone()).with_prefix();
    add_user(&mut client, "root").await?;
    add_user(&mut client, &settings.user).await?;
    add_user(&mut client, &settings.remote_user).await?;
    for (role, permission) in [(&own_role, own), (&remote_role, read)] {
        tolerate(
            within("add a role", client.role_add(role.as_str())).await,
            "already exists",
        )?;
        within(
            "grant a permission",
            client.role_grant_permission(role.as_str(), permission),
        )
        .await?;
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
        Err(EtcdError::Request { source, .. }) if source.to_string().contains(text) => Ok(()),
        Err(error) => Err(error),
    }
}
