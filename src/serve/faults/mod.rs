#![doc = include_str!("../faults.md")]

pub(crate) mod batch_faults;
mod body_faults;
pub(crate) mod connection;
mod fields;
pub(crate) mod injector;
mod once;
mod request_faults;
mod row_faults;
pub(crate) mod row_injector;
mod script;
mod scripted_response;
mod selector;
mod state;
mod transfer_faults;
mod trigger;
mod view_faults;

pub use self::fields::FaultsError;
pub use self::script::Faults;
