//! Mode parameters: what hosts may read and the two bits they may change (SPC-4 7.5, SBC-3 6.5).
//!
//! Shared by all nexuses, never saved: a reset brings back the defaults.

#[cfg(test)]
mod tests;

use crate::scsi::cdb::{BlockDescriptor, ModeForm, ModeSense, PageControl};
use crate::scsi::geometry::Geometry;
use crate::scsi::sense::{AdditionalSense, Sense, SenseFormat};
use alloc::vec;
use alloc::vec::Vec;

/// The changeable parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ModeState {
    /// D_SENSE of the control mode page.
    pub(crate) sense_format: SenseFormat,
    /// SWP of the control mode page.
    pub(crate) write_protected: bool,
}

impl Default for ModeState {
    fn default() -> Self {
        ModeState {
            sense_format: SenseFormat::Fixed,
            write_protected: false,
        }
    }
}

const RECOVERY: u8 = 0x01;
const CACHING: u8 = 0x08;
const CONTROL: u8 = 0x0A;
const EXCEPTIONS: u8 = 0x1C;
const ALL_PAGES: u8 = 0x3F;
const ALL_SUBPAGES: u8 = 0xFF;

/// Pages there are, in the order in which 3Fh gives them.
const PAGES: [u8; 4] = [RECOVERY, CACHING, CONTROL, EXCEPTIONS];

const D_SENSE: u8 = 0x04;
const SWP: u8 = 0x08;

