//! Who may read the own etcd, and the end of what is published there.

use etcd_client::{DeleteOptions, Permission};
use tulle_model::ClusterName;

use super::{
    client::{EtcdSettings, within},
    dial::dial,
    error::EtcdError,
    init::{add_user, grant, tolerate},
    plan::PublishPlan,
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
    let mut client = dial(admin, 0, &prefix).await?.client;
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
    let mut client = dial(admin, 0, &layout::prefix(cluster)).await?.client;
    match within("delete a user", client.user_delete(user)).await {
        Ok(_) => Ok(true),
        Err(EtcdError::Request { cause, .. }) if cause.to_string().contains("not found") => {
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
pub async fn withdraw(plan: &PublishPlan, settings: &EtcdSettings) -> Result<i64, EtcdError> {
    let mut client = dial(settings, 0, &plan.first).await?.client;
    let mut deleted = 0;
    // The marks go first: from then on nobody takes what is left for the whole.
    let singles = plan
        .marks
        .iter()
        .chain(&plan.singles)
        .chain([&plan.heartbeat]);
    let singles = singles.map(|key| (key, false));
    let prefixes = plan.prefixes.iter().map(|prefix| (prefix, true));
    for (key, prefix) in singles.chain(prefixes) {
        let options = prefix.then(|| DeleteOptions::new().with_prefix());
        let gone = client.delete(key.as_str(), options);
        deleted += within("withdraw the state", gone).await?.deleted();
    }
    Ok(deleted)
}
