//! Who may log in to a volume, and with which proof.

use crate::limits::{
    CHAP_USER_BYTES_MAX, INITIATORS_MAX, ISCSI_NAME_BYTES_MAX, SECRET_BYTES_MAX, SECRET_BYTES_MIN,
};
use std::fmt;

/// A CHAP secret. It has no `Debug` and no `Display`: it cannot be printed or logged by accident.
#[derive(Clone, PartialEq, Eq)]
#[allow(missing_debug_implementations)]
pub struct Secret(Vec<u8>);

/// A name and the secret that proves it.
#[derive(Clone, PartialEq, Eq)]
pub struct Chap {
    /// The name, 1 to 255 bytes.
    pub user: String,
    /// Its secret.
    pub secret: Secret,
}

/// Who may log in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    initiators: Vec<String>,
    chap: Option<Chap>,
    mutual: Option<Chap>,
}

/// Why an access rule is refused. Never contains a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// Too short or too long.
    #[error(
        "a CHAP secret of {0} bytes is refused: {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes are \
         allowed"
    )]
    SecretLength(usize),
    /// One-way and mutual secret are equal, so a reflected proof would pass (RFC 7143 §9.2.1).
    #[error("the mutual CHAP secret must differ from the one-way secret")]
    SameSecret,
    /// Mutual without one-way.
    #[error("mutual CHAP needs one-way CHAP: give --chap-user and --chap-secret-file too")]
    MutualAlone,
    /// Empty, too long, or with control characters.
    #[error("a CHAP user name must have 1 to {CHAP_USER_BYTES_MAX} printable characters")]
    User,
    /// Not an iSCSI name.
    #[error(
        "'{0}' is not an initiator name: names begin with 'iqn.', 'eui.' or 'naa.', are lower case, \
         without spaces, at most {ISCSI_NAME_BYTES_MAX} bytes"
    )]
    Initiator(String),
    /// Too many.
    #[error("at most {INITIATORS_MAX} initiator names")]
    TooManyInitiators,
}

impl Secret {
    /// Takes a secret of a legal length.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Secret, AccessError> {
        if (SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&bytes.len()) {
            Ok(Secret(bytes))
        } else {
            Err(AccessError::SecretLength(bytes.len()))
        }
    }

    /// The bytes, for the one who must send or store them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Chap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chap({:?})", self.user)
    }
}

impl Chap {
    /// Checks the name.
    pub fn from_parts(user: String, secret: Secret) -> Result<Chap, AccessError> {
        let length = (1..=CHAP_USER_BYTES_MAX).contains(&user.len());
        if !length || user.chars().any(char::is_control) {
            return Err(AccessError::User);
        }
        Ok(Chap { user, secret })
    }
}

impl Access {
    /// Checks the parts against each other.
    pub fn from_parts(
        mut initiators: Vec<String>,
        chap: Option<Chap>,
        mutual: Option<Chap>,
    ) -> Result<Access, AccessError> {
        if initiators.len() > INITIATORS_MAX {
            return Err(AccessError::TooManyInitiators);
        }
        if let Some(bad) = initiators.iter().find(|name| !is_iscsi_name(name)) {
            let shown = bad.chars().take(80).flat_map(char::escape_debug).collect();
            return Err(AccessError::Initiator(shown));
        }
        initiators.sort();
        initiators.dedup();
        match (&chap, &mutual) {
            (None, Some(_)) => return Err(AccessError::MutualAlone),
            (Some(host), Some(target)) if host.secret == target.secret => {
                return Err(AccessError::SameSecret);
            }
            _ => {}
        }
        Ok(Access {
            initiators,
            chap,
            mutual,
        })
    }

    /// Initiator names that may log in, sorted; empty: all.
    pub fn initiators(&self) -> &[String] {
        &self.initiators
    }

    /// What hosts must prove.
    pub fn chap(&self) -> Option<&Chap> {
        self.chap.as_ref()
    }

    /// What the target proves to hosts.
    pub fn mutual(&self) -> Option<&Chap> {
        self.mutual.as_ref()
    }

    /// Nobody is asked for anything.
    pub fn is_open(&self) -> bool {
        self.initiators.is_empty() && self.chap.is_none()
    }
}

fn is_iscsi_name(name: &str) -> bool {
    let kind = ["iqn.", "eui.", "naa."]
        .iter()
        .any(|kind| name.starts_with(kind));
    let legal = |c: char| c.is_alphanumeric() && !c.is_uppercase() || matches!(c, '-' | '.' | ':');
    kind && name.len() > 4 && name.len() <= ISCSI_NAME_BYTES_MAX && name.chars().all(legal)
}

#[cfg(test)]
mod tests;
