//! Golden bytes of mode pages, and what MODE SELECT may and may not change.

use super::{ModeState, page};
use crate::scsi::cdb::{BlockDescriptor, ModeForm, ModeSense, PageControl};
use crate::scsi::geometry::{Geometry, LogicalBlock};
use crate::scsi::sense::{AdditionalSense, SenseFormat};
use std::vec::Vec;

fn geometry() -> Geometry {
    Geometry::new(1 << 30, LogicalBlock::Bytes512)
}

fn ask(page: u8, control: PageControl) -> ModeSense {
    ModeSense {
        form: ModeForm::Six,
        descriptor: BlockDescriptor::Absent,
        control,
        page,
        subpage: 0,
        allocation: 255,
    }
}

fn sense(ask: ModeSense) -> Vec<u8> {
    ModeState::default()
        .sense(&ask, &geometry())
        .expect("a page we have")
}

#[test]
fn pages_are_as_documented() {
    assert_eq!(
        sense(ask(0x0A, PageControl::Current)),
        [15, 0, 0x10, 0, 0x0A, 10, 2, 0x10, 0, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(
        sense(ask(0x0A, PageControl::Changeable))[4..],
        [0x0A, 10, 4, 0, 8, 0, 0, 0, 0, 0, 0, 0]
    );
    let caching = sense(ask(0x08, PageControl::Current));
    assert_eq!(caching[4..7], [0x08, 18, 0]); // WCE is zero.
    assert_eq!(sense(ask(0x1C, PageControl::Default))[4..7], [0x1C, 10, 8]);
    let all = sense(ask(0x3F, PageControl::Current));
    assert_eq!(usize::from(all[0]), all.len() - 1);
    assert_eq!(all.len(), 4 + 12 + 20 + 12 + 12);
    assert_eq!(
        [all[4], all[16], all[36], all[48]],
        [0x01, 0x08, 0x0A, 0x1C]
    );
}

#[test]
fn block_descriptors_tell_size_and_block() {
    let short = sense(ModeSense {
        descriptor: BlockDescriptor::Short,
        ..ask(0x0A, PageControl::Current)
    });
    assert_eq!(short[3], 8);
    assert_eq!(short[4..12], [0, 0x20, 0, 0, 0, 0, 2, 0]);
    let long = sense(ModeSense {
        form: ModeForm::Ten,
        descriptor: BlockDescriptor::Long,
        ..ask(0x0A, PageControl::Current)
    });
    assert_eq!(long[..8], [0, 34, 0, 0x10, 1, 0, 0, 16]);
    assert_eq!(
        long[8..24],
        [0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0]
    );
    // More blocks than four bytes count.
    let large = Geometry::new(4 << 40, LogicalBlock::Bytes512);
    let data = ModeState::default().sense(
        &ModeSense {
            descriptor: BlockDescriptor::Short,
            ..ask(0x0A, PageControl::Current)
        },
        &large,
    );
    assert_eq!(data.expect("a page we have")[4..8], [0xFF; 4]);
}

#[test]
fn unknown_pages_are_refused() {
    let state = ModeState::default();
    for page in (0..0x3F).filter(|page| !super::PAGES.contains(page)) {
        assert!(
            state
                .sense(&ask(page, PageControl::Current), &geometry())
                .is_err()
        );
    }
    for subpage in 1..0xFF {
        let ask = ModeSense {
            subpage,
            ..ask(0x0A, PageControl::Current)
        };
        assert!(state.sense(&ask, &geometry()).is_err());
    }
}

/// Header of four bytes and a control page with these bytes.
fn control(byte2: u8, byte3: u8, byte4: u8) -> Vec<u8> {
    let mut list = std::vec![0; 16];
    list[4..9].copy_from_slice(&[0x0A, 10, byte2, byte3, byte4]);
    list
}

#[test]
fn select_changes_the_two_bits_and_nothing_else() {
    let select = |list: &[u8]| ModeState::default().select(ModeForm::Six, list, &geometry());
    let changed = ModeState {
        sense_format: SenseFormat::Descriptor,
        write_protected: true,
    };
    assert_eq!(select(&control(0x06, 0x10, 0x08)), Ok(changed));
    assert_eq!(select(&[]), Ok(ModeState::default()));
    assert_eq!(select(&[0, 0, 0, 0]), Ok(ModeState::default()));
    let refusal = |list: &[u8]| {
        let sense = select(list).expect_err("refused");
        (sense.code, sense.field.map(|field| field.byte))
    };
    let parameter = AdditionalSense::INVALID_FIELD_IN_PARAMETERS;
    let length = AdditionalSense::PARAMETER_LIST_LENGTH_ERROR;
    assert_eq!(refusal(&control(0x02, 0x11, 0)), (parameter, Some(7)));
    assert_eq!(refusal(&control(0x02, 0x10, 0)[..15]), (length, None));
    assert_eq!(refusal(&[0, 0, 0]), (length, None));
    assert_eq!(refusal(&[0, 1, 0, 0]), (parameter, Some(1)));
    assert_eq!(refusal(&[0, 0, 0, 4]), (parameter, Some(3)));
    assert_eq!(refusal(&[0, 0, 0, 8]), (length, None));
    assert_eq!(refusal(&[0, 0, 0, 0, 0x19, 10]), (parameter, Some(4)));
    // Switching the write cache on is refused.
    let mut caching = std::vec![0; 4];
    caching.extend(page(0x08, ModeState::default()));
    assert!(select(&caching).is_ok());
    caching[6] = 0x04;
    assert_eq!(refusal(&caching), (parameter, Some(6)));
    // A disk of another size.
    assert!(select(&[0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 2, 0]).is_ok());
    assert!(select(&[0, 0, 0, 8, 0, 0x20, 0, 0, 0, 0, 2, 0]).is_ok());
    assert_eq!(
        refusal(&[0, 0, 0, 8, 0, 0x20, 0, 1, 0, 0, 2, 0]),
        (parameter, Some(4))
    );
    assert_eq!(
        refusal(&[0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 16, 0]),
        (parameter, Some(9))
    );
}

#[test]
fn what_sense_tells_select_takes() {
    for form in [ModeForm::Six, ModeForm::Ten] {
        for descriptor in [
            BlockDescriptor::Absent,
            BlockDescriptor::Short,
            BlockDescriptor::Long,
        ] {
            if form == ModeForm::Six && descriptor == BlockDescriptor::Long {
                continue;
            }
            let list = sense(ModeSense {
                form,
                descriptor,
                ..ask(0x3F, PageControl::Current)
            });
            let state = ModeState::default();
            assert_eq!(state.select(form, &list, &geometry()), Ok(state));
        }
    }
}
