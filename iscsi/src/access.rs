//! Who may log in, and with which proof.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use holdfast_core::link;

/// Shortest CHAP secret in bytes: RFC 7143 §12.1.3 asks for 96 bits.
const SECRET_BYTES_MIN: usize = 12;
/// Longest CHAP secret in bytes.
const SECRET_BYTES_MAX: usize = 255;

/// A shared CHAP secret. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// The bytes, for hashing only.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A CHAP name and its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// CHAP_N.
    pub user: String,
    /// What the response is computed with.
    pub secret: Secret,
}

/// Why credentials are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// Length of a secret.
    #[error("a CHAP secret has 12 to 255 bytes")]
    SecretLength,
    /// A secret without user, or the other way round.
    #[error("a CHAP user and a CHAP secret go together")]
    Incomplete,
    /// Mutual without one-way.
    #[error("mutual CHAP needs one-way CHAP")]
    MutualAlone,
    /// The same secret for both directions.
    #[error("the two CHAP secrets must differ")]
    SecretsEqual,
    /// A user name that does not fit a text value.
    #[error("a CHAP user has at most 255 bytes, without NUL")]
    UserName,
}

/// Who may log in to a target (or to discovery) and with which proof.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    initiators: Vec<String>,
    chap: Option<Credentials>,
    mutual: Option<Credentials>,
}

impl Access {
    /// Access for the named initiators (none named: all) with these proofs.
    pub fn new(
        initiators: Vec<String>,
        chap: Option<Credentials>,
        mutual: Option<Credentials>,
    ) -> Result<Self, AccessError> {
        match (&chap, &mutual) {
            (None, Some(_)) => return Err(AccessError::MutualAlone),
            // RFC 7143 §9.2.1: the same secret in both directions would let a host answer itself.
            (Some(one), Some(other)) if one.secret == other.secret => {
                return Err(AccessError::SecretsEqual);
            }
            _ => {}
        }
        Ok(Access {
            initiators: initiators.iter().map(|name| name.to_lowercase()).collect(),
            chap,
            mutual,
        })
    }

    /// Whether this initiator name is on the list.
    pub fn admits(&self, initiator_name: &str) -> bool {
        self.initiators.is_empty() || self.initiators.iter().any(|name| name == initiator_name)
    }

    /// What hosts must prove, if anything.
    pub fn chap(&self) -> Option<&Credentials> {
        self.chap.as_ref()
    }

    /// What the target proves when asked.
    pub fn mutual(&self) -> Option<&Credentials> {
        self.mutual.as_ref()
    }
}

impl Credentials {
    /// Checks lengths.
    pub fn new(user: &str, secret: &[u8]) -> Result<Self, AccessError> {
        if user.is_empty() || secret.is_empty() {
            return Err(AccessError::Incomplete);
        }
        if user.len() > crate::limits::VALUE_BYTES_MAX || user.contains('\0') {
            return Err(AccessError::UserName);
        }
        if !(SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&secret.len()) {
            return Err(AccessError::SecretLength);
        }
        Ok(Credentials {
            user: user.into(),
            secret: Secret(secret.into()),
        })
    }

    fn optional(user: &str, secret: &[u8]) -> Result<Option<Self>, AccessError> {
        if user.is_empty() && secret.is_empty() {
            return Ok(None);
        }
        Credentials::new(user, secret).map(Some)
    }
}

impl TryFrom<&link::Access> for Access {
    type Error = AccessError;

    fn try_from(access: &link::Access) -> Result<Self, AccessError> {
        Access::new(
            access.initiators.clone(),
            Credentials::optional(&access.chap_user, &access.chap_secret)?,
            Credentials::optional(&access.mutual_user, &access.mutual_secret)?,
        )
    }
}
