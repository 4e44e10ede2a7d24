//! Golden bytes of the small reports.

use super::{defects, log_page, luns, target_port_groups, task_functions};
use crate::scsi::alua::Paths;
use crate::scsi::cdb::{DefectForm, PortGroupFormat};

#[test]
fn there_is_one_unit() {
    assert_eq!(luns(0), [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(luns(2), luns(0));
    assert_eq!(luns(1), [0; 8]);
}

#[test]
fn there_is_one_active_port() {
    let group = [0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1];
    let data = target_port_groups(PortGroupFormat::LengthOnly, &Paths::default());
    assert_eq!(data[..4], [0, 0, 0, 12]);
    assert_eq!(data[4..], group);
    let data = target_port_groups(PortGroupFormat::Extended, &Paths::default());
    assert_eq!(data[..8], [0, 0, 0, 16, 0x10, 0, 0, 0]);
    assert_eq!(data[8..], group);
}

#[test]
fn task_functions_are_those_of_iscsi() {
    assert_eq!(task_functions(false), [0xDA, 0, 0, 0]);
    assert_eq!(task_functions(true).len(), 16);
}

#[test]
fn log_pages_have_exact_lengths() {
    for (page, subpage) in [(0x00, 0x00), (0x00, 0xFF), (0x2F, 0x00)] {
        let data = log_page(page, subpage).expect("a page we have");
        let length = usize::from(u16::from_be_bytes([data[2], data[3]]));
        assert_eq!(length, data.len() - 4);
    }
    assert!(log_page(0x0D, 0).is_err());
    assert!(log_page(0x2F, 1).is_err());
}

#[test]
fn defect_lists_are_empty() {
    assert_eq!(defects(DefectForm::Ten, 0x1D), [0, 0x1D, 0, 0]);
    assert_eq!(
        defects(DefectForm::Twelve, 0x08),
        [0, 0x08, 0, 0, 0, 0, 0, 0]
    );
}
