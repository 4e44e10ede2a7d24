//! A store as its shard drives it: opening, performing the machine's effects, feeding back events.

pub(crate) mod driver;
pub(crate) mod gather;
mod heal;
pub(crate) mod open;
pub(crate) mod payload;
pub(crate) mod peers;
pub(crate) mod slab;
#[cfg(test)]
mod tests;
