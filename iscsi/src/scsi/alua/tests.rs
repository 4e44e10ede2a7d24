//! Paths that can be, and those that cannot.

use super::{AccessState, Paths, PortGroup};
use crate::scsi::nexus::TargetPort;
use std::vec::Vec;

fn groups(ports: &[u16]) -> Vec<PortGroup> {
    let group = |port: &u16| PortGroup {
        port: TargetPort(*port),
        state: AccessState::Standby,
    };
    ports.iter().map(group).collect()
}

#[test]
fn ports_have_a_number_each_and_ours_is_among_them() {
    let own = TargetPort(5);
    let paths = Paths::new(own, groups(&[7, 5])).expect("two ports");
    assert_eq!((paths.own(), paths.state()), (own, AccessState::Standby));
    for ports in [&[][..], &[7], &[5, 5], &[5, 0]] {
        assert_eq!(Paths::new(own, groups(ports)), None, "{ports:?}");
    }
    assert_eq!(Paths::default().state(), AccessState::ActiveOptimized);
}
