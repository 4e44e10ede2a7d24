//! The few SCSI commands the lanes need, as CDBs, and fixed or descriptor sense read back.
//! Source: SBC-4, SPC-5.

/// Bytes of a logical block of the volumes under test (512e).
pub(crate) const SECTOR_BYTES: usize = 512;

/// GOOD.
pub(crate) const STATUS_GOOD: u8 = 0x00;

/// Which way the data of a command goes.
#[derive(Clone, Debug)]
pub(crate) enum Transfer {
    /// No data.
    None,
    /// At most this many bytes from the target.
    In(usize),
    /// These bytes to the target.
    Out(Vec<u8>),
}

/// A command ready to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    pub(crate) cdb: [u8; 16],
    pub(crate) transfer: Transfer,
}

/// A run of logical blocks of 512 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sectors {
    pub(crate) first: u64,
    pub(crate) count: u32,
}

impl Sectors {
    /// Bytes of the run.
    pub(crate) fn byte_count(self) -> usize {
        usize::try_from(self.count).expect("32 bits fit") * SECTOR_BYTES
    }
}

/// TEST UNIT READY.
pub(crate) fn test_unit_ready() -> Command {
    Command {
        cdb: [0; 16],
        transfer: Transfer::None,
    }
}

/// PERSISTENT RESERVE OUT, REGISTER with APTPL: the key is kept across restarts of the target.
pub(crate) fn register(key: [u8; 8]) -> Command {
    const PARAMETER_BYTES: u8 = 24;
    let mut cdb = [0; 16];
    cdb[0] = 0x5f;
    cdb[8] = PARAMETER_BYTES;
    let mut parameters = vec![0; usize::from(PARAMETER_BYTES)];
    parameters[8..16].copy_from_slice(&key);
    parameters[20] = 1;
    Command {
        cdb,
        transfer: Transfer::Out(parameters),
    }
}

/// READ CAPACITY (16): the last LBA is in the first eight bytes of the data.
pub(crate) fn read_capacity() -> Command {
    let mut cdb = [0; 16];
    cdb[0] = 0x9e;
    cdb[1] = 0x10;
    cdb[10..14].copy_from_slice(&32u32.to_be_bytes());
    Command {
        cdb,
        transfer: Transfer::In(32),
    }
}

/// READ (16).
pub(crate) fn read(sectors: Sectors) -> Command {
    Command {
        cdb: long_cdb(0x88, 0, sectors),
        transfer: Transfer::In(sectors.byte_count()),
    }
}

/// WRITE (16).
pub(crate) fn write(sectors: Sectors, data: Vec<u8>) -> Command {
    assert_eq!(data.len(), sectors.byte_count());
    Command {
        cdb: long_cdb(0x8a, 0, sectors),
        transfer: Transfer::Out(data),
    }
}

/// WRITE SAME (16) of one sector over the run.
pub(crate) fn write_same(sectors: Sectors, sector: Vec<u8>) -> Command {
    assert_eq!(sector.len(), SECTOR_BYTES);
    Command {
        cdb: long_cdb(0x93, 0, sectors),
        transfer: Transfer::Out(sector),
    }
}

/// WRITE SAME (16) with UNMAP and NDOB: the run reads as zeros and its space may be returned.
pub(crate) fn write_same_unmap(sectors: Sectors) -> Command {
    Command {
        cdb: long_cdb(0x93, 0x08 | 0x01, sectors),
        transfer: Transfer::None,
    }
}

/// UNMAP of one run.
pub(crate) fn unmap(sectors: Sectors) -> Command {
    let mut list = vec![0; 24];
    list[1] = 22;
    list[3] = 16;
    list[8..16].copy_from_slice(&sectors.first.to_be_bytes());
    list[16..20].copy_from_slice(&sectors.count.to_be_bytes());
    let mut cdb = [0; 16];
    cdb[0] = 0x42;
    cdb[8] = 24;
    Command {
        cdb,
        transfer: Transfer::Out(list),
    }
}

fn long_cdb(operation: u8, flags: u8, sectors: Sectors) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = operation;
    cdb[1] = flags;
    cdb[2..10].copy_from_slice(&sectors.first.to_be_bytes());
    cdb[10..14].copy_from_slice(&sectors.count.to_be_bytes());
    cdb
}

/// Sense key, additional sense code, qualifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sense {
    pub(crate) key: u8,
    pub(crate) code: u8,
    pub(crate) qualifier: u8,
}

impl Sense {
    /// Unrecovered read error.
    pub(crate) const MEDIUM_ERROR: Self = Self {
        key: 0x03,
        code: 0x11,
        qualifier: 0x00,
    };
    /// Space allocation failed, write protect.
    pub(crate) const SPACE_EXHAUSTED: Self = Self {
        key: 0x07,
        code: 0x27,
        qualifier: 0x07,
    };

    /// Reads either format; `None` when there is no sense.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        match bytes.first()? & 0x7f {
            0x70 | 0x71 => Some(Self {
                key: bytes.get(2)? & 0x0f,
                code: *bytes.get(12)?,
                qualifier: *bytes.get(13)?,
            }),
            0x72 | 0x73 => Some(Self {
                key: bytes.get(1)? & 0x0f,
                code: *bytes.get(2)?,
                qualifier: *bytes.get(3)?,
            }),
            _ => None,
        }
    }
}

impl std::fmt::Display for Sense {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:02x}/{:02x}/{:02x}",
            self.key, self.code, self.qualifier
        )
    }
}
