//! Small reports: LUNs, target port groups, task management functions, defects, log pages.

#[cfg(test)]
mod tests;

use crate::scsi::alua::Paths;
use crate::scsi::cdb::{DefectForm, PortGroupFormat};
use crate::scsi::sense::Sense;
use alloc::vec;
use alloc::vec::Vec;

/// REPORT LUNS (SPC-4 6.33.2): LUN 0, and no well known units.
pub(crate) fn luns(select: u8) -> Vec<u8> {
    const WELL_KNOWN_ONLY: u8 = 0x01;
    match select {
        WELL_KNOWN_ONLY => vec![0; 8],
        _ => {
            let mut data = vec![0; 16];
            data[3] = 8;
            data
        }
    }
}

/// REPORT TARGET PORT GROUPS (SPC-4 6.37.2).
pub(crate) fn target_port_groups(format: PortGroupFormat, paths: &Paths) -> Vec<u8> {
    let mut data = vec![0; 4];
    if format == PortGroupFormat::Extended {
        data.extend([0x10, 0, 0, 0]);
    }
    data.extend(paths.descriptors());
    let bytes = u32::try_from(data.len() - 4).expect("a few bytes");
    data[..4].copy_from_slice(&bytes.to_be_bytes());
    data
}

/// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-4 6.36.2).
pub(crate) fn task_functions(extended: bool) -> Vec<u8> {
    // ATS, ATSS, CTSS, LURS, TRS: what RFC 7143 §11.5.1 names, without CLEAR ACA.
    const SUPPORTED: u8 = 0x80 | 0x40 | 0x10 | 0x08 | 0x02;
    let mut data = vec![SUPPORTED, 0, 0, 0];
    if extended {
        // No timeouts are indicated.
        data[3] = 12;
        data.extend([0; 12]);
    }
    data
}

/// READ DEFECT DATA (SBC-3 5.17.2, 5.18.2): the lists asked for, empty. A volume has no defects of
/// its own; those of disks are not the host's to see.
pub(crate) fn defects(form: DefectForm, lists: u8) -> Vec<u8> {
    match form {
        DefectForm::Ten => vec![0, lists, 0, 0],
        DefectForm::Twelve => vec![0, lists, 0, 0, 0, 0, 0, 0],
    }
}

/// LOG SENSE (SPC-4 7.3): the list of pages, and informational exceptions, of which there are none.
pub(crate) fn log_page(page: u8, subpage: u8) -> Result<Vec<u8>, Sense> {
    const EXCEPTIONS: u8 = 0x2F;
    match (page, subpage) {
        (0x00, 0x00) => Ok(vec![0, 0, 0, 2, 0x00, EXCEPTIONS]),
        // DS and SPF, then pairs of page and subpage.
        (0x00, 0xFF) => Ok(vec![0x40, 0xFF, 0, 6, 0, 0, 0, 0xFF, EXCEPTIONS, 0]),
        // Parameter 0000h: no sense code, temperature not known (SPC-4 7.3.8).
        (EXCEPTIONS, 0x00) => Ok(vec![EXCEPTIONS, 0, 0, 8, 0, 0, 0x03, 4, 0, 0, 0xFF, 0]),
        (0x00 | EXCEPTIONS, _) => Err(Sense::cdb_byte(3)),
        _ => Err(Sense::cdb_bit(2, 5)),
    }
}
