//! What a run is called in the tags of its batches.

use sha2::{Digest, Sha256};

use crate::ledger::{Ledger, LedgerError};

/// Bytes of a run's name.
const NAME_BYTES: usize = 12;

/// A name that follows from what the run's Ledger began with. The key for the hashes of ids is in it, so two runs of
/// the same input have two names; the key itself cannot be told from it.
pub(super) fn run_name(ledger: &Ledger) -> Result<String, LedgerError> {
    let mut digest = Sha256::new();
    for key in ["fingerprint", "created_at", "id_key"] {
        digest.update(ledger.meta(key)?);
        digest.update("\n");
    }
    let digest = digest.finalize();
    Ok(digest.iter().take(NAME_BYTES).fold(String::new(), |name, byte| name + &format!("{byte:02x}")))
}
