//! CHAP over login text (RFC 7143 §12.1, RFC 1994): one challenge per connection, used once.

use crate::access::{Access, Credentials};
use crate::text::{self, Writer};
use alloc::vec::Vec;
use md5::Md5;
use sha1::Sha1;
use sha2::Sha256;
use sha3::{Digest, Sha3_256};
use subtle::ConstantTimeEq;

/// Bytes of our challenge: as many as the longest digest gives.
pub(crate) const CHALLENGE_BYTES: usize = 31;

/// Hash functions of CHAP_A.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// 5.
    Md5,
    /// 6.
    Sha1,
    /// 7.
    Sha256,
    /// 8.
    Sha3,
}

impl Algorithm {
    /// Strongest first: what the host offers first does not matter, what it offers does.
    const PREFERENCE: [(&'static str, Algorithm); 4] = [
        ("8", Algorithm::Sha3),
        ("7", Algorithm::Sha256),
        ("6", Algorithm::Sha1),
        ("5", Algorithm::Md5),
    ];

    fn choose(offer: &str) -> Option<(&'static str, Algorithm)> {
        Self::PREFERENCE
            .into_iter()
            .find(|(number, _)| offer.split(',').any(|offered| offered == *number))
    }

    /// The response to a challenge (RFC 1994 §4.1).
    pub fn response(self, identifier: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
        fn hash<D: Digest>(parts: [&[u8]; 3]) -> Vec<u8> {
            let mut digest = D::new();
            for part in parts {
                digest.update(part);
            }
            digest.finalize().to_vec()
        }
        let parts = [&[identifier][..], secret, challenge];
        match self {
            Algorithm::Md5 => hash::<Md5>(parts),
            Algorithm::Sha1 => hash::<Sha1>(parts),
            Algorithm::Sha256 => hash::<Sha256>(parts),
            Algorithm::Sha3 => hash::<Sha3_256>(parts),
        }
    }
}

/// Where an exchange stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// AuthMethod=CHAP was chosen.
    Chosen,
    /// Our challenge is out.
    Challenged(Algorithm),
    /// The host proved itself.
    Proven,
}

/// The proof failed, whatever the reason: the host learns nothing more (status 0201).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failed;

/// One exchange.
#[derive(Debug)]
pub(crate) struct Exchange {
    progress: Progress,
    identifier: u8,
    challenge: [u8; CHALLENGE_BYTES],
}

impl Exchange {
    /// `random` is used for nothing else.
    pub(crate) fn new(random: &[u8; CHALLENGE_BYTES + 1]) -> Self {
        let mut challenge = [0; CHALLENGE_BYTES];
        challenge.copy_from_slice(&random[1..]);
        Exchange {
            progress: Progress::Chosen,
            identifier: random[0],
            challenge,
        }
    }

    /// Whether the host has proved itself.
    pub(crate) fn is_proven(&self) -> bool {
        self.progress == Progress::Proven
    }

    /// Takes one request's CHAP keys and answers them.
    pub(crate) fn step(
        &mut self,
        access: &Access,
        pairs: &[(&str, &str)],
        reply: &mut Writer,
    ) -> Result<(), Failed> {
        let value = |name: &str| {
            pairs
                .iter()
                .find(|(key, _)| *key == name)
                .map(|pair| pair.1)
        };
        let any = pairs.iter().any(|(key, _)| key.starts_with("CHAP_"));
        match self.progress {
            // A request without CHAP keys only asks us to go on.
            _ if !any => Ok(()),
            Progress::Chosen => {
                let (number, algorithm) =
                    Algorithm::choose(value("CHAP_A").ok_or(Failed)?).ok_or(Failed)?;
                reply.put("CHAP_A", number);
                reply.put("CHAP_I", &alloc::format!("{}", self.identifier));
                reply.put("CHAP_C", &text::to_hexadecimal(&self.challenge));
                self.progress = Progress::Challenged(algorithm);
                Ok(())
            }
            Progress::Challenged(algorithm) => {
                let credentials = access.chap().ok_or(Failed)?;
                self.verify(algorithm, credentials, value("CHAP_N"), value("CHAP_R"))?;
                if let Some(identifier) = value("CHAP_I") {
                    let challenge = value("CHAP_C").ok_or(Failed)?;
                    self.prove(algorithm, access, (identifier, challenge), reply)?;
                }
                self.progress = Progress::Proven;
                Ok(())
            }
            //= RFC 7143 §12.1.3
            //# A challenge is used once: an exchange that is over is not begun again.
            Progress::Proven => Err(Failed),
        }
    }

    fn verify(
        &self,
        algorithm: Algorithm,
        credentials: &Credentials,
        user: Option<&str>,
        response: Option<&str>,
    ) -> Result<(), Failed> {
        let response = text::binary(response.ok_or(Failed)?).ok_or(Failed)?;
        let secret = credentials.secret.bytes();
        let expected = algorithm.response(self.identifier, secret, &self.challenge);
        let user_matches = user
            .ok_or(Failed)?
            .as_bytes()
            .ct_eq(credentials.user.as_bytes());
        // Both are compared in any case, so that time does not tell which was wrong.
        let matches = user_matches & response.as_slice().ct_eq(&expected);
        if bool::from(matches) {
            Ok(())
        } else {
            Err(Failed)
        }
    }

    fn prove(
        &self,
        algorithm: Algorithm,
        access: &Access,
        (identifier, challenge): (&str, &str),
        reply: &mut Writer,
    ) -> Result<(), Failed> {
        let credentials = access.mutual().ok_or(Failed)?;
        let identifier = text::number(identifier).and_then(|number| u8::try_from(number).ok());
        let identifier = identifier.ok_or(Failed)?;
        let challenge = text::binary(challenge).ok_or(Failed)?;
        //= RFC 7143 §9.2.1
        //# An originator of a challenge must not accept its own challenge back: it would compute the response for an impostor.
        if challenge == self.challenge {
            return Err(Failed);
        }
        let response = algorithm.response(identifier, credentials.secret.bytes(), &challenge);
        reply.put("CHAP_N", &credentials.user);
        reply.put("CHAP_R", &text::to_hexadecimal(&response));
        Ok(())
    }
}
