//! Why a server does not start, or cannot continue.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::model::shown::Name;
use crate::remote::{RemoteError, SetupError};
use crate::storage::durable::FileError;

/// Why a server does not start or stop.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A file operation in its directory failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another server uses the directory.
    #[error("{} is in use by another server", Name(directory))]
    Locked {
        /// The directory.
        directory: PathBuf,
    },
    /// A record in its directory cannot be read back.
    #[error("cannot read the record {}", Name(path))]
    Damaged {
        /// The record's file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// It cannot listen.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// The client of the upstream cannot be set up.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The upstream cannot be used, or what is kept about it.
    #[error(transparent)]
    Upstream(RemoteError),
    /// Batches in the directory were begun with an upstream, and would now be answered with an echo.
    #[error("batches in {} were begun with an upstream, and none is given now", Name(directory))]
    WantsUpstream {
        /// The directory.
        directory: PathBuf,
    },
    /// The server has no side for this dialect.
    #[error("the built-in service does not speak the dialect {dialect}")]
    Unspoken {
        /// The dialect's name.
        dialect: &'static str,
    },
    /// One of its tasks panicked.
    #[error("a task of the server failed")]
    Task(#[from] tokio::task::JoinError),
}