/// One page, header included.
fn page(code: u8, values: ModeState) -> Vec<u8> {
    match code {
        // SBC-3 6.5.8: nothing is reallocated or retried on the host's behalf.
        RECOVERY => vec![code, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        // SBC-3 6.5.6: WCE zero, GOOD means durable.
        CACHING => {
            let mut page = vec![0; 20];
            page[..2].copy_from_slice(&[code, 18]);
            page
        }
        // SPC-4 7.5.10: GLTSD; queue algorithm modifier 1 (commands run and end in any order).
        CONTROL => {
            let mut page = vec![code, 10, 0x02, 0x10, 0, 0, 0, 0, 0, 0, 0, 0];
            if values.sense_format == SenseFormat::Descriptor {
                page[2] |= D_SENSE;
            }
            if values.write_protected {
                page[4] |= SWP;
            }
            page
        }
        // SPC-4 7.5.13: DEXCPT, no exceptions are reported this way.
        EXCEPTIONS => vec![code, 10, 0x08, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        _ => unreachable!("callers take codes from PAGES"),
    }
}

/// The bits of a page that MODE SELECT may change; header as in the page.
fn changeable(code: u8) -> Vec<u8> {
    let mut page = page(code, ModeState::default());
    page[2..].fill(0);
    if code == CONTROL {
        page[2] = D_SENSE;
        page[4] = SWP;
    }
    page
}

impl ModeState {
    /// Answers MODE SENSE, whole; the caller cuts it to the allocation length.
    pub(crate) fn sense(&self, ask: &ModeSense, geometry: &Geometry) -> Result<Vec<u8>, Sense> {
        // SPC-4 table 178: subpages exist in no page, FFh asks for those there are.
        if !matches!(ask.subpage, 0 | ALL_SUBPAGES) {
            return Err(Sense::cdb_byte(3));
        }
        let codes: Vec<u8> = match ask.page {
            ALL_PAGES => PAGES.to_vec(),
            code if PAGES.contains(&code) => vec![code],
            _ => return Err(Sense::cdb_bit(2, 5)),
        };
        let pages: Vec<u8> = codes
            .into_iter()
            .flat_map(|code| match ask.control {
                PageControl::Current => page(code, *self),
                PageControl::Changeable => changeable(code),
                PageControl::Default => page(code, ModeState::default()),
            })
            .collect();
        let descriptor = block_descriptor(ask.descriptor, geometry);
        let mut data = self.header(ask, descriptor.len(), pages.len());
        data.extend(descriptor);
        data.extend(pages);
        Ok(data)
    }

    /// SPC-4 7.5.5. DEVICE-SPECIFIC PARAMETER: WP and DPOFUA (SBC-3 6.5.2).
    fn header(&self, ask: &ModeSense, descriptor_bytes: usize, page_bytes: usize) -> Vec<u8> {
        let device = 0x10 | (u8::from(self.write_protected) << 7);
        let descriptor_length = u8::try_from(descriptor_bytes).expect("0, 8 or 16");
        match ask.form {
            ModeForm::Six => {
                let bytes = 3 + descriptor_bytes + page_bytes;
                let bytes = u8::try_from(bytes).expect("all pages take less than 256 bytes");
                vec![bytes, 0, device, descriptor_length]
            }
            ModeForm::Ten => {
                let bytes = 6 + descriptor_bytes + page_bytes;
                let bytes = u16::try_from(bytes).expect("all pages take less than 256 bytes");
                let long = u8::from(ask.descriptor == BlockDescriptor::Long);
                let [high, low] = bytes.to_be_bytes();
                vec![high, low, 0, device, long, 0, 0, descriptor_length]
            }
        }
    }

    /// The state that a MODE SELECT list asks for. Nothing changes unless all of it is right.
    pub(crate) fn select(
        &self,
        form: ModeForm,
        list: &[u8],
        geometry: &Geometry,
    ) -> Result<ModeState, Sense> {
        let mut next = *self;
        if list.is_empty() {
            return Ok(next);
        }
        let mut at = skip_header(form, list, geometry)?;
        // Each page takes twelve bytes at least, so the list bounds the loop.
        while at < list.len() {
            at = next.select_page(list, at)?;
        }
        Ok(next)
    }

    /// Takes the page at `at`; gives where the next one begins.
    fn select_page(&mut self, list: &[u8], at: usize) -> Result<usize, Sense> {
        let given = &list[at..];
        // SPC-4 7.5.7: PS is reserved here; SPF would announce a subpage.
        let code = given[0] & 0x3F;
        if given[0] & 0x40 != 0 || !PAGES.contains(&code) {
            return Err(Sense::parameter_byte(pointer(at)));
        }
        let current = page(code, *self);
        let mask = changeable(code);
        if given.len() < current.len() {
            return Err(LIST_LENGTH);
        }
        if given[1] != current[1] {
            return Err(Sense::parameter_byte(pointer(at + 1)));
        }
        for index in 2..current.len() {
            // SPC-4 6.11: a change of what cannot be changed.
            if (given[index] ^ current[index]) & !mask[index] != 0 {
                return Err(Sense::parameter_byte(pointer(at + index)));
            }
        }
        if code == CONTROL {
            self.sense_format = match given[2] & D_SENSE {
                0 => SenseFormat::Fixed,
                _ => SenseFormat::Descriptor,
            };
            self.write_protected = given[4] & SWP != 0;
        }
        Ok(at + current.len())
    }
}

const LIST_LENGTH: Sense = Sense::illegal(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);

fn pointer(at: usize) -> u16 {
    u16::try_from(at).unwrap_or(u16::MAX)
}

/// Checks header and block descriptor; gives where the pages begin.
fn skip_header(form: ModeForm, list: &[u8], geometry: &Geometry) -> Result<usize, Sense> {
    let header_bytes = match form {
        ModeForm::Six => 4,
        ModeForm::Ten => 8,
    };
    if list.len() < header_bytes {
        return Err(LIST_LENGTH);
    }
    // SPC-4 7.5.5: the length of the data is reserved here; other medium types do not exist.
    let (medium_at, length, long) = match form {
        ModeForm::Six => (1, usize::from(list[3]), false),
        ModeForm::Ten => {
            let length = usize::from(u16::from_be_bytes([list[6], list[7]]));
            (2, length, list[4] & 0x01 != 0)
        }
    };
    if list[medium_at] != 0 {
        return Err(Sense::parameter_byte(pointer(medium_at)));
    }
    let descriptor_bytes = if long { 16 } else { 8 };
    if length == 0 {
        return Ok(header_bytes);
    }
    if length != descriptor_bytes {
        return Err(Sense::parameter_byte(pointer(header_bytes - 1)));
    }
    let end = header_bytes + descriptor_bytes;
    let descriptor = list.get(header_bytes..end).ok_or(LIST_LENGTH)?;
    check_descriptor(descriptor, header_bytes, geometry)?;
    Ok(end)
}

/// SBC-3 6.5.2: the disk keeps its size, zero and all ones ask for that too.
fn check_descriptor(given: &[u8], at: usize, geometry: &Geometry) -> Result<(), Sense> {
    let current = match given.len() {
        16 => block_descriptor(BlockDescriptor::Long, geometry),
        _ => block_descriptor(BlockDescriptor::Short, geometry),
    };
    let count_bytes = given.len() / 2;
    let count = &given[..if given.len() == 16 { 8 } else { 4 }];
    let keeps = count.iter().all(|b| *b == 0)
        || count.iter().all(|b| *b == 0xFF)
        || *count == current[..count.len()];
    if !keeps {
        return Err(Sense::parameter_byte(pointer(at)));
    }
    // The length of a block is the last three or four bytes.
    let length_at = if given.len() == 16 {
        12
    } else {
        count_bytes + 1
    };
    if given[length_at..] != current[length_at..] {
        return Err(Sense::parameter_byte(pointer(at + length_at)));
    }
    Ok(())
}

fn block_descriptor(form: BlockDescriptor, geometry: &Geometry) -> Vec<u8> {
    let block_bytes = geometry.block().bytes().to_be_bytes();
    match form {
        BlockDescriptor::Absent => Vec::new(),
        BlockDescriptor::Short => {
            // SBC-3 6.5.2.2: all ones when the number does not fit.
            let blocks = u32::try_from(geometry.blocks()).unwrap_or(u32::MAX);
            let mut data = blocks.to_be_bytes().to_vec();
            data.extend(block_bytes);
            data
        }
        BlockDescriptor::Long => {
            let mut data = geometry.blocks().to_be_bytes().to_vec();
            data.extend([0; 4]);
            data.extend(block_bytes);
            data
        }
    }
}
