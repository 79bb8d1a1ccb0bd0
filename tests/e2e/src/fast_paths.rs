//! The ways in which the mesh makes connections faster, how each is switched off, and the proof that it was.
//!
//! What holds with all of them must hold without each: the slower way is the one that other programs get, and the one that is left where a kernel
//! or a setting forbids the fast one.

use anyhow::{Context as _, Result, ensure};

use crate::rig::{Rig, sum_of};

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FastPath {
    /// Connections between two of our own proxies have a transport of their own instead of HBONE.
    Lanes,
    /// Bytes go from socket to socket in the kernel.
    Sockmap,
    /// Pods of one node reach each other without a proxy between them.
    SameNode,
    /// What stays on the node does not send by the clock, where the system's default does (BBR), nor do lanes to near nodes.
    Unpaced,
}

/// What a node's proxy says about the ways that connections from there took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Uses {
    /// It has opened a lane.
    pub lanes: bool,
    /// It has opened an HBONE tunnel.
    pub hbone: bool,
    /// Some bytes went from socket to socket.
    pub sockmap: bool,
    /// Some connection inside the node was not paced, on a system that paces.
    pub unpaced: bool,
    /// Some lane began without pacing, on a system that paces.
    pub unpaced_lanes: bool,
    /// It was the server's end as well.
    pub tls_on_one_node: bool,
}

impl FastPath {
    const ALL: [FastPath; 4] = [
        FastPath::Lanes,
        FastPath::Sockmap,
        FastPath::SameNode,
        FastPath::Unpaced,
    ];

    /// Which of them this whole run does without (`TULLE_WITHOUT`, set by `cargo xtask test --without`).
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn left_out() -> Result<Option<FastPath>> {
        let Some(name) = std::env::var_os("TULLE_WITHOUT") else {
            return Ok(None);
        };
        let found = FastPath::ALL.into_iter().find(|f| name == f.name());
        let names = FastPath::ALL.map(FastPath::name).join("`, `");
        let name = name.display();
        let problem = || format!("TULLE_WITHOUT is `{name}`, expected one of `{names}`");
        Ok(Some(found.with_context(problem)?))
    }

    fn name(self) -> &'static str {
        match self {
            FastPath::Lanes => "lanes",
            FastPath::Sockmap => "sockmap",
            FastPath::SameNode => "same-node",
            FastPath::Unpaced => "unpaced",
        }
    }

    /// The node proxy's arguments that switch it off.
    pub fn off(self) -> &'static [&'static str] {
        match self {
            FastPath::Lanes => &["--lanes", "off"],
            FastPath::Sockmap => &["--sockmap", "off"],
            FastPath::SameNode => &["--same-node", "mtls"],
            FastPath::Unpaced => &["--pacing", "system"],
        }
    }

    /// Holds a promise in a lab of its own, in which this way is switched off; then asks the proxy of the node `clients` whether it was.
    ///
    /// # Errors
    /// When the promise is broken, or connections took this way nevertheless.
    pub fn without(
        self,
        rig: &str,
        clients: &str,
        promise: impl FnOnce(&Rig) -> Result<()>,
    ) -> Result<()> {
        let rig = Rig::up_with(rig, &[], self.off())?;
        promise(&rig)?;
        self.was_off(&Uses::of(&rig, clients)?)
    }

    /// Holds against it what was used.
    ///
    /// # Errors
    /// When connections took it nevertheless, or not the way that is left.
    pub fn was_off(self, uses: &Uses) -> Result<()> {
        let is_off = match self {
            FastPath::Lanes => !uses.lanes && uses.hbone,
            FastPath::Sockmap => !uses.sockmap,
            FastPath::SameNode => uses.tls_on_one_node,
            FastPath::Unpaced => !uses.unpaced && !uses.unpaced_lanes,
        };
        ensure!(is_off, "{self:?} was switched off, and {uses:?}");
        Ok(())
    }
}

impl Uses {
    /// Asks the proxy of the node where the clients are. Nobody else may connect to pods of that node.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn of(rig: &Rig, node: &str) -> Result<Uses> {
        let metrics = rig.metrics(node)?;
        let sum = |name: &str, labels: &[&str]| sum_of(&metrics, name, labels);
        let tunnels = |transport: &str| sum("tulle_tunnels", &["side=\"Client\"", transport]);
        let redirected = ["program=\"sk_msg\"", "reason=\"redirected\""];
        let unpaced = ["program=\"sockops\"", "reason=\"unpaced\""];
        let from_peers = ["direction=\"Inbound\"", "security=\"MutualTls\""];
        Ok(Uses {
            lanes: tunnels("transport=\"Lane\"") > 0,
            hbone: tunnels("transport=\"Hbone\"") > 0,
            sockmap: sum("tulle_kernel_exits_total", &redirected) > 0,
            unpaced: sum("tulle_kernel_exits_total", &unpaced) > 0,
            unpaced_lanes: sum("tulle_lane_pacing_total", &["decision=\"Unpaced\""]) > 0,
            tls_on_one_node: sum("tulle_connections_opened_total", &from_peers) > 0,
        })
    }
}
