//! How a volume is kept and reached: number of copies, durability, paths.

use std::fmt;
use std::str::FromStr;

/// Copies of a volume at most.
const COPIES_MAX: u8 = 3;

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Durable on every copy of the in-sync set.
    #[default]
    SyncAll,
    /// Durable on a majority of three copies.
    SyncQuorum,
    /// Durable on the primary only.
    BestEffort,
}

/// How hosts find the primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Paths {
    /// The other nodes send logins on to it.
    #[default]
    Redirect,
    /// All nodes take logins; hosts choose by multipath (ALUA).
    Multipath,
}

/// How a volume is kept and reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Wanted number of copies.
    pub rf: u8,
    /// When a write is acknowledged.
    pub durability: Durability,
    /// How hosts find the primary.
    pub paths: Paths,
}

/// Why a policy is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Too few or too many.
    #[error("a volume has 1 to {COPIES_MAX} copies, not {0}")]
    Copies(u8),
    /// A majority needs three.
    #[error("durability sync_quorum needs --rf 3: a majority of {0} copies is all of them")]
    Quorum(u8),
    /// With one copy there is nothing to be lax about.
    #[error("durability best_effort needs --rf 2 or 3: with one copy there is nobody to wait for")]
    Alone,
    /// Not one of the names.
    #[error("'{text}' is none of: {names}")]
    Name {
        /// What was given.
        text: String,
        /// What is known.
        names: &'static str,
    },
}

impl Default for Policy {
    /// One copy.
    fn default() -> Self {
        Policy {
            rf: 1,
            durability: Durability::default(),
            paths: Paths::default(),
        }
    }
}

impl Policy {
    /// Checks the parts against each other.
    pub fn check(self) -> Result<(), PolicyError> {
        match (self.rf, self.durability) {
            (rf, _) if !(1..=COPIES_MAX).contains(&rf) => Err(PolicyError::Copies(rf)),
            (rf, Durability::SyncQuorum) if rf != 3 => Err(PolicyError::Quorum(rf)),
            (1, Durability::BestEffort) => Err(PolicyError::Alone),
            _ => Ok(()),
        }
    }

    /// What the loss of one node may cost although it was acknowledged; empty: nothing.
    pub fn may_lose(self) -> &'static str {
        match self.durability {
            Durability::BestEffort => {
                "best_effort: the loss of the primary's node may lose writes that hosts were told \
                 are durable"
            }
            _ => "",
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "rf={}, durability={}, paths={}",
            self.rf, self.durability, self.paths
        )
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Durability::SyncAll => "sync_all",
            Durability::SyncQuorum => "sync_quorum",
            Durability::BestEffort => "best_effort",
        })
    }
}

impl FromStr for Durability {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let all = [
            Durability::SyncAll,
            Durability::SyncQuorum,
            Durability::BestEffort,
        ];
        named(text, &all, "sync_all, sync_quorum, best_effort")
    }
}

impl fmt::Display for Paths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Paths::Redirect => "redirect",
            Paths::Multipath => "multipath",
        })
    }
}

impl FromStr for Paths {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let all = [Paths::Redirect, Paths::Multipath];
        named(text, &all, "redirect, multipath")
    }
}

fn named<T: Copy + fmt::Display>(
    text: &str,
    all: &[T],
    names: &'static str,
) -> Result<T, PolicyError> {
    let found = all.iter().find(|one| one.to_string() == text);
    found.copied().ok_or_else(|| PolicyError::Name {
        text: text.chars().take(40).flat_map(char::escape_debug).collect(),
        names,
    })
}

#[cfg(test)]
mod tests;
