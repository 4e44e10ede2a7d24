//! How hosts reach a volume that has copies on several nodes.
//!
//! Every node with a copy answers for the target, each with a port of its own. One of them serves: with
//! multipath in the host the others report standby, without it they send logins on.

use holdfast_core::id::StoreId;
use holdfast_core::link::{Assignment, Paths as How, Role};
use holdfast_iscsi::scsi::alua::{AccessState, Paths, PortGroup};
use holdfast_iscsi::scsi::nexus::TargetPort;
use holdfast_iscsi::target::{Entrance, TargetAddress};

/// The way to a volume, as assigned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    how: How,
    own: TargetPort,
    hops: Vec<Hop>,
}

/// A node with a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hop {
    port: TargetPort,
    portals: Vec<String>,
    primary: bool,
}

/// Whether hosts are served here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Here {
    /// The reign is this copy's, and it has begun to serve.
    Serving,
    /// The reign is this copy's, and it does not serve yet; or it is not any more.
    NotServing,
}

impl Route {
    /// The route of a volume with several copies; `None` for one that is alone, or when the assignment
    /// does not name this copy.
    pub(super) fn of(assignment: &Assignment) -> Option<Route> {
        if assignment.role() == Role::Alone {
            return None;
        }
        let stores = assignment.members.iter();
        let stores = stores.map(|member| StoreId::try_from(member.store_id.as_slice()).ok());
        let stores: Vec<StoreId> = stores.collect::<Option<_>>()?;
        let own = StoreId::try_from(assignment.store_id.as_slice()).ok()?;
        let ports = ports(&stores);
        let own = ports[stores.iter().position(|store| *store == own)?];
        let members = assignment.members.iter().zip(ports);
        let hops = members.map(|(member, port)| Hop {
            port,
            portals: member.portals.clone(),
            primary: member.primary,
        });
        Some(Route {
            how: assignment.paths(),
            own,
            hops: hops.collect(),
        })
    }

    /// All addresses of the target.
    pub(super) fn addresses(&self) -> Vec<TargetAddress> {
        let hops = self.hops.iter();
        let addresses = hops.flat_map(|hop| {
            hop.portals.iter().map(|address| TargetAddress {
                address: address.clone(),
                group: hop.port,
            })
        });
        addresses.collect()
    }

    /// The states of all ports. Another node's is what was assigned; ours is what is.
    pub(super) fn paths(&self, here: Here) -> Paths {
        let state = |hop: &Hop| {
            let active = if hop.port == self.own {
                here == Here::Serving
            } else {
                hop.primary && here == Here::NotServing
            };
            if active {
                AccessState::ActiveOptimized
            } else {
                AccessState::Standby
            }
        };
        let groups = self.hops.iter().map(|hop| PortGroup {
            port: hop.port,
            state: state(hop),
        });
        Paths::new(self.own, groups.collect()).expect("each copy has a port, ours too")
    }

    /// What becomes of a login.
    pub(super) fn entrance(&self, here: Here) -> Entrance {
        if self.how == How::Multipath || here == Here::Serving {
            return Entrance::Open;
        }
        let primary = self.hops.iter().find(|hop| hop.primary);
        match primary.and_then(|hop| Some((hop.port, hop.portals.first()?))) {
            Some((port, address)) if port != self.own => Entrance::Elsewhere(address.clone()),
            // It comes here, or nobody knows where it goes.
            _ => Entrance::Closed,
        }
    }

    /// Whether sessions must end when this copy stops serving: the host knows no other path, so its
    /// commands wait in it for the next login, which is sent on.
    pub(super) fn ends_sessions(&self) -> bool {
        self.how == How::Redirect
    }
}

/// A port number for each store, the same on every node and in every reign: 16 bits of the store's
/// random identity. Should two agree, the later store takes the next free one.
fn ports(stores: &[StoreId]) -> Vec<TargetPort> {
    let mut order: Vec<&StoreId> = stores.iter().collect();
    order.sort_unstable();
    let mut taken: Vec<(StoreId, u16)> = Vec::new();
    for store in order {
        let mut number = u16::from_be_bytes([store.0[0], store.0[1]]);
        while number == 0 || taken.iter().any(|(_, taken)| *taken == number) {
            number = number.wrapping_add(1);
        }
        taken.push((*store, number));
    }
    let number = |store: &StoreId| {
        let found = taken.iter().find(|(taken, _)| taken == store);
        TargetPort(found.expect("each store was given one").1)
    };
    stores.iter().map(number).collect()
}

#[cfg(test)]
mod tests;
