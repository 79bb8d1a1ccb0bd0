//! Who may read the own etcd, and the end of what is published there.

use etcd_client::{DeleteOptions, Permission};
use tulle_model::ClusterName;

use super::{
    client::{EtcdError, EtcdSettings, connect, within},
    init::{add_user, grant, tolerate},
};
use crate::layout;

/// Makes `user` one that can read the cluster's keys and nothing else. `admin` must have the role root.
///
/// # Errors
///
/// When etcd cannot be reached or refuses.
pub async fn admit_reader(
    cluster: &ClusterName,
    admin: &EtcdSettings,
    user: &str,
) -> Result<(), EtcdError> {
    let prefix = layout::prefix(cluster);
    let mut client = connect(admin, 0, &prefix).await?;
    let role = format!("tulle-{cluster}-read");
    let added = within("add a role", client.role_add(role.as_str())).await;
    tolerate(added, "already exists")?;
    let read = Permission::read(prefix).with_prefix();
    within(
        "grant a permission",
        client.role_grant_permission(role.as_str(), read),
    )
    .await?;
    add_user(&mut client, user).await?;
    grant(&mut client, user, &role).await
}

/// Takes all rights from `user`; says whether it had any.
///
/// # Errors
///
/// When etcd cannot be reached or refuses.
pub async fn expel_reader(
    cluster: &ClusterName,
    admin: &EtcdSettings,
    user: &str,
) -> Result<bool, EtcdError> {
    let mut client = connect(admin, 0, &layout::prefix(cluster)).await?;
    match within("delete a user", client.user_delete(user)).await {
        Ok(_) => Ok(true),
        Err(EtcdError::Request { source, .. }) if source.to_string().contains("not found") => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Deletes everything that the cluster has published; says how many keys there were.
///
/// # Errors
///
/// When etcd cannot be reached or refuses.
pub async fn withdraw(cluster: &ClusterName, settings: &EtcdSettings) -> Result<i64, EtcdError> {
    let prefix = layout::prefix(cluster);
    let mut client = connect(settings, 0, &format!("{prefix}{}", layout::INFO)).await?;
    let all = DeleteOptions::new().with_prefix();
    let deleted = within("withdraw the state", client.delete(prefix, Some(all))).await?;
    Ok(deleted.deleted())
}
