//! The whole server over real TLS connections, and with a real etcd.

#[cfg(test)]
mod admin;
#[cfg(test)]
mod ads;
#[cfg(test)]
mod certificates;
#[cfg(test)]
mod cilium;
#[cfg(test)]
mod etcd;
#[cfg(test)]
mod etcd_rig;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod management;
#[cfg(test)]
mod mesh;
#[cfg(test)]
mod process;
#[cfg(test)]
mod remotes;
#[cfg(test)]
mod support;
