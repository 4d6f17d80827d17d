//! The API key of a service.
//!
//! In: the value of an environment variable, or a file that only its owner can read. Out: one sensitive header value.
//!
//! Invariants: the token is in no `Debug` output; [`super::redact`] removes it from what the service sends back.

use std::io::Read;
use std::path::Path;

use secrecy::{ExposeSecret, SecretString};

use crate::model::shown::Name;
use crate::storage::durable::FileError;
use crate::storage::local_file::LocalFile;
use crate::storage::read_at::ReadAt;

/// Maximum length of a token, in bytes. Real ones are far shorter; a larger file is not a key.
pub const TOKEN_BYTES: u64 = 4096;

/// Permission bits of a file that belong to anybody but its owner.
const OTHERS: u32 = 0o077;

/// Why a token cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Nothing but white space.
    #[error("the API key is empty")]
    Empty,
    /// Not a valid header value. The value is not shown.
    #[error("the API key has characters that no key has (white space inside, control characters, or not ASCII)")]
    Malformed,
    /// The file is not a plain file, or too long for a key.
    #[error("{path} is not a key file: it must be a plain file of at most {TOKEN_BYTES} bytes")]
    NotAKeyFile {
        /// The file.
        path: String,
    },
    /// Others than the owner may read or change the file.
    #[error("{path} can be read by others (mode {mode:03o}); a key file must be 0600 or 0400")]
    Exposed {
        /// The file.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// The file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
}

/// The API key.
#[derive(Clone, Debug)]
pub struct Token(SecretString);

impl Token {
    /// Takes a token from text, such as an environment variable's value. White space around it is dropped.
    ///
    /// # Errors
    /// When it is empty, longer than [`TOKEN_BYTES`], or not of visible ASCII characters. The error does not show it.
    pub fn new(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(TokenError::Empty);
        }
        if text.len() as u64 > TOKEN_BYTES || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError::Malformed);
        }
        Ok(Self(SecretString::from(text)))
    }

    /// Reads a token from a file that only its owner can read. Symbolic links are followed (mounted secrets are links);
    /// the checks apply to the file that was opened.
    ///
    /// # Errors
    /// When it cannot be read, others than its owner can read it, or its content is not a token.
    pub fn from_file(path: &Path) -> Result<Self, TokenError> {
        let failed = || FileError::on("read", path);
        let file = LocalFile::open(path)?;
        let shown = || Name(path).to_string();
        if !file.is_regular().map_err(failed())? || file.size().map_err(failed())? > TOKEN_BYTES {
            return Err(TokenError::NotAKeyFile { path: shown() });
        }
        let mode = file.mode().map_err(failed())?;
        if mode & OTHERS != 0 {
            return Err(TokenError::Exposed { path: shown(), mode });
        }
        let mut text = String::new();
        file.take(TOKEN_BYTES).read_to_string(&mut text).map_err(failed())?;
        Self::new(&text)
    }

    /// The token itself, for what compares keys or takes them out of texts.
    #[must_use]
    pub fn into_secret(self) -> SecretString {
        self.0
    }

    /// The token itself, for the header that carries it.
    pub(super) fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt;

    fn key_file(directory: &tempfile::TempDir, content: &[u8], mode: u32) -> std::path::PathBuf {
        let path = directory.path().join("key");
        crate::storage::durable::publish_bytes(&path, content).unwrap();
        set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_private_file_gives_the_token_without_its_line_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = key_file(&directory, b"tgp_v1_canary\n", 0o600);
        assert_eq!(Token::from_file(&path).unwrap().into_secret().expose_secret(), "tgp_v1_canary");
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        for mode in [0o644, 0o640, 0o604, 0o620] {
            let path = key_file(&directory, b"k", mode);
            assert!(matches!(Token::from_file(&path), Err(TokenError::Exposed { mode: m, .. }) if m == mode));
        }
    }

    #[test]
    fn what_is_not_a_key_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(Token::new(" \n"), Err(TokenError::Empty)));
        assert!(matches!(Token::new("two words"), Err(TokenError::Malformed)));
        assert!(matches!(Token::new("line\r\nX-Injected: 1"), Err(TokenError::Malformed)));
        assert!(matches!(Token::from_file(directory.path()), Err(TokenError::NotAKeyFile { .. })));
        assert!(matches!(Token::from_file(&directory.path().join("none")), Err(TokenError::File(_))));
        let long = key_file(&directory, &vec![b'k'; 5000], 0o600);
        assert!(matches!(Token::from_file(&long), Err(TokenError::NotAKeyFile { .. })));
    }

    #[test]
    fn debug_output_does_not_show_the_token() {
        let token = Token::new("canary-4711").unwrap();
        assert!(!format!("{token:?}").contains("canary"));
    }
}
