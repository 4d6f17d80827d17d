//! The name of a run in the tags of its batches.

use ring::digest::{Context, SHA256};

use crate::ledger::{Ledger, LedgerError};

/// Length of a run's name in bytes.
const NAME_BYTES: usize = 12;

/// A name derived from the initial metadata of the run's Ledger. It depends on the key for the hashes of ids, so two
/// runs of the same input have different names; the key cannot be derived from it.
pub(super) fn run_name(ledger: &Ledger) -> Result<String, LedgerError> {
    let mut digest = Context::new(&SHA256);
    for key in ["fingerprint", "created_at", "id_key"] {
        digest.update(ledger.meta(key)?.as_bytes());
        digest.update(b"\n");
    }
    let digest = digest.finish();
    Ok(digest.as_ref().iter().take(NAME_BYTES).fold(String::new(), |name, byte| name + &format!("{byte:02x}")))
}
