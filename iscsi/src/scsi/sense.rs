//! Sense data: what went wrong, and its two encodings (SPC-4 4.5).

use alloc::vec;
use alloc::vec::Vec;

/// Sense key (SPC-4 4.5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SenseKey {
    /// Nothing to say.
    NoSense = 0x0,
    /// The unit cannot be reached now.
    NotReady = 0x2,
    /// The data is lost.
    MediumError = 0x3,
    /// The device is broken.
    HardwareError = 0x4,
    /// The host asked wrongly.
    IllegalRequest = 0x5,
    /// Something changed since the host last looked.
    UnitAttention = 0x6,
    /// Writes are not possible.
    DataProtect = 0x7,
    /// Ended by the device; the host may try again.
    AbortedCommand = 0xB,
    /// Compared data differs.
    Miscompare = 0xE,
}

/// Additional sense code and its qualifier (SPC-4 annex F.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdditionalSense(pub u8, pub u8);

#[allow(missing_docs)] // The names are the standard's.
impl AdditionalSense {
    pub const NONE: Self = Self(0x00, 0x00);
    pub const NOT_READY_CAUSE_NOT_REPORTABLE: Self = Self(0x04, 0x00);
    pub const PORT_IN_STANDBY_STATE: Self = Self(0x04, 0x0B);
    pub const WRITE_ERROR: Self = Self(0x0C, 0x00);
    pub const UNEXPECTED_UNSOLICITED_DATA: Self = Self(0x0C, 0x0C);
    pub const NOT_ENOUGH_UNSOLICITED_DATA: Self = Self(0x0C, 0x0D);
    pub const INVALID_FIELD_IN_INFORMATION_UNIT: Self = Self(0x0E, 0x03);
    pub const UNRECOVERED_READ_ERROR: Self = Self(0x11, 0x00);
    pub const PARAMETER_LIST_LENGTH_ERROR: Self = Self(0x1A, 0x00);
    pub const MISCOMPARE_DURING_VERIFY: Self = Self(0x1D, 0x00);
    pub const INVALID_OPERATION_CODE: Self = Self(0x20, 0x00);
    pub const LBA_OUT_OF_RANGE: Self = Self(0x21, 0x00);
    pub const INVALID_FIELD_IN_CDB: Self = Self(0x24, 0x00);
    pub const UNIT_NOT_SUPPORTED: Self = Self(0x25, 0x00);
    pub const INVALID_FIELD_IN_PARAMETERS: Self = Self(0x26, 0x00);
    pub const INVALID_RELEASE: Self = Self(0x26, 0x04);
    pub const SOFTWARE_WRITE_PROTECTED: Self = Self(0x27, 0x02);
    pub const SPACE_ALLOCATION_FAILED: Self = Self(0x27, 0x07);
    pub const POWER_ON_OR_RESET: Self = Self(0x29, 0x00);
    pub const TARGET_RESET: Self = Self(0x29, 0x02);
    pub const UNIT_RESET: Self = Self(0x29, 0x03);
    pub const NEXUS_LOSS: Self = Self(0x29, 0x07);
    pub const MODE_PARAMETERS_CHANGED: Self = Self(0x2A, 0x01);
    pub const RESERVATIONS_PREEMPTED: Self = Self(0x2A, 0x03);
    pub const RESERVATIONS_RELEASED: Self = Self(0x2A, 0x04);
    pub const REGISTRATIONS_PREEMPTED: Self = Self(0x2A, 0x05);
    pub const ACCESS_STATE_CHANGED: Self = Self(0x2A, 0x06);
    pub const CAPACITY_CHANGED: Self = Self(0x2A, 0x09);
    pub const COMMANDS_CLEARED: Self = Self(0x2F, 0x00);
    pub const SAVING_NOT_SUPPORTED: Self = Self(0x39, 0x00);
    pub const INTERNAL_TARGET_FAILURE: Self = Self(0x44, 0x00);
    pub const PROTOCOL_SERVICE_CRC_ERROR: Self = Self(0x47, 0x05);
    pub const DATA_OFFSET_ERROR: Self = Self(0x4B, 0x05);
    pub const INSUFFICIENT_REGISTRATION_RESOURCES: Self = Self(0x55, 0x04);
}

/// Where a field pointer points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldSource {
    /// The CDB.
    Cdb,
    /// The parameter list.
    Parameters,
}

/// Which field was wrong (SPC-4 4.5.2.4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldPointer {
    /// CDB or parameter list.
    pub source: FieldSource,
    /// First byte of the field.
    pub byte: u16,
    /// Most significant bit of a field that is smaller than a byte.
    pub bit: Option<u8>,
}

