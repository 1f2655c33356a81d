//! The key of the registry: what it has signed may be run by agents.

use std::path::Path;

use data_encoding::BASE64URL_NOPAD;
use nkeys::{KeyPair, KeyPairType};

use super::{Error, key};
use crate::file;

/// The key that signs what is published in a network's registry of modules.
pub struct Signer {
    key: KeyPair,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("key", &self.key.public_key()).finish()
    }
}

impl Signer {
    /// Reads `registry.nk` from a directory of keys; one that is not there yet is made and written (0600).
    ///
    /// # Errors
    /// [`Error::File`]; [`Error::Key`] for a file that holds no key.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        file::create_private_dir(directory)?;
        Ok(Self { key: key(directory, "registry", KeyPairType::Module)? })
    }

    /// What agents know it by.
    pub fn public_key(&self) -> String {
        self.key.public_key()
    }

    /// Signs bytes, for the header `MMN-Signature`.
    ///
    /// # Errors
    /// [`Error::Key`].
    pub fn sign(&self, bytes: &[u8]) -> Result<String, Error> {
        let signature = self.key.sign(bytes).map_err(Error::key("sign with", self.key.public_key()))?;
        Ok(BASE64URL_NOPAD.encode(&signature))
    }
}

/// Whether a text is the public key of a registry.
pub fn is_signer(public_key: &str) -> bool {
    KeyPair::from_public_key(public_key).is_ok_and(|key| key.key_pair_type() == KeyPairType::Module)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::verify;

    #[test]
    fn the_key_of_a_registry_stays_and_signs() {
        let directory = tempfile::tempdir().unwrap();
        let first = Signer::open(directory.path()).unwrap();
        let again = Signer::open(directory.path()).unwrap();
        assert_eq!(first.public_key(), again.public_key());
        let signature = again.sign(b"published").unwrap();
        assert!(verify(&first.public_key(), b"published", &signature));
        assert!(!verify(&first.public_key(), b"altered", &signature));
        assert!(is_signer(&first.public_key()));
        assert!(!is_signer("published"));
        // The key of something else is not taken for it.
        let account = KeyPair::new(KeyPairType::Account);
        assert!(!is_signer(&account.public_key()));
        std::fs::write(directory.path().join("registry.nk"), account.seed().unwrap()).unwrap();
        assert!(Signer::open(directory.path()).unwrap_err().to_string().contains("another kind"));
    }
}