/// Sense data, not yet encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense {
    /// Sense key.
    pub key: SenseKey,
    /// Additional sense code and qualifier.
    pub code: AdditionalSense,
    /// INFORMATION field.
    pub information: Option<u64>,
    /// Field pointer.
    pub field: Option<FieldPointer>,
}

/// Encoding of sense data, chosen by D_SENSE of the control mode page or by DESC of REQUEST SENSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SenseFormat {
    /// Response code 70h.
    Fixed,
    /// Response code 72h.
    Descriptor,
}

impl Sense {
    /// Sense with a key and a code only.
    pub const fn new(key: SenseKey, code: AdditionalSense) -> Self {
        Sense {
            key,
            code,
            information: None,
            field: None,
        }
    }

    /// ILLEGAL REQUEST with this code.
    pub const fn illegal(code: AdditionalSense) -> Self {
        Sense::new(SenseKey::IllegalRequest, code)
    }

    /// INVALID FIELD IN CDB at a whole byte.
    pub const fn cdb_byte(byte: u16) -> Self {
        let mut sense = Sense::illegal(AdditionalSense::INVALID_FIELD_IN_CDB);
        sense.field = Some(FieldPointer {
            source: FieldSource::Cdb,
            byte,
            bit: None,
        });
        sense
    }

    /// INVALID FIELD IN CDB at a field whose most significant bit is `bit`.
    pub const fn cdb_bit(byte: u16, bit: u8) -> Self {
        let mut sense = Sense::illegal(AdditionalSense::INVALID_FIELD_IN_CDB);
        sense.field = Some(FieldPointer {
            source: FieldSource::Cdb,
            byte,
            bit: Some(bit),
        });
        sense
    }

    /// INVALID FIELD IN PARAMETER LIST at a whole byte.
    pub const fn parameter_byte(byte: u16) -> Self {
        let mut sense = Sense::illegal(AdditionalSense::INVALID_FIELD_IN_PARAMETERS);
        sense.field = Some(FieldPointer {
            source: FieldSource::Parameters,
            byte,
            bit: None,
        });
        sense
    }

    /// The same sense with an INFORMATION field.
    pub const fn with_information(mut self, information: u64) -> Self {
        self.information = Some(information);
        self
    }

    /// Encodes; 18 bytes fixed, 8 to 28 bytes with descriptors.
    pub fn encode(&self, format: SenseFormat) -> Vec<u8> {
        match format {
            SenseFormat::Fixed => self.encode_fixed(),
            SenseFormat::Descriptor => self.encode_descriptors(),
        }
    }

    /// SPC-4 4.5.3.
    fn encode_fixed(&self) -> Vec<u8> {
        let mut bytes = vec![0; 18];
        bytes[0] = 0x70;
        bytes[2] = self.key as u8;
        // SPC-4 4.5.3: VALID is zero when the value does not fit four bytes.
        if let Some(Ok(information)) = self.information.map(u32::try_from) {
            bytes[0] |= 0x80;
            bytes[3..7].copy_from_slice(&information.to_be_bytes());
        }
        bytes[7] = 10;
        bytes[12] = self.code.0;
        bytes[13] = self.code.1;
        if let Some(field) = self.field {
            bytes[15..18].copy_from_slice(&field.encode());
        }
        bytes
    }

    /// SPC-4 4.5.2.
    fn encode_descriptors(&self) -> Vec<u8> {
        let mut bytes = vec![0x72, self.key as u8, self.code.0, self.code.1, 0, 0, 0, 0];
        if let Some(information) = self.information {
            bytes.extend([0x00, 0x0A, 0x80, 0x00]);
            bytes.extend(information.to_be_bytes());
        }
        if let Some(field) = self.field {
            bytes.extend([0x02, 0x06, 0x00, 0x00]);
            bytes.extend(field.encode());
            bytes.push(0);
        }
        bytes[7] = u8::try_from(bytes.len() - 8).expect("at most 20 bytes of descriptors");
        bytes
    }
}

impl FieldPointer {
    /// Sense key specific bytes: SKSV, C/D, BPV, bit pointer, field pointer.
    fn encode(self) -> [u8; 3] {
        let mut first = 0x80;
        if self.source == FieldSource::Cdb {
            first |= 0x40;
        }
        if let Some(bit) = self.bit {
            first |= 0x08 | (bit & 0x07);
        }
        let [high, low] = self.byte.to_be_bytes();
        [first, high, low]
    }
}
